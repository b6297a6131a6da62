"""The parts of a message that a mail system wrote itself, read from bytes.

Rules for this file
* Nothing behind the start of a returned message is looked at: whoever wrote that could put a report into it, about
  any address.
* Nothing raises on malformed input, and every loop has an end that the sender does not choose. The limits follow
  what real reports need: a report has three parts, two levels, and a field of one line.
* No regular expression and no email package: its import alone costs twice a bare start-up, and it knows neither
  message/global-delivery-status (RFC 6533) nor an encoded report part.
"""

from __future__ import annotations

import binascii

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from postroom.message import Message

# What is read of a message, at most. A report on 10,000 recipients, more than any mail system puts into one, is 3 MB.
READ_LIMIT = 4 * 1024 * 1024
# Nearly every report, up to the message it returns, lies within this much.
FIRST_READ = 256 * 1024
# A mailing list or a gateway that wraps a report adds one or two levels.
NESTING_LIMIT = 20
PARTS_LIMIT = 1000
# Postfix cuts a header at 102400 bytes; a header block past this is a test of us.
HEAD_LIMIT = 256 * 1024
# Longer lines than the 998 of RFC 5322 exist; a field of more than this says nothing that is needed.
LINE_LIMIT = 64 * 1024
# Of one header block or report part: 10,000 recipients of 12 lines each, and room to spare.
LINES_LIMIT = 200_000
# Lines that look like a boundary, in one multipart; so many of them that are none are made on purpose.
DELIMITERS_LIMIT = 10_000

# The returned message, or what of it there is: here reading ends.
RETURNED = (b"message/rfc822", b"message/global", b"text/rfc822-headers", b"message/global-headers")


class Part:
    """One part: its content type, its own header block, and where in `data` its body lies."""

    __slots__ = ("data", "end", "head", "parameters", "start", "type")

    def __init__(self, data: bytes, start: int, end: int) -> None:
        self.data = data
        self.head, self.start = _split_head(data, start, end)
        self.end = end
        self.type, self.parameters = content_type(field(self.head, b"content-type"))

    def text(self, limit: int = READ_LIMIT) -> bytes:
        """The body, its transfer encoding undone (RFC 2045 section 6), at most `limit` bytes of it."""
        body = self.data[self.start : min(self.end, self.start + limit)]
        encoding = field(self.head, b"content-transfer-encoding").strip().lower()
        if encoding == b"quoted-printable":
            return binascii.a2b_qp(body)
        return _base64(body) if encoding == b"base64" else body


class Scanned:
    """A message as far as a report's reader may see it."""

    __slots__ = ("cut", "data", "head", "parts", "returned", "root")

    def __init__(self, data: bytes, cut: bool) -> None:
        # Message files come with the line ends of the system they were saved on; pipe(8) hands over LF alone.
        self.data = data.replace(b"\r\n", b"\n") if b"\r\n" in data else data
        self.cut = cut  # there is more of the message than was read
        self.root = Part(self.data, 0, len(self.data))
        self.head = self.root.head
        self.parts: list[Part] = []
        self.returned: Part | None = None
        for count, part in enumerate(_leaves(self.root, 0)):
            if part.type in RETURNED:
                self.returned = part
            if self.returned is not None or count >= PARTS_LIMIT:
                break
            self.parts.append(part)

    def header(self, name: bytes) -> bytes:
        """The first header `name` (lower case) of the message itself; empty where there is none."""
        return field(self.head, name)

    @property
    def returned_head(self) -> bytes:
        """The header block of the message that came back."""
        part = self.returned
        if part is None:
            return b""
        inside = part.text(HEAD_LIMIT)
        return _split_head(inside, 0, len(inside))[0]


def scan(message: Message) -> Scanned:
    """Read as much of `message` as it takes to get to the returned message, and never more than READ_LIMIT."""
    for limit in (FIRST_READ, READ_LIMIT):
        data = _take(message, limit)
        whole = len(data) >= message.size
        found = Scanned(data, not whole)
        if whole or found.returned is not None:
            break
    return found


def _take(message: Message, limit: int) -> bytes:
    chunks, size = [], 0
    for chunk in message.chunks():
        chunks.append(chunk)
        size += len(chunk)
        if size >= limit:
            break
    return b"".join(chunks)[:limit]


def fields(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(lower-case name, value) of each field, unfolded with one blank; (b"", b"") for an empty line."""
    name, value = b"", [b""]
    for line in lines(block, LINES_LIMIT):
        if line[:1] in (b" ", b"\t") and line.strip():
            if name:
                value.append(line[:LINE_LIMIT].strip())
            continue
        if name:
            yield name, b" ".join(value)[:LINE_LIMIT]
        name = b""
        if not line.strip():
            yield b"", b""
            continue
        before, colon, after = line[:LINE_LIMIT].partition(b":")
        if colon and before.strip():
            name, value = before.strip().lower(), [after.strip()]
    if name:
        yield name, b" ".join(value)[:LINE_LIMIT]


def field(block: bytes, wanted: bytes) -> bytes:
    """The value of the first field `wanted` (lower case), unfolded with one blank; empty where there is none.

    Found by a search instead of by taking the block apart: most is asked for and not there.
    """
    lowered = block.lower()
    found = 0 if lowered.startswith(wanted) else _line(lowered, wanted, 0, len(block)) + 1
    while found < len(block):
        behind = found + len(wanted)
        colon = block.find(b":", behind, behind + 8)  # `Subject :` is allowed by RFC 822, and was written
        if colon >= 0 and not block[behind:colon].strip(b" \t"):
            return b" ".join(line.strip() for line in _unfolded(block, colon + 1))[:LINE_LIMIT]
        found = _line(lowered, wanted, behind, len(block)) + 1
    return b""


def _unfolded(block: bytes, start: int) -> Iterator[bytes]:
    """The lines of the value that begins at `start`."""
    for _ in range(LINES_LIMIT):
        end = block.find(b"\n", start)
        if end < 0:
            yield block[start : start + LINE_LIMIT]
            return
        yield block[start : min(end, start + LINE_LIMIT)]
        start = end + 1
        if block[start : start + 1] not in (b" ", b"\t"):
            return


def content_type(value: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    """(type/subtype in lower case, its parameters). RFC 2045 section 5.1; no type is text/plain."""
    kind, _, rest = value[:LINE_LIMIT].partition(b";")
    parameters: dict[bytes, bytes] = {}
    for name, text in _parameters(rest):
        parameters.setdefault(name, text)
    return kind.strip().lower() or b"text/plain", parameters


def _parameters(rest: bytes) -> Iterator[tuple[bytes, bytes]]:
    position = 0
    while (equals := rest.find(b"=", position)) >= 0:
        name = rest[position:equals].strip(b"; \t").lower()
        start = equals + 1
        while rest[start : start + 1] in (b" ", b"\t"):
            start += 1
        if rest[start : start + 1] == b'"':
            text, position = _quoted(rest, start + 1)
        else:
            position = rest.find(b";", start)
            position = len(rest) if position < 0 else position
            text = rest[start:position].strip()
        yield name, text


def _quoted(rest: bytes, start: int) -> tuple[bytes, int]:
    """The quoted string whose first character is at `start`, and the place behind its closing quote.

    Backslash by backslash, forwards only: to count those before each quote would take the square of the length.
    """
    looked = start
    quote = rest.find(b'"', start)
    while quote >= 0 and (backslash := rest.find(b"\\", looked, quote)) >= 0:
        looked = backslash + 2
        if looked > quote:
            quote = rest.find(b'"', looked)
    end = len(rest) if quote < 0 else quote
    return _unescape(rest[start:end]), end + 1


def _unescape(text: bytes) -> bytes:
    if b"\\" not in text:
        return text
    pieces = text.split(b"\\\\")
    return b"\\".join(piece.replace(b"\\", b"") for piece in pieces)


def _split_head(data: bytes, start: int, end: int) -> tuple[bytes, int]:
    """The header block that begins at `start`, and where the body begins."""
    if data[start : start + 1] == b"\n":
        return b"", min(start + 1, end)
    blank = data.find(b"\n\n", start, end)
    stop = end if blank < 0 else blank
    return data[start : min(stop, start + HEAD_LIMIT)], end if blank < 0 else blank + 2


def _leaves(part: Part, depth: int) -> Iterator[Part]:
    """`part`, or the parts in it, in order. A multipart without a part in it is a leaf itself: it counts."""
    boundary = part.parameters.get(b"boundary", b"").rstrip()
    if not part.type.startswith(b"multipart/") or not boundary or depth >= NESTING_LIMIT:
        yield part
        return
    empty = True
    for start, end in _between(part, b"--" + boundary):
        empty = False
        yield from _leaves(Part(part.data, start, end), depth + 1)
    if empty:
        yield part


def _between(part: Part, delimiter: bytes) -> Iterator[tuple[int, int]]:
    """Where each part of a multipart begins and ends. The last need not be closed: messages are cut short."""
    start = None
    for before, behind, last in _delimiters(part, delimiter):
        if start is not None:
            yield start, max(start, before)
        if last:
            return
        start = behind
    if start is not None:
        yield start, part.end


def _delimiters(part: Part, delimiter: bytes) -> Iterator[tuple[int, int, bool]]:
    """(end of the text before, start of that behind, whether it closes) of each delimiter line (RFC 2046, 5.1.1)."""
    data, end = part.data, part.end
    found = part.start - 1 if data.startswith(delimiter, part.start) else _line(data, delimiter, part.start, end)
    for _ in range(DELIMITERS_LIMIT):
        if found >= end:
            return
        behind = found + 1 + len(delimiter)
        line_end = data.find(b"\n", behind, end)
        line_end = end if line_end < 0 else line_end
        rest = data[behind : min(line_end, behind + LINE_LIMIT)].strip()
        # Where one boundary begins like another, only the whole line tells them apart.
        if rest in (b"", b"--"):
            yield max(part.start, found), min(line_end + 1, end), rest == b"--"
        found = _line(data, delimiter, behind, end)


def _line(data: bytes, beginning: bytes, start: int, end: int) -> int:
    """Where the line end before the next line that begins so is; `end` where there is none."""
    found = data.find(b"\n" + beginning, start, end)
    return end if found < 0 else found


def _base64(body: bytes) -> bytes:
    try:
        return binascii.a2b_base64(body)
    except binascii.Error:
        pass  # cut short, or padded wrongly: what comes before is as good as ever
    letters = body.translate(None, b" \t\r\n=")
    try:
        return binascii.a2b_base64(letters[: len(letters) // 4 * 4])
    except binascii.Error:
        return b""


def lines(text: bytes, limit: int) -> Iterable[bytes]:
    """The first `limit` lines, without their ends."""
    return text.split(b"\n", limit)[:limit]
