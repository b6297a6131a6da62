"""The form in which two spellings of an address are found to be the same."""

from __future__ import annotations

from postroom.envelope import split_address
from postroom.status import ConfigurationFault


def fold(address: str) -> str:
    """`Bob@Example.COM.` and `bob@example.com` are one; so are a U-label and its A-label (RFC 5890).

    RFC 5321 section 2.4 leaves the case of a local part to its host. No host in practice tells Bob from bob, many
    lower-case what they send back, and a list that mails an address it has suppressed under another spelling has
    not suppressed it.
    """
    local, domain = split_address(address)
    domain = domain.rstrip(".")
    if not address.isascii():
        import unicodedata

        local = unicodedata.normalize("NFC", local)
        domain = _a_labels(domain)
    return f"{local}@{domain}".lower() if "@" in address else local.lower()


def _a_labels(domain: str) -> str:
    from postroom.mx import to_ascii  # for a domain outside ASCII: it needs the tables of UTS #46

    try:
        return to_ascii(domain)
    except UnicodeError:
        return domain  # no domain at all; it still equals itself
    except ImportError as error:  # guessing here would let mail through to a suppressed address
        raise ConfigurationFault("the Python package idna is missing") from error
