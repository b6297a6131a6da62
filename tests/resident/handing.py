"""A service that takes hand-offs, as a process, and programs that hand off to it.

python handing.py SOCKET --config FILE --state DIR --log FILE [--user NAME ...]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pwd
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # perhaps as another user, and then in the copy
    ROOT, PYTHON = Path(__file__).parents[2], sys.executable
else:
    from readable import home, python

    ROOT, PYTHON = home(), python()
THIN = ROOT / "src" / "postroom" / "thin.py"
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
MESSAGE = b"Received: by x; Sun, 22 Nov 2026 15:04:54 +0000\nSubject: hello\n\nbody\n"
WORDS = ["--", "sender=s@example.net", "queue_id=4jXYHj0RN5zJJXJ", "recipient=ann@example.com"]

WHO = '''"""who-deliver - say which process it is

usage
"""
import os, time
from postroom.delivery import *
from postroom.runners.pipe import run

def deliver(mail):
    {body}
    return sent(f"by {{os.getpid()}}")

run(deliver)
'''


class Slot:
    """What a supervisor gives a worker; here nobody listens."""

    def __init__(self, place: str) -> None:
        from postroom.resident.board import Board

        self.number = 0
        self.board = Board(1)
        self._ready = Path(f"{place}.ready")
        self.configuration = None
        self.loaded = 0.0

    def alive(self) -> None:
        """It does, or the test notices."""

    def ready(self) -> None:
        self._ready.touch()

    def retire(self) -> None:
        """Another would begin."""

    def fresh(self) -> None:
        """It would be read there, too."""


def main() -> None:
    """One worker that takes hand-offs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("place")
    for name in ("--config", "--state", "--log"):
        parser.add_argument(name)
    parser.add_argument("--user", action="append", default=[])
    arguments = parser.parse_args()
    from postroom import log
    from postroom.config import Listen
    from postroom.resident import worker
    from postroom.resident.listeners import Listener
    from postroom.runners.options import Options

    options = Options()
    options.config, options.state, options.log = arguments.config, arguments.state, arguments.log
    log.open("resident", arguments.log)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(arguments.place)
    os.chmod(arguments.place, 0o666)
    listening.listen(1000)
    listen = Listen("handoff", "handoff", f"unix:{arguments.place}", users=tuple(arguments.user))
    worker.run(Slot(arguments.place), [Listener(listen, listening)], options)


class Resident:
    """A folder with everything in it: configuration, state, log, socket; and the service, when it runs."""

    def __init__(self, folder: Path, configuration: str = "") -> None:
        self.folder = folder
        self.config = folder / "postroom.toml"
        self.state = folder / "state"
        self.log = folder / "log"
        self.place = folder / "handoff"
        self.state.mkdir(exist_ok=True)
        self.log.touch()
        self.config.write_text(configuration or "# nothing\n")
        self.process: subprocess.Popen[bytes] | None = None
        self.user: str | None = None  # who it runs as; None: as the test

    @property
    def options(self) -> list[str]:
        return ["--config", str(self.config), "--state", str(self.state), "--log", str(self.log)]

    def start(
        self, *programs: Path, users: tuple[str, ...] = (), threads: int = 8, queue: int = 300, files: int = 0
    ) -> int:
        """`files`: how many descriptors it may have; 0: as many as the test."""
        for path in (self.place, Path(f"{self.place}.ready")):
            path.unlink(missing_ok=True)
        named = ", ".join(f'"{path}"' for path in programs)
        serve = f"[serve]\nprograms = [{named}]\nthreads = {threads}\nqueue = {queue}\n"
        self.config.write_text(self.config.read_text().partition("[serve]")[0] + serve)
        more = [word for user in users for word in ("--user", user)]
        self.process = subprocess.Popen(
            [PYTHON, str(ROOT / "tests/resident/handing.py"), str(self.place), *self.options, *more],
            env=ENVIRONMENT,
            preexec_fn=(lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))) if files else None,
            user=self.user,
            group=self.user and pwd.getpwnam(self.user).pw_gid,
        )
        wait_for(lambda: self._ready)
        return self.process.pid

    @property
    def _ready(self) -> bool:
        assert self.process is not None and self.process.poll() is None, "the service has ended"
        return Path(f"{self.place}.ready").exists()

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def program(self, body: str = "pass", name: str = "who-deliver") -> Path:
        path = self.folder / f"{name}.py"
        path.write_text(WHO.format(body=body))
        return path

    def command(self, program: Path, *options: str, words: list[str] = WORDS, thin: bool = False) -> list[str]:
        start = ["-I", "-S", str(THIN)] if thin else []
        if thin:
            program = executable(program)
        return [PYTHON, *start, str(program), *self.options, "--handoff", str(self.place), *options, *words]

    def run(self, program: Path, *options: str, **keywords: Any) -> tuple[int, bytes]:
        user = keywords.pop("user", None)
        data = keywords.pop("data", MESSAGE)
        environment = {**ENVIRONMENT, **keywords.pop("environment", {})}
        done = subprocess.run(
            self.command(program, *options, **keywords),
            input=data,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            user=user,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stdout

    def alone(self, program: Path, *options: str, **keywords: Any) -> tuple[int, bytes]:
        return self.run(program, *options, "--handoff", "no", **keywords)


def executable(program: Path) -> Path:
    """A copy that starts by itself, as pip installs it."""
    folder = program.parent if program.is_relative_to("/tmp") else None
    text = program.read_text().removeprefix("#!python\n")
    if folder is not None and not text.startswith("#!"):
        program.write_text(f"#!{PYTHON}\n{text}")
        program.chmod(0o755)
    return program


def wait_for(condition: Any, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError):
            if condition():
                return
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


@contextlib.contextmanager
def running(folder: Path, configuration: str = "") -> Iterator[Resident]:
    resident = Resident(folder, configuration)
    try:
        resident.start()
        yield resident
    finally:
        resident.kill()


def who(resident: Resident) -> Path:
    return resident.folder / "who-deliver.py"


def by_resident(resident: Resident, answer: tuple[int, bytes]) -> bool:
    assert resident.process is not None
    assert answer[0] == 0, answer
    return answer[1] == b"by %d\n" % resident.process.pid


if __name__ == "__main__":
    main()
