"""The tables of the SQLite store, as the steps that lead to them, and the statements over them.

Rules for this file
* A step that has been released is never changed: a new one is added. `PRAGMA user_version` counts those taken.
* Text is bound as bytes and cast: sqlite3 refuses a str with the surrogates of an address that is not UTF-8.
* A file with more steps than this list has was written by a newer Postroom, and is refused.
"""

from __future__ import annotations

STEPS: tuple[tuple[str, ...], ...] = (
    (
        # `key` is address.fold(address).
        "CREATE TABLE suppressions (key TEXT PRIMARY KEY, address TEXT NOT NULL, since INTEGER NOT NULL,"
        " until INTEGER, reason TEXT NOT NULL, status TEXT NOT NULL, why TEXT NOT NULL, source TEXT NOT NULL)"
        " WITHOUT ROWID",
        "CREATE TABLE events (id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, at INTEGER NOT NULL,"
        " kind TEXT NOT NULL, authentic TEXT NOT NULL, queue_id TEXT NOT NULL)",
        "CREATE TABLE event_recipients (event INTEGER NOT NULL, position INTEGER NOT NULL, address TEXT NOT NULL,"
        " original TEXT NOT NULL, outcome TEXT NOT NULL, status TEXT NOT NULL, category TEXT NOT NULL,"
        " reason TEXT NOT NULL, hard INTEGER NOT NULL, diagnostic TEXT NOT NULL, remote_mta TEXT NOT NULL,"
        " PRIMARY KEY (event, position)) WITHOUT ROWID",
        "CREATE TABLE event_fields (event INTEGER NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL,"
        " PRIMARY KEY (event, name)) WITHOUT ROWID",
        # `id` grows with time, so that the oldest rows are found without an index on `started`.
        "CREATE TABLE deliveries (id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, started INTEGER NOT NULL,"
        " outcome TEXT)",
    ),
)
VERSION = len(STEPS)

SUPPRESSION = "SELECT address, since, reason, status, why, source, until FROM suppressions WHERE key = CAST(? AS TEXT)"
SUPPRESSIONS = (
    "SELECT key, address, since, reason, status, why, source, until FROM suppressions"
    " WHERE key > CAST(? AS TEXT) AND (until IS NULL OR until > ?) ORDER BY key LIMIT ?"
)
SUPPRESS = (
    "INSERT INTO suppressions (key, address, since, reason, status, why, source, until)"
    " VALUES (CAST(? AS TEXT), CAST(? AS TEXT), ?, CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS TEXT),"
    " CAST(? AS TEXT), ?)"
    " ON CONFLICT (key) DO NOTHING"
)
# NULL is "for good"; max() of SQLite is NULL where one of the two is.
PROLONG = "UPDATE suppressions SET until = max(until, ?) WHERE key = CAST(? AS TEXT)"
EXPIRE = "DELETE FROM suppressions WHERE key = CAST(? AS TEXT) AND until <= ?"
UNSUPPRESS = "DELETE FROM suppressions WHERE key = CAST(? AS TEXT) AND (until IS NULL OR until > ?)"

EVENTS = (
    "SELECT id, key, at, kind, authentic, queue_id FROM events"
    " WHERE id > ? AND at >= ? AND kind = ifnull(?, kind) ORDER BY id LIMIT ?"
)
RECIPIENTS = (
    "SELECT address, original, outcome, status, category, reason, hard, diagnostic, remote_mta"
    " FROM event_recipients WHERE event = ? ORDER BY position"
)
FIELDS = "SELECT name, value FROM event_fields WHERE event = ?"
ADD_EVENT = (
    "INSERT INTO events (key, at, kind, authentic, queue_id) VALUES (?, ?, ?, ?, CAST(? AS TEXT))"
    " ON CONFLICT (key) DO NOTHING"
)
ADD_RECIPIENT = (
    "INSERT INTO event_recipients"
    " (event, position, address, original, outcome, status, category, reason, hard, diagnostic, remote_mta)"
    " VALUES (?, ?, CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS TEXT),"
    " CAST(? AS TEXT), ?, CAST(? AS TEXT), CAST(? AS TEXT))"
)
ADD_FIELD = "INSERT INTO event_fields (event, name, value) VALUES (?, ?, CAST(? AS TEXT))"
OLDEST_EVENTS = "SELECT id, at FROM events ORDER BY id LIMIT ?"
DROP_EVENT = (
    "DELETE FROM event_recipients WHERE event = ?",
    "DELETE FROM event_fields WHERE event = ?",
    "DELETE FROM events WHERE id = ?",
)

OUTCOME = "SELECT outcome FROM deliveries WHERE key = ?"
START = "INSERT INTO deliveries (key, started) VALUES (?, ?)"
DONE = (
    "INSERT INTO deliveries (key, started, outcome) VALUES (?, ?, CAST(? AS TEXT))"
    " ON CONFLICT (key) DO UPDATE SET outcome = excluded.outcome"
)
OLDEST_DELIVERIES = "SELECT id, started FROM deliveries ORDER BY id LIMIT ?"
DROP_DELIVERY = "DELETE FROM deliveries WHERE id = ?"
