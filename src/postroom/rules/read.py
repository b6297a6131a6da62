"""Reading the file: TOML by the standard library, and the line on which each key stands, which tomllib does not tell.

The positions come from a scan of their own over text that tomllib has accepted already. It trusts that and checks
nothing; where it loses its way, the line of the surrounding table is what a message shows.
"""

from __future__ import annotations

import tomllib
from typing import Any

from postroom.rules.problems import Problem

Place = tuple[str | int, ...]

# No key of ours has more parts. Positions of one of a million parts would take all memory there is.
_DEPTH = 32


class Unreadable(Exception):
    """Not TOML at all; carries the one Problem there is."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


class Document:
    """The file's tables, and where in it each key stands: ("rule", 0, "match", "recipient") -> line.

    `files` says the same of the file, for what stands in an included one (include.py); `problems` were found there.
    """

    def __init__(self, name: str, data: dict[str, Any], lines: dict[Place, int]) -> None:
        self.name = name
        self.data = data
        self.lines = lines
        self.files: dict[Place, str] = {}
        self.problems: list[Problem] = []

    def line(self, path: Place) -> int:
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 0)

    def file(self, path: Place) -> str:
        return self.files.get(path[:2], self.name)


def parse(content: bytes, name: str) -> Document:
    """Raises Unreadable, with the line that tomllib names."""
    try:
        text = content.decode("utf-8").removeprefix("\ufeff")  # the mark that some editors begin a file with
        data = tomllib.loads(text)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise Unreadable(Problem(name, line, "is not text in UTF-8")) from error
    except tomllib.TOMLDecodeError as error:
        raise Unreadable(_syntax(name, text, str(error))) from error
    except RecursionError as error:
        raise Unreadable(Problem(name, 0, "is nested too deeply")) from error
    except ValueError as error:  # a number of more digits than Python reads, a date that does not exist
        raise Unreadable(Problem(name, 0, f"has a value that cannot be read: {error}")) from error
    return Document(name, data, Scan(text.replace("\r\n", "\n")).run())


def _syntax(name: str, text: str, message: str) -> Problem:
    """tomllib says "Expected '=' after a key (at line 3, column 7)": its line becomes ours."""
    what, _, place = message.rpartition(" (at ")
    line = text.count("\n") + 1
    column = hint = ""
    if place.startswith("line "):
        number, _, column = place.removeprefix("line ").removesuffix(")").partition(", ")
        line = int(number)
        hint = _hint(what, text.split("\n")[line - 1], int(column.removeprefix("column ")))
    return Problem(name, line, f"is not TOML: {what or message}" + (f" ({column})" if column else "") + hint)


def _hint(what: str, line: str, column: int) -> str:
    """For the mistakes made most, which tomllib's words do not lead to."""
    rest = line[column - 1 :].strip()
    if what.startswith(("Invalid initial character for a key part", "Unclosed inline table")):
        return "; an inline table { } stands on one line, or write [rule.match]" if rest[:1] in ("", "#") else ""
    if what.startswith("Cannot declare ('rule',)") or (what == "Cannot overwrite a value" and line.startswith("[[")):
        return "; each rule begins with [[rule]], in two brackets"
    if what == "Cannot overwrite a value":
        return "; this key stands here twice"
    if what.startswith(("Unescaped '\\'", "Invalid hex value")):
        return "; in single quotes, 're:^a\\.b', a backslash stands for itself"
    if (what == "Invalid value" and rest) or what.startswith("Expected newline or end of document after a statement"):
        return '; a text stands in quotes, "..."'
    return ""


class Scan:
    """One walk over the text. `_arrays` counts the elements of each [[table]] so far."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._line = 1
        self._counted = 0
        self._arrays: dict[Place, int] = {}
        self._lines: dict[Place, int] = {}

    def run(self) -> dict[Place, int]:
        table: Place = ()
        try:
            while self._skip(" \t\n"):
                if self._text[self._at] == "#":
                    self._to_line_end()
                elif self._text[self._at] == "[":
                    table = self._header()
                else:
                    self._pair(table)
        except (IndexError, ValueError, RecursionError):
            pass  # lost: what was found so far is right, the rest falls back on it
        return self._lines

    def _skip(self, characters: str) -> bool:
        while self._at < len(self._text) and self._text[self._at] in characters:
            self._at += 1
        return self._at < len(self._text)

    def _to_line_end(self) -> None:
        end = self._text.find("\n", self._at)
        self._at = len(self._text) if end < 0 else end

    def _note(self, path: Place) -> None:
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        self._lines.setdefault(path, self._line)

    def _header(self) -> Place:
        double = self._text.startswith("[[", self._at)
        self._at += 2 if double else 1
        names = self._names("]")
        self._to_line_end()
        path: Place = ()
        for name in names[:-1]:
            path = self._inside((*path, name))
        path = (*path, names[-1])
        if double:
            self._arrays[path] = self._arrays.get(path, 0) + 1
        self._note(path)
        path = self._inside(path)
        self._note(path)
        return path

    def _inside(self, path: Place) -> Place:
        return (*path, self._arrays[path] - 1) if path in self._arrays else path

    def _names(self, end: str) -> list[str]:
        """The dotted key up to `end`, which is passed over."""
        names = []
        while True:
            self._skip(" \t")
            names.append(self._name(end))
            if len(names) > _DEPTH:
                raise ValueError  # lost
            self._skip(" \t")
            self._at += 1
            if self._text[self._at - 1] == end:
                return names

    def _name(self, end: str) -> str:
        if self._text[self._at] in "\"'":
            start = self._at
            self._string()
            found = tomllib.loads("name = " + self._text[start : self._at])["name"]
            assert isinstance(found, str)  # noqa: S101 - the text between two quotes is a string
            return found
        start = self._at
        while self._text[self._at] not in " \t." + end:
            self._at += 1
        return self._text[start : self._at]

    def _pair(self, table: Place) -> None:
        start = self._at
        names = self._names("=")
        value, self._at = self._at, start
        path = table
        for name in names:
            path = (*path, name)
            self._note(path)
        self._at = value
        self._skip(" \t")
        self._value(path)

    def _value(self, path: Place) -> None:
        character = self._text[self._at]
        if character in "\"'":
            self._string()
        elif character == "[":
            self._array(path)
        elif character == "{":
            self._inline(path)
        else:
            while self._at < len(self._text) and self._text[self._at] not in ",]}#\n":
                self._at += 1

    def _array(self, path: Place) -> None:
        self._at += 1
        index = 0
        while self._between() != "]":
            self._note((*path, index))
            self._value((*path, index))
            index += 1
        self._at += 1

    def _inline(self, path: Place) -> None:
        self._at += 1
        while self._between() != "}":
            self._pair(path)
        self._at += 1

    def _between(self) -> str:
        """Past blanks, commas and comments, to the next value or the closing bracket."""
        while self._skip(" \t\n,") and self._text[self._at] == "#":
            self._to_line_end()
        return self._text[self._at]

    def _string(self) -> None:
        quote = self._text[self._at]
        if self._text.startswith(quote * 3, self._at):
            self._at = self._end(quote * 3, self._at + 3)
            while self._at < len(self._text) and self._text[self._at] == quote:
                self._at += 1  # up to two quotes may stand before the closing three
        else:
            self._at = self._end(quote, self._at + 1)

    def _end(self, closing: str, start: int) -> int:
        while True:
            end = self._text.index(closing, start)
            escape = self._text.find("\\", start, end) if closing[0] == '"' else -1
            if escape < 0:
                return end + len(closing)
            start = escape + 2
