"""The handler API of programs that answer table lookups: socketmap_table(5), tcp_table(5).

    from postroom.lookup import Answer, Table, found, notfound

    def lookup(table: Table, key: str) -> Answer:
        return found("slow:") if key.endswith("@example.com") else notfound()

A handler is called once per lookup. It never learns how it was started, nor by which protocol it was asked. Postfix
asks these tables for whole keys only, such as `user+ext@domain`, in the case in which the client wrote them: shorter
forms are the handler's to try. Whatever it raises, and a result that Postfix would misread, is answered with "try again
later" and logged; `table.fallback` is what is said instead.
"""

from __future__ import annotations

from time import monotonic

from postroom.deadline import Deadline
from postroom.status import ConfigurationFault, Fault, clean

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from postroom.config import Configuration

    class Service(Protocol):
        """What the runner lends to every lookup, the same one for all of a connection."""

        sources: Any

        @property
        def configuration(self) -> Configuration: ...


__all__ = ["Answer", "ConfigurationFault", "Fault", "Table", "found", "notfound", "permanent", "temporary"]

# For a lookup that no runner has given a deadline, as in a test: below socketmap's and tcp_table's time-out (100 s).
DEADLINE = 10.0


class Answer:
    """What a table says for a key. `kind`: found, notfound, temporary, permanent; `text`: the result, or why."""

    __slots__ = ("kind", "text")

    def __init__(self, kind: str, text: str) -> None:
        self.kind = kind
        self.text = text

    def __repr__(self) -> str:
        return f"{self.kind}({self.text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Answer) and (self.kind, self.text) == (other.kind, other.text)

    def __hash__(self) -> int:
        return hash((self.kind, self.text))


def found(text: str) -> Answer:
    """The result. ValueError for one that Postfix would refuse, or read as something else."""
    if not text.strip():
        raise ValueError("an empty result: to Postfix that is an error in the table")
    for character in "" if text.isprintable() else text:
        code = ord(character)
        if 0xD800 <= code <= 0xDFFF:
            raise ValueError("a result that is not UTF-8: Postfix refuses it")
        if (code < 0x20 and character != "\t") or 0x7F <= code < 0xA0:
            raise ValueError(f"control character {character!r} in a result")
    return Answer("found", text)


def notfound() -> Answer:
    """The table has nothing under this key."""
    return _NOTFOUND


def temporary(reason: str) -> Answer:
    """It cannot be said now: Postfix puts the mail off and asks again later. The reason goes into Postfix's log."""
    return Answer("temporary", clean(reason) or "no reason given")


def permanent(reason: str) -> Answer:
    """It cannot be said until somebody mends a mistake. Postfix puts the mail off all the same, with 4.3.5."""
    return Answer("permanent", clean(reason) or "no reason given")


_NOTFOUND = Answer("notfound", "")


class Table(str):
    """The name of the table that is asked, and what belongs to this one lookup.

    `fallback` is the answer where the handler raises or is too slow; None stands for "try again later". `log` holds
    what the handler wants to see in the log beside key and result, such as the rule; with nothing in it no line is
    written.
    """

    __slots__ = ("_deadline", "_log", "_until", "fallback", "key", "service")

    def __new__(cls, name: str, *_: object) -> Table:
        return super().__new__(cls, name)

    def __init__(self, name: str, key: str = "", service: Service | None = None, until: float | None = None) -> None:
        """`until`: the time.monotonic() by which the handler has to answer."""
        self.key = key
        self.service = service
        self.fallback: Answer | None = None
        self._until = until
        self._deadline: Deadline | None = None
        self._log: dict[str, object] | None = None

    @property
    def deadline(self) -> Deadline:
        """How long the handler may take; every wait of its has to stay below."""
        if self._deadline is None:
            seconds = DEADLINE if self._until is None else max(0.0, self._until - monotonic())
            self._deadline = Deadline(seconds)
        return self._deadline

    @property
    def log(self) -> dict[str, object]:
        if self._log is None:
            self._log = {}
        return self._log

    @property
    def logged(self) -> bool:
        """Whether the handler put anything into `log`."""
        return bool(self._log)
