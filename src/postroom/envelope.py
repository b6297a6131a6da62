"""The envelope: who sent a mail, to whom, and what Postfix knows of it.

pipe(8) programs get it as `name=value` words after `--`, named like pipe(8)'s macros:

    -- sender=${sender} recipient=${recipient} original_recipient=${original_recipient} queue_id=${queue_id} ...

One word per macro, with its name in front, because pipe(8) drops an argument that is empty (an empty `$user`, up
to 3.11), repeats each word that holds a recipient once per recipient, and puts strangers' text where an option
could stand. With the name in front no word is ever empty, none can be taken for an option, and the recipients
pair with their originals by position. The null sender is the empty string (`null_sender=` in master.cf).

Addresses are in Postfix's internal form: not quoted, any byte but NUL and newline, surrogateescape for bytes
that are not UTF-8.
"""

from __future__ import annotations

from postroom.status import ConfigurationFault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# pipe(8)'s macros that a program may be handed, less those derived from the recipient.
NAMES = (
    "sender",
    "queue_id",
    "size",
    "nexthop",
    "client_address",
    "client_hostname",
    "client_helo",
    "client_protocol",
    "client_port",
    "sasl_method",
    "sasl_sender",
    "sasl_username",
    "envid",
)
REQUIRED = ("sender", "queue_id")
_PER_RECIPIENT = ("recipient", "original_recipient")

# RFC 5322 atext; a local part of other characters has to be quoted on the wire (RFC 5321 section 4.1.2).
_ATEXT = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'*+-/=?^_`{|}~")


class Recipient:
    """A recipient after Postfix's rewriting, and what it was before (the same where Postfix does not say)."""

    __slots__ = ("address", "original")

    def __init__(self, address: str, original: str = "") -> None:
        self.address = address
        self.original = original or address


class Envelope:
    """One delivery request. Absent values are empty; `size` is in bytes, as Postfix queued it."""

    __slots__ = (*NAMES, "recipients")

    sender: str
    queue_id: str
    size: int
    nexthop: str
    client_address: str
    client_hostname: str
    client_helo: str
    client_protocol: str
    client_port: str
    sasl_method: str
    sasl_sender: str
    sasl_username: str
    envid: str
    recipients: tuple[Recipient, ...]

    def __init__(self, recipients: Sequence[Recipient], **values: str) -> None:
        for name in NAMES:
            setattr(self, name, values.get(name, ""))
        self.size = _size(values.get("size", ""))
        # pipe(8) writes IPv6 clients as "IPv6:2001:db8::1", the policy protocol without the prefix: one form here.
        if self.client_address[:5].lower() == "ipv6:":
            self.client_address = self.client_address[5:]
        self.recipients = tuple(recipients)


def parse_arguments(words: Sequence[str]) -> Envelope:
    """Read the words after `--`.

    Raises ConfigurationFault, naming the word and what was expected: these words are written in master.cf, so
    one that is missing or unknown is the administrator's mistake and defers the mail.
    """
    single: dict[str, str] = {}
    repeated: dict[str, list[str]] = {name: [] for name in _PER_RECIPIENT}
    for word in words:
        name, equals, value = word.partition("=")
        if name in repeated and equals:
            repeated[name].append(value)
        elif name not in NAMES or not equals:
            raise ConfigurationFault(f"master.cf: unknown word {word[:60]!r} after --, expected name=${{macro}}")
        elif name in single:
            raise ConfigurationFault(f"master.cf: {name}= is given twice after --")
        else:
            single[name] = value
    missing = [name for name in REQUIRED if name not in single]
    if not repeated["recipient"]:
        missing.append("recipient")
    if missing:
        raise ConfigurationFault("master.cf: missing after --: " + " ".join(f"{name}=${{{name}}}" for name in missing))
    return Envelope(_pair(repeated["recipient"], repeated["original_recipient"]), **single)


def _pair(addresses: list[str], originals: list[str]) -> list[Recipient]:
    if originals and len(originals) != len(addresses):
        raise ConfigurationFault(
            f"master.cf: {len(addresses)} recipient= but {len(originals)} original_recipient= after --"
        )
    return [Recipient(*pair) for pair in zip(addresses, originals or addresses, strict=True)]


def _size(text: str) -> int:
    if not text:
        return 0
    if not (text.isascii() and text.isdigit()):
        raise ConfigurationFault(f"master.cf: size={text[:20]!r}, expected a number of bytes (size=${{size}})")
    return int(text[:18])


def split_address(address: str) -> tuple[str, str]:
    """(local part, domain) at the last `@`; the domain is empty where there is none."""
    local, at, domain_ = address.rpartition("@")
    return (local, domain_) if at else (address, "")


def localpart(address: str) -> str:
    return split_address(address)[0]


def domain(address: str) -> str:
    """The domain, lower case and without a trailing dot; empty where there is none."""
    return split_address(address)[1].lower().rstrip(".")


def extension(address: str, delimiter: str) -> str:
    """What follows the recipient delimiter in the local part (postconf(5) recipient_delimiter).

    `delimiter` is a set of characters; the first of them found splits. A leading one does not, nor does it
    in the reserved names (src/global/split_addr.c).
    """
    local = localpart(address)
    if local.lower() in ("mailer-daemon", "double-bounce", "postmaster"):
        return ""
    if "-" in delimiter and (local.lower().startswith("owner-") or local.lower().endswith("-request")):
        delimiter = delimiter.replace("-", "")
    for position, character in enumerate(local):
        if position and character in delimiter:
            return local[position + 1 :]
    return ""


def quote(address: str) -> str:
    """The address as RFC 5321 writes it on the wire: the local part quoted where it must be; "" for the null one."""
    if not address:
        return ""
    local, domain_ = split_address(address)
    words = local.split(".")
    # Characters outside ASCII are atext under SMTPUTF8 (RFC 6531 section 3.3).
    plain = all(words) and all(c in _ATEXT or not c.isascii() for word in words for c in word)
    if not plain:
        escaped = local.replace("\\", "\\\\").replace('"', '\\"')
        local = f'"{escaped}"'
    return f"{local}@{domain_}" if domain_ else local


def unquoted(key: str) -> str:
    """`a b@example.com` for `"a b"@example.com`; anything else as it is."""
    local, at, domain = key.rpartition("@")
    if not at or len(local) < 2 or local[0] != '"' or local[-1] != '"':
        return key
    plain, position = "", 1
    while position < len(local) - 1:
        position += local[position] == "\\"
        plain += local[position]
        position += 1
    return plain + at + domain
