"""What the counters hold, for a person to see, and the few things that a person may change there."""

from __future__ import annotations

from postroom.store import schema, window
from postroom.store.clock import SECOND, micro, seconds
from postroom.store.counters import allow
from postroom.store.engine import PAGE, to_bytes
from postroom.store.greylisting import BY_HAND
from postroom.store.names import DIGEST_SIZE, ID_SIZE
from postroom.store.rows import Greylisted, Met, Pool, Rate

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator
    from typing import Any

    from postroom.store.engine import Engine

# How long what was let pass by hand is remembered, if it is not used: the usual lifetime. Its use makes it the rule's.
BY_HAND_LIFETIME = 35 * 86400


def counts(store: Engine) -> dict[str, int]:
    """Rows by table, those included that have ended and are not taken away yet."""
    counted = dict.fromkeys(schema.REMEMBERED, 0)
    counted.update(store.read(schema.TALLIES))
    return counted


def rates(store: Engine) -> Iterator[Rate]:
    for row in _pages(store, schema.LIST_RATES, 0):
        _, k, span, most, data, refused, name, key = row
        now = store.now_to_read()
        counted = window.live(window.unpack(data), span, now)
        wait = window.wait(counted, most, span, now, 1)
        ago = None if refused == 0 or now - refused > span else _ago(refused, now)
        if counted or ago is not None:
            yield Rate(_id(k), name, key, most, span / SECOND, window.used(counted), seconds(wait), ago)


def greylisted(store: Engine) -> Iterator[Greylisted]:
    for k, first, last, due, passed, ends, client, key in _pages(store, schema.LIST_GREYLIST, b""):
        now = store.now_to_read()
        wait = 0 if passed else seconds(max(0, due - now))
        state = "passed" if passed else "waiting" if wait else "due"
        yield Greylisted(_id(k), client, key, state, wait, _ago(first, now), _ago(last, now), _left(ends, now))


def pools(store: Engine) -> Iterator[Pool]:
    for k, passes, last, ends, client in _pages(store, schema.LIST_POOLS, b""):
        now = store.now_to_read()
        yield Pool(_id(k), client, None if passes == BY_HAND else passes, _ago(last, now), _left(ends, now))


def met(store: Engine) -> Iterator[Met]:
    for k, last, ends, name, key in _pages(store, schema.LIST_SEEN, b""):
        now = store.now_to_read()
        yield Met(_id(k), name, key, _ago(last, now), _left(ends, now))


def forget(store: Engine, id: str) -> int:
    """Take away what a listing shows under this id: the rows that went. Raises ValueError for what is no id."""
    between = _between(id)

    def delete(connection: sqlite3.Connection) -> int:
        return sum(connection.execute(sql, between).rowcount for sql in schema.FORGET.values())

    return store.write(delete, "FULL")


def let_pass(store: Engine, id: str, pool: bool = False) -> str | None:
    """Let a key of the greylist pass from now on, or all of its client's: the client. None: there is no such."""
    between = _between(id)

    def change(connection: sqlite3.Connection) -> str | None:
        now = store.now(connection)
        found: tuple[bytes, bytes, str] | None = connection.execute(schema.WAITING, (*between, now)).fetchone()
        if found is None:
            return None
        k, p, client = found
        if pool:
            allow(connection, p, BY_HAND, now, micro(BY_HAND_LIFETIME), to_bytes(client))
        else:
            connection.execute(schema.LET_THROUGH, (now, now + micro(BY_HAND_LIFETIME), k))
        return client

    return store.write(change, "FULL")


def _pages(store: Engine, sql: str, last: object) -> Iterator[Any]:
    """Rows of a listing, whose first column is what it goes by."""
    while rows := store.read(sql, (last, store.now_to_read(), PAGE)):
        yield from rows
        last = rows[-1][0]


def _id(k: bytes) -> str:
    return k[:ID_SIZE].hex()


def _between(id: str) -> tuple[bytes, bytes]:
    """The first and the last key that begin so."""
    start = bytes.fromhex(id)
    if len(start) != ID_SIZE:
        raise ValueError(f"expected {2 * ID_SIZE} hexadecimal digits")
    rest = DIGEST_SIZE - ID_SIZE
    return start + b"\0" * rest, start + b"\xff" * rest


def _ago(moment: int, now: int) -> int:
    return max(0, now - moment) // SECOND


def _left(moment: int, now: int) -> int:
    return seconds(max(0, moment - now))
