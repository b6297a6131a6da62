"""Processes for the store's tests: forked, so that they need no interpreter that another user could execute."""

from __future__ import annotations

import os
import pwd
import signal
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from postroom import store
from postroom.deadline import Deadline

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
def opened(state: Path) -> Iterator[Store]:
    one = store.open(str(state), Deadline(5))
    yield one
    one.close()


@pytest.fixture
def root() -> None:
    if os.geteuid() != 0:
        pytest.fail("this test changes users or mounts a file system: run it as root", pytrace=False)
