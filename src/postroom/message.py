"""The message as bytes: spooled, its header read when asked for, its body never parsed unasked.

pipe(8) hands it over with LF line ends, no dot stuffing, 8-bit text as it came, a final newline added
(src/global/mail_copy.c).
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CHUNK = 65536

# Kept in memory up to here, then on disk. Most mail is below it (median around 75 KB on a mixed server), and two
# hundred agents at once, Postfix's usual process limit doubled, then hold 50 MB.
MEMORY_LIMIT = 262144

# Big messages lie here: a place of the system's, so that a handler without any state can take them; the next one where
# the first is read-only or takes no file without a name.
SPOOL_DIRECTORIES = ("/var/tmp", "/tmp")  # noqa: S108 - opened with O_TMPFILE: no name, nothing to race for

# Postfix's own header_size_limit is 102400 per header; a header block past this is somebody's test of us.
# What lies beyond is still delivered, only not seen by rules.
HEAD_LIMIT = 262144


class Message:
    """A message of any size. Bytes live in memory, or in an unlinked file that goes away with the process."""

    __slots__ = ("_data", "_digest", "_fd", "_head", "size")

    def __init__(self, data: bytes, fd: int | None, size: int, digest: bytes | None = None) -> None:
        self._data = data
        self._fd = fd
        self._head: bytes | None = None
        self._digest = digest
        self.size = size

    @classmethod
    def of(cls, data: bytes) -> Message:
        return cls(data, None, len(data))

    @classmethod
    def read(
        cls,
        source: int,
        *directories: str,
        memory_limit: int = MEMORY_LIMIT,
        go_on: Callable[[int], None] | None = None,
    ) -> Message:
        """Read descriptor `source` to its end. Raises OSError (full disk, no place to spool to).

        `go_on` is told before each read how much has come; what it raises ends the reading.
        """
        from _blake2 import blake2b

        digest = blake2b(digest_size=20)
        parts: list[bytes] = []
        size = 0
        spool: int | None = None
        try:
            while chunk := _next(source, size, go_on):
                digest.update(chunk)
                size += len(chunk)
                if spool is not None:
                    _write_all(spool, chunk)
                    continue
                parts.append(chunk)
                if size > memory_limit:
                    spool = open_spool(*directories)
                    _write_all(spool, b"".join(parts))
                    parts = []
        except BaseException:
            if spool is not None:
                os.close(spool)
            raise
        return cls(b"".join(parts), spool, size, digest.digest())

    def chunks(self) -> Iterator[bytes]:
        """The bytes from the start, in pieces; as often as wanted, also several at a time."""
        if self._fd is None:
            for start in range(0, len(self._data), CHUNK):
                yield self._data[start : start + CHUNK]
            return
        offset = 0
        while chunk := os.pread(self._fd, CHUNK, offset):
            yield chunk
            offset += len(chunk)

    def digest(self) -> bytes:
        """20 bytes that tell this content from any other."""
        if self._digest is None:
            from _blake2 import blake2b

            digest = blake2b(digest_size=20)
            for chunk in self.chunks():
                digest.update(chunk)
            self._digest = digest.digest()
        return self._digest

    @property
    def head(self) -> bytes:
        """The header block, its line ends as they came, without the empty line; at most HEAD_LIMIT bytes."""
        if self._head is None:
            data = b""
            for chunk in self.chunks():
                data += chunk
                if len(data) >= HEAD_LIMIT or b"\n\n" in data or b"\n\r\n" in data:
                    break
            self._head = _header_block(data[:HEAD_LIMIT])
        return self._head

    def headers(self, name: str) -> list[str]:
        """Every value of header `name`, unfolded, as text (RFC 5322 section 2.2.3; RFC 2047 words decoded)."""
        wanted = name.lower().encode("utf-8", "surrogateescape")
        return [_text(value) for found, value in _fields(self.head) if found == wanted]

    def header(self, name: str) -> str | None:
        """The first value of header `name`."""
        values = self.headers(name)
        return values[0] if values else None


def open_spool(*directories: str) -> int:
    """A file without a name, for a message. Raises OSError where none of the directories takes one.

    Unlinked from the start: killed at any moment, nothing stays behind.
    """
    for directory in (places := directories or SPOOL_DIRECTORIES):
        try:
            return os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError:
            if directory == places[-1]:
                raise
    raise ValueError("no directory to spool to")


def give_back(message: Message) -> None:
    """Close its file, where there is one: for who outlives the message. To read it raises OSError from then on."""
    if message._fd is not None:
        fd, message._fd = message._fd, -1
        os.close(fd)


def _next(source: int, size: int, go_on: Callable[[int], None] | None) -> bytes:
    if go_on is not None:
        go_on(size)
    return os.read(source, CHUNK)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _header_block(data: bytes) -> bytes:
    if data.startswith((b"\n", b"\r\n")):
        return b""
    ends = [end for end in (data.find(b"\n\n"), data.find(b"\n\r\n")) if end >= 0]
    return data[: min(ends) + 1] if ends else data


def _fields(head: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(lower-case name, raw unfolded value) of each field; a line that is none of a header is passed over."""
    name, parts = b"", [b""]
    for line in head.split(b"\n"):
        line = line.rstrip(b"\r")
        if line[:1] in (b" ", b"\t"):
            parts.append(line)
            continue
        if name:
            yield name, b"".join(parts)
        before, colon, after = line.partition(b":")
        before = before.rstrip(b" \t")
        name = before.lower() if colon and before and b" " not in before else b""
        parts = [after]
    if name:
        yield name, b"".join(parts)


def _text(raw: bytes) -> str:
    value = raw.strip().decode("utf-8", "surrogateescape")
    if "=?" not in value or "?=" not in value:
        return value
    import binascii
    from email.errors import MessageError
    from email.header import decode_header, make_header

    try:
        return str(make_header(decode_header(value)))
    except (MessageError, LookupError, UnicodeError, ValueError, binascii.Error):
        return value  # an encoding that does not exist, or is broken: the raw words are what there is
