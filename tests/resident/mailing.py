"""A worker that listens for LMTP, as a process; and a client that shows each reply.

python mailing.py SOCKET --config FILE [--program NAME] [--threads N]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
MESSAGE = b"Received: by x; Sun, 22 Nov 2026 15:04:54 +0000\nSubject: hello\n\nbody\n"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("place")
    parser.add_argument("--config")
    parser.add_argument("--program", default="rule-deliver")
    arguments = parser.parse_args()
    from postroom import log
    from postroom.config import Listen
    from postroom.resident import worker
    from postroom.resident.board import Board
    from postroom.resident.child import Slot
    from postroom.resident.listeners import Listener
    from postroom.runners.options import Options

    log.open("resident", "/dev/null")
    options = Options()
    options.config = arguments.config
    with contextlib.suppress(FileNotFoundError):
        os.unlink(arguments.place)
    server = socket.socket(socket.AF_UNIX)
    server.bind(arguments.place)
    os.chmod(arguments.place, 0o666)
    server.listen(500)
    listen = Listen("lmtp", "lmtp", f"unix:{arguments.place}", program=arguments.program)
    slot = Slot(0, Board(1), os.open("/dev/null", os.O_WRONLY), os.getppid())
    worker.run(slot, [Listener(listen, server)], options)


class Resident:
    """A folder with everything in it: configuration, state, log, socket; and the worker, while it runs."""

    def __init__(self, folder: Path, rules: str, settings: str = "") -> None:
        self.folder = folder
        self.config, self.log, self.place = folder / "postroom.toml", folder / "log", folder / "lmtp"
        (folder / "state").mkdir(exist_ok=True)
        self.config.write_text(f'state = "{folder}/state"\nlog = "{self.log}"\n{settings}\n{rules}')
        self.process: subprocess.Popen[bytes] | None = None
        self.clients: list[Client] = []

    def start(self, *options: str, **environment: str) -> Resident:
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(self.place), "--config", str(self.config), *options],
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
            | environment,
        )
        for _ in range(600):
            with contextlib.suppress(OSError):
                self.client()
                return self
            time.sleep(0.05)
        raise TimeoutError("the worker did not start")

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process is None:
            return 0
        process, self.process = self.process, None
        process.send_signal(number)
        return process.wait(60)

    def client(self) -> Client:
        """A new connection, which is closed at the end."""
        self.clients.append(Client(self.place))
        return self.clients[-1]

    def end(self) -> None:
        for client in self.clients:
            client.close()
        self.stop(signal.SIGKILL)

    def lines(self, text: str, times: int = 1) -> list[str]:
        """The log's lines with this text, once there are so many."""
        found: list[str] = []
        for _ in range(200):
            found = [line for line in self.log.read_text().splitlines() if text in line] if self.log.exists() else []
            if len(found) >= times:
                break
            time.sleep(0.05)
        return found

    def box(self, name: str = "box") -> list[bytes]:
        return [path.read_bytes() for path in sorted((self.folder / name / "new").glob("*"))]


class Client:
    """One connection, the greeting read."""

    def __init__(self, place: Path | socket.socket, timeout: float = 30) -> None:
        if isinstance(place, Path):
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(timeout)
            try:
                self.socket.connect(str(place))
            except OSError:
                self.socket.close()
                raise
        else:
            self.socket = place
            self.socket.settimeout(timeout)
        self.file = self.socket.makefile("rb")
        self.greeting = self.reply()

    def reply(self) -> str:
        """The last line of the next reply; "" where the connection has ended."""
        while (line := self.file.readline())[3:4] == b"-":
            pass
        return line.decode().rstrip()

    def say(self, *commands: str) -> list[str]:
        """All at once (PIPELINING), and a reply to each."""
        self.socket.sendall("".join(f"{command}\r\n" for command in commands).encode("utf-8", "surrogateescape"))
        return [self.reply() for _ in commands]

    def mail(
        self, *recipients: str, message: bytes = MESSAGE, sender: str = "<s@client.test>", ident: str = ""
    ) -> list[str]:
        """The replies to the content, one for each recipient that was taken."""
        words = [f"XFORWARD IDENT={ident}"] if ident else []
        said = self.say(
            "LHLO client.test", *words, f"MAIL FROM:{sender}", *[f"RCPT TO:{to}" for to in recipients], "DATA"
        )
        taken = sum(reply.startswith("250") for reply in said[-1 - len(recipients) : -1])
        self.socket.sendall(stuffed(message))
        return [self.reply() for _ in range(taken)]

    def close(self) -> None:
        self.file.close()
        self.socket.close()


def stuffed(message: bytes) -> bytes:
    """As it follows DATA, with the final dot."""
    lines = message.removesuffix(b"\n").split(b"\n")
    return b"".join((b"." + line if line.startswith(b".") else line) + b"\r\n" for line in lines) + b".\r\n"


if __name__ == "__main__":
    main()
