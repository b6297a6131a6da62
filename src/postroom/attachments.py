"""The file names of what is attached to a message, for the key `attachment`.

The parts are found by their boundaries (RFC 2046 section 5.1), in memory as large as the message; only the headers of
parts go through the email package. Its own parser holds each line as an object: a message of 10 MB made of short lines
takes 600 MB there, and a minute where multiparts lie in each other.

What cannot be looked into to its end is unknown. It is never "no attachment".
"""

from __future__ import annotations

import re
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from email.message import Message as Parsed
from email.parser import BytesHeaderParser
from email.utils import collapse_rfc2231_value

from postroom.message import Message
from postroom.rules import Unknown

MESSAGE_LIMIT = 64 * 1024 * 1024

# A message of so many parts was made to be looked at for long; so was one of parts in parts in parts.
PARTS_LIMIT = 1000
NESTING_LIMIT = 100

# Headers of all parts together: their parser reads some 2 MB a second.
HEADERS_LIMIT = 2 * 1024 * 1024

# Lines that look like a boundary: a long patch has thousands.
DASHED_LIMIT = 200_000

# What goes on as a header; any other line ends the headers, as for email.feedparser, blank line or not.
_HEADER = re.compile(rb"[!-9;-~]*:|[\t ]|From ")

_KEYS = ("filename", "name")

# What the header parser, which was not made for those who want to break it, has been seen to raise.
_BROKEN = (RecursionError, ValueError, LookupError, AttributeError, TypeError, AssertionError, HeaderParseError)


class _TooMuch(Exception):
    """There is more of it than is looked at; the text says of what."""


def names(message: Message) -> list[str] | Unknown:
    """The names, decoded (RFC 2231, RFC 2047), in their order; of a part that is a message, those in it as well.

    A name stands in Content-Disposition, or as `name` of Content-Type. Programs differ in which they go by, and in
    which of two equal parameters: all of them count.
    """
    if message.size > MESSAGE_LIMIT:
        return Unknown(f"a message of {message.size} bytes is too large to look for attachments in")
    try:
        return _Scan(b"".join(message.chunks())).names()
    except _TooMuch as much:
        return Unknown(f"the message has {much}")
    except _BROKEN as error:
        return Unknown(f"the parts of the message cannot be read: {error.__class__.__name__}")


class _Scan:
    """One look through a message. `_open` holds the boundaries of the multiparts that we are in, and whether each is
    a digest, whose parts are messages if they do not say otherwise (RFC 2046 section 5.1.5)."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0
        self._open: list[tuple[bytes, bool]] = []
        self._parts = self._headers = self._dashed = 0
        self._found: list[str] = []

    def names(self) -> list[str]:
        self._part(digest=False)
        while (line := self._next_dashed()) is not None:
            depth, last = self._boundary(line)
            if depth < 0:
                continue
            digest = self._open[depth][1]
            del self._open[depth if last else depth + 1 :]
            if not last:
                # As email.feedparser: of several such lines in a row the first counts.
                while (line := self._line())[:2] == b"--" and self._boundary(line)[0] == depth:
                    self._position += len(line)
                self._part(digest)
        return self._found

    def _part(self, digest: bool) -> None:
        """The headers at hand; of a part that is a message, the headers in it as well."""
        while True:
            self._parts += 1
            if self._parts > PARTS_LIMIT:
                raise _TooMuch(f"more than {PARTS_LIMIT} parts")
            part = BytesHeaderParser().parsebytes(self._head())
            if digest:
                part.set_default_type("message/rfc822")
            self._found += _names(part)
            boundary = part.get_boundary()
            if part.get_content_maintype() == "multipart" and boundary:
                self._enter(boundary, part.get_content_subtype() == "digest")
            if part.get_content_maintype() != "message":
                return
            digest = False

    def _enter(self, boundary: str, digest: bool) -> None:
        if len(self._open) >= NESTING_LIMIT:
            raise _TooMuch(f"more than {NESTING_LIMIT} parts in each other")
        self._open.append((boundary.encode("utf-8", "surrogateescape"), digest))

    def _head(self) -> bytes:
        """The header lines from here, and past the blank line that ends them, or up to what is no header."""
        start = self._position
        while line := self._line():
            if line[:2] == b"--" and self._boundary(line)[0] >= 0:
                break
            if _HEADER.match(line) is None:
                if not line.strip(b"\r\n"):
                    self._position += len(line)
                    return self._data[start : self._position]
                break
            self._position += len(line)
            self._headers += len(line)
            if self._headers > HEADERS_LIMIT:
                raise _TooMuch(f"more than {HEADERS_LIMIT} bytes of headers")
        return self._data[start : self._position]

    def _line(self) -> bytes:
        end = self._data.find(b"\n", self._position)
        return self._data[self._position : end + 1 if end >= 0 else None]

    def _next_dashed(self) -> bytes | None:
        """The next line that begins with two hyphens, and past it."""
        if not self._data.startswith(b"--", self._position) or self._data[self._position - 1 : self._position] != b"\n":
            found = self._data.find(b"\n--", self._position)
            if found < 0 or not self._open:
                return None
            self._position = found + 1
        self._dashed += 1
        if self._dashed > DASHED_LIMIT:
            raise _TooMuch(f"more than {DASHED_LIMIT} lines that look like a boundary")
        line = self._line()
        self._position += len(line)
        return line

    def _boundary(self, line: bytes) -> tuple[int, bool]:
        """Of which open multipart this is the boundary, -1 for none, the innermost first; and whether its last."""
        text = line.rstrip(b" \t\r\n")[2:]
        for depth in range(len(self._open) - 1, -1, -1):
            boundary = self._open[depth][0]
            if text.startswith(boundary) and text[len(boundary) :] in (b"", b"--"):
                return depth, text != boundary
        return -1, False


def _names(part: Parsed) -> list[str]:
    found: dict[str, None] = {}
    for header in ("content-disposition", "content-type"):
        for value in part.get_all(header, []):
            alone = Parsed()
            alone[header] = value
            for key, text in alone.get_params([], header)[1:]:
                # Windows takes dots and blanks off the end, and opens what is left.
                name = _decoded(collapse_rfc2231_value(text)).strip().rstrip(". ") if key.lower() in _KEYS else ""
                if name:
                    found[name] = None
    return list(found)


def _decoded(name: str) -> str:
    """Encoded words do not belong into a parameter (RFC 2047 section 5), and are read there by everybody."""
    try:
        return str(make_header(decode_header(name)))
    except (HeaderParseError, UnicodeError, LookupError, ValueError):
        return name
