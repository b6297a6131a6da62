"""regexp_table(5): POSIX regular expressions, extended and basic, written anew for Python's engine.

As regcomp(3) of the GNU C library reads them: \\w \\W \\s \\S \\b \\B \\< \\> and, in basic ones, \\+ \\? \\| are its
own; \\d is the letter d. What POSIX leaves undefined is refused, and so is what refers back to a group.
"""

from __future__ import annotations

from postroom.rules.problems import Refused
from postroom.tables.atoms import CLASSES, PATTERN_LIMIT, SPACE, WORD, Writer, byte, interval, one_of

_GNU = {
    "w": one_of(WORD),
    "W": one_of(WORD, True),
    "s": one_of(SPACE),
    "S": one_of(SPACE, True),
}
_GNU_ANCHORS = {"b": r"\b", "B": r"\B", "<": r"\b(?=[0-9A-Za-z_])", ">": r"\b(?<=[0-9A-Za-z_])", "`": r"\A", "'": r"\Z"}


def translate(pattern: str, extended: bool, lines: bool) -> str:
    """The same pattern as Python writes it. `lines` is REG_NEWLINE: ^ and $ also at line ends, which . does not match.

    `pattern` holds bytes, each as one character (Latin-1). Raises Refused.
    """
    if len(pattern) > PATTERN_LIMIT:
        raise Refused(f"is longer than {PATTERN_LIMIT} characters")
    return _Reader(pattern, extended, lines).read()


class _Reader:
    def __init__(self, pattern: str, extended: bool, lines: bool) -> None:
        self._pattern = pattern
        self._extended = extended
        self._lines = lines
        self._position = 0
        self._writer = Writer()

    def read(self) -> str:
        while self._position < len(self._pattern):
            item = self._pattern[self._position]
            self._position += 1
            if item == "\\":
                if self._position == len(self._pattern):
                    raise Refused("ends with a backslash")
                item += self._pattern[self._position]
                self._position += 1
            self._item(item)
        return self._writer.end()

    def _item(self, item: str) -> None:
        operator = self._operator(item)
        if item == "[":
            self._writer.atom(self._bracket())
        elif item == ".":
            self._writer.atom(one_of(frozenset({10}), True) if self._lines else "[\\x00-\\xff]")
        elif operator and operator in "^$":
            # Outside of REG_NEWLINE only the very ends of the text: Python's $ would also match before a last newline.
            self._writer.mark(operator if self._lines else r"\A" if operator == "^" else r"\Z")
        elif operator:
            self._operation(operator)
        else:
            self._literal(item)

    def _operator(self, item: str) -> str:
        """The operator that this is in an extended expression; empty where it is none."""
        if self._extended:
            return item if item in ("(", ")", "|", "*", "+", "?", "{", "^", "$") else ""
        if item in (r"\(", r"\)", r"\|", r"\+", r"\?", r"\{"):
            return item[1]
        if item == "*":
            return "*" if not self._at_start() else ""
        if item == "^":
            return "^" if self._at_start() else ""
        rest = self._pattern[self._position :]
        return "$" if item == "$" and (not rest or rest.startswith((r"\)", r"\|"))) else ""

    def _at_start(self) -> bool:
        """Where ^ is an anchor, and * a character, in a basic expression."""
        atoms = self._writer.atoms
        return not atoms or atoms[-1] == "|" or (len(atoms) == 1 and atoms[0] in ("^", r"\A"))

    def _operation(self, operator: str) -> None:
        writer = self._writer
        if operator == "(":
            writer.open("(")
        elif operator == ")":
            writer.close()
        elif operator == "|":
            writer.mark("|")
        elif operator == "{":
            end = "}" if self._extended else r"\}"
            text, found, _ = self._pattern[self._position :].partition(end)
            times = interval(text) if found else ""
            if not times:
                raise Refused("has a { that begins no interval; write \\{ for the character")
            self._position += len(text) + len(end)
            writer.repeat(times)
        else:
            writer.repeat(operator)

    def _literal(self, item: str) -> None:
        character = item[-1]
        if len(item) == 1:
            self._writer.atom(byte(ord(character)))
        elif character in _GNU:
            self._writer.atom(_GNU[character])
        elif character in _GNU_ANCHORS:
            self._writer.mark(_GNU_ANCHORS[character])
        elif character in "123456789":
            raise Refused(f"refers back to group {character}; how long that takes over a text cannot be said")
        else:
            self._writer.atom(byte(ord(character)))

    def _bracket(self) -> str:
        """[abc]: a backslash is a backslash here, and ] is itself where it is the first."""
        negated = self._pattern.startswith("^", self._position)
        self._position += negated
        codes: set[int] = set()
        start = self._position
        while not self._pattern.startswith("]", self._position) or self._position == start:
            first = self._member(codes)
            if first is None or not self._range_follows():
                codes |= {first} if first is not None else set()
                continue
            self._position += 1
            last = self._member(set())
            if last is None or last < first:
                raise Refused("has a range in [...] that ends before it begins")
            codes |= set(range(first, last + 1))
        self._position += 1
        # REG_NEWLINE: [^a] does not match a newline.
        return one_of(frozenset(codes | {10} if negated and self._lines else codes), negated)

    def _range_follows(self) -> bool:
        rest = self._pattern[self._position : self._position + 2]
        return len(rest) == 2 and rest[0] == "-" and rest[1] != "]"

    def _member(self, codes: set[int]) -> int | None:
        """One character, or None where it was a class, whose characters are put into `codes`."""
        if self._position >= len(self._pattern):
            raise Refused("has a [ that is not closed")
        character = self._pattern[self._position]
        kind = self._pattern[self._position + 1 : self._position + 2]
        self._position += 1
        if character != "[" or kind not in (":", ".", "=") or not kind:
            return ord(character)
        name, end, _ = self._pattern[self._position + 1 :].partition(kind + "]")
        self._position += len(name) + 3
        if end and kind == ":" and name in CLASSES and name not in ("word", "ascii"):
            codes |= CLASSES[name]
            return None
        if end and kind != ":" and len(name) == 1:
            return ord(name)
        raise Refused(f"has [{kind}{name[:20]}{kind}], which is not known")
