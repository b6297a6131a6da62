"""Writers take turns here before SQLite sees them.

SQLite's own busy handler sleeps longer the longer a writer has waited, so that newcomers overtake it: with twenty
writers one of them waited the whole four seconds of a run. Here, whoever has waited longer asks more often, and the
longest wait of the same twenty is about a tenth of that. (A blocking flock(2) is fairer still, but knows no deadline; a
thread that blocks in it for the caller was measured, and brought no more.)

The lock is for fairness alone: SQLite's own still guard the data where this file is deleted.
"""

from __future__ import annotations

import fcntl
import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from postroom.deadline import Deadline

# A write holds the lock for 0.1 to 10 ms (an fsync); longer sleeps would only add to the wait.
SHORTEST_SLEEP = 0.0002
LONGEST_SLEEP = 0.002
# After this long in the queue a writer asks twice as often, after twice as long three times, and so on.
IMPATIENCE = 0.025
# Kept back of the deadline, so that "the state is locked" is said before the runner says "not finished in time".
ANSWER_TIME = 0.2


def take(fd: int, deadline: Deadline) -> bool:
    """Whether the lock on `fd` was got before the deadline. Asked for once at least."""
    start = time.monotonic()
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if over(deadline):
                return False
        pause(deadline, start)


def give(fd: int) -> None:
    fcntl.flock(fd, fcntl.LOCK_UN)


def over(deadline: Deadline) -> bool:
    """Whether waiting on would leave no time to answer."""
    return deadline.remaining() <= min(ANSWER_TIME, deadline.seconds / 10)


def pause(deadline: Deadline, start: float) -> None:
    """A sleep for one who waits since `start`: of random length, so that not all ask at the same moment."""
    fraction = os.urandom(1)[0] / 255
    sleep = SHORTEST_SLEEP + fraction * (LONGEST_SLEEP - SHORTEST_SLEEP)
    time.sleep(deadline.remaining(sleep / (1 + (time.monotonic() - start) / IMPATIENCE)))
