"""A record, read again: lines of JSON that anybody may have written, each checked before it is believed.

for number, line in lines(file):         # a Line, or a text that says why this is none
    ...
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

from postroom.record import FORMAT, LINE_LIMIT
from postroom.record.answers import argument, decode
from postroom.rules import Unknown
from postroom.status import clean

if TYPE_CHECKING:
    from collections.abc import Iterator

# What a later version writes may be longer by a little; a file without line ends must not be read into memory.
READ_LIMIT = 2 * LINE_LIMIT

_FIELDS: dict[str, tuple[type | tuple[type, ...], str]] = {
    "time": ((int, float), "seconds since 1970"),
    "stage": (str, "a stage"),
    "attributes": (dict, "an object of texts"),
    "asked": (list, "a list of questions"),
    "action": (str, "a text"),
    "rule": ((str, type(None)), "the id of a rule or null"),
    "on_error": (bool, "true or false"),
    "reason": (str, "a text"),
    "shadow": (list, "a list of pairs"),
    "hashed": (bool, "true or false"),
    "cut": (list, "a list of names"),
}


@dataclass(slots=True)
class Line:
    """One decision as it was recorded. `asked`: kind, argument, answer, milliseconds."""

    time: float
    stage: str
    attributes: dict[str, str]
    asked: list[tuple[str, Any, Any, float]]
    action: str
    rule: str | None
    on_error: bool
    reason: str
    shadow: tuple[tuple[str, str], ...]
    hashed: bool
    cut: tuple[str, ...]
    answers: dict[tuple[str, Any], Any] = field(default_factory=dict)


def lines(file: IO[bytes], stages: tuple[str, ...]) -> Iterator[tuple[int, int, Line | str]]:
    """Line numbers, bytes so far, and what stands there. Empty lines are passed over."""
    number, size = 0, 0
    while data := file.readline(READ_LIMIT):
        number, size = number + 1, size + len(data)
        if not data.endswith(b"\n") and len(data) == READ_LIMIT:
            while data and not data.endswith(b"\n"):
                data = file.readline(READ_LIMIT)
                size += len(data)
            yield number, size, f"is longer than {READ_LIMIT} bytes"
        elif data.strip():
            yield number, size, parse(data, stages)


def parse(data: bytes, stages: tuple[str, ...]) -> Line | str:
    """The decision, or why there is none."""
    try:
        return _line(json.loads(data), stages)
    except json.JSONDecodeError as error:
        return f"is not JSON: {error.msg} at character {error.pos + 1}"
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError, a number of a mile's length too
        return f"is no decision: {clean(str(error))[:200]}"


def _line(data: Any, stages: tuple[str, ...]) -> Line:
    if not isinstance(data, dict) or "format" not in data:
        raise ValueError("expected an object with a format")
    if data["format"] != FORMAT or isinstance(data["format"], bool):
        raise ValueError(f"it has format {str(data['format'])[:20]}, this version reads {FORMAT}")
    for name, (kind, expected) in _FIELDS.items():
        if not isinstance(data.get(name), kind) or (name == "time" and isinstance(data[name], bool)):
            raise ValueError(f"{name}: expected {expected}")
    if data["stage"] not in stages:
        raise ValueError(f"stage: expected one of {', '.join(stages)}")
    if not set(map(type, data["attributes"].values())) <= {str}:
        raise ValueError("attributes: expected an object of texts")
    if not all(isinstance(name, str) for name in data["cut"]):
        raise ValueError("cut: expected a list of names")
    fields = {name: data[name] for name in _FIELDS}
    line = Line(**{**fields, "asked": [], "shadow": _shadow(data["shadow"]), "cut": tuple(data["cut"])})
    for one in data["asked"]:
        _ask(line, one)
    return line


def _shadow(data: list[Any]) -> tuple[tuple[str, str], ...]:
    for pair in data:
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise ValueError("shadow: expected a list of pairs")
    return tuple((rule, text) for rule, text in data)


def _ask(line: Line, one: Any) -> None:
    if not isinstance(one, dict) or not isinstance(one.get("kind"), str):
        raise ValueError("asked: expected objects with a kind")
    if "argument" not in one:
        return  # its answer was too long to be kept: `cut` names it
    kind, milliseconds = one["kind"], one.get("ms", 0)
    if not isinstance(milliseconds, int | float):
        raise ValueError(f"asked: {kind}: ms: expected milliseconds")
    about = argument(one["argument"])
    try:
        hash(about)
        answer = Unknown(one["unknown"]) if isinstance(one.get("unknown"), str) else decode(kind, one.get("answer"))
    except TypeError:
        raise ValueError(f"asked: {kind}: argument: expected texts, numbers and lists of them") from None
    except ValueError as error:
        raise ValueError(f"asked: {kind}: {error}") from None
    line.asked.append((kind, about, answer, float(milliseconds)))
    line.answers[kind, about] = answer
