"""What rules remember of strangers: `seen`, `greylist`, `rate`. Each is one short transaction; most need no write.

Every row has an end, `expires`. What is past it is taken away a few rows with each new one: those that lie after a
random point. Keys are digests, so each row is met as often as any other; with ROWS_LOOKED_AT at a time, not more than
about one row of seven is ever out of date. There is no other index to keep, and no sweep that a mail would pay for.
"""

from __future__ import annotations

import os

from postroom.store import greylisting, schema, window
from postroom.store.clock import SECOND, micro, seconds
from postroom.store.greylisting import NOTED, Terms, judge
from postroom.store.names import DIGEST_SIZE, digest, label

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from postroom.store.engine import Engine

    Limits = Sequence[tuple[int, float]]
    Key = tuple[str, ...]

# Strangers cause rows: 35 to 180 bytes each, a rate up to 1100. Where there are as many as this, a new one takes the
# place of the one, among those looked at, that would have ended first: of a greylist, who has never come back.
MAX_ROWS = 1_000_000
ROWS_LOOKED_AT = 8
# smtpd(8) asks for each recipient of a message, and a slow client may take hours over a thousand of them.
ONCE_LIFETIME = 6 * 3600
# That a rate was refused is for people to read: under a flood, it is noted this seldom.
REFUSAL_NOTED = 10 * SECOND


def seen(store: Engine, name: str, key: Key, within: float, once: str = "") -> bool:
    """Whether the key was met within so many seconds before. From now on it was.

    Who meets it first is told so again for the same `once`. Met again within a thousandth of `within`, it is not
    written anew: it may be forgotten that much early.
    """
    k, span = digest(b"seen", name, key), micro(within)
    o = digest(b"first", name, (*key, once)) if once else b""
    if o and _told(store, o) is not None:
        return False
    found = store.read(schema.SEEN, (k,))
    if found and 0 <= store.now_to_read() - found[0][0] <= span // NOTED:
        return True

    def meet(connection: sqlite3.Connection) -> bool:
        now = store.now(connection)
        if o and connection.execute(schema.VERDICT, (o, now)).fetchone() is not None:
            return False
        row = connection.execute(schema.SEEN, (k,)).fetchone()
        if row is None:
            _make_room(connection, "seen", now)
        connection.execute(schema.MEET, (k, now, now + span, *_texts(name, key)))
        met = row is not None and now - row[0] <= span
        if o and not met:
            _make_room(connection, "verdicts", now)
            connection.execute(schema.TELL, (o, 0, now + micro(ONCE_LIFETIME)))
        return met

    return store.write(meet, "NORMAL")


def greylist(
    store: Engine, pool: str, key: Key, delay: float, retry: float, lifetime: float, auto_allow: int = 0
) -> int:
    """Seconds that this key of this pool of clients has to wait still; 0: it may pass (greylisting.py)."""
    terms = Terms(micro(delay), micro(retry), micro(lifetime), auto_allow)
    p = digest(b"pool", pool, ())
    k = digest(b"greylist", pool, key)
    found = store.read(schema.GREYLIST_AND_POOL, (p, k))
    entry, allowed = _entries(found[0] if found else (None,) * 5)
    wait, change = judge(entry, allowed, store.now_to_read(), terms)
    if change == greylisting.NOTHING:
        return seconds(wait)

    def pass_or_wait(connection: sqlite3.Connection) -> int:
        now = store.now(connection)
        entry, allowed = _entries(connection.execute(schema.GREYLIST_AND_POOL, (p, k)).fetchone())
        wait, change = judge(entry, allowed, now, terms)
        _note(connection, change, (k, p), (pool, key), entry, now, terms)
        return seconds(wait)

    return store.write(pass_or_wait, "NORMAL")


def _note(
    connection: sqlite3.Connection,
    change: int,
    digests: tuple[bytes, bytes],
    texts: tuple[str, Key],
    entry: greylisting.Entry | None,
    now: int,
    terms: Terms,
) -> None:
    """Write what follows from a judgement."""
    (k, p), (pool, key) = digests, texts
    if change == greylisting.USE:
        connection.execute(schema.USE_GREYLIST, (now, now + terms.lifetime, k))
    elif change == greylisting.USE_POOL:
        connection.execute(schema.USE_POOL, (now, now + terms.lifetime, p))
    elif change in (greylisting.START, greylisting.PASS):
        if entry is None:
            _make_room(connection, "greylist", now)
        passed = change == greylisting.PASS
        first = entry[0] if entry and passed else now
        expires = now + (terms.lifetime if passed else max(terms.retry, terms.delay))
        row = (k, p, first, now, first + terms.delay, passed, expires, _label((pool,)), _label(key))
        connection.execute(schema.GREYLIST, row)
        if passed and terms.auto_allow > 0:
            _allow(connection, p, pool, now, terms)


def rate(store: Engine, name: str, key: Key, limits: Limits, amount: int = 1, once: str = "") -> int:
    """Count `amount`, if that stays within all limits: 0. Else it is not counted: seconds until it would fit.

    What never fits is told to wait for the whole window. The same `once` counts once, and is told the same until
    that wait is over, or for ONCE_LIFETIME.
    """
    k = digest(b"rate", name, key)
    o = digest(b"once", name, (*key, once)) if once else b""
    terms = _windows(limits)
    amount = min(max(0, amount), window.LARGEST)
    known = _told(store, o) if o else _refused(store, k, terms, amount)
    if known is not None:
        return known

    def count(connection: sqlite3.Connection) -> int:
        now = store.now(connection)
        told = connection.execute(schema.VERDICT, (o, now)).fetchone() if o else None
        if told is not None:
            return _left(told[0], now)
        wait = _count(connection, k, terms, amount, now, _texts(name, key))
        if o:
            _make_room(connection, "verdicts", now)
            # A refusal holds until it said that there would be room; then it is judged anew.
            kept = min(wait or micro(ONCE_LIFETIME), micro(ONCE_LIFETIME))
            connection.execute(schema.TELL, (o, now + wait if wait else 0, now + kept))
        return seconds(wait)

    return store.write(count, "NORMAL")


def _told(store: Engine, o: bytes) -> int | None:
    now = store.now_to_read()
    told = store.read(schema.VERDICT, (o, now))
    return _left(told[0][0], now) if told else None


def _refused(store: Engine, k: bytes, terms: dict[int, int], amount: int) -> int | None:
    """Seconds to wait, where a look at the rows is enough to say so, and nothing has to be written."""
    rows = {row[0]: row for row in store.read(schema.RATES, (k,))}
    now = store.now_to_read()
    wait = 0
    for span, most in terms.items():
        _, _, data, refused = rows.get(span, (0, 0, b"", 0))
        waits = window.wait(window.live(window.unpack(data), span, now), most, span, now, amount)
        if waits and now - refused >= REFUSAL_NOTED:
            return None
        wait = max(wait, waits)
    return seconds(wait) if wait else None


def _count(
    connection: sqlite3.Connection, k: bytes, terms: dict[int, int], amount: int, now: int, texts: tuple[bytes, bytes]
) -> int:
    """Microseconds to wait, or 0 and it is counted."""
    rows = {row[0]: row for row in connection.execute(schema.RATES, (k,)).fetchall()}
    counted = {span: window.live(window.unpack(rows[span][2]), span, now) if span in rows else [] for span in terms}
    waits = {span: window.wait(counted[span], most, span, now, amount) for span, most in terms.items()}
    wait = max(waits.values(), default=0)
    for span, most in terms.items():
        if span not in rows:
            _make_room(connection, "rates", now)
        if not wait and amount:
            counted[span] = window.add(counted[span], span, now, amount)
        refused = now if waits[span] else rows[span][3] if span in rows else 0
        expires = now + span + window.width(span)
        values = (k, span, most, window.pack(counted[span]), refused, expires, *texts)
        connection.execute(schema.RATE, values)
    return wait


def _windows(limits: Limits) -> dict[int, int]:
    """Window -> the most that fits into it."""
    found: dict[int, int] = {}
    for most, span in limits:
        found[micro(span)] = min(most, found.get(micro(span), window.LARGEST))
    return found


def _left(until: int, now: int) -> int:
    return seconds(max(1, until - now)) if until else 0


def _entries(row: tuple[int | None, ...]) -> tuple[greylisting.Entry | None, greylisting.Pool | None]:
    first, last, passed, passes, used = row
    entry = None if first is None or last is None or passed is None else (first, last, passed)
    return entry, None if passes is None or used is None else (passes, used)


def _allow(connection: sqlite3.Connection, p: bytes, pool: str, now: int, terms: Terms) -> None:
    """Let the whole pool pass, where enough of its keys have passed and are remembered."""
    passed = connection.execute(schema.PASSED, (p, now - terms.lifetime, terms.auto_allow)).fetchone()[0]
    if passed >= terms.auto_allow:
        allow(connection, p, passed, now, terms.lifetime, _label((pool,)))


def allow(connection: sqlite3.Connection, p: bytes, passes: int, now: int, lifetime: int, client: bytes) -> None:
    _make_room(connection, "pools", now)
    connection.execute(schema.ALLOW, (p, passes, now, now + lifetime, client))


def _make_room(connection: sqlite3.Connection, table: str, now: int) -> None:
    """Before a new row: take away what has expired among a few, or where the table is full, one that has not."""
    sample = schema.SAMPLE[table]
    rows = connection.execute(sample, (os.urandom(DIGEST_SIZE), ROWS_LOOKED_AT)).fetchall()
    if len(rows) < ROWS_LOOKED_AT:  # the table's end: on from its beginning, so that the last row is never judged alone
        rows += connection.execute(sample, (b"", ROWS_LOOKED_AT - len(rows))).fetchall()
    gone = [row for row in rows if row[1] <= now]
    if not gone and rows and connection.execute(schema.TALLY, (table,)).fetchone()[0] >= MAX_ROWS:
        gone = [min(rows, key=lambda row: row[1])]
    connection.executemany(schema.DROP[table], gone)


def _label(key: Key) -> bytes:
    return label(key).encode("utf-8", "replace")


def _texts(name: str, key: Key) -> tuple[bytes, bytes]:
    return _label((name,)), _label(key)
