"""Postfix's SMTPD policy delegation protocol, without I/O: bytes in, events out, and the reply as bytes.

    reader = RequestReader()
    reader.receive_data(data)           # b"" says that the client has closed
    event = reader.next_event()         # a Request, NEED_DATA, CLOSED, or Malformed
    reply("DUNNO", event)               # b"action=DUNNO\n\n"

A request is lines of `name=value`, ended by an empty line; nothing is escaped. Postfix sends the next request after
the reply to the last, but several in one read, or one in many, are the same to a reader. After Malformed the rule
for servers is: log, close without a reply. Postfix then asks once more, and defers.

Rules for this file
* A Request keeps its raw block. A decision looks at three attributes of thirty; a dict of all of them costs half
  as much again as the whole rest of a request.
* No reply leaves that Postfix would take for something else than it says. `550` alone, and an empty action, mean
  *accept* to it.

Sources: SMTPD_POLICY_README; access(5); src/smtpd/smtpd_check.c (check_policy_service, check_table_result),
src/util/attr_scan_plain.c, src/util/attr_print_plain.c. What Postfix makes of odd actions was asked of 3.7.11.
"""

from __future__ import annotations

from postroom.wire.events import CLOSED as CLOSED
from postroom.wire.events import NEED_DATA as NEED_DATA
from postroom.wire.events import Malformed as Malformed
from postroom.wire.events import Signal as _Signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

# Postfix 3.12 sends 35 attributes in about 700 bytes. Strangers fill in sender, recipient, HELO name and certificate
# names; smtpd cuts each of their lines at line_length_limit (2048), xtext may triple a certificate's name. Ten times
# that is no request of Postfix's, and what a hundred processes may hold of them stays below 7 MB.
REQUEST_LIMIT: Final = 65536
LINE_LIMIT: Final = 8192
ATTRIBUTE_LIMIT: Final = 200

# RFC 5321 section 4.5.3.1.5: 512 bytes with CRLF. Only the latest releases of Postfix cut their replies to it; 3.7.11
# passes a text of 100 KB on to the client in one line.
REPLY_LIMIT: Final = 510

# `550 5.7.1 <WHAT>: Recipient address rejected: ` less WHAT; the other classes' names are shorter.
_REPLY_FRAME: Final = len("550 5.7.1 <>: Recipient address rejected: ")

# WHAT, by the restriction list that the service is called from, and with smtpd_delay_reject all of them at RCPT;
# `END-OF-MESSAGE` stands there for a while too. Unknown without the request: RFC 5321's longest path then.
_WHAT_MINIMUM: Final = len("END-OF-MESSAGE")
_WHAT_UNKNOWN: Final = 256

# This much of a text is always kept, whatever a stranger's long address leaves of the 510 bytes: the reason matters
# more than a legible end. It also lets short replies, nearly all, do without looking at the request.
_TEXT_MINIMUM: Final = 128

# Nothing else that access(5) takes needs more: a header, an address, a transport, a list of restrictions.
ACTION_LIMIT: Final = 2048

# Replies that come again and again are checked once. Bounded, since texts may hold what strangers sent.
_REPLIES_KEPT: Final = 256

# The same for the shapes of requests: a line each of some forty.
_SHAPES_KEPT: Final = 256
_SHAPE_LENGTH: Final = 256

_REQUEST: Final = b"\nrequest=smtpd_access_policy\n"
_CRLF: Final = "lines end with CR LF, expected LF"
# All bytes but those that make the shape of a block.
_CONTENT: Final = bytes(set(range(256)) - set(b"=\n\0"))

# access(5), "OTHER ACTIONS" and the rest; HANGUP is in check_table_result only. What each needs to have an effect:
# without it Postfix logs a warning and goes on as after DUNNO.
_ACTIONS: Final = {
    "BCC": "@",
    "DEFER": "",
    "DEFER_IF_PERMIT": "",
    "DEFER_IF_REJECT": "",
    "DISCARD": "",
    "DUNNO": "",
    "FILTER": ":",
    "HANGUP": "",
    "HOLD": "",
    "INFO": "",
    "OK": "",
    "PREPEND": ":",
    "REDIRECT": "@",
    "REJECT": "",
    "RELAY": "",
    "WARN": "",
}
# Those whose text goes to the client.
_REPLYING: Final = frozenset(("DEFER", "DEFER_IF_PERMIT", "DEFER_IF_REJECT", "REJECT"))


class Request:
    """One request. Values are looked up in the raw block when they are asked for."""

    __slots__ = ("block",)

    def __init__(self, block: bytes) -> None:
        """`block`: a newline, then the lines with theirs, so that each name stands between newline and "="."""
        self.block = block

    def value(self, name: bytes) -> bytes | None:
        """The value of an attribute, None where it is absent. Of a repeated one the first counts."""
        if b"=" in name or b"\n" in name:
            return None  # lines are split at the first "=", so no attribute has such a name
        return self.find(b"\n%b=" % name)

    def find(self, needle: bytes) -> bytes | None:
        """`value`, for a caller that keeps the needle: newline, name, "="."""
        block = self.block
        start = block.find(needle)
        if start < 0:
            return None
        start += len(needle)
        return block[start : block.find(b"\n", start)]

    def attributes(self) -> dict[bytes, bytes]:
        """All of them, in the order sent."""
        found: dict[bytes, bytes] = {}
        for line in self.block[1:].split(b"\n")[:-1]:
            name, _, value = line.partition(b"=")
            found.setdefault(name, value)
        return found

    def __repr__(self) -> str:
        return f"Request({self.block!r})"


class RequestReader:
    """Cuts what a client sends into requests. Ends with the first Malformed or CLOSED, which then stays."""

    __slots__ = ("_buffer", "_closed", "_end", "_searched", "_whole")

    def __init__(self) -> None:
        self._whole = b""  # the block of a request that came as Postfix sends it: alone, and in one piece
        self._buffer = bytearray(b"\n")  # always with the newline that ended what came before
        self._searched = 0  # no empty line begins before here
        self._closed = False
        self._end: Malformed | _Signal | None = None

    @property
    def partial(self) -> bool:
        """Whether there is a part of a request."""
        return len(self._buffer) > 1 or bool(self._whole)

    def receive_data(self, data: bytes | memoryview) -> None:
        """Take what was read. Empty: the client has closed."""
        if not data:
            self._closed = True
        elif self._end is None:
            if len(self._buffer) == 1 and not self._whole and data[-2:] == b"\n\n":
                block = b"".join((b"\n", data[:-1]))
                if b"\n\n" not in block:
                    self._whole = block
                    return
            self._buffer += data

    def next_event(self) -> Request | Malformed | _Signal:
        """What the bytes so far amount to. Ask again until NEED_DATA: there may be several requests."""
        block = self._whole
        if block:
            self._whole = b""
        else:
            buffer = self._buffer
            if len(buffer) == 1 and not self._closed and self._end is None:
                return NEED_DATA
            end = buffer.find(b"\n\n", self._searched)
            if end < 0:
                return self._end or self._incomplete()
            block = bytes(buffer[: end + 1])
            del buffer[: end + 1]
            self._searched = 0
        reason = _objection(block)
        return self._stop(Malformed(reason)) if reason else Request(block)

    def _incomplete(self) -> Malformed | _Signal:
        buffer = self._buffer
        if len(buffer) > 1 + REQUEST_LIMIT:
            return self._stop(Malformed(f"more than {REQUEST_LIMIT} bytes without an empty line"))
        # Waiting on would last until the client's time-out. Postfix itself reads such a reply in vain.
        if buffer.find(b"\n\r\n", max(0, self._searched - 1)) >= 0:
            return self._stop(Malformed(_CRLF))
        if self._closed:
            return self._stop(Malformed("the client closed within a request") if len(buffer) > 1 else CLOSED)
        self._searched = len(buffer) - 1
        return NEED_DATA

    def _stop(self, event: Malformed | _Signal) -> Malformed | _Signal:
        self._end = event
        self._buffer = bytearray()
        self._searched = 0
        return event


def _objection(block: bytes) -> str:
    """Why this is no policy request; empty where it is one. The usual case costs a few scans in C."""
    shape = block.translate(None, _CONTENT)
    if shape in _shapes and len(block) <= LINE_LIMIT and b"\n=" not in block and block.startswith(_REQUEST):
        return ""
    if len(block) > LINE_LIMIT:
        if len(block) > 1 + REQUEST_LIMIT:
            return f"more than {REQUEST_LIMIT} bytes"
        if max(map(len, block.split(b"\n"))) > LINE_LIMIT:
            return f"a line of more than {LINE_LIMIT} bytes"
    if b"\n\n" in shape and b"\n\r\n" in block:
        return _CRLF
    if b"\0" in shape:
        return "a NUL byte"
    if b"\n\n" in shape:
        return "a line without ="
    if shape == b"\n":
        return "an empty line where a request begins"
    if b"\n=" in block:
        return "a line without a name before ="
    if shape.count(b"\n") > 1 + ATTRIBUTE_LIMIT:
        return f"more than {ATTRIBUTE_LIMIT} attributes"
    if not block.startswith(_REQUEST):
        # At any other place, too: Postfix's own order is no promise.
        kind = Request(block).value(b"request")
        if kind is None:
            return "no request= attribute"
        if kind != b"smtpd_access_policy":
            return f"request={kind[:40].decode('ascii', 'replace')}, expected smtpd_access_policy"
    if len(_shapes) < _SHAPES_KEPT and len(shape) <= _SHAPE_LENGTH:
        _shapes.add(shape)
    return ""


# What is left of requests that were in order: one Postfix sends a few kinds. Bounded, since a client may make them up.
_shapes: set[bytes] = set()


def reply(action: str, request: Request | None = None) -> bytes:
    """The bytes that answer a request: the action, its text cut to what fits into Postfix's reply to the client.

    Raises ValueError where Postfix would take the action for something else (check_action). With the `request`
    the cut is exact, without it there is room for the longest address.
    """
    ready = _replies.get(action)
    return _compose(action, request) if ready is None else ready


_replies: dict[str, bytes] = {}


def _compose(action: str, request: Request | None) -> bytes:
    text = check_action(action)
    data = text.encode()
    if len(data) > _TEXT_MINIMUM:
        if _replies_with_text(text):
            data = _cut(data, _room(request) + len(text.split(None, 1)[0]) + 1)
        return b"action=%b\n\n" % data
    made = b"action=%b\n\n" % data
    if len(_replies) < _REPLIES_KEPT:
        _replies[action] = made
    return made


def _room(request: Request | None) -> int:
    """How many bytes of text Postfix's one reply line still takes."""
    what = _WHAT_UNKNOWN
    if request is not None:
        names = (request.value(name) or b"" for name in (b"sender", b"recipient", b"helo_name", b"etrn_domain"))
        what = max(_WHAT_MINIMUM, _client_length(request), *map(len, names))
    return max(_TEXT_MINIMUM, REPLY_LIMIT - _REPLY_FRAME - what)


def _client_length(request: Request) -> int:
    """Of `name[address]:port`, the port where smtpd_client_port_logging is on."""
    parts = (request.value(name) or b"" for name in (b"client_name", b"client_address", b"client_port"))
    return sum(map(len, parts)) + len("[]:")


def _cut(data: bytes, limit: int) -> bytes:
    return data[:limit].decode("utf-8", "ignore").rstrip().encode()


def _replies_with_text(action: str) -> bool:
    word = action.split(None, 1)[0]
    return word.isdigit() or word.upper() in _REPLYING


def check_action(text: str) -> str:
    """`text` without white space round it, if Postfix reads it as it is meant; else ValueError says what it does.

    Passed are access(5)'s actions in any case, and restrictions by name, alone or in a list. Whether main.cf has a
    restriction class of that name cannot be seen from here.
    """
    action = text.strip(" \t")
    if not action:
        raise ValueError("an empty action: Postfix accepts the mail")
    _check_characters(action)
    word, _, rest = action.replace("\t", " ").partition(" ")
    if action.isdigit():
        raise ValueError(f"{action[:20]!r} without a text: Postfix takes any number alone for OK and accepts the mail")
    if word[0].isdigit():
        _check_code(word)
    elif word.upper() in _ACTIONS:
        _check_operand(word.upper(), rest.strip())
    else:
        _check_restrictions(action, word)
    if len(action) > ACTION_LIMIT and not _replies_with_text(action):
        raise ValueError(f"{word} with more than {ACTION_LIMIT} characters")
    return action


def _check_characters(action: str) -> None:
    for character in "" if action.isprintable() else action:
        code = ord(character)
        if 0xD800 <= code <= 0xDFFF:
            raise ValueError("bytes that are not UTF-8: Postfix drops the whole action for its default")
        if (code < 0x20 or 0x7F <= code < 0xA0) and character != "\t":
            raise ValueError(f"control character {character!r}: the reply would end there, or reach the client")


def _check_code(word: str) -> None:
    if len(word) != 3 or word[0] not in "45" or not (word.isascii() and word.isdigit()):
        raise ValueError(f"{word[:20]!r}, expected 4NN or 5NN: Postfix answers 451 4.3.5 Server configuration error")


def _check_operand(word: str, operand: str) -> None:
    needed = _ACTIONS[word]
    if needed not in operand:
        raise ValueError(f"{word} without {needed!r} in what follows: Postfix warns and goes on as after DUNNO")
    if word == "PREPEND":
        name = operand.partition(":")[0]
        if not name or not all("!" <= character <= "~" for character in name):
            raise ValueError(f"PREPEND of {name[:40]!r}, no header name: Postfix warns and goes on as after DUNNO")


def _check_restrictions(action: str, word: str) -> None:
    if ":" in action:
        raise ValueError("a lookup table in a restriction: Postfix answers 451 4.3.5 Server configuration error")
    name = word.rstrip(",")
    # Restrictions, and by habit their classes, are written small: a word in capitals is a slip of the pen.
    if name.isupper() or not all(c.isascii() and (c.isalnum() or c == "_") for c in name):
        raise ValueError(f"unknown action {word[:40]!r}: Postfix answers 451 4.3.5 Server configuration error")
