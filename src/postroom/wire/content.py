"""What follows DATA and BDAT, as the message that pipe(8) would hand over: LF line ends, no dots doubled, no I/O.

    content = Dotted()              # or Counted(), for BDAT, which says how many bytes belong to it
    text = content.take(buffer)     # until content.ended; what is no part of it is left in the buffer

Rules for this file
* Only CRLF ends a line, and only CRLF.CRLF the content (RFC 5321 section 4.1.1.4). Whoever takes `LF.LF`, `LF.CRLF` or
  `CR.CR` for the end reads what follows, a stranger's text, as commands: a second mail in another's name ("SMTP
  smuggling", 2023).
* A CR or LF that is no part of a CRLF becomes a blank, as in Postfix itself since 3.9 (cleanup_replace_stray_cr_lf),
  and in actions/smtp.py on the way out. Left as they are they would be line ends for those who read the message later;
  refused, mail would bounce that an older Postfix took.
* However the bytes are cut, the message is the same.
"""

from __future__ import annotations

from postroom.wire.events import Signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_END: Final = b"\r\n.\r\n"

# What may turn out to be the beginning of _END, or of a CRLF, when more has come.
_PARTS: Final = (b"\r\n.\r", b"\r\n.", b"\r\n", b"\r")


ABORTED: Final = Signal("ABORTED")


class Content:
    """A piece of the message."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data


class Dotted:
    """After DATA: up to a line of one dot; of other lines that begin with a dot, this dot is taken away."""

    __slots__ = ("_held", "_skip", "ended")

    # It ends by what comes, never by itself.
    due = True
    chunk = False

    def __init__(self) -> None:
        # As though a line had ended just before: the first line may begin with a dot, and be the last.
        self._held = b"\r\n"
        self._skip = 1
        self.ended = False

    def take(self, buffer: bytearray) -> bytes:
        """The message so far, out of `buffer`; what stands behind its end is left there."""
        data = self._held + bytes(buffer)
        buffer.clear()
        end = data.find(_END)
        if end >= 0:
            self.ended = True
            buffer += data[end + len(_END) :]
            return self._text(data[: end + 2])
        self._held = next((part for part in _PARTS if data.endswith(part)), b"")
        return self._text(data[: len(data) - len(self._held)])

    def _text(self, data: bytes) -> bytes:
        if not data:
            return b""
        if b"\r\n." in data:
            data = data.replace(b"\r\n.", b"\r\n")
        text = unix_lines(data)
        if self._skip:
            self._skip = 0
            return text[1:]
        return text


class Counted:
    """Chunks of BDAT (RFC 3030): nothing is doubled, a line may go on in the next chunk."""

    __slots__ = ("_count", "_held", "_last", "_whole_line", "ended")

    def __init__(self) -> None:
        self._held = b""
        self._whole_line = True
        self._count = 0
        self._last = False
        self.ended = False

    def begin(self, count: int, last: bool) -> None:
        """A chunk of so many bytes."""
        self._count, self._last = count, last

    @property
    def due(self) -> bool:
        """Whether more of this chunk has to come."""
        return self._count > 0

    @property
    def chunk(self) -> bool:
        """Whether this chunk has come, and another will."""
        return not self._count and not self._last

    def take(self, buffer: bytearray) -> bytes:
        """The message so far, out of `buffer`; what stands behind the chunk is left there."""
        taken = bytes(buffer[: self._count])
        del buffer[: len(taken)]
        self._count -= len(taken)
        data = self._held + taken
        self._held = b"\r" if data.endswith(b"\r") else b""  # an LF may follow, here or in the next chunk
        text = self._text(data[:-1] if self._held else data)
        if self._count or not self._last:
            return text
        self.ended = True
        return text + self._end()

    def _end(self) -> bytes:
        """The rest, and a line end where the last line has none, as pipe(8) adds it."""
        rest = self._text(b" " if self._held else b"")
        return rest if self._whole_line else rest + b"\n"

    def _text(self, data: bytes) -> bytes:
        if not data:
            return b""
        self._whole_line = data.endswith(b"\r\n")
        return unix_lines(data)


def unix_lines(data: bytes) -> bytes:
    """CRLF as LF; any other CR or LF as a blank."""
    text = data.replace(b"\r\n", b"\n")
    if b"\r" not in text and text.count(b"\n") == len(data) - len(text):
        return text
    lines = data.split(b"\r\n")
    return b"\n".join(line.replace(b"\r", b" ").replace(b"\n", b" ") for line in lines)
