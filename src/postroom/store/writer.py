"""The one thread of a process that writes to a state: what waits for it becomes one transaction, and one fsync.

    wait for a change  ->  take turns (lock.py)  ->  BEGIN  ->  each change in a SAVEPOINT  ->  COMMIT  ->  answer

* Nobody is answered before the commit, which is made as durable as the strictest in it asks for.
* A change that raises is taken back alone, and its caller told; when the commit fails, nothing of it is kept, and all
  are told.
* A change is a caller's until it is taken: at the caller's deadline it is withdrawn, and will not be made.
* The turn is given back after BATCH_TIME at the latest: programs alone wait for it, too.
* Who comes while the thread sleeps, for a change that is not synced, makes it in the own thread, together with what
  comes meanwhile: to wake a thread and to be woken costs more than such a commit. Where the turn is not to be had at
  once, the thread waits for it.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from _thread import allocate_lock, start_new_thread
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from postroom.deadline import Deadline
from postroom.status import Fault
from postroom.store import engine, lock
from postroom.store.engine import Engine

T = TypeVar("T")

# A commit of more is hardly cheaper for each, and a failed one would take more with it.
MAX_BATCH = 500
# No change is begun later in a transaction than this; a hundred take about a millisecond.
BATCH_TIME = 0.02
# Even past its deadline a write has this long: what was delivered is better recorded late than not at all.
LEAST_TIME = 0.1
CLOSE_TIME = 5.0

# What this process did: transactions; the changes in them; those that failed, or were withdrawn. Read by the metrics.
counts = {"batches": 0, "changes": 0, "failures": 0}


class Change:
    """What somebody wants to be written, and what came of it."""

    __slots__ = ("answered", "error", "result", "synchronous", "work")

    def __init__(self, work: Callable[[sqlite3.Connection], Any], synchronous: str) -> None:
        self.work = work
        self.synchronous = synchronous
        self.result: Any = None
        self.error: BaseException | None = None
        self.answered = allocate_lock()
        self.answered.acquire()


class Writer:
    def __init__(self, directory: str) -> None:
        self.engine = Engine(directory, Deadline(0), threads=True)
        self.closed = False
        self._waiting: deque[Change] = deque()
        self._mutex = allocate_lock()  # over what waits, and whether the thread sleeps
        self._asleep = False  # the thread, and nobody writes in its place
        self._long = False  # the log, for the thread to see to
        self._held_up: float | None = None  # since when somebody else has had the database
        self._wake = allocate_lock()
        self._wake.acquire()
        self._ended = allocate_lock()
        self._ended.acquire()
        start_new_thread(self._run, ())

    def write(self, work: Callable[[sqlite3.Connection], T], synchronous: str, deadline: Deadline) -> T:
        """What `work` returned, once that is committed."""
        change = Change(work, synchronous)
        with self._mutex:
            if self.closed:
                raise Fault("the state is closed")
            self._waiting.append(change)
            alone = self._asleep and synchronous == "NORMAL"
            if alone:
                self._asleep = False
            else:
                self._rouse()
        if alone:
            self._write_here()
        if not change.answered.acquire(timeout=max(LEAST_TIME, lock.left(deadline))):
            self._give_up(change)
        if change.error is not None:
            raise self._told(change.error)
        result: T = change.result
        return result

    def close(self) -> None:
        """Write what waits, and end; but do not wait for ever for who has the lock."""
        with self._mutex:
            self.closed = True
            self._rouse()
        self._ended.acquire(timeout=CLOSE_TIME)

    def _write_here(self) -> None:
        """In the thread's place; what is left to do is for the thread."""
        try:
            self._round(here=True)
            self._long = self.engine.log.long()
        finally:
            with self._mutex:
                self._asleep = True
                if self._waiting or self.closed or self._long:
                    self._rouse()

    def _rouse(self) -> None:
        if self._asleep:
            self._asleep = False
            self._wake.release()

    def _give_up(self, change: Change) -> None:
        """At the deadline: withdraw what was not taken yet; what was, is about to be answered."""
        with self._mutex:
            if change in self._waiting:
                self._waiting.remove(change)
                counts["failures"] += 1
                raise Fault("the state is locked") from self.engine.detail(TimeoutError("no turn to write in time"))
        if not change.answered.acquire(timeout=lock.ANSWER_TIME / 2):
            raise Fault("the state is slow to answer") from self.engine.detail(
                TimeoutError("taken, its commit not seen in time")
            )

    def _told(self, error: BaseException) -> BaseException:
        """The error as its caller is to see it: of its own, since one that is shared would collect tracebacks."""
        if isinstance(error, sqlite3.Error | OSError):
            fault = self.engine.fault(error)
            fault.__cause__ = self.engine.detail(error)
            return fault
        if isinstance(error, Fault):
            fault = type(error)(str(error))
            fault.__cause__ = error.__cause__
            return fault
        return error

    # --- the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._something_to_do():
                if self._waiting:
                    self._round()
                if self.engine.log.long():
                    self._shorten()
        finally:
            self.engine.close()
            self._ended.release()

    def _something_to_do(self) -> bool:
        """Sleep until there is. False where there never will be."""
        while True:
            with self._mutex:
                if self._waiting or self.closed:
                    return bool(self._waiting)
                if self._long:
                    self._long = False
                    return True
                self._asleep = True
            self._wake.acquire()

    def _round(self, here: bool = False) -> None:
        taken: list[Change] = []
        try:
            (self.engine.at_once if here else self.engine.in_turn)(lambda: self._together(taken))
        except BaseException as error:  # whatever it is, somebody waits to be told
            if not taken and here and (engine.busy(error) or isinstance(error, lock.Taken)):
                return  # the thread has the patience for it
            if not taken and engine.busy(error):
                self._held_up = self._held_up or time.monotonic()
                lock.pause(Deadline(1), self._held_up)
                return
            self.engine.close()  # what a failed commit leaves of a connection, nobody knows
            taken = taken or self._take_all()
            for change in taken:
                change.error = change.error or error
        self._held_up = None
        self._answer(taken)

    def _answer(self, taken: list[Change]) -> None:
        failed = sum(change.error is not None for change in taken)
        with self._mutex:
            counts["batches"] += failed < len(taken)
            counts["changes"] += len(taken) - failed
            counts["failures"] += failed
        for change in taken:
            change.answered.release()

    def _shorten(self) -> None:
        """The log, after the answers: it may have to wait for readers."""
        with contextlib.suppress(sqlite3.Error, OSError, Fault):  # who writes next is told
            self.engine.in_turn(lambda: self.engine.log.empty(self.engine.made(), patient=True))

    def _together(self, taken: list[Change]) -> None:
        connection = self.engine.made()
        with self._mutex:
            strict = any(change.synchronous == "FULL" for change in self._waiting)
        synchronous = "FULL" if strict else "NORMAL"
        engine.transaction(connection, lambda opened: self._make_all(opened, taken, strict), synchronous)

    def _make_all(self, connection: sqlite3.Connection, taken: list[Change], strict: bool) -> None:
        end = time.monotonic() + BATCH_TIME
        while len(taken) < MAX_BATCH and (change := self._take(strict)) is not None:
            taken.append(change)
            _make(connection, change, first=len(taken) == 1)
            if time.monotonic() >= end:
                break

    def _take(self, strict: bool) -> Change | None:
        """The next; one that asks for more than this transaction gives begins another."""
        with self._mutex:
            if self._waiting and (strict or self._waiting[0].synchronous != "FULL"):
                return self._waiting.popleft()
        return None

    def _take_all(self) -> list[Change]:
        with self._mutex:
            waiting = list(self._waiting)
            self._waiting.clear()
        return waiting


def _make(connection: sqlite3.Connection, change: Change, first: bool) -> None:
    """`first`: of a transaction, which is its own savepoint then."""
    if not first:
        connection.execute("SAVEPOINT one")
    try:
        change.result = change.work(connection)
    except BaseException as error:
        if not connection.in_transaction:
            raise  # SQLite has taken back all of the transaction: nobody's change was made
        if first:
            connection.execute("ROLLBACK")
            connection.execute("BEGIN IMMEDIATE")
        else:
            connection.execute("ROLLBACK TO one")
        change.error = error
    if not first:
        connection.execute("RELEASE one")
