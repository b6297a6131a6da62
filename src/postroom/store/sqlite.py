"""The store in one SQLite file: no server to run, safe with many short-lived processes at once.

* Write-ahead log: readers and the one writer do not wait for each other.
* A write is one transaction, under a lock that is fair (lock.py); nothing else ever waits inside one.
* Events and suppressions are synced before the call returns (synchronous=FULL): Postfix forgets the bounce as soon
  as we have exited 0. Deliveries are not (NORMAL): a process that dies loses nothing either way, and a power cut that
  takes the last of them away has those mails delivered once more, as it may in any case.
* Programs leave by os._exit without close(): SQLite takes that for a crash, which its log is made for, and the next
  process is spared the two syncs of emptying the log at each close.

sqlite3 is the public module, not _sqlite3: the difference is 0.2 of a bare interpreter start.
"""

from __future__ import annotations

import os
import sqlite3
import time

from postroom.status import Fault
from postroom.store import files, lock, schema
from postroom.store.address import fold
from postroom.store.values import Event, Reported, Suppression

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any, TypeVar

    from postroom.deadline import Deadline

    T = TypeVar("T")
    Row = tuple[Any, ...]

# Postfix gives a mail up after five days (maximal_queue_lifetime); what it repeats later comes from a restored backup.
DELIVERY_LIFETIME = 30 * 86400
# Long enough for "the same week of last year"; strangers can cause events, so there has to be an end.
EVENT_LIFETIME = 400 * 86400
# Old rows taken away with each new one: more than one, so that a backlog shrinks; few, so that no mail pays for it.
PRUNED_PER_CALL = 8
# A stranger's text, kept for a person to read.
MAX_TEXT = 1000
# Rows that a listing holds at a time; between two pages others may write.
PAGE = 500

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


class Detail(Exception):
    """What the log says beyond the Fault, and a stranger is not told: the file, and SQLite's own words."""


class SqliteStore:
    def __init__(self, directory: str, deadline: Deadline) -> None:
        self.deadline = deadline
        self._directory = directory
        self._path = f"{directory}/{files.DATABASE}"
        self._lock_fd = -1
        self._inode = (0, 0)
        self._connection: sqlite3.Connection | None = None

    def suppression(self, address: str) -> Suppression | None:
        rows = self._read(schema.SUPPRESSION, (_bytes(fold(address)),))
        found = Suppression(*rows[0]) if rows else None
        return found if found and found.in_force(time.time()) else None

    def suppress(self, suppression: Suppression) -> bool:
        return self._write(lambda connection: _suppress(connection, suppression), "FULL")

    def unsuppress(self, address: str) -> bool:
        def delete(connection: sqlite3.Connection) -> bool:
            return connection.execute(schema.UNSUPPRESS, (_bytes(fold(address)), time.time())).rowcount > 0

        return self._write(delete, "FULL")

    def suppressions(self) -> Iterator[Suppression]:
        last, now = b"", int(time.time())
        while rows := self._read(schema.SUPPRESSIONS, (last, now, PAGE)):
            for row in rows:
                yield Suppression(*row[1:])
            last = _bytes(rows[-1][0])

    def record(self, event: Event, suppress: Sequence[Suppression] = ()) -> bool:
        def insert(connection: sqlite3.Connection) -> bool:
            if not _insert_event(connection, event):
                return False
            for suppression in suppress:
                _suppress(connection, suppression)
            _prune_events(connection)
            return True

        return self._write(insert, "FULL")

    def events(self, kind: str | None = None, since: int = 0) -> Iterator[Event]:
        last = 0
        while rows := self._read(schema.EVENTS, (last, since, kind, PAGE)):
            for row in rows:
                yield self._event(*row)
            last = rows[-1][0]

    def claim(self, key: bytes) -> str | None:
        def start(connection: sqlite3.Connection) -> str | None:
            row = connection.execute(schema.OUTCOME, (key,)).fetchone()
            if row is not None:
                outcome: str | None = row[0]
                return outcome
            connection.execute(schema.START, (key, int(time.time())))
            _prune_deliveries(connection)
            return None

        return self._write(start, "NORMAL")

    def done(self, key: bytes, text: str) -> None:
        values = (key, int(time.time()), _bytes(text[:MAX_TEXT]))
        self._write(lambda connection: connection.execute(schema.DONE, values), "NORMAL")

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def _event(self, number: int, key: bytes, at: int, kind: str, authentic: str, queue_id: str) -> Event:
        recipients = [Reported(*row) for row in self._read(schema.RECIPIENTS, (number,))]
        fields: dict[str, str] = dict(self._read(schema.FIELDS, (number,)))
        return Event(key, at, kind, authentic, queue_id, recipients, fields, number)

    def _read(self, sql: str, values: Sequence[object]) -> list[Row]:
        return self._try(lambda: self._open().execute(sql, values).fetchall())

    def _write(self, change: Callable[[sqlite3.Connection], T], synchronous: str) -> T:
        """`change` as one transaction: all of it, or nothing and a Fault."""
        return self._try(lambda: self._locked(lambda: _transaction(self._open(), change, synchronous)))

    def _try(self, step: Callable[[], T]) -> T:
        """`step`, tried again while somebody else holds the database, up to the deadline."""
        start = time.monotonic()
        while True:
            try:
                return step()
            except sqlite3.Error as error:
                code = getattr(error, "sqlite_errorcode", 0) & 0xFF
                if code not in _BUSY or lock.over(self.deadline):
                    raise Fault(_FAULTS.get(code, "the state cannot be used")) from Detail(f"{self._path}: {error}")
                lock.pause(self.deadline, start)
            except OSError as error:
                raise Fault("the state cannot be opened") from Detail(f"{self._path}: {error}")

    def _locked(self, step: Callable[[], T]) -> T:
        if self._lock_fd < 0:
            path = files.provide(self._directory, files.LOCK)
            self._lock_fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        if not lock.take(self._lock_fd, self.deadline):
            raise Fault("the state is locked") from Detail(f"{self._directory}/{files.LOCK}")
        try:
            return step()
        finally:
            lock.give(self._lock_fd)

    def _open(self) -> sqlite3.Connection:
        """The connection; a new one where the file behind it was deleted or replaced, as by a restored backup."""
        if self._connection is not None:
            if _inode(self._path) == self._inode:
                return self._connection
            self._connection.close()
            self._connection = None
        path = files.provide(self._directory, files.DATABASE)
        inode = _inode(path)  # before the connection: a file replaced in between is noticed at the next use
        connection = _connect(path)
        try:
            _prepare(connection, path)
        except BaseException:
            connection.close()
            raise
        self._inode = inode
        self._connection = connection
        return connection


def _inode(path: str) -> tuple[int, int]:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return (0, 0)
    return (found.st_dev, found.st_ino)


def _connect(path: str) -> sqlite3.Connection:
    # mode=rw: a file deleted since provide() is not made anew by SQLite, with an owner of its own choice.
    uri = "file:" + path.replace("%", "%25").replace("?", "%3f").replace("#", "%23") + "?mode=rw"
    connection = sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None)
    connection.text_factory = _text
    return connection


def _prepare(connection: sqlite3.Connection, path: str) -> None:
    # The next process to open the file reads this much of the log at most, if none has it open (see the top).
    connection.execute("PRAGMA wal_autocheckpoint = 100")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > schema.VERSION:
        raise Fault("the state was written by a newer version") from Detail(f"{path}: version {version}")
    if version < schema.VERSION:
        connection.execute("PRAGMA journal_mode = WAL")
        _transaction(connection, _take_steps, "FULL")


def _take_steps(connection: sqlite3.Connection) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version == 0 and connection.execute("SELECT 1 FROM sqlite_master").fetchone():
        raise Fault("the state file belongs to another program")
    for step in schema.STEPS[version:]:
        for sql in step:
            connection.execute(sql)
    connection.execute(f"PRAGMA user_version = {schema.VERSION}")


def _transaction(connection: sqlite3.Connection, change: Callable[[sqlite3.Connection], T], synchronous: str) -> T:
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    connection.execute("BEGIN IMMEDIATE")
    try:
        result = change(connection)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite ends it by itself where the disk is full
            connection.execute("ROLLBACK")
        raise
    return result


def _suppress(connection: sqlite3.Connection, new: Suppression) -> bool:
    key = _bytes(fold(new.address))
    connection.execute(schema.EXPIRE, (key, int(time.time())))
    texts = [_bytes(text[:MAX_TEXT]) for text in (new.reason, new.status, new.why, new.source)]
    added = connection.execute(schema.SUPPRESS, (key, _bytes(new.address), new.since, *texts, new.until))
    if added.rowcount <= 0:
        connection.execute(schema.PROLONG, (new.until, key))
    return added.rowcount > 0


def _insert_event(connection: sqlite3.Connection, event: Event) -> bool:
    values = (event.key, event.at, event.kind, event.authentic, _bytes(event.queue_id))
    added = connection.execute(schema.ADD_EVENT, values)
    if added.rowcount <= 0:
        return False
    number = added.lastrowid
    recipients = ((number, place, *_columns(reported)) for place, reported in enumerate(event.recipients))
    connection.executemany(schema.ADD_RECIPIENT, recipients)
    fields = ((number, name, _bytes(value[:MAX_TEXT])) for name, value in event.fields.items())
    connection.executemany(schema.ADD_FIELD, fields)
    return True


def _columns(reported: Reported) -> tuple[object, ...]:
    before = (
        reported.address, reported.original, reported.outcome, reported.status, reported.category, reported.reason,
    )  # fmt: skip
    after = (reported.diagnostic, reported.remote_mta)
    return (
        *(_bytes(text[:MAX_TEXT]) for text in before),
        reported.hard,
        *(_bytes(text[:MAX_TEXT]) for text in after),
    )


def _prune_events(connection: sqlite3.Connection) -> None:
    oldest = connection.execute(schema.OLDEST_EVENTS, (PRUNED_PER_CALL,)).fetchall()
    for sql in schema.DROP_EVENT:
        connection.executemany(sql, _old(oldest, EVENT_LIFETIME))


def _prune_deliveries(connection: sqlite3.Connection) -> None:
    oldest = connection.execute(schema.OLDEST_DELIVERIES, (PRUNED_PER_CALL,)).fetchall()
    connection.executemany(schema.DROP_DELIVERY, _old(oldest, DELIVERY_LIFETIME))


def _old(rows: list[Row], lifetime: int) -> list[tuple[int]]:
    before = time.time() - lifetime
    return [(number,) for number, at in rows if at < before]


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
