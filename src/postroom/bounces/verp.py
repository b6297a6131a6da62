"""Signed envelope senders: a bounce that comes to one proves which mail, to whom, it answers.

    bounces+b2vbqz6n4c5ugh2yfoaxk-bob=example.com@bounces.example.com
            |\\__/\\______________/ \\_____________/
            | day       MAC        the recipient, where it fits
            key id

* All lower case, of characters that nobody rewrites, so that it survives the mail systems that fold case; `+` is
  the usual recipient_delimiter, but nothing depends on that.
* The whole local part stays within 64 octets (RFC 5321 section 4.5.3.1.1): the recipient is written out where it
  fits and is plain, and otherwise only signed; a report that names it is then verified all the same.
* The MAC is BLAKE2b, keyed (RFC 7693), cut to 80 bits, over key id, day, prefix and recipient. Eighty bits are beyond
  guessing by mail, and 16 digits of base32 exactly. `_blake2` costs nothing to import; hashlib and hmac cost half a
  bare start-up and more.
* A tag says "we sent mail to this recipient on this day". Whoever got the mail can read it, so it proves
  something about this recipient alone, and only for a while.
"""

from __future__ import annotations

from _blake2 import blake2b

# What hmac.compare_digest is made of: time that does not depend on where two texts differ.
from _operator import _compare_digest

from postroom.bounces.keys import IDS, Key
from postroom.store.address import fold

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

LOCAL_PART_LIMIT = 64
DELIMITER = "+"
DAY = 86400
# The sender's clock may run ahead of the recorder's.
CLOCK_SKEW_DAYS = 1

_DAY_DIGITS = 4  # 2^20 days: until the year 4840
_MAC_BYTES = 10
_MAC_DIGITS = 16
_TAG = 1 + _DAY_DIGITS + _MAC_DIGITS
LONGEST_PREFIX = LOCAL_PART_LIMIT - len(DELIMITER) - _TAG
_BASE32 = "abcdefghijklmnopqrstuvwxyz234567"  # RFC 4648 section 6, in lower case
_PERSON = b"postroom-verp"

_LOCAL = frozenset("abcdefghijklmnopqrstuvwxyz0123456789._+-")
_DOMAIN = frozenset("abcdefghijklmnopqrstuvwxyz0123456789.-")

VERIFIED = "verified"
UNVERIFIED = "unverified"
FORGED = "forged"


class Verdict:
    """`authentic` is verified, unverified or forged; `recipient` the one that is proven, "" where none is; `why` in
    words; `sent` the day, as Unix time, that the tag gives, None where there is no tag."""

    __slots__ = ("authentic", "recipient", "sent", "why")

    def __init__(self, authentic: str, why: str, recipient: str = "", sent: int | None = None) -> None:
        self.authentic = authentic
        self.why = why
        self.recipient = recipient
        self.sent = sent


def make(key: Key, prefix: str, recipient: str, now: float) -> str:
    """The local part of the envelope sender for mail to `recipient`."""
    if not 0 < len(prefix) <= LONGEST_PREFIX:
        raise ValueError(f"the prefix must have 1 to {LONGEST_PREFIX} characters")
    day = _digits(int(now // DAY), _DAY_DIGITS)
    tag = f"{prefix.lower()}{DELIMITER}{key.id}{day}{_mac(key, day, prefix, recipient)}"
    written = _written(recipient)
    return f"{tag}-{written}" if written and len(tag) + 1 + len(written) <= LOCAL_PART_LIMIT else tag


def check(
    local_part: str, candidates: Iterable[str], keys: Sequence[Key], prefix: str, now: float, lifetime: float
) -> Verdict:
    """Whether mail to `local_part` answers mail of ours, and to which recipient that went.

    `candidates` are the recipients that the report names; without any, the one written in the tag stands for itself.
    `lifetime` is how many seconds after the mail was sent a bounce of it is believed.
    """
    tag = _split(local_part, prefix)
    if tag is None:
        return Verdict(UNVERIFIED, "the address carries no tag")
    key_id, day, mac, written = tag
    sent = _number(day) * DAY
    key = next((key for key in keys if key.id == key_id), None)
    if key is None:
        return Verdict(UNVERIFIED, f"signed with key {key_id}, which is not in the key file", sent=sent)
    named = list(candidates)
    tried = named + [written] * bool(written)
    proven = next((one for one in tried if _compare_digest(_mac(key, day, prefix, one), mac)), None)
    if proven is None and not tried:
        return Verdict(UNVERIFIED, "no recipient to check the tag against", sent=sent)
    if proven is None:
        return Verdict(FORGED, "the tag was made for no recipient that the report names", sent=sent)
    age = now - sent
    if not -CLOCK_SKEW_DAYS * DAY <= age < lifetime + DAY:  # the tag knows the day only
        return Verdict(UNVERIFIED, f"the tag is {int(age // DAY)} days old", sent=sent)
    if named and proven not in named:
        # A forward far away reports an address that we never sent to; so does a stranger with a tag of his own.
        return Verdict(UNVERIFIED, "the tag was made for another recipient than the report names", sent=sent)
    return Verdict(VERIFIED, "the tag proves that we sent mail to this recipient", proven, sent)


def _split(local_part: str, prefix: str) -> tuple[str, str, str, str] | None:
    """(key id, day, MAC, recipient as written or "") of a local part with a tag."""
    text = local_part.lower()
    beginning = prefix.lower() + DELIMITER
    tag, dash, written = text[len(beginning) :][:_TAG], text[len(beginning) + _TAG :][:1], ""
    if not text.startswith(beginning) or len(tag) != _TAG or dash not in ("", "-"):
        return None
    if any(digit not in _BASE32 for digit in tag) or tag[0] not in IDS:
        return None
    if dash:
        local, equals, domain = text[len(beginning) + _TAG + 1 :].rpartition("=")
        written = f"{local}@{domain}" if equals else ""
    return tag[0], tag[1 : 1 + _DAY_DIGITS], tag[1 + _DAY_DIGITS :], written


def _written(recipient: str) -> str:
    """`bob=example.com` for an address of plain characters; "" for any other: that one is only signed."""
    local, at, domain = fold(recipient).rpartition("@")
    plain = at and local and domain and _LOCAL.issuperset(local) and _DOMAIN.issuperset(domain)
    return f"{local}={domain}" if plain else ""


def _mac(key: Key, day: str, prefix: str, recipient: str) -> str:
    message = "\0".join((key.id, day, prefix.lower(), fold(recipient)))
    data = message.encode("utf-8", "surrogateescape")
    mac = blake2b(data, key=key.secret, digest_size=_MAC_BYTES, person=_PERSON)
    return _digits(int.from_bytes(mac.digest(), "big"), _MAC_DIGITS)


def _digits(number: int, count: int) -> str:
    return "".join(_BASE32[number >> shift & 31] for shift in range(5 * (count - 1), -1, -5))


def _number(digits: str) -> int:
    number = 0
    for digit in digits:
        number = number << 5 | _BASE32.index(digit)
    return number
