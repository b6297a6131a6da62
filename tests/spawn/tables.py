"""A table program as spawn(8) runs it, and a client for each of the two protocols."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

SPAWN = Path(__file__).parents[2] / "spawn"


class Table:
    def __init__(self, program: str, folder: Path, rules: str, *options: str) -> None:
        self.config, self.state, self.logfile = folder / "postroom.toml", folder / "state", folder / "log"
        self.state.mkdir(exist_ok=True)
        self.write(rules)
        ours, theirs = socket.socketpair()
        self.socket = ours
        self.socket.settimeout(30)
        self.process = subprocess.Popen(
            [sys.executable, str(SPAWN / f"{program}.py"), "--config", str(self.config), *options],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={"PATH": "/usr/bin:/bin", "LANG": "C", "PYTHONPATH": os.environ.get("PYTHONPATH", "")},
        )
        theirs.close()

    def write(self, rules: str) -> None:
        self.config.write_text(f'state = "{self.state}"\nlog = "{self.logfile}"\n{rules}')

    def receive(self) -> bytes:
        data = self.socket.recv(200_000)
        if not data:
            raise EOFError
        return data

    def logged(self, text: str) -> str:
        """The log, once the text is in it: a line is written after the reply."""
        for _ in range(200):
            if self.logfile.exists() and text in self.logfile.read_text():
                break
            time.sleep(0.05)
        return self.logfile.read_text()

    def close(self) -> int:
        self.socket.close()
        return self.process.wait(30)


class Socketmap(Table):
    def __init__(self, folder: Path, rules: str, *options: str) -> None:
        super().__init__("socketmap-lookup", folder, rules, *options)

    def ask(self, table: str, key: str) -> str:
        payload = f"{table} {key}".encode("utf-8", "surrogateescape")
        self.socket.sendall(b"%d:%b," % (len(payload), payload))
        return self.netstring()

    def netstring(self) -> str:
        data = self.receive()
        length, _, rest = data.partition(b":")
        while len(rest) < int(length) + 1:
            rest += self.receive()
        assert rest[int(length) :] == b",", rest
        return rest[:-1].decode().rstrip(" ")


class Tcp(Table):
    def __init__(self, folder: Path, rules: str, *options: str) -> None:
        super().__init__("tcp-lookup", folder, rules, *options)

    def ask(self, key: str) -> str:
        self.socket.sendall(f"get {quote(key, errors='surrogateescape')}\n".encode())
        data = self.receive()
        while not data.endswith(b"\n"):
            data += self.receive()
        return unquote_to_bytes(data.rstrip(b"\n")).decode()
