"""The client's side of SMTP and LMTP as bytes in, values out: replies, extensions, the content's transparency.

No I/O here; session.py does it. (RFC 5321, RFC 2033)
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

# RFC 5321 section 4.5.3.1.5 says 512, Postfix reads 2048 (line_length_limit), some servers write a web page.
LINE_LIMIT = 8192
# All lines of one reply. The longest EHLO replies seen have thirty lines; more is a server that never comes to its end.
REPLY_LIMIT = 65536


class BrokenReply(Exception):
    """What the server sent is no reply."""


class Reply:
    """A server's reply: its code, and its lines without the code."""

    __slots__ = ("code", "lines")

    def __init__(self, code: int, lines: tuple[str, ...]) -> None:
        self.code = code
        self.lines = lines

    @property
    def text(self) -> str:
        return " ".join(line.strip() for line in self.lines)

    def __str__(self) -> str:
        return f"{self.code} {self.text}"


class Replies:
    """Bytes as they come from the server -> replies. Line ends may be bare LF, as some servers write them."""

    def __init__(self) -> None:
        self._rest = b""
        self._lines: list[str] = []
        self._size = 0

    def feed(self, data: bytes) -> None:
        self._rest += data

    @property
    def pending(self) -> bool:
        """Whether anything has come that no reply was made of yet."""
        return bool(self._rest or self._lines)

    def next(self) -> Reply | None:
        """The next whole reply. Raises BrokenReply."""
        while (end := self._rest.find(b"\n")) >= 0:
            line, self._rest = self._rest[:end].rstrip(b"\r"), self._rest[end + 1 :]
            self._size += end + 1
            if (reply := self._take(line)) is not None:
                return reply
        if len(self._rest) > LINE_LIMIT or self._size > REPLY_LIMIT:
            raise BrokenReply("a reply without end")
        return None

    def _take(self, line: bytes) -> Reply | None:
        code, separator, text = line[:3], line[3:4], line[4:]
        if not (len(code) == 3 and code.isdigit() and separator in (b"", b" ", b"-")):
            raise BrokenReply(line[:100].decode("utf-8", "replace"))
        if self._size > REPLY_LIMIT:
            raise BrokenReply("a reply without end")
        self._lines.append(text.decode("utf-8", "replace"))
        if separator == b"-":
            return None
        reply = Reply(int(code), tuple(self._lines))
        self._lines, self._size = [], 0
        return reply


def features(reply: Reply) -> frozenset[str]:
    """The extensions that a reply to EHLO or LHLO announces: keywords, upper case. The first line is a greeting."""
    return frozenset(words[0].upper() for line in reply.lines[1:] if (words := line.split()))


def mechanisms(reply: Reply) -> frozenset[str]:
    """The ways to log in that the same reply announces (RFC 4954 section 3); `AUTH=PLAIN` is an old spelling."""
    lines = [line.upper().replace("AUTH=", "AUTH ").split() for line in reply.lines[1:]]
    return frozenset(word for words in lines if words[:1] == ["AUTH"] for word in words[1:])


class Content:
    """Message bytes -> what follows DATA: CRLF line ends, dots doubled, in pieces of any size (RFC 5321 section 4.5.2).

    A CR that no LF follows becomes a blank, as in Postfix (cleanup_replace_stray_cr_lf): a server that takes it for
    a line end would find the end of the mail, and commands behind it, where a stranger put them.
    """

    __slots__ = ("_at_line_start", "_held")

    def __init__(self) -> None:
        self._held = b""
        self._at_line_start = True

    def feed(self, data: bytes) -> bytes:
        data = self._held + data
        self._held = b"\r" if data.endswith(b"\r") else b""  # an LF may follow in the next piece
        if self._held:
            data = data[:-1]
        return self._encoded(data)

    def end(self) -> bytes:
        """The rest, a line end where the last line has none, and the final dot."""
        rest = self._encoded(b" " if self._held else b"")
        return rest + (b".\r\n" if self._at_line_start else b"\r\n.\r\n")

    def _encoded(self, data: bytes) -> bytes:
        if not data:
            return b""
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b" ")
        first = b"." if self._at_line_start and data.startswith(b".") else b""
        self._at_line_start = data.endswith(b"\n")
        return first + data.replace(b"\n.", b"\n..").replace(b"\n", b"\r\n")


def encoded(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """A whole message as it goes over the wire."""
    content = Content()
    for chunk in chunks:
        yield content.feed(chunk)
    yield content.end()
