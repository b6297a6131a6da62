"""Addresses and parameters of MAIL and RCPT, as SMTP and LMTP write them, and back to what Postfix means by them.

Postfix takes more than RFC 5321's grammar, and hands on what it took: local parts of any length, bytes that are neither
ASCII nor UTF-8, control characters, no domain. Who refuses that here keeps back mail that Postfix has accepted; so
what is refused is only what cannot be told apart, or cannot be passed on: no brackets, quotes without an end, NUL, CR,
LF. Who shows an address cleans it (log.py, status.clean).

Sources: RFC 5321 section 4.1.2, RFC 3461 section 4 (xtext), RFC 6533 section 3 (utf-8 addresses),
src/smtp/smtp_proto.c.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

# No file name, argument or line of any kind holds these.
_NOWHERE: Final = b"\0\r\n"
_HEX: Final = frozenset(b"0123456789ABCDEFabcdef")
_MAX_CODE_POINT: Final = 0x10FFFF


def path(text: bytes) -> tuple[bytes, bytes] | None:
    """`<"a b"@example.com> SIZE=1` -> (b"a b@example.com", b"SIZE=1"). None where it is no path.

    The address is in Postfix's internal form; a source route (RFC 5321 appendix C) is dropped.
    """
    text = text.lstrip(b" ")
    end = _end(text)
    if end < 0 or text[end + 1 : end + 2] not in (b"", b" "):
        return None
    inner = text[1:end]
    if inner.translate(None, _NOWHERE) != inner:
        return None
    if inner.startswith(b"@") and b":" in inner:
        inner = inner.partition(b":")[2]
    address = unquoted(inner)
    return None if address is None else (address, text[end + 2 :].strip(b" "))


def _end(text: bytes) -> int:
    """Where the path's closing bracket is; -1: nowhere. One inside quotes, or behind a backslash, is part of it."""
    if not text.startswith(b"<"):
        return -1
    end = text.find(b">")
    if b'"' not in text[:end] and b"\\" not in text[:end]:
        return end
    quoted, position = False, 1
    while position < len(text):
        character = text[position]
        if character == 0x5C:
            position += 1
        elif character == 0x22:
            quoted = not quoted
        elif character == 0x3E and not quoted:
            return position
        position += 1
    return -1


def unquoted(address: bytes) -> bytes | None:
    """The address without its quotes and backslashes; None where they do not match, or a blank stands outside."""
    if b'"' not in address and b"\\" not in address:
        return None if b" " in address or b"<" in address else address
    plain, quoted, position = bytearray(), False, 0
    while position < len(address):
        character = address[position]
        if character == 0x5C:
            position += 1
            if position == len(address):
                return None
            plain.append(address[position])
        elif character == 0x22:
            quoted = not quoted
        elif character in b" <" and not quoted:
            return None
        else:
            plain.append(character)
        position += 1
    return None if quoted else bytes(plain)


def xtext(text: bytes) -> bytes | None:
    """`+HH` as the byte it stands for (RFC 3461 section 4); None where it is no xtext."""
    first, *rest = text.split(b"+")
    found = [first]
    for part in rest:
        if len(part) < 2 or not _HEX.issuperset(part[:2]):
            return None
        found.append(bytes([int(part[:2], 16)]) + part[2:])
    return b"".join(found)


def original(orcpt: bytes) -> bytes | None:
    """The address in `rfc822;a+2Bb@example.com` or `utf-8;...`, in internal form; b"" for other types; None: none."""
    kind, semicolon, text = orcpt.partition(b";")
    decoded = xtext(text)
    if not kind or not semicolon or not decoded or decoded.translate(None, _NOWHERE) != decoded:
        return None
    if kind.lower() == b"rfc822":
        return unquoted(decoded) or decoded
    if kind.lower() != b"utf-8":
        return b""
    address = _code_points(decoded)
    return None if address is None else unquoted(address) or address


def _code_points(text: bytes) -> bytes | None:
    r"""`\x{E9}` as UTF-8 (RFC 6533 section 3)."""
    first, *rest = text.split(b"\\x{")
    found = [first]
    for part in rest:
        digits, brace, after = part.partition(b"}")
        if not brace or not 1 <= len(digits) <= 6 or not _HEX.issuperset(digits):
            return None
        number = int(digits, 16)
        if number > _MAX_CODE_POINT or number in tuple(_NOWHERE) or 0xD800 <= number <= 0xDFFF:
            return None
        found.append(chr(number).encode() + after)
    return b"".join(found)


def parameters(text: bytes) -> dict[bytes, bytes] | None:
    """`SIZE=1 SMTPUTF8` by upper-case name; None where one is given twice, or is none."""
    found: dict[bytes, bytes] = {}
    for word in filter(None, text.split(b" ")):
        name, _, value = word.partition(b"=")
        name = name.upper()
        if not name or name in found:
            return None
        found[name] = value
    return found
