"""Tables that are text files: read when first asked, and again when the file has changed and come to rest.

A file that is rewritten in place is empty, then half full, then full, and nothing tells when: only that its time of
change is some seconds old. Until then the table that was known goes on being used. Where none was known, in the first
program that looks, the file is believed as it is, unless it is empty.
"""

from __future__ import annotations

import os
from _thread import allocate_lock
from stat import S_ISREG
from time import monotonic, time

from postroom.config import SETTLED, contents, identity
from postroom.status import ConfigurationFault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _thread import LockType

    from postroom.tables import Table

# A list of a million addresses has some 25 MB. What is larger belongs into a database, which answers unread.
LIST_LIMIT = 64 * 1024 * 1024

# A file that somebody appends to every second never comes to rest; after this it is read as it is.
RESTLESS = 60.0

# For so long after a look at the file `fresh` does without one.
FRESH = 1.0

_BOM = b"\xef\xbb\xbf"


class _Known:
    __slots__ = ("checked", "identity", "since", "table")

    def __init__(self, table: Table, seen: tuple[int, ...]) -> None:
        self.table = table
        self.identity = seen
        self.checked = monotonic()
        # When the file was first seen to be another one.
        self.since: float | None = None

    def waits(self, status: os.stat_result) -> bool:
        """Whether the new file may still be in the making."""
        since = self.since
        if since is None:
            since = self.since = monotonic()
        return resting(status) is False and monotonic() - since < RESTLESS


_files: dict[tuple[str, str], _Known] = {}

# Of threads that find a list changed, one reads it.
_turns: dict[tuple[str, str], LockType] = {}


def resting(status: os.stat_result) -> bool | None:
    """Whether the file has not been written to for a while; None for what is no file."""
    return abs(time() - status.st_mtime) >= SETTLED if S_ISREG(status.st_mode) else None


def table(kind: str, path: str, state: str) -> Table:
    found = _current(kind, path)
    if found is not None:
        return found
    with _turns.get((kind, path)) or _turns.setdefault((kind, path), allocate_lock()):
        found = _current(kind, path)  # another thread may have read it meanwhile
        if found is None:
            _files.pop((kind, path), None)
            read = _indexed if kind in ("file", "texthash") else _read
            known = _files[kind, path] = read(kind, path, state)
            found = known.table
    return found


def fresh(kind: str, path: str) -> Table | None:
    """The table, where it was looked at just now; without touching the disk."""
    known = _files.get((kind, path))
    return known.table if known is not None and monotonic() - known.checked < FRESH else None


def _current(kind: str, path: str) -> Table | None:
    """The table that is known, where its file is the same one, or may still be in the making."""
    known = _files.get((kind, path))
    if known is None:
        return None
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return None  # gone; contents() says how
    if known.identity == identity(status):
        known.since = None
    elif not known.waits(status):
        return None
    known.checked = monotonic()
    return known.table


def _indexed(kind: str, path: str, state: str) -> _Known:
    """A list of entries: from its sorted copy, if there is one of this very file, or it is still being written."""
    from postroom.tables import index

    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return _read(kind, path, state)  # which says what is wrong
    place = index.place(state, kind, path) if state else ""
    copy = index.open_copy(place, kind, path) if place and status.st_size >= index.LEAST_SIZE else None
    if copy is not None and (copy.identity == identity(status) or resting(status) is False):
        return _Known(copy, copy.identity)
    known = _read(kind, path, state)
    if place and known.identity[-1] >= index.LEAST_SIZE:
        index.keep(place, kind, path, known.identity, known.table)
    return known


def _read(kind: str, path: str, state: str) -> _Known:
    data, seen = contents(path, LIST_LIMIT)
    if b"\0" in data:
        raise ConfigurationFault(f"{path}: is not a text file")
    if not data and resting(os.stat(path)) is False:
        # `sort > list` empties the file first and fills it later; in between nobody is on the list.
        raise ConfigurationFault(f"{path}: is empty, and has only just been written to")
    text = data.removeprefix(_BOM).decode("utf-8", "surrogateescape")
    return _Known(_parsed(kind, text, path), seen)


def _parsed(kind: str, text: str, path: str) -> Table:
    from postroom.tables import entries, lines

    if kind == "file":
        return entries.Entries(entries.plain(text, path))
    if kind == "texthash":
        return entries.Entries(entries.texthash(text, path))
    if kind == "cidr":
        from postroom.tables.cidr import Cidr

        return Cidr(lines.rules(text, path))
    from postroom.tables.patterns import Patterns

    return Patterns(kind, lines.rules(text, path))
