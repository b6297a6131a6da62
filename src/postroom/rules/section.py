"""Reading a table of the file key by key: each with its type, what is wrong going to the report with its line."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

from postroom.rules.problems import Refused, Report
from postroom.rules.read import Place
from postroom.rules.values import show

T = TypeVar("T")

# What names are made of: of lists, providers, listeners, domains.
NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.")

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


class Section:
    """One table. Keys that are not `known` are reported at once."""

    def __init__(self, report: Report, path: Place, table: object, known: tuple[str, ...]) -> None:
        self.report = report
        self.path = path
        self.table: dict[str, Any] = table if isinstance(table, dict) else {}
        if not isinstance(table, dict):
            report.error(path, f"expected a table, found {show(table)}")
        for name in self.table:
            if name not in known:
                report.unknown((*path, name), name, known)

    def take(self, name: str, default: T, read: Callable[[Any], T]) -> T:
        """The value of a key, `default` where it is absent or wrong."""
        if name not in self.table:
            return default
        try:
            return read(self.table[name])
        except Refused as refused:
            self.report.error((*self.path, name), str(refused))
            return default

    def require(self, name: str, default: T, read: Callable[[Any], T], expected: str) -> T:
        if name not in self.table:
            self.report.error(self.path, f'"{name}" is missing; expected {expected}')
            return default
        return self.take(name, default, read)


def named(top: Section, kind: str) -> list[tuple[str, Place, object]]:
    """The tables of [list], [provider] or [listen], by name."""
    outer = top.table.get(kind, {})
    if not isinstance(outer, dict):
        top.report.error((kind,), f"expected tables such as [{kind}.NAME], found {show(outer)}")
        return []
    for name in outer:
        if not name or not set(name) <= NAME:
            top.report.error((kind, name), f"expected a name of letters, digits, - and _, found {show(name)}")
    return [(name, (kind, name), table) for name, table in outer.items()]


def text(value: object) -> str:
    if not isinstance(value, str):
        raise Refused(f"expected a text in quotes, found {show(value)}")
    if not value or any(ord(character) < 32 for character in value):
        raise Refused(f"expected a text of one line, found {show(value)}")
    return value


def texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise Refused(f'expected a list of texts, ["...", "..."], found {show(value)}')
    return tuple(text(item) for item in value)


def boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise Refused(f"expected true or false, found {show(value)}")
    return value


def path(value: object, folder: str) -> str:
    """A path, taken from the folder of the configuration file where it is relative."""
    return os.path.normpath(os.path.join(folder, text(value)))


def choice(value: object, known: tuple[str, ...]) -> str:
    from postroom.rules.problems import unknown

    if text(value) not in known:
        raise Refused(unknown(text(value), known, "value"))
    return text(value)


def whole(value: object, least: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise Refused(f"expected a whole number from {least} to {most}, found {show(value)}")
    return value


def seconds(value: object, below: float) -> float:
    """Seconds as a number, or with a unit: "250s", "4m", "30d"."""
    number = value
    if isinstance(value, str) and value[-1:] in _UNITS:
        try:
            number = float(value[:-1]) * _UNITS[value[-1]]
        except ValueError:
            number = value
    if isinstance(number, str | bool) or not isinstance(number, int | float) or not 0 < number < below:
        most = f"{below / 86400:g} days" if below >= 86400 else f"{below:g} seconds"
        raise Refused(f'expected a time above 0 and below {most}, such as 30 or "30s", found {show(value)}')
    return float(number)
