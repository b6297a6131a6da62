"""What the workers of the resident know of DNS together: answers, whose turn it is to ask, and what to ask for again.

    shared = Shared()          # before the workers are forked
    postroom.dns.share(shared)

Answers lie in a table in memory that all processes map, in front of it each process's own dictionary. The table has no
locks. A slot is written and copied as a whole and ends with a checksum: one that two processes wrote at the same time,
or that is read while it is written, is a miss, and a miss costs a question.

Whose turn it is to ask says a lock of the kernel on one byte of a file without a name, the byte by the name asked for.
Taking it is atomic, which no marker in a table without locks is, and it goes with the process that held it.

All times are of CLOCK_MONOTONIC: the same in every process of the host, and nobody sets it.
"""

from __future__ import annotations

import fcntl
import marshal
import os
import struct
import time
import weakref
from _thread import allocate_lock
from binascii import crc32
from hashlib import blake2b
from mmap import mmap
from operator import attrgetter

from postroom import mx
from postroom.dnscache import Entry, Memory, Refresher, Turns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from typing import Any, TypeVar

    T = TypeVar("T")
    Refresh = Callable[[Any, str], None]

# A slot holds a plan of five hosts with names of the usual length, or as many addresses; what does not fit stays with
# the process that asked. Pages that nothing was written to take no memory: 16 MB at most, for the domains of an hour.
SLOT_SIZE = 512
MAX_SLOTS = 32_768

# Slots in which an answer may lie. With one, two busy domains could drive each other out for ever.
WAYS = 4

# How long past its TTL a plan is given at once while it is asked for anew. RFC 8767 allows days, after a failed try;
# before one, a minute: no longer than many TTLs, and than other resolvers on the way are behind.
REFRESH_WINDOW = 60.0

# Who is used this often within its TTL is asked for before it ends. So what is fetched for nobody is at most a fifth.
PREFETCH_USES = 5

# Another process that asks for longer than this may have been stopped: who waits for it asks, too.
ASKER_PATIENCE = 10.0
NAPS = (0.001, 0.02)

# Configurations come and go with reloads. What belongs to the ones before is soon not used.
MAX_COMMON = 16

_HEAD = struct.Struct(
    "<II16sdddHH"
)  # uses, checksum of all that follows, digest, soon, until, patience, weight, length
_DIGEST = 8  # where the digest is, and what the checksum is of begins
_BUCKET = WAYS * SLOT_SIZE
_USES = struct.Struct("<I")
MAX_RECORD = SLOT_SIZE - _HEAD.size

_FIELDS: dict[type, Callable[[Any], tuple[Any, ...]]] = {
    mx.Plan: attrgetter("domain", "state", "hosts", "ttl", "reason", "outcome", "notes"),
    mx.Answer: attrgetter("kind", "records", "ttl", "text"),
}


class Slot:
    """What a slot of the table held when it was looked at."""

    __slots__ = ("patience", "record", "soon", "until", "weight")

    def __init__(self, soon: float, until: float, patience: float, weight: int, record: bytes) -> None:
        self.soon = soon
        self.until = until
        self.patience = patience
        self.weight = weight
        self.record = record


class Table:
    """Records by digest, in an anonymous mapping that children share."""

    def __init__(self, slots: int = MAX_SLOTS) -> None:
        self._buckets = max(1, slots // WAYS)
        self._map = mmap(-1, self._buckets * _BUCKET)

    @property
    def size(self) -> int:
        return len(self._map)

    def get(self, digest: bytes, after: float = float("-inf")) -> Slot | None:
        """The record of the digest, expired or not, where it ends later than `after`."""
        first = self._bucket(digest)
        bucket = self._map[first : first + _BUCKET]  # mmap.find reads past the end in Python before 3.11.5 (gh-105235)
        found = bucket.find(digest)
        while found >= 0 and found % SLOT_SIZE != _DIGEST:  # in somebody's record
            found = bucket.find(digest, found + 1)
        if found < 0:
            return None
        place = found - _DIGEST
        slot = self._read(bucket[place : place + SLOT_SIZE], digest)
        if slot is None or slot.until <= after:
            return None
        (uses,) = _USES.unpack_from(bucket, place)
        _USES.pack_into(self._map, first + place, min(uses + 1, 0xFFFFFFFF))
        return slot

    def put(self, digest: bytes, slot: Slot, now: float) -> bool:
        """Write it where it was, else over the least worth keeping. False: it is too long."""
        if len(slot.record) > MAX_RECORD or slot.weight > 0xFFFF:
            return False
        fields = (digest, slot.soon, slot.until, slot.patience, slot.weight, len(slot.record))
        head = _HEAD.pack(0, 0, *fields)
        written = _HEAD.pack(0, crc32(slot.record, crc32(head[_DIGEST:])), *fields) + slot.record
        first = self._bucket(digest)
        places = range(first, first + _BUCKET, SLOT_SIZE)
        place = min(places, key=lambda place: self._worth(place, digest, now))
        self._map[place : place + len(written)] = written
        return True

    def _bucket(self, digest: bytes) -> int:
        return int.from_bytes(digest[:4], "little") % self._buckets * _BUCKET

    def _worth(self, place: int, digest: bytes, now: float) -> tuple[bool, bool, int, float]:
        """By what the slots of a bucket are ordered: its own place, what has expired, what is used least."""
        uses, _, other, _, until, *_ = _HEAD.unpack_from(self._map, place)
        return other != digest, until > now, uses, until

    @staticmethod
    def _read(slot: bytes, digest: bytes) -> Slot | None:
        _, checksum, found, soon, until, patience, weight, length = _HEAD.unpack_from(slot)
        end = _HEAD.size + length
        if found != digest or end > SLOT_SIZE or crc32(slot[_DIGEST:end]) != checksum:
            return None
        return Slot(soon, until, patience, weight, slot[_HEAD.size : end])


class SharedMemory(Memory):
    """A Memory in front of the table; `kind` is the type of its values.

    What is about to expire and in use, and what expired less than `window` seconds ago, is given, and `refresh` called
    with the key and which of the two it is: "prefetched" or "refreshed". That there is nothing is never given past its
    time: a domain that has come to life would be refused for it.
    """

    def __init__(self, limit: int, shared: Shared, name: str, kind: type, window: float, refresh: Refresh) -> None:
        super().__init__(limit)
        self._table = shared.table
        self._prefix = shared.digest(b"", name.encode())
        self._kind = kind
        self._window = window
        self._refresh = refresh

    def known(self, key: Hashable, now: float, seconds: float) -> Any:
        entry = self.answers.find(key)
        if entry is not None and now < entry.soon:
            return entry.value
        entry = self._newest(key, entry)
        if entry is None or now >= entry.until + (self._window if _found(entry.value) else 0.0):
            return self.failure(key, now, seconds)
        expired = now >= entry.until
        wanted = expired or (now >= entry.soon and entry.uses >= PREFETCH_USES)
        if wanted and self.failure(key, now, 0.0) is None:
            self._refresh(key, "refreshed" if expired else "prefetched")
        return entry.value

    def failure(self, key: Hashable, now: float, seconds: float) -> Any:
        own = super().failure(key, now, seconds)
        if own is not None:
            return own
        slot = self._table.get(self.digest(key, b"failure"))
        if slot is None or now >= slot.until:
            return None
        value = self._value(slot.record)
        if value is not None:
            super().fail(key, value, slot.patience, now, slot.until - now)
        return super().failure(key, now, seconds)

    def old(self, key: Hashable, now: float, stale: float) -> Any:
        entry = self._newest(key, self.answers.find(key))
        return entry.value if entry is not None and now < entry.until + stale else None

    def keep(self, key: Hashable, value: object, weight: int, now: float, seconds: float) -> Entry:
        entry = super().keep(key, value, weight, now, seconds)
        self._put(self.digest(key), value, Slot(entry.soon, entry.until, 0.0, weight, b""), now)
        return entry

    def fail(self, key: Hashable, value: object, patience: float, now: float, seconds: float) -> None:
        super().fail(key, value, patience, now, seconds)
        self._put(self.digest(key, b"failure"), value, Slot(now + seconds, now + seconds, patience, 1, b""), now)

    def due(self, key: Hashable, now: float) -> bool:
        entry = self._newest(key, self.answers.find(key))
        return entry is None or now >= entry.soon

    def digest(self, key: Any, what: bytes = b"answer") -> bytes:
        text = key if isinstance(key, str) else "\0".join(key)
        return blake2b(self._prefix + what + text.encode("utf-8", "surrogatepass"), digest_size=16).digest()

    def _newest(self, key: Hashable, entry: Entry | None) -> Entry | None:
        """The entry, or what another process has learnt since."""
        slot = self._table.get(self.digest(key), float("-inf") if entry is None else entry.until)
        value = None if slot is None else self._value(slot.record)
        if slot is None or value is None:
            return entry
        found = Entry(value, slot.weight, slot.until, slot.soon)
        self.answers.put(key, found)
        return found

    def _put(self, digest: bytes, value: object, slot: Slot, now: float) -> None:
        slot.record = marshal.dumps(_FIELDS[self._kind](value), 2)  # without references: half the time
        self._table.put(digest, slot, now)

    def _value(self, record: bytes) -> Any:
        try:
            return self._kind(*marshal.loads(record))  # noqa: S302 - written by our own workers, and checked
        except (ValueError, TypeError, EOFError):
            return None


class SharedTurns(Turns):
    """One asker of all processes. `waits` is told of each time that one waits for another process."""

    def __init__(self, shared: Shared, name: str, waits: Callable[[], None]) -> None:
        super().__init__()
        self._file = shared.file
        self._prefix = shared.digest(b"", name.encode())
        self._waits = waits

    def take(self, key: Hashable, seconds: float) -> bool:
        if not super().take(key, seconds):
            return False
        place = self._place(key)
        if self._lock_byte(place) or (seconds > 0 and self._wait(place, seconds)):
            return True
        super().done(key)
        return False

    def done(self, key: Hashable) -> None:
        self._lock_byte(self._place(key), fcntl.LOCK_UN)
        super().done(key)

    def _wait(self, place: int, seconds: float) -> bool:
        """True: it is ours, or was another's for too long. Sleeping, since no wait for such a lock has an end."""
        self._waits()
        start, (nap, longest) = time.monotonic(), NAPS
        while (waited := time.monotonic() - start) < seconds:
            if waited >= ASKER_PATIENCE:
                return True
            time.sleep(min(nap, seconds - waited))
            nap = min(nap * 1.5, longest)
            if self._lock_byte(place):
                return True
        return False

    def _lock_byte(self, place: int, how: int = fcntl.LOCK_EX | fcntl.LOCK_NB) -> bool:
        try:
            fcntl.lockf(self._file, how, 1, place)
        except (BlockingIOError, PermissionError):  # another's
            return False
        except OSError:  # no lock to be had from this kernel: then each process asks for itself
            return True
        return True

    def _place(self, key: Any) -> int:
        """A byte of the file, which is empty: locks may lie beyond its end."""
        text = key if isinstance(key, str) else "\0".join(key)
        return int.from_bytes(blake2b(self._prefix + text.encode("utf-8", "surrogatepass"), digest_size=7).digest())


class Shared:
    """Made before the workers are forked. Each of them begins with locks of its own, and with nothing in its memory."""

    def __init__(self, slots: int = MAX_SLOTS) -> None:
        self.table = Table(slots)
        self.file = os.memfd_create("postroom-dns")
        self.refresher = Refresher()
        self._salt = os.urandom(16)  # so that nobody can choose names that fall into one bucket
        self._common: dict[Hashable, Any] = {}
        self._lock = allocate_lock()
        _every.add(self)

    def digest(self, *words: bytes) -> bytes:
        return blake2b(self._salt + b"\0".join(words), digest_size=16).digest()

    def plans(self, name: str, limit: int, refresh: Refresh) -> SharedMemory:
        return SharedMemory(limit, self, f"plans {name}", mx.Plan, REFRESH_WINDOW, refresh)

    def answers(self, name: str, limit: int, refresh: Refresh) -> SharedMemory:
        return SharedMemory(limit, self, f"answers {name}", mx.Answer, 0.0, refresh)

    def turns(self, name: str, waits: Callable[[], None]) -> SharedTurns:
        return SharedTurns(self, name, waits)

    def common(self, key: Hashable, make: Callable[[], T]) -> T:
        """The object of this key that all threads have in common; it has a method `renew`."""
        with self._lock:
            if key not in self._common:
                while len(self._common) >= MAX_COMMON:
                    del self._common[next(iter(self._common))]
                self._common[key] = make()
            found: T = self._common[key]
            return found

    def close(self) -> None:
        """What a process that is about to end need not do."""
        _every.discard(self)
        os.close(self.file)

    def renew(self) -> None:
        """In a child just forked: a lock that another thread of the parent held would be held for ever."""
        self._lock = allocate_lock()
        self.refresher.renew()
        for thing in self._common.values():
            thing.renew()


def _found(value: Any) -> bool:
    return value.state != "none" if isinstance(value, mx.Plan) else bool(value.records)


def _renew() -> None:
    for shared in list(_every):
        shared.renew()


_every: weakref.WeakSet[Shared] = weakref.WeakSet()
os.register_at_fork(after_in_child=_renew)
