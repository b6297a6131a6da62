"""One connection to an SMTP or LMTP server: bytes there and back, every wait below the mail's deadline.

Whatever goes wrong with the connection raises Ended with a deferral, in the words that Postfix's own client uses.
"""

from __future__ import annotations

import _socket
import select

from postroom.actions.smtp import BrokenReply, Replies, Reply
from postroom.status import SENT, Outcome, deferred, from_reply

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from postroom.actions.tls import Tls
    from postroom.deadline import Deadline

    Address = tuple[int, Any]  # address family, and what connect(2) takes

# Postfix's smtp_connect_timeout: a host that does not even refuse must leave time for its next address.
CONNECT_TIME = 30.0
# We answer before the runner does it for us: this long before the deadline, at most a tenth of the whole.
MARGIN = 1.0
_CHUNK = 65536

BODY = "sending message body"
END_OF_DATA = "sending end of data"


class Ended(Exception):
    """The dialogue is over, and this is what came of it."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(str(outcome))
        self.outcome = outcome


class Session:
    """`name` is the server in our texts; `doing` what a text says we were at."""

    def __init__(self, connection: _socket.socket, name: str, deadline: Deadline) -> None:
        connection.setblocking(False)
        self.name = name
        self.doing = "waiting for the greeting"
        self._socket: _socket.socket | Tls = connection
        self._deadline = deadline
        self._replies = Replies()

    def command(self, line: bytes, doing: str) -> Reply:
        self.doing = doing
        self.send(line + b"\r\n")
        return self.reply()

    def reply(self) -> Reply:
        try:
            while (reply := self._replies.next()) is None:
                self._wait(reading=True)
                if not self._receive():
                    self._fail("lost connection with {}")
        except BrokenReply as broken:
            self._fail(f"{{}} sent no reply, but {str(broken)!r},", "4.5.0")
        return reply

    def send(self, data: bytes) -> None:
        """Send all of it; Ended where the server speaks out of turn, or leaves."""
        view = memoryview(data)
        while view:
            gone = self._wait(reading=True, writing=True) and not self._receive()
            if gone or self._replies.pending:
                self._interrupted()
            try:
                view = view[self._socket.send(view) :]
            except BlockingIOError:
                continue
            except OSError:
                self._interrupted()

    def secure(self, host: str, ca: str) -> None:
        """Go on in TLS; Ended where the server is not the one that its certificate is for."""
        from postroom.actions.tls import Tls, why

        self.doing = "negotiating TLS"
        if self._replies.pending:
            self._fail("{} said something in clear behind its consent to TLS,", "4.7.0")
        assert isinstance(self._socket, _socket.socket)  # noqa: S101 - TLS within TLS is nothing that a rule can say
        self._socket = tls = Tls(self._socket, host, ca)
        try:
            while (waits := tls.handshake()) is not None:
                self._wait(*waits)
        except OSError as error:
            status = "4.7.5" if getattr(error, "verify_code", 0) else "4.7.0"
            self._fail(f"TLS with {{}} failed: {why(error)},", status)

    def close(self) -> None:
        """Say QUIT and wait for nothing (as postconf(5) smtp_skip_quit_response)."""
        try:
            if self.doing != BODY:
                self._socket.send(b"QUIT\r\n")
        except OSError:
            return  # it has left first
        finally:
            self._socket.close()

    def verdict(self, reply: Reply) -> Outcome:
        """The outcome that the server stated about this mail."""
        outcome = from_reply(reply.code, reply.text)
        place = "" if outcome.kind == SENT else f" (while {self.doing})"
        return Outcome(outcome.kind, outcome.status, f"{self.name} said: {reply}{place}")

    def our_fault(self, reply: Reply) -> NoReturn:
        """A reply that says nothing about this mail: it can only defer."""
        outcome = from_reply(reply.code, reply.text)
        status = "4.5.0" if outcome.kind == SENT else f"4{outcome.status[1:]}"
        raise Ended(deferred(f"{self.name} said: {reply} (while {self.doing})", status))

    def local_address(self) -> str:
        """Our address as HELO takes it (RFC 5321 section 4.1.3)."""
        if self._socket.family == _socket.AF_UNIX:
            return "localhost"
        address = self._socket.getsockname()[0]
        return f"[IPv6:{address}]" if ":" in address else f"[{address}]"

    def _interrupted(self) -> NoReturn:
        # A refusal of the body before its end counts, so that a server that hangs up over a mail is not asked for
        # ever. A success before the end cannot be about the mail, nor anything said before MAIL is answered.
        reply = self.reply()
        if self.doing == BODY and 400 <= reply.code < 600:
            raise Ended(self.verdict(reply))
        self.our_fault(reply)

    def _wait(self, reading: bool, writing: bool = False) -> bool:
        """Wait until it can go on; whether there is something to read."""
        poll = select.poll()  # select(2) knows no descriptor past 1023, of which the resident may have many
        poll.register(self._socket, (select.POLLIN if reading else 0) | (select.POLLOUT if writing else 0))
        found = poll.poll(patience(self._deadline) * 1000)
        if not found:
            self._fail("conversation with {} timed out")
        return reading and bool(found[0][1] & ~select.POLLOUT)

    def _receive(self) -> bool:
        """Whether the server is still there."""
        try:
            data = self._socket.recv(_CHUNK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self._replies.feed(data)
        return bool(data)

    def _fail(self, text: str, status: str = "4.4.2") -> NoReturn:
        twice = " -- message may be sent more than once" if self.doing == END_OF_DATA else ""
        raise Ended(deferred(f"{text.replace('{}', self.name, 1)} while {self.doing}{twice}", status))


def connect_unix(path: str, deadline: Deadline) -> Session:
    return Session(*_first([(_socket.AF_UNIX, path)], f"relay[{path}]", "", deadline), deadline)


def connect_inet(host: str, port: int, deadline: Deadline) -> Session:
    return Session(*dial(host, port, deadline), deadline)


def dial(host: str, port: int, deadline: Deadline) -> tuple[_socket.socket, str]:
    """A connection to the first address of the host that answers, and the name for texts. Raises Ended."""
    addresses = _numeric(host, port)
    if addresses is not None:
        return _first(addresses, f"relay[{host}]", f":{port}", deadline)
    return _first(_looked_up(host, port, deadline), host, f":{port}", deadline)


def patience(deadline: Deadline) -> float:
    return max(0.0, deadline.remaining() - min(MARGIN, deadline.seconds / 10))


def _first(addresses: list[Address], name: str, port: str, deadline: Deadline) -> tuple[_socket.socket, str]:
    reason = "no address"
    for family, address in addresses:
        here = f"{name}{port}" if "[" in name else f"{name}[{address[0]}]{port}"
        connection = _socket.socket(family, _socket.SOCK_STREAM)
        try:
            connection.settimeout(min(CONNECT_TIME, patience(deadline)) or 0.001)  # 0 would mean not to wait at all
            connection.connect(address)
        except OSError as error:
            connection.close()
            reason = f"connect to {here}: {error.strerror or error}"
            continue
        return connection, here
    raise Ended(deferred(reason, "4.4.1"))


def _numeric(host: str, port: int) -> list[Address] | None:
    """The address that `host` is, without asking any server; None where it is a name."""
    try:
        return _getaddrinfo(host, port, _socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return None


def _looked_up(host: str, port: int, deadline: Deadline) -> list[Address]:
    """The addresses of `host`. getaddrinfo(3) knows no time limit: it is asked in a thread, and left behind."""
    import _thread

    answered = _thread.allocate_lock()
    answered.acquire()
    found: list[Address] = []
    failure: list[str] = []

    def ask() -> None:
        try:
            found.extend(_getaddrinfo(host, port, 0))
        except (OSError, UnicodeError) as error:
            failure.append(getattr(error, "strerror", None) or str(error))
        finally:
            answered.release()

    _thread.start_new_thread(ask, ())
    if not answered.acquire(timeout=patience(deadline)):
        failure.append("no answer in time")
    if failure:
        raise Ended(deferred(f"cannot look up {host}: {failure[0]}", "4.4.3"))
    return found


def _getaddrinfo(host: str, port: int, flags: int) -> list[Address]:
    # As bytes: for text it would import the idna codec, a quarter of a start.
    name = host.encode("utf-8" if host.isascii() else "idna")
    answers = _socket.getaddrinfo(name, port, 0, _socket.SOCK_STREAM, 0, flags)
    return [(int(family), address) for family, _, _, _, address in answers]
