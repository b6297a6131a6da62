"""What DNS said, until its time is up; what it failed to say, for a few seconds; and who is asking for what.

Threads may share all of these.
"""

from __future__ import annotations

from _thread import allocate_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _thread import LockType
    from collections.abc import Hashable
    from typing import Any

# Who has this many times the time in which a question failed asks it again.
PATIENCE = 2.0


class Cache:
    """Values with their weight and the moment they expire. The longest unused go first where it is full.

    What has expired stays until its place is needed: an old answer may be better than none.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: dict[Hashable, tuple[float, int, Any]] = {}
        self._weight = 0
        self._lock = allocate_lock()

    def get(self, key: Hashable, now: float, stale: float = 0.0) -> Any:
        """The value, where it has not expired or did so less than `stale` seconds ago; else None."""
        with self._lock:
            entry = self._entries.pop(key, None)
            if entry is None:
                return None
            self._entries[key] = entry  # to the end of the queue
            return entry[2] if now < entry[0] + stale else None

    def put(self, key: Hashable, value: object, weight: int, until: float) -> None:
        with self._lock:
            self._forget(key)
            self._entries[key] = (until, weight, value)
            self._weight += weight
            while self._weight > self._limit:
                self._forget(next(iter(self._entries)))

    def _forget(self, key: Hashable) -> None:
        if key in self._entries:
            self._weight -= self._entries.pop(key)[1]


class Memory:
    """Answers, and apart from them failures, so that a failure does not take the place of an older answer."""

    def __init__(self, limit: int) -> None:
        self.answers = Cache(limit)
        self.failures = Cache(limit)

    def known(self, key: Hashable, now: float, seconds: float) -> Any:
        """What need not be asked for by someone who has these seconds; else None."""
        value = self.answers.get(key, now)
        if value is None:
            patience, value = self.failures.get(key, now) or (0.0, None)
            if seconds > PATIENCE * patience:
                return None
        return value

    def fail(self, key: Hashable, value: object, patience: float, until: float) -> None:
        """`patience`: the seconds that were not enough, or infinity where time was not what was missing."""
        self.failures.put(key, (patience, value), 1, until)


class Turns:
    """One asker at a time for each key. Who comes meanwhile waits, and finds the answer in the memory."""

    def __init__(self) -> None:
        self._gates: dict[Hashable, LockType] = {}
        self._lock = allocate_lock()

    def take(self, key: Hashable, seconds: float) -> bool:
        """True: it is the caller's turn, until done(). False: another's has ended, or the seconds are over."""
        with self._lock:
            gate = self._gates.get(key)
            if gate is None:
                gate = self._gates[key] = allocate_lock()
                gate.acquire()
                return True
        if gate.acquire(True, seconds):
            gate.release()  # to the next one waiting
        return False

    def done(self, key: Hashable) -> None:
        with self._lock:
            self._gates.pop(key).release()
