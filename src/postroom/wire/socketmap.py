"""Postfix's (Sendmail's) socketmap protocol, without I/O: bytes in, events out, and the reply as bytes.

    reader = Reader()
    reader.receive_data(data)           # b"" says that the client has closed
    event = reader.next_event()         # a Lookup, NEED_DATA, CLOSED, or Malformed
    reply("found", "slow:")             # b"8:OK slow:,"

Requests and replies are netstrings, `LENGTH:PAYLOAD,`. A request is the table's name, a blank and the key; a key may
hold anything, blanks and line ends included. All tables at one address share a connection.

Sources: socketmap_table(5); src/util/dict_sockmap.c, src/util/netstring.c.
"""

from __future__ import annotations

from postroom.wire.events import CLOSED, NEED_DATA, Lookup, Malformed, Signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

# Whether a request says which table it is for.
NAMES_TABLE: Final = True

# The longest key of Postfix's is a header for header_checks (header_size_limit, 102400); 3.12 asks for none of more
# than 10000 (socketmap_max_query_size). A hundred processes may hold ten times as much of garbage.
REQUEST_LIMIT: Final = 131072

# What Postfix reads of a reply: the netstring's payload (socketmap_max_reply_size; fixed before 3.10).
REPLY_LIMIT: Final = 100000

# A reason goes into Postfix's log only.
REASON_LIMIT: Final = 400

# src/util/dict_sockmap.c. After TEMP and TIMEOUT Postfix tries again later; after PERM it says 4.3.5, and does too.
KEYWORDS: Final = {"found": b"OK", "notfound": b"NOTFOUND", "temporary": b"TEMP", "permanent": b"PERM"}

_KINDS: Final = {keyword: kind for kind, keyword in KEYWORDS.items()}
_DIGITS: Final = len(str(REQUEST_LIMIT))


class Reader:
    """Cuts what a client sends into lookups. Ends with the first Malformed or CLOSED, which then stays."""

    __slots__ = ("_buffer", "_closed", "_end")

    def __init__(self) -> None:
        self._buffer = bytearray()
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
        colon = buffer.find(b":", 0, _DIGITS + 1)
        reason = _objection(bytes(buffer[:colon] if colon >= 0 else buffer[: _DIGITS + 1]), colon >= 0)
        if reason:
            return self._stop(Malformed(reason))
        end = colon + 1 + int(buffer[:colon]) if colon >= 0 else len(buffer)
        if len(buffer) <= end:
            return self._incomplete()
        if buffer[end] != 44:
            return self._stop(Malformed("a netstring that does not end in a comma"))
        payload = bytes(buffer[colon + 1 : end])
        del buffer[: end + 1]
        name, blank, key = payload.partition(b" ")
        return Lookup(name, key) if blank and name else self._stop(Malformed("a request without a name and a key"))

    def _incomplete(self) -> Malformed | Signal:
        if self._closed:
            return self._stop(Malformed("the client closed within a request") if self._buffer else CLOSED)
        return NEED_DATA

    def _stop(self, event: Malformed | Signal) -> Malformed | Signal:
        self._end = event
        self._buffer = bytearray()
        return event


def _objection(length: bytes, whole: bool) -> str:
    """What is wrong with the length of a netstring, or with so much of it as is there."""
    if length and not length.isdigit():
        return "no netstring: expected a length"
    if whole and (not length or (length[0] == 48 and len(length) > 1)):
        return "a netstring with an odd length"
    # More digits than the limit has are too much whatever they are, but for a zero in front.
    if len(length) > _DIGITS or (length and int(length) > REQUEST_LIMIT):
        return f"a request of more than {REQUEST_LIMIT} bytes"
    return ""


def reply(kind: str, text: str) -> bytes:
    """The bytes of an answer. ValueError where Postfix would not read as an answer what is found."""
    data = text.encode()
    if kind == "found":
        # An empty result is a configuration error to Postfix, or "not found", by version and table.
        if not data or b"\0" in data:
            raise ValueError("found, but nothing that Postfix could use")
        if len(data) + 3 > REPLY_LIMIT:
            raise ValueError(f"found {len(data)} bytes; Postfix reads {REPLY_LIMIT}")
    else:
        data = data[:REASON_LIMIT].decode("utf-8", "ignore").encode()
    payload = b"%b %b" % (KEYWORDS[kind], data)
    return b"%d:%b," % (len(payload), payload)


def kind(reply: bytes) -> str:
    """What a reply says: the first argument of `reply`."""
    return _KINDS[reply.partition(b":")[2].partition(b" ")[0]]
