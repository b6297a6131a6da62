"""What readers of every protocol here say beside a request: that more is needed, that it ended, that it is none."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final


class Signal:
    """An event without content."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


NEED_DATA: Final = Signal("NEED_DATA")
CLOSED: Final = Signal("CLOSED")


class Malformed:
    """What came is no request of this protocol; `reason` is for the log. Nothing that follows can be understood."""

    __slots__ = ("reason",)

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def __repr__(self) -> str:
        return f"Malformed({self.reason!r})"


class Lookup:
    """What a table is asked: the key, and the table's name where the protocol tells it ("" where not)."""

    __slots__ = ("key", "table")

    def __init__(self, table: bytes, key: bytes) -> None:
        self.table = table
        self.key = key

    def __repr__(self) -> str:
        return f"Lookup({self.table!r}, {self.key!r})"
