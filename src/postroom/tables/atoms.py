"""What the readers of POSIX's and Perl's regular expressions write in common: bytes, sets of bytes, repeated atoms.

Rules for this file
* A pattern is written anew for Python's engine from what was understood of it, and refused where something was not.
* Postfix matches bytes, in the C locale: letters beyond ASCII are two bytes or more, and have no case.
* What is written is ASCII; a byte that is no letter or digit is written as \\xNN. So `\\Z` in it is an anchor.
"""

from __future__ import annotations

from postroom.rules.problems import Refused

_LOWER = frozenset(range(0x61, 0x7B))
_UPPER = frozenset(range(0x41, 0x5B))
_DIGIT = frozenset(range(0x30, 0x3A))
_PUNCT = frozenset(range(0x21, 0x7F)) - _LOWER - _UPPER - _DIGIT
SPACE = frozenset({9, 10, 11, 12, 13, 32})
DIGIT = _DIGIT
WORD = _LOWER | _UPPER | _DIGIT | {0x5F}
ALL = frozenset(range(256))

# The classes of the C locale (isalpha(3)), and Perl's `word`.
CLASSES = {
    "alpha": _LOWER | _UPPER,
    "digit": _DIGIT,
    "alnum": _LOWER | _UPPER | _DIGIT,
    "upper": _UPPER,
    "lower": _LOWER,
    "space": SPACE,
    "blank": frozenset({9, 32}),
    "punct": _PUNCT,
    "print": frozenset(range(0x20, 0x7F)),
    "graph": frozenset(range(0x21, 0x7F)),
    "cntrl": frozenset(range(0x20)) | {0x7F},
    "xdigit": _DIGIT | frozenset(range(0x41, 0x47)) | frozenset(range(0x61, 0x67)),
    "word": WORD,
    "ascii": frozenset(range(128)),
}

# Nothing longer is a table's rule; the readers go through it character by character.
PATTERN_LIMIT = 16384


def byte(code: int) -> str:
    character = chr(code)
    return character if code < 128 and character.isalnum() else f"\\x{code:02x}"


def one_of(codes: frozenset[int], negated: bool = False) -> str:
    """A set as Python writes it."""
    if not codes:
        return "[\\x00-\\xff]" if negated else "(?!)"
    if codes == ALL and negated:
        return "(?!)"
    ranges, start, last = [], -2, -2
    for code in sorted(codes):
        if code != last + 1:
            ranges.append((start, last))
            start = code
        last = code
    ranges.append((start, last))
    inside = "".join(byte(a) if a == b else f"{byte(a)}-{byte(b)}" for a, b in ranges[1:])
    return f"[{'^' if negated else ''}{inside}]"


class Writer:
    """Groups of atoms: the last one can be repeated, a group closed."""

    def __init__(self) -> None:
        self._open: list[tuple[str, list[str]]] = [("", [])]
        # Whether the last atom can be repeated, and whether it is a repetition already.
        self._repeatable = False
        self._repeated = False

    @property
    def depth(self) -> int:
        return len(self._open) - 1

    @property
    def atoms(self) -> list[str]:
        """What has been written of the group at hand."""
        return self._open[-1][1]

    def atom(self, text: str) -> None:
        self.atoms.append(text)
        self._repeatable, self._repeated = True, False

    def mark(self, text: str) -> None:
        """An anchor or `|`, which no repetition may follow."""
        self.atoms.append(text)
        self._repeatable = False

    def open(self, start: str) -> None:
        self._open.append((start, []))
        self._repeatable = False

    def close(self) -> None:
        if not self.depth:
            raise Refused("closes a group that is not open; write \\) for the character")
        start, atoms = self._open.pop()
        self.atom(start + "".join(atoms) + ")")

    def repeat(self, times: str, again: bool = True) -> None:
        """`times` as Python writes it. `again`: what repeats may be repeated, a+* in POSIX, in a group of its own."""
        if not self._repeatable or (self._repeated and not again):
            raise Refused(f"repeats nothing with {times}; write \\{times[0]} for the character")
        if self._repeated:
            self.atoms[-1] = f"(?:{self.atoms[-1]})"
        self.atoms[-1] += times
        self._repeated = True

    def end(self) -> str:
        if self.depth:
            raise Refused("opens a group and does not close it")
        return "".join(self.atoms)


def interval(text: str) -> str:
    """The inside of {m,n}; empty where it is none."""
    least, comma, most = text.partition(",")
    if not (least.isascii() and least.isdigit() and len(least) < 6) or (
        most and not (most.isascii() and most.isdigit() and len(most) < 6)
    ):
        return ""
    if most and int(most) < int(least):
        raise Refused(f"has {{{text}}}, which ends before it begins")
    return f"{{{least}{comma}{most}}}"
