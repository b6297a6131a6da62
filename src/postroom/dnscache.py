"""What DNS said, until its time is up; what it failed to say, for a few seconds; and who is asking for what.

Threads may share all of these. dnsshared.py has the same for several processes.
"""

from __future__ import annotations

from _thread import allocate_lock, start_new_thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _thread import LockType
    from collections.abc import Callable, Hashable
    from typing import Any

# Who has this many times the time in which a question failed asks it again.
PATIENCE = 2.0

# The last part of an answer's time, in which one that is in use may be asked for anew before it expires.
LAST = 0.1

# Questions that nobody waits for: so many at most, with so many threads. dnspython's parser has the GIL for a third of
# a millisecond an answer; more threads would only take it from the requests.
REFRESH_LIMIT = 1000
REFRESH_THREADS = 2


class Entry:
    """A value, the moment it expires, the one from which it may be renewed, and how often it has been used."""

    __slots__ = ("soon", "until", "uses", "value", "weight")

    def __init__(self, value: Any, weight: int, until: float, soon: float) -> None:
        self.value = value
        self.weight = weight
        self.until = until
        self.soon = soon
        self.uses = 0


class Cache:
    """Values with their weight and the moment they expire. The longest unused go first where it is full.

    What has expired stays until its place is needed: an old answer may be better than none.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.renew()

    def renew(self) -> None:
        """Empty, with a lock of its own: a fork may have caught it in another thread's hands."""
        self._entries: dict[Hashable, Entry] = {}
        self._weight = 0
        self._lock = allocate_lock()

    def find(self, key: Hashable) -> Entry | None:
        """The entry, expired or not, which has been used once more by this."""
        with self._lock:
            entry = self._entries.pop(key, None)
            if entry is not None:
                self._entries[key] = entry  # to the end of the queue
                entry.uses += 1
            return entry

    def get(self, key: Hashable, now: float, stale: float = 0.0) -> Any:
        """The value, where it has not expired or did so less than `stale` seconds ago; else None."""
        entry = self.find(key)
        return entry.value if entry is not None and now < entry.until + stale else None

    def put(self, key: Hashable, entry: Entry) -> None:
        with self._lock:
            self._forget(key)
            self._entries[key] = entry
            self._weight += entry.weight
            while self._weight > self._limit:
                self._forget(next(iter(self._entries)))

    def _forget(self, key: Hashable) -> None:
        if key in self._entries:
            self._weight -= self._entries.pop(key).weight


class Memory:
    """Answers, and apart from them failures, so that a failure does not take the place of an older answer."""

    def __init__(self, limit: int) -> None:
        self.answers = Cache(limit)
        self.failures = Cache(limit)

    def known(self, key: Hashable, now: float, seconds: float) -> Any:
        """What need not be asked for by someone who has these seconds; else None."""
        value = self.answers.get(key, now)
        return self.failure(key, now, seconds) if value is None else value

    def failure(self, key: Hashable, now: float, seconds: float) -> Any:
        patience, value = self.failures.get(key, now) or (0.0, None)
        return None if seconds > PATIENCE * patience else value

    def old(self, key: Hashable, now: float, stale: float) -> Any:
        """An answer that expired less than `stale` seconds ago, or has not; else None."""
        return self.answers.get(key, now, stale)

    def keep(self, key: Hashable, value: object, weight: int, now: float, seconds: float) -> Entry:
        entry = Entry(value, weight, now + seconds, now + seconds * (1 - LAST))
        self.answers.put(key, entry)
        return entry

    def fail(self, key: Hashable, value: object, patience: float, now: float, seconds: float) -> None:
        """`patience`: the seconds that were not enough, or infinity where time was not what was missing."""
        self.failures.put(key, Entry((patience, value), 1, now + seconds, now + seconds))

    def due(self, key: Hashable, now: float) -> bool:
        """Whether nobody has asked for it anew by now."""
        entry = self.answers.find(key)
        return entry is None or now >= entry.soon

    def renew(self) -> None:
        self.answers.renew()
        self.failures.renew()


class Turns:
    """One asker at a time for each key. Who comes meanwhile waits, and finds the answer in the memory."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Nobody asks: in a process just forked the threads that did are gone."""
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
            gate = self._gates.pop(key, None)
        if gate is not None:
            gate.release()


class Refresher:
    """Asks in the background. A thread ends when there is nothing to ask for."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        self._lock = allocate_lock()
        self._queue: dict[Hashable, Callable[[], None]] = {}
        self._busy: set[Hashable] = set()
        self._threads = 0

    def want(self, key: Hashable, work: Callable[[], None]) -> None:
        """`work` soon, once for a key that is wanted several times; not at all where too much is waiting."""
        with self._lock:
            if key in self._queue or key in self._busy or len(self._queue) >= REFRESH_LIMIT:
                return
            self._queue[key] = work
            if self._threads >= REFRESH_THREADS:
                return
            self._threads += 1
        try:
            start_new_thread(self._run, ())
        except RuntimeError:  # no thread to be had; those that run will do it, or nobody
            with self._lock:
                self._threads -= 1
                if self._threads == 0:
                    self._queue.clear()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._queue:
                    self._threads -= 1  # with the lock in hand, so that nobody counts on this thread any more
                    return
                key = next(iter(self._queue))
                work = self._queue.pop(key)
                self._busy.add(key)
            try:
                work()
            except Exception as error:  # a bug that one answer meets must not cost the others their thread
                from postroom import log

                log.error("", fault="dns", text=f"asking for {key!r} again: {error!r}")
            finally:
                self._done(key)

    def _done(self, key: Hashable) -> None:
        with self._lock:
            self._busy.discard(key)
