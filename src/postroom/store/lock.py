"""Writers take turns here before SQLite sees them.

SQLite's own busy handler sleeps longer the longer a writer has waited, so that newcomers overtake it: with twenty
writers one of them waited the whole four seconds of a run. Two locks of one file give each its turn:

    the turn     flock(2), held over a transaction
    the queue    one byte of the file (fcntl(2), open file description locks), held by who is next until it has the turn

flock alone wakes who waits, who then has to be quicker than the one who has just finished and asks again; and loses,
the more often the busier the machine is. With the queue, who asks again finds it taken, and stands behind the others.
But a turn is more than one transaction: for BURST, who had it may take it again, past the queue. To hand it over costs
as much as a quick disk's fsync; a slow one's is longer than BURST, and there each transaction is a turn.

Neither lock knows a deadline. So a thread waits in them for whoever finds the lock taken, and is left behind at the
deadline. (Asking again and again, the more often the longer one has waited, was what came before: twenty who ask are
awake so often that on two cores everything took twice as long.)

The locks are for fairness alone: SQLite's own still guard the data where this file is deleted.
"""

from __future__ import annotations

import fcntl
import os
import time
from _struct import pack
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
# How long a turn is, where its owner has more to write. Twenty in the queue wait twenty times as long, for the last.
BURST = 0.002
# A thread that has waited stays for this long, for the next time: to start one takes longer than most waits.
LINGER = 1.0

# struct flock of fcntl(2), for the first byte.
_QUEUE = pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0)
_LEAVE = pack("hhqqi4x", fcntl.F_UNLCK, os.SEEK_SET, 0, 1, 0)

# The thread that waits: there is none, it is idle, was asked, or was asked by who has given up since.
_NONE, _IDLE, _ASKED, _LEFT = range(4)


class Taken(Exception):
    """Somebody else has the turn."""


class Turns:
    """The lock of one store, on a file that is there. For one thread, who never takes it twice."""

    __slots__ = ("_asked", "_closed", "_end", "_error", "_fd", "_got", "_mutex", "_state")

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        self._end = 0.0  # of the turn
        self._state = _NONE
        self._closed = False
        self._error: OSError | None = None
        self._mutex = allocate_lock()  # over state and descriptor
        self._asked = allocate_lock()
        self._asked.acquire()
        self._got = allocate_lock()
        self._got.acquire()

    def take(self, deadline: Deadline) -> bool:
        """Whether the lock was got before the deadline. Asked for once at least."""
        # The one left behind at an earlier deadline has waited longest; and what it gets belongs to the descriptor.
        if self._state == _LEFT or not self.at_once():
            self._ask()
            if not self._got.acquire(timeout=max(0.0, left(deadline))) and not self._got_late():
                return False
            if self._error is not None:
                raise self._error
            self._end = time.monotonic() + BURST
        return True

    def wait(self) -> None:
        """Until it is got: for a thread that takes it in no other way."""
        if not self.at_once():
            self._queue()
            self._end = time.monotonic() + BURST

    def give(self) -> None:
        fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        with self._mutex:
            self._closed = True
            if self._state == _IDLE:
                self._asked.release()
            if self._state != _LEFT:  # the number that a thread waits with may not become another file's
                os.close(self._fd)

    def at_once(self) -> bool:
        """Whether it is free: for who has the turn still, or where nobody is in the queue."""
        anew = time.monotonic() >= self._end
        try:
            if anew:
                fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, _QUEUE)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False  # and who is first in the queue by now, stays that
        if anew:
            fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, _LEAVE)
            self._end = time.monotonic() + BURST
        return True

    def _queue(self) -> None:
        fcntl.fcntl(self._fd, fcntl.F_OFD_SETLKW, _QUEUE)
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, _LEAVE)

    def _ask(self) -> None:
        with self._mutex:
            before, self._state = self._state, _ASKED
        if before == _IDLE:
            self._asked.release()
        elif before == _NONE:
            try:
                start_new_thread(self._run, ())
            except RuntimeError as error:  # no more threads for this user
                self._state = _NONE
                fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, _LEAVE)
                raise OSError(str(error)) from error

    def _got_late(self) -> bool:
        """At the deadline: leave the thread behind, unless it has got it in this very moment."""
        with self._mutex:
            if self._state == _ASKED:
                self._state = _LEFT
                return False
        self._got.acquire()
        return True

    # --- the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            error = None
            try:
                self._queue()
            except OSError as problem:
                error = problem
            if not self._hand_over(error) or not self._asked_again():
                return

    def _hand_over(self, error: OSError | None) -> bool:
        """Tell who asked; where nobody waits any more, the lock is the next one's. False: it is closed."""
        with self._mutex:
            asked, self._state = self._state == _ASKED, _IDLE
            if asked:
                self._error = error
                self._got.release()
            elif self._closed:
                os.close(self._fd)
            elif error is None:
                self.give()
            return asked or not self._closed

    def _asked_again(self) -> bool:
        """Whether that is soon enough to be worth a thread's waiting."""
        if not self._asked.acquire(timeout=LINGER):
            with self._mutex:
                if self._state == _IDLE:
                    self._state = _NONE
                    return False
            self._asked.acquire()
        return not self._closed


def over(deadline: Deadline) -> bool:
    """Whether waiting on would leave no time to answer."""
    return left(deadline) <= 0


def pause(deadline: Deadline, start: float) -> None:
    """A sleep for one who waits since `start`: of random length, so that not all ask at the same moment."""
    fraction = os.urandom(1)[0] / 255
    sleep = SHORTEST_SLEEP + fraction * (LONGEST_SLEEP - SHORTEST_SLEEP)
    time.sleep(deadline.remaining(sleep / (1 + (time.monotonic() - start) / IMPATIENCE)))


def left(deadline: Deadline) -> float:
    """Seconds that may be waited, so that there is time to answer; negative where there is none."""
    return deadline.remaining() - min(ANSWER_TIME, deadline.seconds / 10)
