"""Lists by Postfix's type and name: what is in them, looked up as Postfix would.

    table("cidr", "/etc/postfix/clients.cidr").find("ip", "192.0.2.1", "+")     False, True, or the text of the entry

Rules for this room
* A table that cannot be asked raises a Fault, which makes a condition unknown. It is never an empty table.
* A line that Postfix would pass over with a warning makes the table unusable: it was meant to say something.
* Same answers as `postmap -q`; tests/tables asks both. What differs on purpose is said where it is done.
"""

from __future__ import annotations

from _thread import _local

from postroom.status import ConfigurationFault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from postroom.deadline import Deadline

    class Table(Protocol):
        def find(self, kind: str, value: str, delimiter: str, deadline: Deadline | None = None) -> bool | str:
            """What stands beside the entry that the value is found under; True where there is no text."""
            ...


# In memory for as long as the process lives: tables by type and name. Threads share them, but for SQLite's connections:
# each has its own.
_open: dict[tuple[str, object], Table] = {}
_own = _local()


def table(kind: str, where: Any, state: str = "") -> Table:
    """The table, read again where its file is another one than before. `where` is a path, entries, or as Postfix says.

    `state`: the state directory, in whose cache large lists are kept sorted. Raises a Fault.
    """
    if _is_no_file(kind, where):
        known = _open.get((kind, where))
        return _open.setdefault((kind, where), _made(kind, where)) if known is None else known
    if kind in ("lmdb", "sqlite"):
        return _database(kind, where)
    from postroom.tables import files

    return files.table(kind, where, state)


def in_memory(kind: str, where: Any) -> Table | None:
    """The table, where it can be asked at once: it is in memory, and was its file's content less than a second ago."""
    if kind in ("socketmap", "lmdb", "sqlite"):
        return None
    if _is_no_file(kind, where):
        return _open.get((kind, where))
    from postroom.tables import files

    return files.fresh(kind, where)


def _is_no_file(kind: str, where: Any) -> bool:
    return kind in ("values", "inline", "socketmap") or (isinstance(where, str) and where.startswith("{"))


def _made(kind: str, where: Any) -> Table:
    from postroom.tables import lines
    from postroom.tables.entries import Entries
    from postroom.tables.keys import fold_key

    if kind == "values":
        return Entries(dict.fromkeys(where, True))
    if kind == "inline":
        return Entries({fold_key(key): text for key, text in lines.inline(where).items()})
    if kind == "socketmap":
        from postroom.tables.socketmap import Socketmap

        return Socketmap(where)
    if kind == "cidr":
        from postroom.tables.cidr import Cidr

        return Cidr(lines.inline_rules(where, kind))
    if kind not in ("regexp", "pcre"):
        raise ConfigurationFault(f"{kind}: has no inline form")
    from postroom.tables.patterns import Patterns

    return Patterns(kind, lines.inline_rules(where, kind))


def _database(kind: str, where: str) -> Table:
    """Databases look themselves whether their file is still the same."""
    known: Any
    if kind == "lmdb":
        from postroom.tables.lmdb import Lmdb

        # One for all threads: closing a second descriptor of the file would give up the lock on the first, too.
        known = _open.get((kind, where)) or _open.setdefault((kind, where), Lmdb(where))
    else:
        from postroom.tables.sqlite import Sqlite

        known = _own.__dict__.get(where) or _own.__dict__.setdefault(where, Sqlite(where))
    known.check()
    checked: Table = known
    return checked
