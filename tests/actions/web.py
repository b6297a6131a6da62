"""An HTTP(S) server that answers as it is told, and keeps what it was sent."""

import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

Answer = bytes | Callable[[socket.socket], None]


class Web:
    """Answers each request with the next of `answers`, the last one for ever. A function is given the connection."""

    def __init__(self, *answers: Answer, certificate: tuple[Path, Path] | None = None, hear: bool = True) -> None:
        self.answers = list(answers)
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.failures: list[OSError] = []
        self._hear = hear
        self._context = None
        if certificate is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(*certificate)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.scheme = "https" if certificate else "http"
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def url(self, path: str = "/in", host: str = "127.0.0.1") -> str:
        return f"{self.scheme}://{host}:{self.port}{path}"

    def end(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(timeout=20)
        assert not self.thread.is_alive()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            try:
                with connection:
                    self._one(connection)
            except OSError as error:
                self.failures.append(error)

    def _one(self, connection: socket.socket) -> None:
        if self._context is not None:
            connection = self._context.wrap_socket(connection, server_side=True)
        with connection:
            if self._hear:
                self.requests.append(self._request(connection))
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            if callable(answer):
                answer(connection)
            else:
                connection.sendall(answer)

    @staticmethod
    def _request(connection: socket.socket) -> tuple[str, dict[str, str], bytes]:
        with connection.makefile("rb") as lines:
            first = lines.readline().decode().rstrip("\r\n")
            fields: dict[str, str] = {}
            while line := lines.readline().decode("latin-1").rstrip("\r\n"):
                name, _, value = line.partition(": ")
                assert name.lower() not in fields, "a field twice"
                fields[name.lower()] = value
            return first, fields, lines.read(int(fields.get("content-length", "0")))


def reply(status: str, body: str = "", more: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{more}\r\n{body}".encode()
