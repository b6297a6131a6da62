"""The server's side of LMTP (RFC 2033), without I/O: bytes in, events out, and replies as bytes.

    session = Session("mail.example.com")
    session.receive_data(data)          # b"" says that the client has closed
    event = session.next_event()        # Content, Transaction, ABORTED, CLOSED, or NEED_DATA
    session.finish(["250 2.0.0 ok", "451 4.3.0 later"])     # to a Transaction: one reply for each recipient, in order
    session.take()                      # the bytes to send, also the greeting; look after each event

    Content       a piece of the message, with LF line ends (content.py)
    Transaction   the whole message has come; nothing is read on before `finish`
    ABORTED       the transaction has ended without one: what came of its message is void
    CLOSED        send what `take` has, and close

Extensions: ENHANCEDSTATUSCODES, 8BITMIME, SMTPUTF8, SIZE, PIPELINING, CHUNKING, DSN, and Postfix's XFORWARD, whose
attributes are believed: who may connect has to be seen to by others (a unix socket's mode, loopback).

Rules for this file
* Errors of the client's are answered here. An event is what the shell has to do something about.
* What is not in _ALLOWED is out of order: 503.
* After the content there is one reply for each accepted recipient, whatever has gone wrong, or the client would take
  the reply to one mail for that to the next. The bytes of a BDAT that is refused are read past all the same.

Sources: RFC 2033, 2034, 1870, 2920, 3030, 3461, 6152, 6531; XFORWARD_README; src/smtp/smtp_proto.c, which lmtp(8) is.
"""

from __future__ import annotations

from postroom.status import clean, cut
from postroom.wire.content import ABORTED, Content, Counted, Dotted
from postroom.wire.events import CLOSED, NEED_DATA, Signal
from postroom.wire.transaction import EXTENSIONS, Refused, Transaction, mail_from, rcpt_to, xforward

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Final

# RFC 5321 asks for 512, its extensions for some hundred more each. Postfix reads lines of 2048 (line_length_limit),
# and xtext may make three bytes of each: an address, and the same as ORCPT.
COMMAND_LIMIT: Final = 16384

# A hundred times Postfix's message_size_limit. It may be set to none there, and pipe(8) knows no limit: this one only
# keeps a client gone mad from filling the disk.
SIZE_LIMIT: Final = 1 << 30

# As smtpd_recipient_limit; lmtp(8) sends fifty (default_destination_recipient_limit).
RECIPIENTS_LIMIT: Final = 1000

# As smtpd_hard_error_limit: who gets everything wrong speaks another protocol.
ERRORS_LIMIT: Final = 20

# Octets of a reply: RFC 5321 section 4.5.3.1.5, less the line end.
REPLY_LIMIT: Final = 510

# What is said of every mail.
_OK, _SENDER_OK, _RECIPIENT_OK = (b"250 %b ok\r\n" % code for code in (b"2.0.0", b"2.1.0", b"2.1.5"))
_GO_ON: Final = b"354 end with <CR><LF>.<CR><LF>\r\n"

# What brings a mail a step further.
_STEPS: Final = frozenset((b"MAIL", b"RCPT", b"DATA", b"BDAT"))

# States, and the commands that are in order there.
_ALWAYS: Final = frozenset((b"LHLO", b"RSET", b"NOOP", b"VRFY", b"QUIT"))
_ALLOWED: Final = {
    "new": _ALWAYS,
    "ready": _ALWAYS | {b"MAIL", b"XFORWARD"},
    "mail": _ALWAYS | {b"RCPT"},
    "rcpt": _ALWAYS | {b"RCPT", b"DATA", b"BDAT"},
    "bdat": _ALWAYS | {b"BDAT"},
}


def line_of(reply: str) -> bytes:
    return cut(clean(reply), REPLY_LIMIT) + b"\r\n"


class Session:
    """One connection. `name` is what the server calls itself."""

    __slots__ = (
        "_buffer", "_closed", "_content", "_count", "_forwarded", "_input", "_mail", "_name", "_output",
        "_searched", "_size", "_size_limit", "_state", "_trouble", "draining", "errors",
    )  # fmt: skip

    def __init__(self, name: str, size_limit: int = SIZE_LIMIT) -> None:
        self.draining = False  # set: no further mail is taken
        self.errors = 0  # the client's, so far
        self._name = name
        self._size_limit = size_limit
        self._buffer = bytearray()
        self._searched = 0  # no line ends before here
        self._closed = False  # by the client
        self._output = [f"220 {name} LMTP Postroom\r\n".encode()]
        self._state = "new"
        self._forwarded: dict[str, str] = {}
        self._mail: Transaction | None = None
        self._input: Callable[[], Content | Transaction | Signal | None] = self._command
        self._content: Dotted | Counted = Dotted()
        self._count = 0  # bytes of a chunk that is refused still to come
        self._size = 0  # of the content so far
        self._trouble = ""  # the reply to all recipients, where the content cannot be taken

    @property
    def idle(self) -> bool:
        """Whether no mail has begun to come: then the connection may be closed at any time, in a command too."""
        return self._mail is None

    def receive_data(self, data: bytes | memoryview) -> None:
        """Take what was read. Empty: the client has closed."""
        if data:
            self._buffer += data
        else:
            self._closed = True

    def next_event(self) -> Content | Transaction | Signal:
        """What the bytes so far amount to. Ask again until NEED_DATA or CLOSED."""
        while (event := self._input()) is None:
            pass
        return event

    def take(self) -> bytes:
        """What is to be sent now."""
        output = b"".join(self._output)
        self._output.clear()
        return output

    def finish(self, replies: Sequence[str]) -> None:
        """Answer for the mail, recipient by recipient."""
        if self._mail is None or len(replies) != len(self._mail.recipients):
            raise ValueError("expected one reply for each recipient")
        for reply in replies:
            self._say(reply)
        self._reset()
        self._input = self._command
        if self.draining or any(reply.startswith("421") for reply in replies):
            self._input = self._end

    def spoil(self, reply: str) -> None:
        """The content that comes cannot be kept (a full disk): read past it, and say this to all recipients."""
        self._trouble = self._trouble or reply

    def _wait(self) -> Signal:
        return NEED_DATA

    def _end(self) -> Signal:
        return CLOSED

    def _command(self) -> Transaction | Signal | None:
        buffer = self._buffer
        end = buffer.find(b"\r\n", self._searched)
        if end < 0:
            return self._no_line()
        line = bytes(buffer[:end])
        del buffer[: end + 2]
        self._searched = 0
        return self._obey(line)

    def _no_line(self) -> Signal | None:
        if self._closed:
            self._input = self._end
        elif len(self._buffer) > COMMAND_LIMIT + 1:  # its last byte may be half a line end
            self._input = self._skip_line
        else:
            self._searched = max(0, len(self._buffer) - 1)
            return NEED_DATA
        return None

    def _skip_line(self) -> Signal | None:
        """Past a command that is too long, without keeping it."""
        end = self._buffer.find(b"\r\n")
        del self._buffer[: end + 2 if end >= 0 else -1]  # its last byte may be half a line end
        self._searched = 0
        if end < 0:
            return CLOSED if self._closed else NEED_DATA
        self._input = self._command
        return self._complain("450 4.5.2 line too long")

    def _obey(self, line: bytes) -> Transaction | Signal | None:
        word, _, rest = line.partition(b" ")
        verb = word.upper()
        obey = _COMMANDS.get(verb)
        if len(line) > COMMAND_LIMIT:
            return self._complain("450 4.5.2 line too long")
        if obey is None:
            known = verb in (b"HELO", b"EHLO")
            return self._complain("500 5.5.1 this is LMTP, say LHLO" if known else "500 5.5.2 command not recognized")
        if self.draining and verb in _STEPS and self._state != "bdat":
            return self._hang_up("421 4.3.2 shutting down, try again")
        if verb not in _ALLOWED[self._state] and verb != b"BDAT":  # whose bytes follow, in order or not
            return self._complain(f"503 5.5.1 {verb.decode()} is out of order here")
        try:
            return obey(self, rest)
        except Refused as refusal:
            return self._complain(str(refusal))

    def _receive(self) -> Content | Signal | None:
        """After DATA and BDAT."""
        content = self._content
        if content.due and not self._buffer:
            if not self._closed:
                return NEED_DATA
            self._input = self._end
            return ABORTED
        event = self._piece(content.take(self._buffer))
        if content.ended:
            self._input = self._whole
        elif content.chunk:
            self._input = self._command
            self._say(self._trouble or "250 2.0.0 chunk taken")
        return event

    def _skip_chunk(self) -> Signal | None:
        """Past the bytes of a BDAT that was out of order."""
        taken = min(self._count, len(self._buffer))
        del self._buffer[:taken]
        self._count -= taken
        if self._count:
            return CLOSED if self._closed else NEED_DATA
        self._input = self._command
        return self._complain("503 5.5.1 BDAT is out of order here")

    def _piece(self, text: bytes) -> Content | Signal | None:
        self._size += len(text)
        if not text or self._trouble:
            return None
        if self._size > self._size_limit:
            self._trouble = "552 5.3.4 message too big"
            return ABORTED
        return Content(text)

    def _whole(self) -> Transaction | None:
        """All of the content has come."""
        assert self._mail is not None  # noqa: S101 - for mypy: there is no content without
        self._input = self._wait
        if not self._trouble:
            return self._mail
        self.finish([self._trouble] * len(self._mail.recipients))
        return None

    # Commands

    def _lhlo(self, rest: bytes) -> Signal | None:
        if not rest.strip():
            raise Refused("501 5.5.4 expected LHLO and a name")
        event = self._reset()
        self._state = "ready"
        lines = [self._name, *EXTENSIONS, f"SIZE {self._size_limit}"]
        self._output += [f"250-{line}\r\n".encode() for line in lines[:-1]]
        self._say(f"250 {lines[-1]}")
        return event

    def _xforward(self, rest: bytes) -> None:
        self._forwarded.update(xforward(rest))
        self._output.append(_OK)

    def _from(self, rest: bytes) -> None:
        self._mail = mail_from(rest, self._forwarded, self._size_limit)
        self._forwarded = {}
        self._state, self._size, self._trouble = "mail", 0, ""
        self._output.append(_SENDER_OK)

    def _to(self, rest: bytes) -> None:
        rcpt = rcpt_to(rest)
        assert self._mail is not None  # noqa: S101 - for mypy: RCPT is allowed after MAIL only
        if len(self._mail.recipients) >= RECIPIENTS_LIMIT:
            self._say("452 4.5.3 too many recipients")  # no mistake of the client's
            return
        self._mail.recipients.append(rcpt)
        self._state = "rcpt"
        self._output.append(_RECIPIENT_OK)

    def _data(self, rest: bytes) -> None:
        if rest.strip():
            raise Refused("501 5.5.4 DATA has no parameters")
        self._content = Dotted()
        self._input = self._receive
        self._output.append(_GO_ON)

    def _bdat(self, rest: bytes) -> Signal | None:
        words = rest.upper().split()
        if not words or not words[0].isdigit() or len(words[0]) > 20 or words[1:] not in ([], [b"LAST"]):
            # Where the next command begins cannot be known: it may be anywhere in a stranger's mail.
            return self._hang_up("521 5.5.4 expected BDAT count, or BDAT count LAST")
        count, last = int(words[0]), bool(words[1:])
        if b"BDAT" not in _ALLOWED[self._state]:
            self._count, self._input = count, self._skip_chunk
            return None
        if self._state == "rcpt":
            self._content = Counted()
        assert isinstance(self._content, Counted)  # noqa: S101 - for mypy
        self._content.begin(count, last)
        self._state = "bdat"
        self._input = self._receive
        return None

    def _rset(self, rest: bytes) -> Signal | None:
        event = self._reset()
        self._say("250 2.0.0 ok")
        return event

    def _noop(self, rest: bytes) -> None:
        self._output.append(_OK)

    def _vrfy(self, rest: bytes) -> None:
        self._say("252 2.0.0 send mail, and see")  # RFC 5321 section 3.5.3

    def _quit(self, rest: bytes) -> Signal | None:
        return self._hang_up("221 2.0.0 bye")

    def _say(self, reply: str) -> None:
        self._output.append(line_of(reply))

    def _complain(self, reply: str) -> Signal | None:
        self.errors += 1
        if self.errors >= ERRORS_LIMIT:
            return self._hang_up("421 4.7.0 too many errors")
        self._say(reply)
        return None

    def _hang_up(self, reply: str) -> Signal | None:
        event = self._reset()
        self._say(reply)
        self._input = self._end
        return event

    def _reset(self) -> Signal | None:
        """Forget the mail; ABORTED where some of its content has been handed over."""
        partial = self._state == "bdat" and self._size and self._input != self._wait
        self._mail = None
        self._size = 0
        self._trouble = ""
        if self._state != "new":
            self._state = "ready"
        self._forwarded = {}
        return ABORTED if partial else None


_COMMANDS: Final[dict[bytes, Callable[[Session, bytes], Signal | None]]] = {
    b"LHLO": Session._lhlo,
    b"XFORWARD": Session._xforward,
    b"MAIL": Session._from,
    b"RCPT": Session._to,
    b"DATA": Session._data,
    b"BDAT": Session._bdat,
    b"RSET": Session._rset,
    b"NOOP": Session._noop,
    b"VRFY": Session._vrfy,
    b"QUIT": Session._quit,
}
