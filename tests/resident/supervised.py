"""A supervisor with workers of a few lines, as a process of its own; and what a test needs to talk to it.

    python supervised.py CONFIG [NAME=SECONDS ...]

A worker answers one line with one line: `pid`; `slow SECONDS` (its number, after that time, also while it drains);
`stuck` (never, and its loop stands); `mute` (closes its pipe to the supervisor); `retire` (asks for another in its
place). With `programs = ["/no/such"]` in
[serve] it ends before it is ready, with "/no/end" it is deaf to SIGTERM, with "/no/word" it never says "ready".
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from postroom import config, log
from postroom.resident import account, generation, listeners, supervisor
from postroom.resident.board import Board
from postroom.resident.child import Slot
from postroom.resident.generation import Programs
from postroom.resident.launch import Launch
from postroom.resident.listeners import Listener
from postroom.resident.notify import Notify
from postroom.resident.passed import passed
from postroom.runners.options import Options


class Worker:
    def __init__(self, slot: Slot, doors: list[Listener], options: Options) -> None:
        self.slot = slot
        self.doors = [one.socket for one in doors]
        self.manner = config.load(options.config).serve.programs
        self.ends = False
        self.reloads = 0

    def run(self) -> None:
        if "/no/such" in self.manner:
            raise RuntimeError("told not to start")
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "ends", "/no/end" not in self.manner))
        signal.signal(signal.SIGHUP, lambda *_: setattr(self, "reloads", self.reloads + 1))
        if "/no/word" not in self.manner:
            self.slot.ready()
        while not self.ends:
            self.slot.alive()
            for door in select.select(self.doors, [], [], 0.1)[0]:
                self.accept(door)

    def accept(self, door: socket.socket) -> None:
        try:
            connection, _ = door.accept()
        except BlockingIOError:
            return  # the other worker was faster
        with connection:
            connection.settimeout(5)
            connection.sendall(self.answer(connection.recv(100).decode()))

    def answer(self, asked: str) -> bytes:
        word, _, seconds = asked.strip().partition(" ")
        if word == "slow":
            time.sleep(float(seconds))
        if word == "stuck":
            time.sleep(1000)
        if word == "retire":
            self.slot.retire()
        if word == "mute":
            os.close(self.slot._pipe)
            time.sleep(1000)
        return b"%d %d\n" % (os.getpid(), self.reloads)


def work(slot: Slot, doors: list[Listener], options: Options) -> None:
    Worker(slot, doors, options).run()


def page(doors: list[Listener], board: Board, about: dict[str, object], alive: Callable[[], None]) -> None:
    """In place of the health process: `pid` alone."""
    while True:
        alive()
        if select.select([one.socket for one in doors], [], [], 0.1)[0]:
            connection, _ = doors[0].socket.accept()
            with connection:
                connection.recv(100)  # closed before that, who asks would find a broken pipe
                connection.sendall(b"%d 0\n" % os.getpid())


def main() -> int:
    options = Options()
    options.config = sys.argv[1]
    for word in sys.argv[2:]:
        name, _, value = word.partition("=")
        setattr(generation if hasattr(generation, name) and name != "START_LIMIT" else supervisor, name, float(value))
        if name == "START_LIMIT":
            generation.START_LIMIT = supervisor.START_LIMIT = float(value)
    configuration = config.load(options.config)
    log.open("serve", configuration.log)
    who = account.Account(*account.current())
    given = passed()
    bound = listeners.open_all(configuration.listen, who, given)
    launch = Launch(options, who, given, Programs(work, page), Notify(), lambda said: print(said or "up", flush=True))
    return supervisor.Supervisor(launch, configuration, bound).run()


class Supervised:
    """It, as a child of the test."""

    def __init__(self, folder: Path, *settings: str, workers: int = 2, **environ: str) -> None:
        self.folder = folder
        self.config = folder / "postroom.toml"
        self.log = folder / "log"
        self.path = folder / "policy"
        self.workers = workers
        self.write()
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(self.config), *settings],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environ},
        )

    def write(self, more: str = "", serve: str = "", workers: int | None = None) -> None:
        draft = self.folder / "draft"
        draft.write_text(
            f'state = "{self.folder}"\nlog = "{self.log}"\n[serve]\nworkers = {workers or self.workers}\n{serve}\n'
            f'[listen.policy]\nat = "unix:{self.path}"\n{more}\n'
        )
        draft.rename(self.config)

    def up(self) -> Supervised:
        assert self.said() == "up", self.logged()
        return self

    def said(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def logged(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def await_log(self, text: str, count: int = 1, seconds: float = 15) -> str:
        until(lambda: self.logged().count(text) >= count, seconds, lambda: f"{text!r} x {count}: {self.logged()}")
        return self.logged()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def children(self) -> set[int]:
        return children(self.process.pid)

    def connected(self, path: Path | None = None) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(20)
        try:
            sock.connect(str(path or self.path))
        except OSError:
            sock.close()
            raise
        return sock

    def ask(self, words: str = "pid", path: Path | None = None) -> list[int]:
        """Process and number of reloads."""
        with self.connected(path) as sock:
            sock.sendall(words.encode() + b"\n")
            return [int(word) for word in sock.recv(100).split()]

    def close(self) -> None:
        for pid in (self.process.pid, *self.children()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(10)
        if self.process.stdout is not None:
            self.process.stdout.close()


def children(pid: int) -> set[int]:
    try:
        return {int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
    except FileNotFoundError:
        return set()


def alive(pid: int) -> bool:
    """Not a zombie, which the host's init may leave lying for a while."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def until(holds, seconds: float = 15, what=lambda: "") -> None:  # type: ignore[no-untyped-def]  # any test's
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, what()
        time.sleep(0.02)


if __name__ == "__main__":
    sys.exit(main())
