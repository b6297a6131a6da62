"""Writers take turns here before SQLite sees them.

SQLite's own busy handler sleeps longer the longer a writer has waited, so that newcomers overtake it: with twenty
writers one of them waited the whole four seconds of a run. The kernel's queue for flock(2) is fair, but knows no time
limit; so a thread waits in it, and the caller waits for the thread. (Asking again and again instead, with short sleeps
of random length, was measured too: a third of the rate, and three times the longest wait.)

The lock is for fairness alone: SQLite's own still guard the data where this file is deleted.
"""

from __future__ import annotations

import _thread
import fcntl
import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from postroom.deadline import Deadline

# Kept back of the deadline, so that "the state is locked" is said before the runner says "not finished in time".
ANSWER_TIME = 0.2
# While another program, such as a backup, holds the database itself: there is no queue for that.
SHORTEST_SLEEP = 0.0002
LONGEST_SLEEP = 0.002


class Turn:
    """The lock on the file `path`, once `take` has said yes."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1
        self._guard = _thread.allocate_lock()
        self._given_up = False

    def take(self, deadline: Deadline) -> bool:
        """Whether it came before the deadline. Asked for once at least. Raises OSError."""
        fd = os.open(self._path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._fd = fd
            return True
        except BlockingIOError:
            return self._wait(fd, deadline)
        except OSError:
            os.close(fd)
            raise

    def give(self) -> None:
        os.close(self._fd)  # a descriptor of its own: closing it is giving the lock back

    def _wait(self, fd: int, deadline: Deadline) -> bool:
        came = _thread.allocate_lock()
        came.acquire()
        _thread.start_new_thread(self._queue, (fd, came))
        came.acquire(timeout=deadline.remaining() - answer_time(deadline) if not over(deadline) else 0)
        with self._guard:
            self._given_up = self._fd < 0
        return not self._given_up

    def _queue(self, fd: int, came: _thread.LockType) -> None:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
        except OSError:
            os.close(fd)
            return  # the caller's time runs out, and it says so
        with self._guard:
            if self._given_up:
                os.close(fd)
            else:
                self._fd = fd
                came.release()


def answer_time(deadline: Deadline) -> float:
    return min(ANSWER_TIME, deadline.seconds / 10)


def over(deadline: Deadline) -> bool:
    """Whether waiting on would leave no time to answer."""
    return deadline.remaining() <= answer_time(deadline)


def pause(deadline: Deadline) -> None:
    """A sleep of random length, so that those who wait do not all ask at the same moment."""
    fraction = os.urandom(1)[0] / 255
    time.sleep(deadline.remaining(SHORTEST_SLEEP + fraction * (LONGEST_SLEEP - SHORTEST_SLEEP)))
