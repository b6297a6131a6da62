"""The resident and its peers as processes: started in a control group and on one CPU, ended by their number."""

import os
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from resident.figures import Figure, figure
from resident.load import Done
from resident.usage import Group

PEERS = Path(__file__).resolve().parent / "peers.py"
START_SECONDS = 30.0
STOP_SECONDS = 30.0


@dataclass(frozen=True)
class Server:
    process: subprocess.Popen[bytes]
    group: Group

    def cpu(self) -> float:
        return self.group.cpu()

    def pids(self) -> list[int]:
        return self.group.pids()


class Loaded(Protocol):
    """resident.load.Load, resident.smtpload.Sessions."""

    def run(self, seconds: float) -> Done: ...


def take(server: Server, load: Loaded, seconds: float) -> Figure:
    """What the server does under the load, after a fifth of the time to get warm."""
    load.run(seconds / 5)
    before = server.cpu()
    done = load.run(seconds)
    return figure(done.count, done.seconds, server.cpu() - before, done.p50, done.p99)


@contextmanager
def peer(kind: str, path: str, *words: str, cpu: set[int] | None = None) -> Iterator[Server]:
    with running([sys.executable, str(PEERS), kind, path, *words], [path], cpu) as server:
        yield server


@contextmanager
def resident(configuration: Path, sockets: list[str], cpu: set[int] | None = None) -> Iterator[Server]:
    """`postroom serve`, as it is installed beside this Python."""
    command = [str(Path(sysconfig.get_path("scripts")) / "postroom"), "serve", "--config", str(configuration)]
    with running(command, sockets, cpu) as server:
        yield server


@contextmanager
def running(command: list[str], sockets: list[str], cpu: set[int] | None = None) -> Iterator[Server]:
    with Group() as group:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=lambda: _settle(group, cpu))
        try:
            for path in sockets:
                _wait(process, path)
            yield Server(process, group)
        finally:
            _end(process, group)


def _settle(group: Group, cpu: set[int] | None) -> None:
    group.join()
    if cpu:
        os.sched_setaffinity(0, cpu)


def _wait(process: subprocess.Popen[bytes], path: str) -> None:
    """Until the socket takes connections."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(path)
                return
            except OSError:
                time.sleep(0.02)
    sys.exit(f"{' '.join(process.args)}: does not listen at {path} (exit status {process.poll()})")  # type: ignore[arg-type]  # words alone


def _end(process: subprocess.Popen[bytes], group: Group) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pid in group.pids():  # of a supervisor that was killed
        os.kill(pid, signal.SIGKILL)
