"""sqlite_table(5): a query in a configuration file, put to a database that is opened read-only.

Postfix doubles the quotes in a key and puts it into the query. Here what stands in single quotes is handed to SQLite as
a parameter: a key never becomes part of the query. So %s and its like are taken only inside single quotes.
"""

from __future__ import annotations

import os

from postroom.status import ConfigurationFault, Fault
from postroom.tables.keys import fold_key, table_keys
from postroom.tables.sqlite_file import Settings, read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from postroom.deadline import Deadline

# Without a deadline of a mail; also for waiting on a writer.
PATIENCE = 10.0

# A query and a few lines.
FILE_LIMIT = 1024 * 1024

# Steps of SQLite's machine between two looks at the clock: well below a millisecond.
_STEPS = 10_000


class Sqlite:
    def __init__(self, path: str) -> None:
        self._path = path
        self._identity: tuple[int, ...] = ()
        self._settings: Settings | None = None
        self._connection: Any = None
        self._database: tuple[int, ...] = ()

    def check(self) -> None:
        """Read the configuration file, where it has changed, and look whether the database is there."""
        dbpath = self._read().dbpath
        try:
            status = os.stat(dbpath)
        except (OSError, ValueError) as error:
            self._close()
            raise ConfigurationFault(f"{dbpath}: {getattr(error, 'strerror', None) or error}") from None
        if (status.st_dev, status.st_ino) != self._database:
            self._close()
            self._database = (status.st_dev, status.st_ino)

    def _read(self) -> Settings:
        from postroom.config import contents, identity

        try:
            seen = identity(os.stat(self._path))
        except (OSError, ValueError):
            seen = ()
        if self._settings is None or seen != self._identity:
            self._close()
            self._settings = None
            data, self._identity = contents(self._path, FILE_LIMIT)
            self._settings = read(data.decode("utf-8", "surrogateescape"), self._path)
        return self._settings

    def find(self, kind: str, value: str, delimiter: str, deadline: Deadline | None = None) -> bool | str:
        import sqlite3

        for key in table_keys(kind, value, delimiter, quoted=True):
            try:
                found = self.lookup(key, deadline)
            except sqlite3.Error as error:
                self._close()
                raise Fault(f"{self._path}: {error}") from None
            if found is not False:
                return found
        return False

    def lookup(self, key: str, deadline: Deadline | None = None) -> bool | str:
        """The results for this key alone, joined by commas."""
        settings = self._read()
        key = fold_key(key)
        parameters = settings.parameters(key) if key else None
        if parameters is None or not _is_text(key):
            return False
        found: list[str] = []
        for row in self._open(deadline).execute(settings.query, parameters):
            text = _text(row[0])
            if text:
                result = settings.result(text, key)
                found += [] if result is None else [result]
                if settings.limit and len(found) > settings.limit:
                    raise Fault(f"{self._path}: more than expansion_limit = {settings.limit} results")
        joined = ",".join(found)
        return joined if joined else False

    def _open(self, deadline: Deadline | None) -> Any:
        import sqlite3

        from postroom.deadline import Deadline

        left = Deadline(PATIENCE if deadline is None else deadline.remaining(PATIENCE))
        if self._connection is None:
            path = "".join(f"%{ord(c):02x}" if c in "%?#" else c for c in self._read().dbpath)
            self._connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=left.seconds)
            self._connection.text_factory = bytes
        self._connection.execute(f"PRAGMA busy_timeout = {int(left.seconds * 1000)}")
        # A query without an index over millions of rows must not keep the mail beyond its deadline.
        self._connection.set_progress_handler(lambda: left.expired, _STEPS)
        return self._connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection, self._database = None, ()


def _is_text(key: str) -> bool:
    """What is not UTF-8 is no text to SQLite, and not looked up by Postfix either."""
    try:
        key.encode()
    except UnicodeEncodeError:
        return False
    return True


def _text(value: object) -> str:
    """A column as sqlite3_column_text() gives it, which Postfix reads to the first NUL."""
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.partition(b"\0")[0].decode("utf-8", "surrogateescape")
    if isinstance(value, float):
        text = f"{value:.15g}"
        return text if set(text) & set(".eni") else text + ".0"
    return str(value)
