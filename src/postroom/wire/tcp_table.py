"""Postfix's tcp_table protocol, without I/O: bytes in, events out, and the reply as bytes.

    reader = Reader()
    reader.receive_data(data)           # b"" says that the client has closed
    event = reader.next_event()         # a Lookup, NEED_DATA, CLOSED, or Malformed
    reply("found", "slow:")             # b"200 slow:\\n"

A request is a line, `get KEY`, a reply one too, `CODE TEXT`; in both a %, white space and what does not print stand as
%XX. The protocol has one table for each address: a Lookup of this reader names none.

Rule for this file: never leave Postfix without a reply where one can be given. It tries to reconnect ten times then and
sleeps a second in between, and the process that does so may be the one that resolves every address.

Sources: tcp_table(5); src/util/dict_tcp.c, src/util/hex_quote.c.
"""

from __future__ import annotations

from postroom.wire.events import CLOSED, NEED_DATA, Lookup, Malformed, Signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

# Whether a request says which table it is for.
NAMES_TABLE: Final = False

# tcp_table(5) gives a limit for replies only. Three bytes each for a header of header_size_limit (102400), at most.
LINE_LIMIT: Final = 3 * 102400 + 16

# tcp_table(5): with the newline, and as encoded. Postfix takes a longer one for a broken connection.
REPLY_LIMIT: Final = 4096
REASON_LIMIT: Final = 400

# tcp_table(5). 400 makes Postfix hang up and try again later. It has no word for "for good": that is 400 too.
CODES: Final = {"found": b"200", "notfound": b"500", "temporary": b"400", "permanent": b"400"}

_KINDS: Final = {b"200": "found", b"500": "notfound", b"400": "temporary"}
_HEX: Final = frozenset(b"0123456789abcdefABCDEF")
_PLAIN: Final = frozenset(range(33, 127)) - {37}
_ENCODED: Final = tuple(b"%c" % byte if byte in _PLAIN else b"%%%02X" % byte for byte in range(256))


class Reader:
    """Cuts what a client sends into lookups. Ends with the first Malformed or CLOSED, which then stays."""

    __slots__ = ("_buffer", "_closed", "_end", "_searched")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._searched = 0  # no newline before here
        self._closed = False
        self._end: Malformed | Signal | None = None

    @property
    def partial(self) -> bool:
        """Whether there is a part of a request."""
        return len(self._buffer) > 0

    def receive_data(self, data: bytes | memoryview) -> None:
        """Take what was read. Empty: the client has closed."""
        if not data:
            self._closed = True
        elif self._end is None:
            self._buffer += data

    def next_event(self) -> Lookup | Malformed | Signal:
        """What the bytes so far amount to. Ask again until NEED_DATA: there may be several requests."""
        if self._end is not None:
            return self._end
        buffer = self._buffer
        end = buffer.find(b"\n", self._searched)
        if (len(buffer) if end < 0 else end) > LINE_LIMIT:
            return self._stop(Malformed(f"a line of more than {LINE_LIMIT} bytes"))
        if end < 0:
            return self._incomplete()
        line = bytes(buffer[:end])
        del buffer[: end + 1]
        self._searched = 0
        event = _lookup(line)
        return self._stop(event) if isinstance(event, Malformed) else event

    def _incomplete(self) -> Malformed | Signal:
        if self._closed:
            return self._stop(Malformed("the client closed within a request") if self._buffer else CLOSED)
        self._searched = len(self._buffer)
        return NEED_DATA

    def _stop(self, event: Malformed | Signal) -> Malformed | Signal:
        self._end = event
        self._buffer = bytearray()
        self._searched = 0
        return event


def _lookup(line: bytes) -> Lookup | Malformed:
    command, blank, encoded = line.partition(b" ")
    if command != b"get" or not blank:
        return Malformed(f"{command[:20].decode('ascii', 'replace')!r}, expected get and a key")
    if encoded.translate(None, b"\r\t\x0b\x0c \0") != encoded:
        return Malformed("white space or NUL in a key, expected %XX")
    key = decode(encoded)
    return Malformed("% without two hexadecimal digits in a key") if key is None else Lookup(b"", key)


def decode(encoded: bytes) -> bytes | None:
    """%XX as bytes; None where a % is not followed by two hexadecimal digits."""
    if b"%" not in encoded:
        return encoded
    first, *rest = encoded.split(b"%")
    if not all(len(piece) >= 2 and piece[0] in _HEX and piece[1] in _HEX for piece in rest):
        return None
    return first + b"".join(bytes.fromhex(piece[:2].decode()) + piece[2:] for piece in rest)


def encode(data: bytes) -> bytes:
    """What does not print, white space and % as %XX."""
    return b"".join([_ENCODED[byte] for byte in data])


def reply(kind: str, text: str) -> bytes:
    """The bytes of an answer. ValueError where Postfix would not read as an answer what is found."""
    data = text.encode()
    if kind == "found":
        if not data or b"\0" in data:
            raise ValueError("found, but nothing that Postfix could use")
        line = b"200 %b\n" % encode(data)
        if len(line) > REPLY_LIMIT:
            raise ValueError(f"found {len(line)} bytes; Postfix reads {REPLY_LIMIT}")
        return line
    return b"%b %b\n" % (CODES[kind], encode(data[:REASON_LIMIT] or b"not found"))


def kind(reply: bytes) -> str:
    """What a reply says: the first argument of `reply`, or "temporary" for any 400."""
    return _KINDS[reply[:3]]
