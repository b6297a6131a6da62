"""A server that takes mail and throws it away: Postfix's own smtp-sink(1), for relays to talk to."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path

from postroom.postfix.instance import free_port

START_SECONDS = 10.0


class Sink:
    """smtp-sink on a free port, or speaking LMTP on a unix socket where a path is given."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.port = 0 if path else free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"unix:{self.path}" if self.path else f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def __enter__(self) -> Sink:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        # As root it insists on a user to change to once it has its socket.
        options = ["-u", "nobody", *(["-L"] if self.path else [])]
        self._process = subprocess.Popen(
            ["/usr/sbin/smtp-sink", *options, self.address, "100"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._wait()

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        if self.path:
            self.path.unlink(missing_ok=True)

    def _wait(self) -> None:
        end = time.monotonic() + START_SECONDS
        while not self._answers():
            if time.monotonic() > end:
                raise TimeoutError(f"smtp-sink does not answer on {self.address}")
            time.sleep(0.02)

    def _answers(self) -> bool:
        family = socket.AF_UNIX if self.path else socket.AF_INET
        with socket.socket(family) as probe:
            try:
                probe.connect(str(self.path) if self.path else ("127.0.0.1", self.port))
            except OSError:
                return False
        return True
