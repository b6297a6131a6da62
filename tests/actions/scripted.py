"""A server that follows a script, and misbehaves as it says."""

import socket
import threading
from collections.abc import Callable

CONVERSATION: list[bytes] = [
    b"220 hi\r\n",
    b"250-me\r\n250-SIZE 1000000\r\n250-8BITMIME\r\n250 SMTPUTF8\r\n",
    b"250 sender\r\n",
    b"250 recipient\r\n",
    b"354 go\r\n",
    b"250 done\r\n",
]


class Scripted:
    """Sends one piece of the script at each turn: at once, after each command, after the final dot."""

    def __init__(self, script: list[bytes | Callable[[socket.socket], None]], family: int = socket.AF_INET) -> None:
        self.script = script
        self.lines: list[bytes] = []
        self.listener = socket.socket(family)
        self.listener.bind(("127.0.0.1" if family == socket.AF_INET else "::1", 0))
        self.listener.listen()
        self.port = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    @property
    def target(self) -> str:
        return f"smtp:[127.0.0.1]:{self.port}"

    def _serve(self) -> None:
        connection, _ = self.listener.accept()
        try:
            with connection, connection.makefile("rb") as lines:
                for part in self.script:
                    if callable(part):
                        part(connection)
                    elif part:
                        connection.sendall(part)
                    self._hear(lines, part in (b"354 go\r\n", b"250 go\r\n"))
        except OSError:
            pass

    def _hear(self, lines: "socket.SocketIO", body: bool) -> None:
        while line := lines.readline():
            self.lines.append(line)
            if not body or line == b".\r\n":
                return

    def end(self) -> None:
        self.thread.join(timeout=20)
        self.listener.close()
        assert not self.thread.is_alive()


def replaced(turn: int, part: object) -> list[object]:
    """The conversation up to that turn, and then something else."""
    return [*CONVERSATION[:turn], part]
