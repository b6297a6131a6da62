"""The store in a process of many threads: their writes share commits, and each thread keeps a connection for reading.

    store.share(grouped.open)

What a durable write costs is its fsync, and one fsync serves as many changes as were waiting for it (writer.py). So a
write is handed to the one thread that writes, and returns when its commit is made. A read goes on a connection of the
calling thread, which stays open from one mail to the next: to open a store costs microseconds here.

Callers are told what a store of their own would tell them, but for one Fault more: "the state is slow to answer", of a
change that was taken and whose commit was not seen in time. It may have been made: see State in docs/internals.md.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from postroom.deadline import Deadline
from postroom.status import Fault
from postroom.store.sqlite import SqliteStore
from postroom.store.writer import Writer

if TYPE_CHECKING:
    import sqlite3

    from postroom.store.engine import Engine, Row

T = TypeVar("T")

# Two descriptors each. A worker's pool has 16 threads; those that a handler keeps for ever come on top.
MAX_CONNECTIONS = 200


class _Place:
    """What the threads of this process share of one state."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.writer = Writer(directory)
        self.readers: set[SqliteStore] = set()


class _Reader:
    """A thread's connection to a state; closed when the thread ends, or turns to another state."""

    def __init__(self, place: _Place) -> None:
        if len(place.readers) >= MAX_CONNECTIONS:
            raise Fault("too many threads use the state")
        self.place = place
        self.store = SqliteStore(place.directory, Deadline(0))
        self._pid = os.getpid()
        place.readers.add(self.store)

    def lend(self, deadline: Deadline, dry: bool) -> SqliteStore:
        # Where one thread has seen the file, it is known to all: gone, it is gone for each of them.
        agree(self.store, self.place.writer.engine)
        self.store.deadline = deadline
        self.store.dry = dry
        return self.store

    def __del__(self) -> None:
        # A fork's copy of it is the parent's. What the interpreter ends with may be closed by another thread, or not.
        if hasattr(self, "_pid") and self._pid == os.getpid():
            self.place.readers.discard(self.store)
            self.store.close()


def agree(one: Engine, other: Engine) -> None:
    """Let both know that there has been a database, where one of them does."""
    if one.inode == (0, 0):
        one.inode = other.inode
    elif other.inode == (0, 0):
        other.inode = one.inode


_mutex = threading.Lock()
_places: dict[str, _Place] = {}
_of_thread = threading.local()
# A fork closes none of its parent's connections; nothing of what is in here is ever used.
_inherited: list[object] = []


class GroupedStore(SqliteStore):
    """One caller's view of what the process shares. Deadline, clock and `dry` are its own."""

    def read(self, sql: str, values: Sequence[object] = ()) -> list[Row]:
        return self._mine().read(sql, values)

    def write(self, change: Callable[[sqlite3.Connection], T], synchronous: str) -> T:
        if self.dry:  # judged and taken back on the thread's own connection: no commit waits for it
            return self._mine().write(change, synchronous)
        return _place(self._directory).writer.write(change, synchronous, self.deadline)

    def close(self) -> None:
        """Nothing is closed: the thread's connection is the next mail's."""

    def _mine(self) -> SqliteStore:
        reader: _Reader | None = getattr(_of_thread, "reader", None)
        if reader is None or reader.place.directory != self._directory or reader.place.writer.closed:
            _of_thread.reader = None  # closed before the next is opened
            reader = _of_thread.reader = _Reader(_place(self._directory))
        return reader.lend(self.deadline, self.dry)


def open(state_directory: str, deadline: Deadline) -> GroupedStore:
    return GroupedStore(state_directory, deadline)


def close() -> None:
    """End the threads that write, after what they were given. Other threads' connections end with them."""
    _of_thread.reader = None
    with _mutex:
        places = list(_places.values())
        _places.clear()
    for place in places:
        place.writer.close()


def _place(directory: str) -> _Place:
    place = _places.get(directory)
    if place is None:
        with _mutex:
            place = _places.get(directory) or _places.setdefault(directory, _Place(directory))
    return place


def _forked() -> None:
    global _mutex
    _inherited.extend((dict(_places), getattr(_of_thread, "reader", None)))
    _mutex = threading.Lock()
    _places.clear()
    _of_thread.reader = None


os.register_at_fork(after_in_child=_forked)
