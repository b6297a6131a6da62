"""The store in one SQLite file: no server to run, safe with many short-lived processes at once.

Events and suppressions are synced before the call returns (synchronous=FULL): Postfix forgets the bounce as soon as
we have exited 0. Deliveries and counters are not (NORMAL): a process that dies loses nothing either way. A power cut
that takes the last deliveries away has those mails delivered once more, as it may in any case; of counters it takes
what passed in the seconds before.
"""

from __future__ import annotations

from postroom.deadline import Deadline
from postroom.store import engine, schema
from postroom.store.address import fold
from postroom.store.clock import SECOND
from postroom.store.engine import PAGE, Engine
from postroom.store.engine import to_bytes as _bytes
from postroom.store.values import Event, Reported, Suppression

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any, TypeVar

    from postroom.store.counters import Key, Limits
    from postroom.store.rows import Greylisted, Met, Pool, Rate

    T = TypeVar("T")
    Row = tuple[Any, ...]

# Postfix gives a mail up after five days (maximal_queue_lifetime); what it repeats later comes from a restored backup.
DELIVERY_LIFETIME = 30 * 86400
# Long enough for "the same week of last year"; strangers can cause events, so there has to be an end.
EVENT_LIFETIME = 400 * 86400
# Old rows taken away with each new one: more than one, so that a backlog shrinks; few, so that no mail pays for it.
PRUNED_PER_CALL = 8
# A delivery that was not claimed takes old rows away by its key, a digest: two on average.
PRUNED_ONE_IN = 4
# A stranger's text, kept for a person to read.
MAX_TEXT = 1000
# Nobody else has a store in memory.
NO_WAIT = 1.0


class SqliteStore(Engine):
    def suppression(self, address: str) -> Suppression | None:
        rows = self.read(schema.SUPPRESSION, (_bytes(fold(address)),))
        found = Suppression(*rows[0]) if rows else None
        return found if found and found.in_force(self.clock()) else None

    def suppress(self, suppression: Suppression) -> bool:
        return self.write(lambda connection: _suppress(connection, suppression, self.clock()), "FULL")

    def unsuppress(self, address: str) -> bool:
        def delete(connection: sqlite3.Connection) -> bool:
            return connection.execute(schema.UNSUPPRESS, (_bytes(fold(address)), self.clock())).rowcount > 0

        return self.write(delete, "FULL")

    def suppressions(self) -> Iterator[Suppression]:
        last, now = b"", int(self.clock())
        while rows := self.read(schema.SUPPRESSIONS, (last, now, PAGE)):
            for row in rows:
                yield Suppression(*row[1:])
            last = _bytes(rows[-1][0])

    def record(self, event: Event, suppress: Sequence[Suppression] = ()) -> bool:
        def insert(connection: sqlite3.Connection) -> bool:
            if not _insert_event(connection, event):
                return False
            for suppression in suppress:
                _suppress(connection, suppression, self.clock())
            self._prune_events(connection)
            return True

        return self.write(insert, "FULL")

    def events(self, kind: str | None = None, since: int = 0) -> Iterator[Event]:
        last = 0
        while rows := self.read(schema.EVENTS, (last, since, kind, PAGE)):
            for row in rows:
                yield self._event(*row)
            last = rows[-1][0]

    def claim(self, key: bytes) -> str | None:
        def start(connection: sqlite3.Connection) -> str | None:
            row = connection.execute(schema.OUTCOME, (key,)).fetchone()
            if row is not None:
                outcome: str | None = row[0]
                return outcome
            now = self.now(connection) // SECOND
            connection.execute(schema.START, (key, now))
            connection.execute(schema.DROP_DELIVERIES, (now - DELIVERY_LIFETIME, PRUNED_PER_CALL))
            return None

        return self.write(start, "NORMAL")

    def outcome(self, key: bytes) -> str | None:
        rows = self.read(schema.OUTCOME, (key,))
        return rows[0][0] if rows else None

    def done(self, key: bytes, text: str) -> None:
        def write(connection: sqlite3.Connection) -> None:
            now = self.now(connection) // SECOND
            connection.execute(schema.DONE, (key, now, _bytes(text[:MAX_TEXT])))
            if not key[-1] % PRUNED_ONE_IN:  # not every delivery is claimed
                connection.execute(schema.DROP_DELIVERIES, (now - DELIVERY_LIFETIME, PRUNED_PER_CALL))

        self.write(write, "NORMAL")

    # Counters and lists of them: a delivery asks for none, and is spared their imports.

    def seen(self, name: str, key: Key, within: float, once: str = "") -> bool:
        from postroom.store import counters

        return counters.seen(self, name, key, within, once)

    def greylist(self, pool: str, key: Key, delay: float, retry: float, lifetime: float, auto_allow: int = 0) -> int:
        from postroom.store import counters

        return counters.greylist(self, pool, key, delay, retry, lifetime, auto_allow)

    def rate(self, name: str, key: Key, limits: Limits, amount: int = 1, once: str = "") -> int:
        from postroom.store import counters

        return counters.rate(self, name, key, limits, amount, once)

    def counts(self) -> dict[str, int]:
        from postroom.store import listing

        return listing.counts(self)

    def rates(self) -> Iterator[Rate]:
        from postroom.store import listing

        return listing.rates(self)

    def greylisted(self) -> Iterator[Greylisted]:
        from postroom.store import listing

        return listing.greylisted(self)

    def pools(self) -> Iterator[Pool]:
        from postroom.store import listing

        return listing.pools(self)

    def met(self) -> Iterator[Met]:
        from postroom.store import listing

        return listing.met(self)

    def forget(self, id: str) -> int:
        from postroom.store import listing

        return listing.forget(self, id)

    def let_pass(self, id: str, pool: bool = False) -> str | None:
        from postroom.store import listing

        return listing.let_pass(self, id, pool)

    def _prune_events(self, connection: sqlite3.Connection) -> None:
        """Those that are old by the clock and by the store's own time, of which at least one is right."""
        before = min(int(self.clock()), self.now(connection) // SECOND) - EVENT_LIFETIME
        old = connection.execute(schema.OLD_EVENTS, (before, PRUNED_PER_CALL)).fetchall()
        for sql in schema.DROP_EVENT:
            connection.executemany(sql, old)

    def _event(self, number: int, key: bytes, at: int, kind: str, authentic: str, queue_id: str) -> Event:
        recipients = [Reported(*row) for row in self.read(schema.RECIPIENTS, (number,))]
        fields: dict[str, str] = dict(self.read(schema.FIELDS, (number,)))
        return Event(key, at, kind, authentic, queue_id, recipients, fields, number)


def _suppress(connection: sqlite3.Connection, new: Suppression, now: float) -> bool:
    key = _bytes(fold(new.address))
    connection.execute(schema.EXPIRE, (key, int(now)))
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


class Memory(SqliteStore):
    """The same, for as long as the object lives: for tests in a rules file, and for replays. It touches no file."""

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        super().__init__(":memory:", Deadline(NO_WAIT), clock)

    def _open(self, make: bool = False) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = engine.blank()
        return self._connection

    def _locked(self, step: Callable[[], T]) -> T:
        return step()
