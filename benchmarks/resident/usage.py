"""What a server uses, all of its processes together: CPU time by a control group, memory and descriptors by /proc.

A server that forks, restarts its children or is Postfix has used CPU in processes that are gone when one looks; the
control group (cgroup v2, cpu.stat) has counted them. It needs root, as the private Postfix does.
"""

import os
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# The unified hierarchy is mounted here, or in a hybrid set-up beside the old ones.
MOUNTS = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))

# Processes that were ended are zombies in the group for a moment; then the folder can go.
TRIES = 100


class Group:
    """A control group. What `join` was called in, and all that it starts, is in it."""

    def __init__(self) -> None:
        mount = next((mount for mount in MOUNTS if (mount / "cgroup.procs").exists()), None)
        if mount is None or os.geteuid() != 0:
            sys.exit("CPU time is counted by a cgroup of version 2: run this as root, with /sys/fs/cgroup mounted")
        self._root = mount
        self._path = mount / f"postroom-{secrets.token_hex(4)}"

    def __enter__(self) -> "Group":
        self._path.mkdir()
        return self

    def __exit__(self, *_: object) -> None:
        for _try in range(TRIES):
            try:
                self._path.rmdir()
                return
            except OSError:
                time.sleep(0.05)

    def join(self) -> None:
        """Put the calling process into the group: between fork and exec."""
        (self._path / "cgroup.procs").write_text("0")

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Be in the group, so that what is started meanwhile is."""
        self.join()
        try:
            yield
        finally:
            (self._root / "cgroup.procs").write_text("0")

    def cpu(self) -> float:
        """Seconds of CPU, user and system, that its processes have used so far."""
        line = (self._path / "cpu.stat").read_text().split("\n", 1)[0]
        return int(line.removeprefix("usage_usec ")) / 1e6

    def pids(self) -> list[int]:
        return [int(line) for line in (self._path / "cgroup.procs").read_text().split()]


def memory(pids: list[int]) -> dict[str, float]:
    """Megabytes of all of them: `rss`, `pss` (shared pages divided among those who share), `private`."""
    total = {"rss": 0, "pss": 0, "private": 0}
    for pid in pids:
        for line in _read(f"/proc/{pid}/smaps_rollup").splitlines():
            name, _, value = line.partition(":")
            key = {"Rss": "rss", "Pss": "pss", "Private_Dirty": "private", "Private_Clean": "private"}.get(name)
            if key:
                total[key] += int(value.split()[0])
    return {key: value / 1024 for key, value in total.items()}


def threads(pids: list[int]) -> int:
    return sum(len(_entries(f"/proc/{pid}/task")) for pid in pids)


def descriptors(pids: list[int]) -> int:
    return sum(len(_entries(f"/proc/{pid}/fd")) for pid in pids)


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:  # the process has ended
        return ""


def _entries(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []
