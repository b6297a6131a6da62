"""regexp_table(5) and pcre_table(5): rules in the order of the file, `!`, if and endif, $1 in the text.

    /pattern/flags    text            !/pattern/flags    text
    if /pattern/flags                 if !/pattern/flags            endif

A rule that Postfix would pass over with a warning makes the table unusable here: it was meant to say something. Postfix
has no limit on how long a pattern may take; here each is checked as `re:` patterns are (postroom.rules.patterns).
"""

from __future__ import annotations

import re

from postroom.rules.patterns import Engine, engine
from postroom.rules.problems import Refused
from postroom.status import ConfigurationFault, Fault
from postroom.tables import perl, posix
from postroom.tables.keys import BLANK, coded, full_key

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from postroom.deadline import Deadline

    Text = tuple[bytes | int, ...]

# What a letter behind the closing delimiter toggles.
_POSIX = {"i": "fold", "m": "lines", "x": "extended"}
_PERL = {"i": "fold", "m": "lines", "s": "dot", "x": "extended", "A": "anchored", "E": "end", "U": "lazy", "X": "extra"}


class Pattern:
    """A pattern, or with `!` what it does not match; in regexp tables /this/!/but not this/."""

    __slots__ = ("engine", "negated", "other", "place")

    def __init__(self, place: str, negated: bool, engine: Engine, other: Pattern | None = None) -> None:
        self.place = place
        self.negated = negated
        self.engine = engine
        self.other = other

    def match(self, key: bytes) -> re.Match[bytes] | bool | None:
        """None: no. True: yes, since it is negated."""
        if len(key) > self.engine.limit:
            raise Fault(f"{self.place}: the pattern takes up to {self.engine.limit} bytes, the value has {len(key)}")
        found: re.Match[bytes] | None = self.engine.search(key)
        if self.other is not None and self.other.match(key) is None:
            return None
        return (found is None or None) if self.negated else found


class Patterns:
    """`_rules`: (pattern, text), or for `if` (pattern, the place of its endif)."""

    __slots__ = ("_rules",)

    def __init__(self, kind: str, rules: Iterable[tuple[str, str]]) -> None:
        self._rules: list[tuple[Pattern, Text | int]] = []
        opened: list[tuple[int, str]] = []
        for place, line in rules:
            try:
                self._rule(kind, place, line, opened)
            except Refused as refused:
                raise ConfigurationFault(f"{place}: {refused}") from None
        if opened:
            raise ConfigurationFault(f"{opened[-1][1]}: if without endif")

    def _rule(self, kind: str, place: str, line: str, opened: list[tuple[int, str]]) -> None:
        lower = line.lower()
        if not line[0].isalnum():
            pattern, rest = _patterns(kind, place, line)
            if not rest:
                raise Refused("expected a text behind the pattern")
            self._rules.append((pattern, _text(rest, pattern)))
        elif lower.startswith("if") and not line[2:3].isalnum():
            pattern, rest = _patterns(kind, place, line[2:].lstrip(BLANK), single=True)
            if rest:
                raise Refused(f"expected nothing behind the pattern of an if, found {rest[:60]}")
            opened.append((len(self._rules), place))
            self._rules.append((pattern, 0))
        elif lower == "endif" and opened:
            start = opened.pop()[0]
            self._rules[start] = (self._rules[start][0], len(self._rules))
        else:
            raise Refused("endif without if" if lower == "endif" else f"expected /pattern/ text, found {line[:60]}")

    def find(self, kind: str, value: str, delimiter: str, deadline: Deadline | None = None) -> bool | str:
        """The text of the first rule that matches the whole value: a table of patterns takes no partial keys."""
        return self.lookup(coded(full_key(kind, value)))

    def lookup(self, key: bytes) -> bool | str:
        position = 0
        while position < len(self._rules):
            pattern, then = self._rules[position]
            match = pattern.match(key)
            position += 1
            if isinstance(then, int):
                position = then if match is None else position
            elif match is not None:
                return _decoded(_filled(then, match), key, pattern.place)
        return False


def _patterns(kind: str, place: str, line: str, single: bool = False) -> tuple[Pattern, str]:
    """The pattern at the start of the line, and what follows it."""
    pattern, rest = _pattern(kind, place, line)
    if kind == "regexp" and not single and rest[:1] == "!":
        pattern.other, rest = _pattern(kind, place, rest)
    if rest and rest[0] not in BLANK:
        raise Refused(f"expected white space behind the pattern, found {rest[:20]}")
    return pattern, rest.strip(BLANK)


def _pattern(kind: str, place: str, line: str) -> tuple[Pattern, str]:
    negated = False
    while line[:1] == "!" or line[:1] in tuple(BLANK):
        negated ^= line[0] == "!"
        line = line[1:]
    end = 1
    while end < len(line) and line[end] != line[0]:
        end += 2 if line[end] == "\\" else 1
    if not line or end >= len(line):
        raise Refused(f"expected /pattern/, found {line[:60] or 'nothing'}")
    written, rest = line[1:end], line[end + 1 :]
    flags: set[str] = set()
    known = _POSIX if kind == "regexp" else _PERL
    while rest and rest[0] not in BLANK and not (rest[0] == "!" and kind == "regexp"):
        if rest[0] not in known:
            raise Refused(f"expected the flags {' '.join(known)} behind the pattern, found {rest[0]}")
        flags ^= {known[rest[0]]}
        rest = rest[1:]
    return Pattern(place, negated, _engine(kind, written, flags)), rest


def _engine(kind: str, written: str, toggled: set[str]) -> Engine:
    """Both kinds begin without regard to case; regexp extended, pcre with a dot that matches a newline, too."""
    raw = written.encode("utf-8", "surrogateescape").decode("latin-1")
    flags = re.NOFLAG if "fold" in toggled else re.IGNORECASE
    if "lines" in toggled:
        flags |= re.MULTILINE
    if kind == "regexp":
        return engine(posix.translate(raw, "extended" not in toggled, "lines" in toggled), flags, longest=True)
    if "dot" not in toggled:
        flags |= re.DOTALL
    pattern = perl.translate(raw, "extended" in toggled, "end" in toggled, "lazy" in toggled)
    return engine(rf"\A(?:{pattern})" if "anchored" in toggled else pattern, flags)


def _text(text: str, pattern: Pattern) -> Text:
    """The text, with a number where $1, ${1} or $(1) stands; $$ is a dollar sign (src/util/mac_parse.c)."""
    parts: list[bytes | int] = []
    before, *rest = text.replace("$$", "\0").split("$")
    parts.append(_bytes(before))
    for piece in rest:
        name, after = _name(piece)
        if not (name.isascii() and name.isdigit() and 0 < int(name[:4]) <= pattern.engine.groups):
            raise Refused(f"has ${piece[:20]}, but the pattern has {pattern.engine.groups} groups; $$ is a dollar sign")
        if pattern.negated:
            raise Refused(f"has ${name}, but what does not match has no groups")
        parts += [int(name), _bytes(after)]
    return tuple(part for part in parts if part != b"")


def _name(piece: str) -> tuple[str, str]:
    """What stands behind a dollar sign: a name, and the rest."""
    if piece[:1] in ("{", "("):
        name, closed, after = piece[1:].partition("}" if piece[0] == "{" else ")")
        return (name, after) if closed else ("", piece)
    end = 0
    while end < len(piece) and piece[end].isascii() and (piece[end].isalnum() or piece[end] == "_"):
        end += 1
    return piece[:end], piece[end:]


def _bytes(text: str) -> bytes:
    return text.replace("\0", "$").encode("utf-8", "surrogateescape")


def _filled(text: Text, match: re.Match[bytes] | bool) -> bytes:
    if match is True:
        return b"".join(part for part in text if isinstance(part, bytes))
    return b"".join(part if isinstance(part, bytes) else match.group(part) or b"" for part in text)  # type: ignore[union-attr]  # not a bool


def _decoded(text: bytes, key: bytes, place: str) -> str:
    """Half a letter, as (.) takes it, is an error to Postfix, too. What was broken before may stay so."""
    try:
        return text.decode()
    except UnicodeDecodeError:
        try:
            key.decode()
        except UnicodeDecodeError:
            return text.decode("utf-8", "surrogateescape")
        raise Fault(f"{place}: the text is not UTF-8, since a group took half a letter") from None
