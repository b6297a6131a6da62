"""Which CPU the threads of a worker run on: all on one, while they have much to do; the programs they start, on any.

Only one thread of a Python process runs at a time. On several CPUs they take the turn from each other at each call of
the operating system: what waits is woken on another CPU, finds that the turn has been taken back, and sleeps again.
A mail through LMTP cost up to fifty such switches there, four on one CPU, and half as much CPU in all.

Who has little to do is better off on any: on a machine that is busy, one CPU may not be free for some milliseconds.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# What this process may use, and what its threads use of it; nothing where that is the same.
_allowed: frozenset[int] = frozenset()
_own: frozenset[int] = frozenset()


def settle(number: int) -> None:
    """From now on the threads of this process run on one CPU: process `number` of several alike."""
    global _allowed, _own
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    if len(allowed) > 1:
        _allowed, _own = frozenset(allowed), frozenset((sorted(allowed)[number % len(allowed)],))
        _move(_own)


def settled() -> bool:
    return bool(_own)


def spread() -> None:
    """On any, as before."""
    global _own
    if _own:
        _own = frozenset()
        _move(_allowed)


class Everywhere:
    """`with Everywhere():` what is started runs on any CPU."""

    __slots__ = ()

    def __enter__(self) -> None:
        if _own:
            _set(0, _allowed)

    def __exit__(self, *raised: object) -> None:
        if _own:
            _set(0, _own)


def _move(cpus: Iterable[int]) -> None:
    for thread in os.listdir("/proc/self/task"):  # those that they start inherit it
        _set(int(thread), cpus)


def _set(thread: int, cpus: Iterable[int]) -> None:
    try:
        os.sched_setaffinity(thread, cpus)
    except OSError:
        return  # the thread has ended; or the CPU was taken away meanwhile (a cgroup's cpuset), and the kernel chooses
