"""What is wrong in a configuration file: where, and what was expected."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from postroom.rules.read import Document, Place


# The settings that stand alone at the top of the file. Below a [table] they are keys of that table to TOML.
SETTINGS = (
    "include", "state", "log", "log_format", "deadline", "recipient_delimiter", "mydestination", "myorigin",
    "time_zone", "record", "record_addresses",
)  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """One finding. `rule` is a rule's id, `key` the key inside it; a warning does not stop the file from being used."""

    file: str
    line: int
    text: str
    rule: str = ""
    key: str = ""
    level: str = "error"

    def __str__(self) -> str:
        place = [f"line {self.line}"] if self.line else []
        place += [f'rule "{self.rule}"'] if self.rule else []
        place += [self.key] if self.key else []
        return ": ".join([self.file, *place, self.text])


class Refused(ValueError):
    """A value that cannot be used; the text says what was expected. Caught where its place in the file is known."""


class Report:
    """Collects what is wrong, so that one run shows all of it."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.problems: list[Problem] = [*document.problems]
        self.errors = [*self.problems]

    def error(self, path: Place, text: str, level: str = "error") -> None:
        self.problems.append(
            Problem(
                file=self.document.file(path),
                line=self.document.line(path),
                text=text,
                rule=self._rule(path),
                key=_key(path),
                level=level,
            )
        )
        if level == "error":
            self.errors.append(self.problems[-1])

    def warning(self, path: Place, text: str) -> None:
        self.error(path, text, "warning")

    def unknown(self, path: Place, name: str, known: Iterable[str], what: str = "key") -> None:
        if len(path) > 1 and name in SETTINGS:
            text = f'unknown {what} "{name}"; a setting of the file stands above the first [table]'
        else:
            text = unknown(name, known, what)
        self.error(path, text)

    def _rule(self, path: Place) -> str:
        if len(path) < 2 or path[0] != "rule" or not isinstance(path[1], int):
            return ""
        given = self.document.data["rule"][path[1]]
        identity = given.get("id") if isinstance(given, dict) else None
        return identity if isinstance(identity, str) and identity else f"number {path[1] + 1}"


def unknown(name: str, known: Iterable[str], what: str, expected: str = "") -> str:
    """`unknown key "recipent"; did you mean "recipient"?`, or what was expected where nothing is near."""
    names = sorted(known)
    near = get_close_matches(name, names, 1, 0.6) or get_close_matches(name.lower(), names, 1, 0.6)
    if near:
        return f'unknown {what} "{name}"; did you mean "{near[0]}"?'
    if not names:
        return f'unknown {what} "{name}"; there is none in this file'
    return f'unknown {what} "{name}"; expected {expected or "one of " + ", ".join(names)}'


def _key(path: Place) -> str:
    """The key as it is written: `match.recipient`; for the second test, `test 2: given.size`."""
    if path[:1] == ("rule",) and len(path) > 1:
        path = path[2:]
    elif len(path) > 1 and path[0] == "test" and isinstance(path[1], int):
        rest = _key(path[2:])
        return f"test {path[1] + 1}" + (f": {rest}" if rest else "")
    return ".".join(part for part in path if isinstance(part, str))
