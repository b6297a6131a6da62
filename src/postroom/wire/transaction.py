"""MAIL, RCPT and XFORWARD as values: what a client says of a mail before its content.

Postfix has accepted the mail by now, and a stranger chose much of what it says here. So what only describes a mail
(ENVID, ORCPT) counts as not said where it is wrong, and what cannot be taken is refused with 4xx, by which the mail
stays in Postfix's queue and its log: also an unknown parameter (455, RFC 5321 section 4.1.1.11, not 555), which a
client that keeps to what was announced never sends. Only the size, of which there cannot be less tomorrow, is a 5xx.

Sources: RFC 5321 section 4.1.1, RFC 1870 (SIZE), RFC 6152 (BODY), RFC 6531 (SMTPUTF8), RFC 3461 (RET, ENVID, NOTIFY,
ORCPT), XFORWARD_README.
"""

from __future__ import annotations

from postroom.status import clean
from postroom.wire.paths import original, parameters, path, xtext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

XFORWARD: Final = ("NAME", "ADDR", "PORT", "PROTO", "HELO", "IDENT", "SOURCE")

EXTENSIONS: Final = (
    "PIPELINING", "ENHANCEDSTATUSCODES", "8BITMIME", "SMTPUTF8", "CHUNKING", "DSN", f"XFORWARD {' '.join(XFORWARD)}"
)  # fmt: skip

_KNOWN: Final = frozenset((b"SIZE", b"BODY", b"SMTPUTF8", b"RET", b"ENVID", b"NOTIFY", b"ORCPT"))
_DIGITS: Final = 20


class Refused(Exception):
    """A command that is not obeyed; the text is the reply."""


class Rcpt:
    """A recipient. `original`, before Postfix's rewriting, is empty where the client does not say."""

    __slots__ = ("address", "notify", "orcpt", "original")

    def __init__(self, address: str) -> None:
        self.address = address
        self.original = ""
        self.orcpt = ""
        self.notify: frozenset[str] = frozenset()


class Transaction:
    """A mail, but for its content. `forwarded`: what XFORWARD said, by its names; `size`: as declared, 0 if it was not.

    Addresses are in Postfix's internal form, surrogateescape for what is not UTF-8.
    """

    __slots__ = ("envid", "forwarded", "recipients", "ret", "sender", "size", "smtputf8")

    def __init__(self, sender: str, forwarded: dict[str, str]) -> None:
        self.sender = sender
        self.forwarded = forwarded
        self.recipients: list[Rcpt] = []
        self.size = 0
        self.envid = ""
        self.ret = ""
        self.smtputf8 = False


def mail_from(rest: bytes, forwarded: dict[str, str], size_limit: int) -> Transaction:
    """What stands behind MAIL. Raises Refused."""
    address, given = _address(rest, b"FROM:")
    mail = Transaction(address, forwarded)
    for name, value in given.items():
        if not _take(mail, name, value):
            raise _unknown(name)
    if mail.size > size_limit:
        raise Refused("552 5.3.4 message too big")
    return mail


def _take(mail: Transaction, name: bytes, value: bytes) -> bool:
    if name == b"SIZE" and value.isdigit() and len(value) <= _DIGITS:
        mail.size = int(value)
    elif name == b"SMTPUTF8" and not value:
        mail.smtputf8 = True
    elif name == b"RET" and value.upper() in (b"FULL", b"HDRS"):
        mail.ret = value.upper().decode()
    elif name == b"ENVID":
        mail.envid = clean((xtext(value) or b"").decode("ascii", "replace"))
    else:
        return name == b"BODY" and value.upper() in (b"7BIT", b"8BITMIME")  # the content is taken as it comes
    return True


def rcpt_to(rest: bytes) -> Rcpt:
    """What stands behind RCPT. Raises Refused."""
    address, given = _address(rest, b"TO:")
    if not address:
        raise Refused("450 4.1.3 no recipient address")
    rcpt = Rcpt(address)
    for name, value in given.items():
        if name == b"NOTIFY" and (notify := _notify(value)):
            rcpt.notify = notify
        elif name == b"ORCPT":
            before = original(value)
            rcpt.orcpt = "" if before is None else value.decode("utf-8", "surrogateescape")
            rcpt.original = (before or b"").decode("utf-8", "surrogateescape")
        else:
            raise _unknown(name)
    return rcpt


def xforward(rest: bytes) -> dict[str, str]:
    """What stands behind XFORWARD, by upper-case name; empty what is "[UNAVAILABLE]". Raises Refused."""
    found = {}
    for word in rest.split():
        name, equals, value = word.partition(b"=")
        decoded = xtext(value)
        attribute = name.decode("ascii", "replace").upper()
        if not equals or decoded is None or attribute not in XFORWARD:
            raise Refused(f"501 5.5.4 bad XFORWARD attribute {attribute[:20]!a}")
        text = decoded.decode("utf-8", "surrogateescape")
        found[attribute] = "" if text.upper() == "[UNAVAILABLE]" else text if text.isprintable() else clean(text)
    return found


def _address(rest: bytes, keyword: bytes) -> tuple[str, dict[bytes, bytes]]:
    """The address and the parameters of `FROM:<a@example.com> SIZE=1`."""
    found = path(rest[len(keyword) :]) if rest[: len(keyword)].upper() == keyword else None
    if found is None:
        code = "4.1.7" if keyword == b"FROM:" else "4.1.3"
        raise Refused(f"450 {code} expected {keyword.decode()}<address>")
    given = parameters(found[1]) if found[1] else {}
    if given is None:
        raise Refused("455 4.5.4 bad parameters")
    return found[0].decode("utf-8", "surrogateescape"), given


def _unknown(name: bytes) -> Refused:
    shown = name[:20].decode("ascii", "replace")
    known = name in _KNOWN
    return Refused(f"455 4.5.4 bad {shown}" if known else f"455 4.5.4 unknown parameter {shown!a}")


def _notify(value: bytes) -> frozenset[str]:
    """RFC 3461 section 4.1; empty where it is none."""
    words = frozenset(value.decode("ascii", "replace").upper().split(","))
    return words if words == {"NEVER"} or words <= {"SUCCESS", "FAILURE", "DELAY"} else frozenset()
