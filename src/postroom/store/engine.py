"""One SQLite file under all the store's methods: opened, locked, written in transactions, its errors told as Faults.

* Write-ahead log: readers and the one writer do not wait for each other.
* A write is one transaction, under a lock that is fair (lock.py); nothing else ever waits inside one.
* Programs leave by os._exit without close(): SQLite takes that for a crash, which its log is made for, and the next
  process is spared the two syncs of emptying the log at each close.
* Only a write makes the file, and only where there never was one. A file that has gone is a Fault, to readers and
  writers: an empty one in its place would suppress nobody, and say so with confidence.

sqlite3 is the public module, not _sqlite3: the difference is 0.2 of a bare interpreter start.
"""

from __future__ import annotations

import os
import sqlite3
import time

from postroom.status import Fault
from postroom.store import clock as time_of
from postroom.store import files, lock, schema, wal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, TypeVar

    from postroom.deadline import Deadline
    from postroom.store.clock import Moment

    T = TypeVar("T")
    Row = tuple[Any, ...]

_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_FAULTS = {
    sqlite3.SQLITE_BUSY: "the state is locked",
    sqlite3.SQLITE_LOCKED: "the state is locked",
    sqlite3.SQLITE_READONLY: "the state is read-only",
    sqlite3.SQLITE_IOERR: "the state cannot be read or written",
    sqlite3.SQLITE_CORRUPT: "the state is damaged",
    sqlite3.SQLITE_FULL: "no room to keep state",
    sqlite3.SQLITE_CANTOPEN: "the state cannot be opened",
    sqlite3.SQLITE_NOTADB: "the state file is not a database",
}


# Rows that a listing holds at a time; between two pages others may write.
PAGE = 500


class Detail(Exception):
    """What the log says beyond the Fault, and a stranger is not told: the file, and SQLite's own words."""


class Engine:
    """`clock` (Unix time in seconds) takes the place of this host's, where it is given or set.

    `threads`: several use it, and see to it that they do so one after the other.

    Where `dry` is set, each write is judged and then taken back, for who only wants to know what would be answered.
    """

    def __init__(
        self, directory: str, deadline: Deadline, clock: Callable[[], float] | None = None, threads: bool = False
    ) -> None:
        self.deadline = deadline
        self.dry = False
        self.moment: Callable[[], Moment] = time_of.machine() if clock is None else time_of.given(clock)
        self._clock = clock
        self._threads = threads
        self._directory = directory
        self._path = f"{directory}/{files.DATABASE}"
        self.log = wal.Log(f"{directory}/{files.LOG}")
        self._turns: lock.Turns | None = None
        self._turns_of = (0, 0)
        self.inode = (0, 0)  # of the file that was open last
        self._connection: sqlite3.Connection | None = None

    @property
    def clock(self) -> Callable[[], float]:
        return self._clock or time.time

    @clock.setter
    def clock(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.moment = time_of.given(clock)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._turns is not None:
            self._turns.close()
            self._turns = None

    def read(self, sql: str, values: Sequence[object] = ()) -> list[Row]:
        """The rows; none where nothing has been written yet."""

        def rows() -> list[Row]:
            connection = self._open()
            return [] if connection is None else connection.execute(sql, values).fetchall()

        return self._try(rows)

    def write(self, change: Callable[[sqlite3.Connection], T], synchronous: str) -> T:
        """`change` as one transaction: all of it, or nothing and a Fault. Nothing too where the store is `dry`."""
        if self.dry and self._try(self._open) is None:
            return transaction(blank(), change, synchronous)
        return self._try(lambda: self._locked(lambda: self._written(change, synchronous)))

    def _written(self, change: Callable[[sqlite3.Connection], T], synchronous: str) -> T:
        connection = self.made()
        result = transaction(connection, change, synchronous, self.dry)
        if self.log.long():
            self.log.empty(connection, patient=False)
        return result

    def now(self, connection: sqlite3.Connection) -> int:
        """The store's time (clock.py) in a transaction that writes."""
        moment = self.moment()
        row = connection.execute(schema.MOMENT).fetchone()
        if row is None:
            now = moment[0]
        else:
            passed = time_of.elapsed(row[:3], moment)
            now = row[3] + passed
            if passed < time_of.RESOLUTION and row[1] == moment[1] and row[0] <= moment[0]:
                return int(now)
        connection.execute(schema.KEEP_MOMENT, (*moment, now))
        return int(now)

    def now_to_read(self) -> int:
        """The same for a reader."""
        moment = self.moment()
        rows = self.read(schema.MOMENT)
        return int(rows[0][3]) + time_of.elapsed(rows[0][:3], moment) if rows else moment[0]

    def _try(self, step: Callable[[], T]) -> T:
        """`step`, tried again while somebody else holds the database, up to the deadline."""
        start = time.monotonic()
        while True:
            try:
                return step()
            except sqlite3.Error as error:
                if not busy(error) or lock.over(self.deadline):
                    raise self.fault(error) from self.detail(error)
                lock.pause(self.deadline, start)
            except OSError as error:
                raise self.fault(error) from self.detail(error)

    def fault(self, error: sqlite3.Error | OSError) -> Fault:
        if isinstance(error, OSError):
            return Fault("the state cannot be opened")
        return Fault(_FAULTS.get(_code(error), "the state cannot be used"))

    def detail(self, error: Exception) -> Detail:
        return Detail(f"{self._path}: {error}")

    def _locked(self, step: Callable[[], T]) -> T:
        turns = self._lock()
        if not turns.take(self.deadline):
            raise Fault("the state is locked") from Detail(f"{self._directory}/{files.LOCK}")
        try:
            return step()
        finally:
            turns.give()

    def in_turn(self, step: Callable[[], T]) -> T:
        """`step` when the turn comes, however long that takes: for a thread that has nothing else to do."""
        turns = self._lock()
        turns.wait()
        try:
            return step()
        finally:
            turns.give()

    def at_once(self, step: Callable[[], T]) -> T:
        """`step`, where nobody has the turn, or waits for it. Else raises lock.Taken."""
        turns = self._lock()
        if not turns.at_once():
            raise lock.Taken
        try:
            return step()
        finally:
            turns.give()

    def _lock(self) -> lock.Turns:
        """The lock beside the database; another one where another database has taken its place."""
        if self._turns is not None and self._turns_of != self.inode:
            self._turns.close()
            self._turns = None
        if self._turns is None:
            # The lock is made after the database: where there is a lock, there has been a database (_open).
            self.made()
            self._turns = lock.Turns(files.provide(self._directory, files.LOCK))
            self._turns_of = self.inode
        return self._turns

    def made(self) -> sqlite3.Connection:
        """The connection of a writer, who makes what is not there."""
        connection = self._open(make=True)
        assert connection is not None  # noqa: S101 - for mypy: only readers may find nothing
        return connection

    def _open(self, make: bool = False) -> sqlite3.Connection | None:
        """The connection; a new one where another file has taken its place, as a restored backup does.

        None for a reader, before anything was written. Raises Fault where something was, and is there no more.
        """
        if self._connection is not None:
            if files.inode(self._path) == self.inode:
                return self._connection
            self._connection.close()
            self._connection = None
        # Looked for first: a writer who comes between us and the file makes both, the database before these.
        traces = self.inode != (0, 0) or files.exists(self._directory, files.LOCK)
        if not files.exists(self._directory, files.DATABASE):
            if traces or files.exists(self._directory, files.LOG):
                raise Fault("the state is gone") from Detail(f"{self._path}: {_GONE}")
            if not make:
                os.stat(self._directory)  # which has to be there: a disk that is not mounted is no empty state
                return None
        return self._connect(make, traces)

    def _connect(self, make: bool, traces: bool) -> sqlite3.Connection | None:
        path = files.provide(self._directory, files.DATABASE)
        inode = files.inode(path)  # before the connection: a file replaced in between is noticed at the next use
        connection = _connection(path, self._threads)
        try:
            if not _prepared(connection, path, make, traces):
                connection.close()
                return None
        except BaseException:
            connection.close()
            raise
        self.inode = inode
        self._connection = connection
        return connection


def _code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def busy(error: BaseException) -> bool:
    """Whether somebody else held the database: to be tried again."""
    return isinstance(error, sqlite3.Error) and _code(error) in _BUSY


_GONE = f"missing or empty. Restore it, or remove {files.LOCK} and {files.LOG} beside it, end what runs, and begin anew"


def _connection(path: str, threads: bool) -> sqlite3.Connection:
    # mode=rw: a file deleted since provide() is not made anew by SQLite, with an owner of its own choice.
    uri = "file:" + path.replace("%", "%25").replace("?", "%3f").replace("#", "%23") + "?mode=rw"
    connection = sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None, check_same_thread=not threads)
    connection.text_factory = to_text
    return connection


def blank() -> sqlite3.Connection:
    """A database of this version that is in memory, and empty."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.text_factory = to_text
    transaction(connection, take_steps, "OFF")
    return connection


def _prepared(connection: sqlite3.Connection, path: str, make: bool, traces: bool) -> bool:
    """Brought to this version. False where there is nothing in it yet and nothing may be made."""
    # The next process to open the file reads this much of the log at most, if none has it open (see the top).
    connection.execute("PRAGMA wal_autocheckpoint = 100")
    connection.execute(f"PRAGMA journal_size_limit = {wal.KEPT}")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > schema.VERSION:
        raise Fault("the state was written by a newer version") from Detail(f"{path}: version {version}")
    if version < schema.VERSION:
        if version == 0 and not connection.execute("SELECT 1 FROM sqlite_master").fetchone():
            if traces:
                raise Fault("the state is gone") from Detail(f"{path}: {_GONE}")
            if not make:
                return False
        connection.execute("PRAGMA journal_mode = WAL")
        transaction(connection, take_steps, "FULL")
    return True


def take_steps(connection: sqlite3.Connection) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version == 0 and connection.execute("SELECT 1 FROM sqlite_master").fetchone():
        raise Fault("the state file belongs to another program")
    for step in schema.STEPS[version:]:
        for sql in step:
            connection.execute(sql)
    connection.execute(f"PRAGMA user_version = {schema.VERSION}")


def transaction(
    connection: sqlite3.Connection, change: Callable[[sqlite3.Connection], T], synchronous: str, dry: bool = False
) -> T:
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    connection.execute("BEGIN IMMEDIATE")
    try:
        result = change(connection)
        connection.execute("ROLLBACK" if dry else "COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite ends it by itself where the disk is full
            connection.execute("ROLLBACK")
        raise
    return result


def to_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def to_text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
