"""The write-ahead log is kept short, whoever reads.

SQLite begins its log anew when all of it is in the database and nobody reads from it. Readers that overlap, one always
begun before another ends, never leave it such a moment: under sixteen of them it grew by 60 MB a second. So past
LOG_LIMIT a writer makes that moment: nobody else writes meanwhile, so that who begins to read now, no longer needs the
log; and who had begun before, is waited for.
"""

from __future__ import annotations

import os
import sqlite3

# A log of this length is read in some milliseconds by the first process after a crash.
LOG_LIMIT = 4 << 20
# What SQLite leaves of the file of a log that it begins anew.
KEPT = 1 << 20
# Others wait meanwhile, for their turn to write: this long for a log of LOG_LIMIT, twice as long for one of twice that
# length, and so on up to MOST_PATIENCE. A page of a listing is read in milliseconds; where all is slow, in seconds.
PATIENCE = 0.1
MOST_PATIENCE = 2.0


class Log:
    __slots__ = ("_due", "_path")

    def __init__(self, path: str) -> None:
        self._path = path
        self._due = LOG_LIMIT

    def long(self) -> bool:
        size = self._size()
        if size < LOG_LIMIT:
            self._due = LOG_LIMIT
        return size >= self._due

    def empty(self, connection: sqlite3.Connection, patient: bool) -> None:
        """Where somebody goes on reading: not now, and not before the log is twice as long."""
        patience = min(PATIENCE * self._due / LOG_LIMIT, MOST_PATIENCE) if patient else 0
        try:
            connection.execute(f"PRAGMA busy_timeout = {patience * 1000:.0f}")
            held_up = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            connection.execute("PRAGMA busy_timeout = 0")
        except sqlite3.Error:  # a full disk, say: what was committed is so; the next to write is told
            held_up = True
        if held_up:
            self._due = 2 * max(self._due, self._size())

    def _size(self) -> int:
        try:
            return os.stat(self._path).st_size
        except OSError:
            return 0
