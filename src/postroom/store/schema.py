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
    (
        # By `at`, and not by `id`: one event of a day when the clock was wrong must not keep all older ones.
        "CREATE INDEX events_at ON events (at)",
        # From here on `started` is of the store's own time (clock.py), which never is later than the row's.
        "UPDATE deliveries SET started = CAST(strftime('%s', 'now') AS INTEGER)"
        " WHERE started > CAST(strftime('%s', 'now') AS INTEGER)",
        # The last moment known, and the store's time then. All times from here on are microseconds of that time.
        "CREATE TABLE clock (one INTEGER PRIMARY KEY CHECK (one = 1), wall INTEGER NOT NULL, boot TEXT NOT NULL,"
        " uptime INTEGER NOT NULL, state INTEGER NOT NULL)",
        # `k` are digests (names.py). Being as good as random, they lie as evenly as a die falls: see counters.prune.
        "CREATE TABLE seen (k BLOB PRIMARY KEY, last INTEGER NOT NULL, expires INTEGER NOT NULL, name TEXT NOT NULL,"
        " label TEXT NOT NULL) WITHOUT ROWID",
        "CREATE TABLE greylist (k BLOB PRIMARY KEY, pool BLOB NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,"
        " due INTEGER NOT NULL, passed INTEGER NOT NULL, expires INTEGER NOT NULL, client TEXT NOT NULL,"
        " label TEXT NOT NULL) WITHOUT ROWID",
        "CREATE INDEX greylist_passed ON greylist (pool) WHERE passed = 1",
        "CREATE TABLE pools (k BLOB PRIMARY KEY, passes INTEGER NOT NULL, last INTEGER NOT NULL,"
        " expires INTEGER NOT NULL, client TEXT NOT NULL) WITHOUT ROWID",
        # Rows of a kilobyte: a table without rowid would keep them in its inner pages.
        "CREATE TABLE rates (k BLOB NOT NULL, window INTEGER NOT NULL, most INTEGER NOT NULL, buckets BLOB NOT NULL,"
        " refused INTEGER NOT NULL, expires INTEGER NOT NULL, name TEXT NOT NULL, label TEXT NOT NULL,"
        " PRIMARY KEY (k, window))",
        "CREATE TABLE verdicts (k BLOB PRIMARY KEY, until INTEGER NOT NULL, expires INTEGER NOT NULL) WITHOUT ROWID",
        # count(*) of SQLite reads the whole table; whoever inserts has to know whether there is room.
        "CREATE TABLE tally (name TEXT PRIMARY KEY, rows INTEGER NOT NULL) WITHOUT ROWID",
        *(
            sql.replace("TABLE", name)
            for name in ("seen", "greylist", "pools", "rates", "verdicts")
            for sql in (
                "INSERT INTO tally VALUES ('TABLE', 0)",
                "CREATE TRIGGER TABLE_more AFTER INSERT ON TABLE"
                " BEGIN UPDATE tally SET rows = rows + 1 WHERE name = 'TABLE'; END",
                "CREATE TRIGGER TABLE_less AFTER DELETE ON TABLE"
                " BEGIN UPDATE tally SET rows = rows - 1 WHERE name = 'TABLE'; END",
            )
        ),
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
OLD_EVENTS = "SELECT id FROM events WHERE at < ? ORDER BY at LIMIT ?"
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
# By `id`, which grows as the store's time does: no index is needed, and nothing can stand in the way at the head.
DROP_DELIVERIES = "DELETE FROM deliveries WHERE started < ? AND id IN (SELECT id FROM deliveries ORDER BY id LIMIT ?)"

MOMENT = "SELECT wall, boot, uptime, state FROM clock"
KEEP_MOMENT = "INSERT OR REPLACE INTO clock (one, wall, boot, uptime, state) VALUES (1, ?, ?, ?, ?)"

SEEN = "SELECT last FROM seen WHERE k = ?"
MEET = (
    "INSERT INTO seen (k, last, expires, name, label) VALUES (?, ?, ?, CAST(? AS TEXT), CAST(? AS TEXT))"
    " ON CONFLICT (k) DO UPDATE SET last = excluded.last, expires = max(expires, excluded.expires)"
)

GREYLIST_AND_POOL = (
    "SELECT g.first, g.last, g.passed, p.passes, p.last"
    " FROM (SELECT 1) LEFT JOIN pools p ON p.k = ? LEFT JOIN greylist g ON g.k = ?"
)
GREYLIST = (
    "INSERT INTO greylist (k, pool, first, last, due, passed, expires, client, label)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, CAST(? AS TEXT), CAST(? AS TEXT)) ON CONFLICT (k) DO UPDATE SET"
    " first = excluded.first, last = excluded.last, due = excluded.due, passed = excluded.passed,"
    " expires = excluded.expires"
)
USE_GREYLIST = "UPDATE greylist SET last = ?, expires = ? WHERE k = ?"
USE_POOL = "UPDATE pools SET last = ?, expires = ? WHERE k = ?"
PASSED = (
    "SELECT count(*) FROM (SELECT 1 FROM greylist INDEXED BY greylist_passed"
    " WHERE pool = ? AND passed = 1 AND last >= ? LIMIT ?)"
)
ALLOW = (
    "INSERT INTO pools (k, passes, last, expires, client) VALUES (?, ?, ?, ?, CAST(? AS TEXT))"
    " ON CONFLICT (k) DO UPDATE SET passes = excluded.passes, last = excluded.last, expires = excluded.expires"
)

RATES = "SELECT window, most, buckets, refused FROM rates WHERE k = ?"
RATE = (
    "INSERT INTO rates (k, window, most, buckets, refused, expires, name, label)"
    " VALUES (?, ?, ?, ?, ?, ?, CAST(? AS TEXT), CAST(? AS TEXT)) ON CONFLICT (k, window) DO UPDATE SET"
    " most = excluded.most, buckets = excluded.buckets, refused = excluded.refused, expires = excluded.expires"
)
VERDICT = "SELECT until FROM verdicts WHERE k = ? AND expires > ?"
TELL = "INSERT OR REPLACE INTO verdicts (k, until, expires) VALUES (?, ?, ?)"

REMEMBERED = ("seen", "greylist", "pools", "rates", "verdicts")
TALLY = "SELECT rows FROM tally WHERE name = ?"
TALLIES = "SELECT name, rows FROM tally"

_SAMPLE = "SELECT k, expires FROM TABLE WHERE k >= ? ORDER BY k LIMIT ?"
SAMPLE = {name: _SAMPLE.replace("TABLE", name) for name in REMEMBERED}
_DROP = "DELETE FROM TABLE WHERE k = ? AND expires <= ?"
DROP = {name: _DROP.replace("TABLE", name) for name in REMEMBERED}

# For people: pages of what is in force now, and single rows by the beginning of their key.
LIST_SEEN = "SELECT k, last, expires, name, label FROM seen WHERE k > ? AND expires > ? ORDER BY k LIMIT ?"
LIST_GREYLIST = (
    "SELECT k, first, last, due, passed, expires, client, label FROM greylist"
    " WHERE k > ? AND expires > ? ORDER BY k LIMIT ?"
)
LIST_POOLS = "SELECT k, passes, last, expires, client FROM pools WHERE k > ? AND expires > ? ORDER BY k LIMIT ?"
LIST_RATES = (
    "SELECT rowid, k, window, most, buckets, refused, name, label FROM rates"
    " WHERE rowid > ? AND expires > ? ORDER BY rowid LIMIT ?"
)
_FORGET = "DELETE FROM TABLE WHERE k >= ? AND k <= ?"
FORGET = {name: _FORGET.replace("TABLE", name) for name in REMEMBERED if name != "verdicts"}
WAITING = "SELECT k, pool, client FROM greylist WHERE k >= ? AND k <= ? AND expires > ?"
LET_THROUGH = "UPDATE greylist SET passed = 1, last = ?, expires = ? WHERE k = ?"
