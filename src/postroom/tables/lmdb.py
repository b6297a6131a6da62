"""lmdb tables, made by postmap(1), as lmdb_table(5) has them: PATH.lmdb, keys with or without a NUL at their end."""

from __future__ import annotations

import os
from _thread import allocate_lock
from fcntl import LOCK_NB, LOCK_SH, LOCK_UN, lockf
from stat import S_ISREG
from time import sleep

from postroom.status import ConfigurationFault, Fault
from postroom.tables.keys import coded, table_keys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from postroom.deadline import Deadline

# LMDB's own bound (MDB_MAXKEYSIZE): postmap(1) could not store a longer key.
KEY_LIMIT = 511

# postmap(1) holds its lock while it writes: a second for a million lines. Without a deadline of a mail, so long.
PATIENCE = 5.0


class Lmdb:
    """Read-only, under the lock by which Postfix keeps postmap(1) and its readers apart; LMDB's own is not used.

    Threads ask one after the other: that lock is the process's, and the first to give it up gives it up for all.
    """

    def __init__(self, path: str) -> None:
        self._path = path + ".lmdb"
        self._environment: Any = None
        self._fd = -1
        self._identity: tuple[int, ...] = ()
        self._turn = allocate_lock()

    def check(self) -> None:
        """Open it, where it is not open or another file has taken its place. Raises ConfigurationFault."""
        self._take(None)
        try:
            self._check()
        finally:
            self._turn.release()

    def _take(self, deadline: Deadline | None) -> None:
        if not self._turn.acquire(True, PATIENCE if deadline is None else deadline.remaining(PATIENCE)):
            raise Fault(f"{self._path}: is in use by another request")

    def _check(self) -> None:
        try:
            import lmdb  # noqa: F401 - whether it is installed is told here, to `postroom check` too
        except ImportError:
            raise ConfigurationFault(f"{self._path}: the Python package lmdb is not installed") from None
        try:
            status = os.stat(self._path)
        except (OSError, ValueError) as error:
            self._close()
            raise ConfigurationFault(f"{self._path}: {getattr(error, 'strerror', None) or error}") from None
        # LMDB maps the file at the size that it has: what was written since may lie behind.
        seen = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        if self._environment is not None and seen == self._identity:
            return
        self._close()
        if not S_ISREG(status.st_mode):
            raise ConfigurationFault(f"{self._path}: is not a regular file")
        try:
            self._fd = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise ConfigurationFault(f"{self._path}: {error.strerror}") from None
        self._identity = seen

    def find(self, kind: str, value: str, delimiter: str, deadline: Deadline | None = None) -> bool | str:
        import lmdb

        self._take(deadline)
        try:
            return self._find(lmdb, kind, value, delimiter, deadline)
        finally:
            self._turn.release()

    def _find(self, lmdb: Any, kind: str, value: str, delimiter: str, deadline: Deadline | None) -> bool | str:
        if self._fd < 0:  # another thread has met an error in it, and closed it
            self._check()
        keys = [coded(key) for key in table_keys(kind, value, delimiter, quoted=True)]
        try:
            try:
                return self._found(lmdb, keys, deadline)
            except lmdb.MapResizedError:  # postmap(1) made it larger since it was looked at
                self._close()
                self._check()
                return self._found(lmdb, keys, deadline)
        except lmdb.Error as error:
            self._close()
            raise ConfigurationFault(f"{self._path}: {error}") from None

    def _found(self, lmdb: Any, keys: list[bytes], deadline: Deadline | None) -> bool | str:
        self._lock(deadline)
        try:
            self._open(lmdb)
            with self._environment.begin() as transaction:
                for key in keys:
                    for stored in (key + b"\0", key):
                        found = transaction.get(stored) if 0 < len(stored) <= KEY_LIMIT else None
                        if found is not None:
                            return bytes(found).partition(b"\0")[0].decode("utf-8", "surrogateescape") or True
            return False
        finally:
            if self._fd >= 0:
                lockf(self._fd, LOCK_UN)

    def _open(self, lmdb: Any) -> None:
        if self._environment is not None:
            return
        self._environment = lmdb.open(
            self._path, subdir=False, readonly=True, lock=False, create=False, readahead=False, max_dbs=0
        )
        # A file that was cut short would end the process, by SIGBUS, where a page is missing.
        needed = (self._environment.info()["last_pgno"] + 1) * self._environment.stat()["psize"]
        if os.fstat(self._fd).st_size < needed:
            self._close()
            raise ConfigurationFault(f"{self._path}: is shorter than it says")

    def _lock(self, deadline: Deadline | None) -> None:
        from postroom.deadline import Deadline

        waited = Deadline(PATIENCE if deadline is None else deadline.remaining(PATIENCE))
        while True:
            try:
                lockf(self._fd, LOCK_SH | LOCK_NB)
                return
            except BlockingIOError:
                if waited.expired:
                    raise Fault(f"{self._path}: is locked by another process") from None
                sleep(0.01)
            except PermissionError:  # some systems say EACCES for what others say EAGAIN
                raise Fault(f"{self._path}: cannot be locked") from None

    def _close(self) -> None:
        if self._environment is not None:
            self._environment.close()
        if self._fd >= 0:
            os.close(self._fd)
        self._environment, self._fd, self._identity = None, -1, ()
