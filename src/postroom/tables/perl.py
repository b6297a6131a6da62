"""pcre_table(5): Perl-compatible regular expressions, written anew for Python's engine.

What Python's engine does not have, or what could not be said to take how long, is refused by name: \\K \\G \\R \\X,
properties, recursion, conditions, verbs, references back.
"""

from __future__ import annotations

from postroom.rules.problems import Refused
from postroom.tables.atoms import CLASSES, DIGIT, PATTERN_LIMIT, SPACE, WORD, Writer, byte, interval, one_of

_CLASS = {"d": DIGIT, "w": WORD, "s": SPACE, "h": frozenset({9, 32, 0xA0}), "v": frozenset({10, 11, 12, 13, 0x85})}
_CONTROL = {"a": 7, "e": 27, "f": 12, "n": 10, "r": 13, "t": 9}
_ANCHOR = {"b": r"\b", "B": r"\B", "A": r"\A", "z": r"\Z", "Z": r"(?=\x0a?\Z)"}
_GROUPS = ("?:", "?=", "?!", "?<=", "?<!", "?>")
_HEX = "0123456789abcdefABCDEF"


def translate(pattern: str, extended: bool, end_only: bool, lazy: bool) -> str:
    """The same pattern as Python writes it. `extended` is PCRE_EXTENDED, `end_only` PCRE_DOLLAR_ENDONLY, `lazy`
    PCRE_UNGREEDY. `pattern` holds bytes, each as one character (Latin-1). Raises Refused.
    """
    if len(pattern) > PATTERN_LIMIT:
        raise Refused(f"is longer than {PATTERN_LIMIT} characters")
    return _Reader(pattern, extended, end_only, lazy).read()


class _Reader:
    def __init__(self, pattern: str, extended: bool, end_only: bool, lazy: bool) -> None:
        self._pattern = pattern
        self._extended = extended
        self._end = r"\Z" if end_only else "$"
        self._lazy = lazy
        self._position = 0
        self._writer = Writer()
        # Groups that (?i) opened inside another, by the depth at which that one closes.
        self._scoped: list[int] = []

    def read(self) -> str:
        while self._position < len(self._pattern):
            self._token(self._pattern[self._position])
        while self._scoped and self._scoped[-1] == self._writer.depth:
            self._scoped.pop()
            self._writer.close()
        return self._writer.end()

    def _token(self, character: str) -> None:
        self._position += 1
        if self._extended and character in " \t\n\v\f\r":
            return
        if self._extended and character == "#":
            end = self._pattern.find("\n", self._position)
            self._position = len(self._pattern) if end < 0 else end + 1
            return
        handler = _HANDLERS.get(character)
        if handler is not None:
            handler(self)
        elif character in "^|.$":
            writer = self._writer
            (writer.atom if character == "." else writer.mark)(self._end if character == "$" else character)
        else:
            self._writer.atom(byte(ord(character)))

    def _take(self, count: int) -> str:
        taken = self._pattern[self._position : self._position + count]
        self._position += count
        return taken

    def _starts(self, text: str) -> bool:
        return self._pattern.startswith(text, self._position)

    # What each special character begins.

    def _escape(self) -> None:
        character = self._take(1)
        if not character:
            raise Refused("ends with a backslash")
        if character == "Q":
            quoted = self._pattern[self._position :].partition(r"\E")[0]
            self._position += len(quoted) + 2
            for each in quoted:
                self._writer.atom(byte(ord(each)))
        elif character == "E":
            return
        elif character in _ANCHOR:
            self._writer.mark(_ANCHOR[character])
        elif character == "N" and not self._starts("{"):
            self._writer.atom(one_of(frozenset({10}), True))
        elif character.lower() in _CLASS:
            self._writer.atom(one_of(_CLASS[character.lower()], character.isupper()))
        else:
            self._writer.atom(byte(self._character(character)))

    def _character(self, character: str) -> int:
        """The byte that an escape stands for."""
        if character in _CONTROL:
            return _CONTROL[character]
        if character == "x":
            digits = self._take(2)
            if digits[:1] == "{":
                digits += self._pattern[self._position :].partition("}")[0]
                self._position += len(digits) - 1
                digits = digits[1:]
                digits = digits.removesuffix("}")
            if len(digits) == 2 and set(digits) <= set(_HEX):
                return int(digits, 16)
            raise Refused("has a \\x that is not followed by two hexadecimal digits")
        if character.isascii() and character.isalnum():
            raise Refused(f"uses \\{character}, which is not known here, or cannot be said to take how long")
        return ord(character)

    def _group(self) -> None:
        if self._starts("*"):
            raise Refused("uses a verb, (*...), which Python's engine does not have")
        if self._starts("?#"):
            end = self._pattern.find(")", self._position)
            if end < 0:
                raise Refused("has a comment that is not closed")
            self._position = end + 1
        elif not self._starts("?"):
            self._writer.open("(")
        else:
            self._special_group()

    def _special_group(self) -> None:
        for start in _GROUPS:
            if self._starts(start):
                self._position += len(start)
                self._writer.open("(" + start)
                return
        for start, end in (("?P<", ">"), ("?<", ">"), ("?'", "'")):
            if self._starts(start):
                name, found, _ = self._pattern[self._position + len(start) :].partition(end)
                if found and name.isascii() and name.isidentifier():
                    self._position += len(start) + len(name) + 1
                    self._writer.open("(")  # Postfix knows groups by number only
                    return
        self._flags()

    def _flags(self) -> None:
        """(?i) for the rest of the group, at its start; (?i:...) for a group."""
        text = ""
        while self._pattern[self._position : self._position + 1] in tuple("?imsx-"):
            text += self._take(1)
        closing = self._take(1)
        if len(text) < 2 or closing not in (":", ")") or "?" in text[1:] or text.count("-") > 1:
            raise Refused(f"uses ({text}{closing}, which is not known here")
        on, _, off = text[1:].partition("-")
        if "x" in on + off:
            raise Refused("changes x inside; write the flag behind the pattern")
        if closing == ")" and (self._writer.atoms):
            raise Refused(f"has ({text}) after the start of a group; write ({text}:...)")
        self._writer.open(f"({text}:")
        if closing == ")":
            self._scoped.append(self._writer.depth)

    def _close(self) -> None:
        while self._scoped and self._scoped[-1] == self._writer.depth:
            self._scoped.pop()
            self._writer.close()
        self._writer.close()

    def _repeat(self) -> None:
        times = self._pattern[self._position - 1]
        if times == "{":
            text, found, _ = self._pattern[self._position :].partition("}")
            times = interval(text) if found else ""
            if not times:
                self._writer.atom(byte(ord("{")))
                return
            self._position += len(text) + 1
        suffix = self._take(1) if self._starts("?") or self._starts("+") else ""
        if self._lazy and suffix != "+":
            suffix = "" if suffix else "?"
        self._writer.repeat(times + suffix, again=False)

    def _bracket(self) -> None:
        negated = self._starts("^")
        self._position += negated
        codes: set[int] = set()
        start = self._position
        while not self._starts("]") or self._position == start:
            first = self._member(codes)
            following = self._pattern[self._position : self._position + 2]
            if first is None or following[:1] != "-" or following[1:] in ("]", ""):
                codes |= set() if first is None else {first}
                continue
            self._position += 1
            last = self._member(set())
            if last is None or last < first:
                raise Refused("has a range in [...] that ends before it begins")
            codes |= set(range(first, last + 1))
        self._position += 1
        self._writer.atom(one_of(frozenset(codes), negated))

    def _member(self, codes: set[int]) -> int | None:
        """One character, or None where it was a class, whose characters are put into `codes`."""
        character = self._take(1)
        if not character:
            raise Refused("has a [ that is not closed")
        if character == "[" and self._starts(":"):
            name, end, _ = self._pattern[self._position + 1 :].partition(":]")
            bare = name.removeprefix("^")
            if end and bare in CLASSES:
                self._position += len(name) + 3
                codes |= frozenset(range(256)) - CLASSES[bare] if name != bare else CLASSES[bare]
                return None
            raise Refused(f"has [:{name[:20]}:], which is not known")
        if character != "\\":
            return ord(character)
        character = self._take(1)
        if character and character.lower() in _CLASS:
            members = _CLASS[character.lower()]
            codes |= frozenset(range(256)) - members if character.isupper() else members
            return None
        if character == "b":
            return 8
        if not character or character in "QE":
            raise Refused("has \\Q, \\E or nothing behind a backslash in [...]")
        return self._character(character)


_HANDLERS = {
    "\\": _Reader._escape,
    "(": _Reader._group,
    ")": _Reader._close,
    "[": _Reader._bracket,
    "*": _Reader._repeat,
    "+": _Reader._repeat,
    "?": _Reader._repeat,
    "{": _Reader._repeat,
}
