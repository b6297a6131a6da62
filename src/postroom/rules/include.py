"""`include`: rules, lists, providers and tests in files of their own, as if they stood at the end of the main file.

    include = ["lists.toml", "rules.d"]      a file; a folder: all *.toml in it, in the order of their names

Settings stand in the main file, and so does `include`: an included file includes nothing, so that nothing can go round
in circles.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from postroom.rules.problems import Problem
from postroom.rules.read import Document, Place

# What an included file may hold.
TABLES = ("list", "provider", "rule", "test")
_ARRAYS = ("rule", "test")


def joined(main: Document, others: Iterable[Document]) -> Document:
    """One document of all. Its `problems` say what an included file must not hold, or holds a second time."""
    whole = Document(main.name, {**main.data}, dict(main.lines))
    for other in others:
        for name, value in other.data.items():
            if name not in TABLES:
                _problem(whole, other, (name,), _misplaced(name))
            elif name in _ARRAYS:
                _append(whole, other, name, value)
            else:
                _add(whole, other, name, value)
    return whole


def _misplaced(name: str) -> str:
    if name == "include":
        return "an included file includes nothing; name all files in the main file"
    return f'"{name}" stands in the main file; an included one holds [{"], [".join(TABLES)}]'


def _append(whole: Document, other: Document, name: str, value: Any) -> None:
    """[[rule]] and [[test]], counted on from those before."""
    before = whole.data.get(name, [])
    if not isinstance(value, list) or not isinstance(before, list):
        _problem(whole, other, (name,), f"expected [[{name}]] with two brackets")
        return
    whole.data[name] = [*before, *value]
    for place, line in other.lines.items():
        if place[0] == name and len(place) > 1 and isinstance(place[1], int):
            moved: Place = (name, place[1] + len(before), *place[2:])
            whole.lines[moved] = line
            whole.files[moved[:2]] = other.name


def _add(whole: Document, other: Document, name: str, value: Any) -> None:
    """[list.NAME] and [provider.NAME], each under a name of its own."""
    before = whole.data.get(name, {})
    if not isinstance(value, dict) or not isinstance(before, dict):
        _problem(whole, other, (name,), f"expected tables such as [{name}.NAME]")
        return
    for inner in value:
        if inner in before:
            file = whole.file((name, inner))
            _problem(whole, other, (name, inner), f"is there already, in {file}; expected another name")
    whole.data[name] = {**value, **before}
    for place, line in other.lines.items():
        if place[0] == name and len(place) > 1 and place[1] not in before:
            whole.lines[place] = line
            whole.files[place[:2]] = other.name


def _problem(whole: Document, other: Document, place: Place, text: str) -> None:
    key = ".".join(str(part) for part in place)
    whole.problems.append(Problem(other.name, other.line(place), text, key=key))
