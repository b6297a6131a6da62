"""Writers take turns here before SQLite sees them.

SQLite's own busy handler sleeps longer the longer a writer has waited, so that newcomers overtake it: with twenty
writers one of them waited the whole four seconds of a run. flock(2) gives the lock to those who wait in it in their
order, but knows no deadline. So a thread waits in it for whoever finds the lock taken, and is left behind at the
deadline. (Asking again and again, the more often the longer one has waited, was what came before: twenty who ask are
awake so often that on two cores everything took twice as long, and the longest wait was two to four times that of now.)

The lock is for fairness alone: SQLite's own still guard the data where this file is deleted.
"""

from __future__ import annotations

import fcntl
import os
import time
from _thread import allocate_lock, start_new_thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from postroom.deadline import Deadline

# Where SQLite's own lock is taken, by who does not take turns (an administrator's sqlite3), it is asked for this often.
SHORTEST_SLEEP = 0.0002
LONGEST_SLEEP = 0.002
# After this long it is asked for twice as often, after twice as long three times, and so on.
IMPATIENCE = 0.025
# Kept back of the deadline, so that "the state is locked" is said before the runner says "not finished in time".
ANSWER_TIME = 0.2


class Turns:
    """The lock of one store, on a file that is there."""

    __slots__ = ("_fd", "_path", "_waiter")

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = _open(path)
        self._waiter: Waiter | None = None

    def take(self, deadline: Deadline) -> bool:
        """Whether the lock was got before the deadline. Asked for once at least."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            pass
        # The one left behind at an earlier deadline has waited longest, and there never is a second.
        if self._waiter is None or not self._waiter.again():
            self._waiter = Waiter(self._path)
        fd = self._waiter.wait(deadline.remaining() - _kept_back(deadline))
        if fd < 0:
            return False
        os.close(self._fd)
        self._fd = fd
        return True

    def give(self) -> None:
        fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        os.close(self._fd)


class Waiter:
    """A thread that waits in flock(2), with a descriptor of its own: whose it is ends with who is given it."""

    __slots__ = ("_done", "_error", "_fd", "_left", "_mutex", "_over")

    def __init__(self, path: str) -> None:
        self._fd = _open(path)
        self._error: OSError | None = None
        self._left = False  # nobody waits for it any more
        self._over = False  # it waits no more
        self._mutex = allocate_lock()
        self._done = allocate_lock()
        self._done.acquire()
        try:
            start_new_thread(self._run, ())
        except RuntimeError as error:  # no more threads for this user
            os.close(self._fd)
            raise OSError(str(error)) from error

    def again(self) -> bool:
        """Whether it still waits, and does so for the caller now."""
        with self._mutex:
            self._left = False
            return not self._over

    def wait(self, seconds: float) -> int:
        """The descriptor with the lock, or -1 when that takes too long."""
        if not self._done.acquire(timeout=max(0.0, seconds)):
            with self._mutex:
                if not self._over:
                    self._left = True
                    return -1
        if self._error is not None:
            raise self._error
        return self._fd

    def _run(self) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX)
        except OSError as error:
            self._error = error
        with self._mutex:
            self._over = True
            if self._left or self._error is not None:
                os.close(self._fd)  # which gives the lock to the next
        self._done.release()


def over(deadline: Deadline) -> bool:
    """Whether waiting on would leave no time to answer."""
    return deadline.remaining() <= _kept_back(deadline)


def pause(deadline: Deadline, start: float) -> None:
    """A sleep for one who waits since `start`: of random length, so that not all ask at the same moment."""
    fraction = os.urandom(1)[0] / 255
    sleep = SHORTEST_SLEEP + fraction * (LONGEST_SLEEP - SHORTEST_SLEEP)
    time.sleep(deadline.remaining(sleep / (1 + (time.monotonic() - start) / IMPATIENCE)))


def _kept_back(deadline: Deadline) -> float:
    return min(ANSWER_TIME, deadline.seconds / 10)


def _open(path: str) -> int:
    return os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
