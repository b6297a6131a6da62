"""Processes for the store's tests: forked, so that they need no interpreter that another user could execute."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from postroom import store
from postroom.deadline import Deadline
from postroom.store import grouped

if TYPE_CHECKING:
    from postroom.store import Store


class Process:
    """`work`, given a function that tells the parent something, in a process of its own."""

    def __init__(self, work: Callable[[Callable[[bytes], None]], None], user: str | None = None) -> None:
        self.reader, writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                os.close(self.reader)
                if user is not None:
                    account = pwd.getpwnam(user)
                    os.setgroups([])
                    os.setgid(account.pw_gid)
                    os.setuid(account.pw_uid)
                work(lambda data: _tell(writer, data))
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        os.close(writer)

    def heard(self) -> bytes:
        """All that it told until its end."""
        parts = []
        while data := os.read(self.reader, 65536):
            parts.append(data)
        os.close(self.reader)
        return b"".join(parts)

    def end(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)


def _tell(fd: int, data: bytes) -> None:
    os.write(fd, data)


@pytest.fixture
def spawn() -> Callable[..., Process]:
    return Process


@pytest.fixture
def state(tmp_path: Path) -> Path:
    directory = tmp_path / "state"
    directory.mkdir(mode=0o700)
    return directory


@pytest.fixture
def shared() -> Iterator[None]:
    """The store as a process of many threads has it."""
    store.share(grouped.open)
    yield
    store.share(None)
    grouped.close()


@pytest.fixture(params=["sqlite", "grouped", "memory"])
def opened(request: pytest.FixtureRequest, state: Path) -> Iterator[Store]:
    """Each engine in turn: what the store promises, all of them keep."""
    if request.param == "grouped":
        request.getfixturevalue("shared")
    one = store.memory() if request.param == "memory" else store.open(str(state), Deadline(5))
    yield one
    one.close()


class Host:
    """A host whose clock can be set wrong and which can be booted, for the stores that `use` it."""

    def __init__(self, wall: float = 1_800_000_000) -> None:
        self.wall, self.boot, self.uptime = wall, "first", 1000.0

    def use(self, one: Store) -> Store:
        one.moment = lambda: (int(self.wall * 1e6), self.boot, int(self.uptime * 1e6))  # type: ignore[attr-defined]
        return one

    def passes(self, seconds: float) -> None:
        self.wall += seconds
        self.uptime += seconds

    def set_clock(self, by: float) -> None:
        self.wall += by

    def reboots(self, clock_off_by: float) -> None:
        self.wall += clock_off_by
        self.boot += "+"
        self.uptime = 3.0


@pytest.fixture
def host() -> Host:
    return Host()


class Clock:
    """A clock that a test moves: `clock.now += 60`."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def timed(opened: Store, clock: Clock) -> Store:
    opened.clock = clock
    return opened


@pytest.fixture
def small_disk(tmp_path: Path, root: None) -> Iterator[Path]:
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.fixture
def root() -> None:
    if os.geteuid() != 0:
        pytest.fail("this test changes users or mounts a file system: run it as root", pytrace=False)
