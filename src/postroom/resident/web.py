"""HTTP for the health process: http.server, made to bear clients that are slow, large, many or silent.

A connection is one request. Its head has to be there, whole and small, within seconds; a thread answers it, and there
are few of them. When all are taken, the connection that has been open longest is closed for the next one: who connects
and says nothing cannot keep Prometheus out.
"""

from __future__ import annotations

import select
import socket
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from io import BytesIO
from typing import Any

from postroom import log
from postroom.resident.health import Health

# Prometheus sends some 300 bytes, a browser with its cookies some thousand.
HEAD_LIMIT = 8192

# Seconds for the head of a request, and again for the client to take the answer.
PATIENCE = 5.0

# Requests that are answered at the same time. Pages are made once a second at most, so that a thread is soon free.
THREADS = 16

# Seconds that a connection has in any case, however many others wait.
GRACE = 0.5


class Web:
    """The listening sockets, and the connections that are open."""

    def __init__(self, sockets: list[socket.socket], health: Health) -> None:
        self._sockets = sockets
        self._health = health
        self._freed = threading.Condition()
        self._open: dict[socket.socket, float] = {}  # since when, the oldest first
        self._poll = select.poll()
        self._numbers = {sock.fileno(): sock for sock in sockets}
        for number, sock in self._numbers.items():
            sock.setblocking(False)
            self._poll.register(number, select.POLLIN)

    def serve(self, until: float) -> None:
        """Look at the board, then answer until then."""
        self._health.look()
        while (left := until - time.monotonic()) > 0:
            if len(self._open) >= THREADS:
                self._make_room(left)
                continue
            for number, _ in self._poll.poll(left * 1000):
                self._accept(self._numbers[number])

    def _make_room(self, seconds: float) -> None:
        with self._freed:
            if len(self._open) < THREADS:
                return
            oldest, since = next(iter(self._open.items()))
            rest = since + GRACE - time.monotonic()
            if rest <= 0:
                _hang_up(oldest)  # its thread then finds the end, and makes room
                rest = 0.1
            self._freed.wait(min(seconds, rest))

    def _accept(self, listening: socket.socket) -> None:
        try:
            connection, _ = listening.accept()
        except OSError:  # gone again, or no descriptor is left
            time.sleep(0.01)
            return
        with self._freed:
            self._open[connection] = time.monotonic()
        try:
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()
        except RuntimeError:  # no thread is to be had: TasksMax, RLIMIT_NPROC
            self._close(connection)

    def _answer(self, connection: socket.socket) -> None:
        try:
            Request(connection, self._health)
        except OSError:
            pass  # the client has gone away, or is too slow
        except Exception as error:
            log.error("", fault="health", text=f"{type(error).__name__}: {error}")
        finally:
            self._close(connection)

    def _close(self, connection: socket.socket) -> None:
        with self._freed:
            del self._open[connection]
            connection.close()  # under the lock: _make_room must not hang up on another that has got its number
            self._freed.notify()


class Request(BaseHTTPRequestHandler):
    """One request, of one connection."""

    error_content_type = "text/plain; charset=utf-8"
    error_message_format = "%(code)d %(message)s\n"

    def __init__(self, connection: socket.socket, health: Health) -> None:
        self._health = health
        super().__init__(connection, ("", 0), None)  # type: ignore[arg-type]  # a server, which is asked for nothing

    def handle(self) -> None:
        head = _head(self.connection)
        self.rfile.close()
        self.rfile = BytesIO(head)
        self.connection.settimeout(PATIENCE)
        if len(head) > HEAD_LIMIT:
            self._too_large()
        elif head:
            self.handle_one_request()

    def _too_large(self) -> None:
        self.requestline, self.request_version, self.command = "", "HTTP/1.0", ""
        self.send_error(431)

    def do_GET(self) -> None:
        self._respond(*self._health.page(self.path.partition("?")[0]))

    do_HEAD = do_GET

    def _respond(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """405 for the methods that there are elsewhere: http.server says 501."""
        super().send_error(405 if code == 501 else code, message if code != 501 else "only GET and HEAD", explain)
        self.connection.shutdown(socket.SHUT_WR)
        _drain(self.connection)  # closed with bytes unread, the kernel would take our answer back, too

    def version_string(self) -> str:
        return "postroom"

    def log_message(self, format: str, *args: Any) -> None:
        """A scrape every few seconds is no event."""


def _head(connection: socket.socket) -> bytes:
    """What comes up to the empty line. More than HEAD_LIMIT where that is too far; nothing, where it never comes."""
    until = time.monotonic() + PATIENCE
    head = b""
    while len(head) <= HEAD_LIMIT:
        if (left := until - time.monotonic()) <= 0:
            return b""
        connection.settimeout(left)
        data = connection.recv(HEAD_LIMIT + 1 - len(head))
        if not data:
            return b""
        head += data
        for end in (b"\r\n\r\n", b"\n\n"):
            if end in head:
                return head[: head.index(end)] + end  # what follows is a body, which nobody wants
    return head


def _drain(connection: socket.socket) -> None:
    until = time.monotonic() + 1.0
    while (left := until - time.monotonic()) > 0:
        connection.settimeout(left)
        if not connection.recv(65536):
            return


def _hang_up(connection: socket.socket) -> None:
    with suppress(OSError):  # its client has closed it
        connection.shutdown(socket.SHUT_RDWR)
