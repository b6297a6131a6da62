"""One POST over HTTP/1.1: the connection and its TLS are ours, the words http.client's.

http.client's own time limit begins anew with each byte. So a thread ends the connection when the time is up, wherever
the conversation is then. No redirect is followed: mail goes where the rule says, and nowhere else.
"""

from __future__ import annotations

from postroom.actions.session import Ended, dial, patience
from postroom.status import deferred

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable, Mapping

    from postroom.deadline import Deadline
    from postroom.status import Outcome

# Of an answer's body: enough for a status and a text at its start.
ANSWER_LIMIT = 4096

PORTS = {"http": 80, "https": 443}


class Url:
    """`scheme://host[:port]/path?query`, checked when the rule was read; what is templated in it has been encoded."""

    __slots__ = ("host", "path", "port", "scheme")

    def __init__(self, text: str) -> None:
        self.scheme, _, rest = text.partition("://")
        authority, _, path = rest.partition("/")
        self.path = "/" + path
        if authority.startswith("["):
            self.host, _, port = authority[1:].partition("]")
            port = port[1:]
        else:
            self.host, _, port = authority.partition(":")
        self.port = int(port) if port else PORTS[self.scheme]


class Answer:
    """What the server said: `name` is its own in texts, `text` the first bytes of the body."""

    __slots__ = ("code", "name", "reason", "retry_after", "text")

    def __init__(self, name: str, code: int, reason: str, retry_after: str, text: str) -> None:
        self.name = name
        self.code = code
        self.reason = reason
        self.retry_after = retry_after
        self.text = text

    def __str__(self) -> str:
        return f"{self.name} said: {self.code} {self.reason}".rstrip()


def post(url: Url, headers: Mapping[str, str], body: Iterable[bytes], ca: str, deadline: Deadline) -> Answer:
    """Raises Ended with a deferral where there is no answer, ConfigurationFault for a file that cannot be used."""
    raw, name = dial(url.host, url.port, deadline)
    name = name.removeprefix("relay")
    connection = _stream(raw)
    timer = Timer(connection, patience(deadline))
    doing = ["negotiating TLS"]
    try:
        if url.scheme == "https":
            connection = _secured(connection, url.host, ca)
        return _exchange(connection, url, headers, body, name, doing)
    except _errors() as error:
        raise Ended(_no_answer(name, error, timer.fired, doing[0])) from error
    finally:
        timer.stop()
        connection.close()


def _stream(raw: object) -> socket.socket:
    """The same connection as http.client wants it. No time limit of its own: see the top."""
    import socket

    connection = socket.socket(fileno=raw.detach())  # type: ignore[attr-defined]  # _socket.socket has it
    connection.settimeout(None)
    return connection


def _secured(connection: socket.socket, host: str, ca: str) -> socket.socket:
    from postroom.actions.tls import context

    return context(ca).wrap_socket(connection, server_hostname=host)


def _errors() -> tuple[type[Exception], ...]:
    from http.client import HTTPException

    return (OSError, HTTPException)


def _exchange(
    connection: socket.socket, url: Url, headers: Mapping[str, str], body: Iterable[bytes], name: str, doing: list[str]
) -> Answer:
    from http.client import HTTPConnection

    client = HTTPConnection(url.host, url.port)
    client.default_port = PORTS[url.scheme]  # says whether the port belongs into the Host field
    client.sock = connection
    doing[0] = "sending the request"
    early: OSError | None = None
    try:
        client.putrequest("POST", url.path, skip_accept_encoding=True)
        for field, value in headers.items():
            client.putheader(field, value)
        client.endheaders()
        for chunk in body:
            client.send(chunk)
    except OSError as error:
        early = error  # a server may refuse a request that it has not heard to its end (RFC 9112 section 9.5)
    else:
        doing[0] = "waiting for the answer"
    response = client.getresponse()
    try:
        if early is not None and not 400 <= response.status < 500:
            raise early
        text = _beginning(response)
        return Answer(name, response.status, response.reason, response.getheader("Retry-After") or "", text)
    finally:
        response.close()


def _beginning(response: object) -> str:
    """The verdict is in the status line: a body that breaks off changes nothing about it."""
    try:
        data: bytes = response.read(ANSWER_LIMIT)  # type: ignore[attr-defined]  # http.client is not imported up here
    except _errors():
        return ""
    return data.decode("utf-8", "replace")


def _no_answer(name: str, error: Exception, late: bool, doing: str) -> Outcome:
    if late:
        return deferred(f"conversation with {name} timed out while {doing}", "4.4.2")
    if isinstance(error, OSError) and getattr(error, "verify_code", 0) != 0:
        from postroom.actions.tls import why

        return deferred(f"TLS with {name} failed: {why(error)}", "4.7.5")
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return deferred(f"no answer from {name} while {doing}: {reason}", "4.4.2")


class Timer:
    """Ends a connection when its time is up: both sides find it closed, at whatever they are."""

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        import _thread
        import os
        import socket

        self.fired = False
        self._done = _thread.allocate_lock()
        self._done.acquire()
        self._ended = _thread.allocate_lock()
        self._ended.acquire()
        # A descriptor of its own: the other one may be closed, and its number taken by another file, at any moment.
        self._twin = socket.socket(fileno=os.dup(connection.fileno()))
        _thread.start_new_thread(self._wait, (seconds,))

    def stop(self) -> None:
        """And wait until the thread has let go of the connection."""
        self._done.release()
        self._ended.acquire()

    def _wait(self, seconds: float) -> None:
        import socket
        from contextlib import suppress

        if not self._done.acquire(timeout=seconds):
            self.fired = True
            with suppress(OSError):  # the server has closed it first
                self._twin.shutdown(socket.SHUT_RDWR)
        self._twin.close()
        self._ended.release()
