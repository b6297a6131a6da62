r"""Which regular expressions a stranger's text may be put to.

Python's engine backtracks. Strangers choose the text, so a pattern that can be read in many ways over one text is a way
to stop the mail: `(a+)+$` takes 2^n steps. So a pattern's steps are estimated here, from above:

* A repetition inside another one that can be read in several ways, `(a+)+`, `(a{1,3})+`, or alternatives there that can
  start alike, `(a|ab)*`: the steps double with each character. Refused.
* Else they grow with a power of the text's length n: n for the places to start at (not with `^`), n for each unbounded
  repetition that what follows does not end (`.*a`; but `\w+@` ends where the `@` is, which `\w` cannot read), and n to
  read the next one. What is left are factors: `a?` and `a{1,3}` before an `a`.

From that follows the longest text which is done in STEPS. A pattern is refused if even an address could be too long;
a longer text than that leaves the rule undecided. Doubt refuses: a pattern that looks back at its groups, say.
"""

from __future__ import annotations

import re
import warnings
from math import factorial
from typing import Any, NamedTuple

from postroom.rules import Unknown
from postroom.rules.problems import Refused

# The engine takes from 10^7 of the slowest to 10^8 of the quickest steps a second: half a second at worst.
STEPS = 5e6

# An address has at most 254 characters (RFC 5321 section 4.5.3.1.3: 256 with its brackets), a domain name 253.
LEAST_TEXT = 256
MOST_TEXT = 8192

# RE2 takes some ten nanoseconds a character: half a millisecond. No attribute is longer (wire.policy.REQUEST_LIMIT).
LINEAR_TEXT = 65536

# Where factors stop growing: beyond any that passes, and short of numbers that take long themselves.
_TOO_MUCH = 10**12

# Above this a bounded repetition counts as unbounded.
_BOUND = 16

# Sets of characters are taken over Latin-1, and beyond it over one letter, digit, blank and sign for all others.
_LATIN = frozenset(map(chr, range(256)))
_LETTER, _DIGIT, _BLANK, _SIGN = "\u0101", "\u0660", "\u2003", "\u2026"
_ALL = _LATIN | {_LETTER, _DIGIT, _BLANK, _SIGN}
_CATEGORIES = {"WORD": r"\w", "DIGIT": r"\d", "SPACE": r"\s"}

_SIMPLE = ("LITERAL", "NOT_LITERAL", "ANY", "IN")
_REPEATS = ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT")
_NESTED = (
    "has a repetition inside another that can be read in several ways; a text made for it keeps it busy for years. "
    "Write it with one: a+ instead of (a+)+"
)


class Runaway(Refused):
    """A pattern that is right, but could keep Python's engine busy over a text made for it. RE2 may take it."""


class Cost(NamedTuple):
    """Of a part of a pattern: unbounded repetitions, how many of them may end in several places, factor of the rest."""

    unbounded: int = 0
    ambiguous: int = 0
    factor: int = 1

    def times(self, most: int) -> Cost:
        return Cost(self.unbounded * most, self.ambiguous * most, min(self.factor**most, _TOO_MUCH))

    def then(self, other: Cost) -> Cost:
        factor = min(self.factor * other.factor, _TOO_MUCH)
        return Cost(self.unbounded + other.unbounded, self.ambiguous + other.ambiguous, factor)

    def worst(self, other: Cost) -> Cost:
        return Cost(*map(max, self, other))


def check(pattern: str) -> int:
    """The longest text to put it to. Raises Refused where the pattern is wrong or can run away.

    With RE2 installed, what can run away is left to it: the number is then negative (see linear()).
    """
    if not pattern:
        raise Refused('is empty and would match everything; expected a pattern after "re:"')
    try:
        return bound(pattern, re.IGNORECASE)
    except Runaway:
        if _re2(pattern.encode(), re.IGNORECASE) is None:
            raise
        return -LINEAR_TEXT


def linear(pattern: str, text: str) -> bool | Unknown:
    """Put a text to a pattern that check() left to RE2, which takes time by the text's length alone."""
    compiled = _re2(pattern.encode(), re.IGNORECASE)
    if compiled is None:
        return Unknown(f"the pattern {pattern} needs RE2, which is not installed here")
    return compiled.search(text.encode("utf-8", "surrogateescape")) is not None


class Engine:
    """A compiled pattern over bytes. `limit`: the longest text that may be put to it."""

    __slots__ = ("groups", "limit", "search")

    def __init__(self, compiled: Any, limit: int) -> None:
        self.search = compiled.search
        self.groups: int = compiled.groups
        self.limit = limit


def engine(pattern: str, flags: re.RegexFlag, longest: bool = False) -> Engine:
    """The engine for a pattern in ASCII over bytes: Python's where that cannot run away, else RE2's if it is installed.

    `longest`: of several places to end, RE2 takes the last, as POSIX says. Raises Refused.
    """
    try:
        limit = bound(pattern, flags)
    except Runaway:
        compiled = _re2(pattern.encode("ascii"), flags, latin=True, longest=longest)
        if compiled is None:
            raise
        return Engine(compiled, LINEAR_TEXT)
    return Engine(re.compile(pattern.encode("ascii"), flags), limit)


def bound(pattern: str, flags: re.RegexFlag) -> int:
    """The longest text that Python's engine may be given. Raises Refused, or Runaway where no text is short enough."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            re.compile(pattern, flags)
            tree = re._parser.parse(pattern, flags)  # type: ignore[attr-defined]  # re has no public parser
    except (re.error, RecursionError, OverflowError, Warning) as error:
        raise Refused(f"is no regular expression of Python's: {error}") from error
    items = list(tree)
    cost = _sequence(items, [])
    anchored = _anchored(items) and not tree.state.flags & re.MULTILINE
    power = (0 if anchored else 1) + min(cost.unbounded, cost.ambiguous + 1)
    limit = int((STEPS * factorial(power) / cost.factor) ** (1 / power)) if power else MOST_TEXT
    if limit < LEAST_TEXT or cost.factor > STEPS / MOST_TEXT:
        raise Runaway(
            "could keep busy for long over a text made for it: too many repetitions that what follows does not end. "
            "Say what ends each, as in [^@]*@ instead of .*@, and begin with ^ where that is meant"
        )
    return min(limit, MOST_TEXT)


def _re2(pattern: bytes, flags: re.RegexFlag, latin: bool = False, longest: bool = False) -> Any:
    """The pattern as RE2 compiles it; None where RE2 is not installed, or does not know what the pattern uses."""
    try:
        import re2  # type: ignore[import-untyped]  # it has no stubs
    except ImportError:
        return None
    options = re2.Options()
    options.log_errors = False
    options.case_sensitive = not flags & re.IGNORECASE
    options.dot_nl = bool(flags & re.DOTALL)
    options.longest_match = longest
    if latin:
        options.encoding = re2.Options.Encoding.LATIN1
    # The very end of a text is \Z in Python before 3.14, \z in RE2.
    pattern = re.sub(rb"\\.", lambda found: rb"\z" if found[0] == rb"\Z" else found[0], pattern, flags=re.DOTALL)
    try:
        return re2.compile((b"(?m)" if flags & re.MULTILINE else b"") + pattern, options)
    except re2.error:
        return None


def _anchored(tree: list[Any]) -> bool:
    return bool(tree) and str(tree[0][1]) in ("AT_BEGINNING", "AT_BEGINNING_STRING")


def _sequence(items: list[Any], rest: list[Any]) -> Cost:
    """The cost of the items, `rest` following them."""
    cost = Cost()
    for index, item in enumerate(items):
        cost = cost.then(_item(item, items[index + 1 :] + rest))
    return cost


def _item(item: Any, rest: list[Any]) -> Cost:
    operation, argument = str(item[0]), item[1]
    if operation in _REPEATS:
        return _repeat(argument, rest)
    if operation == "SUBPATTERN":
        return _sequence(list(argument[3]), rest)
    if operation == "ATOMIC_GROUP":
        return _sequence(list(argument), rest)
    if operation == "BRANCH":
        return _branch(argument[1], rest)
    if operation in ("ASSERT", "ASSERT_NOT"):
        return _sequence(list(argument[1]), [])
    if operation in (*_SIMPLE, "AT"):
        return Cost()
    raise Runaway(f"uses {operation.lower()}, of which it cannot be said how long it takes over a text made for it")


def _branch(branches: list[Any], rest: list[Any]) -> Cost:
    worst = Cost()
    for branch in branches:
        worst = worst.worst(_sequence(list(branch), rest))
    return worst.then(Cost(factor=1 if _distinct(branches) else len(branches)))


def _repeat(argument: Any, rest: list[Any]) -> Cost:
    least, most, body = argument
    items = list(body)
    ended = _ended(_characters(items), rest)
    if most <= _BOUND:
        inner = _sequence(items, (items if most > 1 else []) + rest).times(most)
        return inner if ended or least == most else inner.then(Cost(factor=int(most - least) + 1))
    _repeated(items, items)
    if not rest:
        return Cost()  # what ends the pattern never has to try again
    return Cost(1, 0 if ended else 1, 1)


def _repeated(items: list[Any], rest: list[Any]) -> None:
    """Inside a repetition there must be one way only to read a text; `rest` begins it again."""
    for index, (operation, argument) in enumerate(items):
        name, following = str(operation), items[index + 1 :] + rest
        if name in _REPEATS:
            least, most, body = argument
            if most > _BOUND or (least != most and not _ended(_characters(body), following)):
                raise Runaway(_NESTED)
            _repeated(list(body), list(body) + following)
        elif name == "SUBPATTERN":
            _repeated(list(argument[3]), following)
        elif name == "BRANCH":
            if not _distinct(argument[1]):
                raise Runaway("has alternatives that can start alike inside a repetition, as in (a|ab)*")
            for branch in argument[1]:
                _repeated(list(branch), following)
        elif name not in (*_SIMPLE, "AT"):
            raise Runaway(f"uses {name.lower()} inside a repetition")


def _ended(repeated: frozenset[str], rest: list[Any]) -> bool:
    """Whether what follows cannot be what was repeated, so that there is one place to stop."""
    for operation, argument in rest:
        name = str(operation)
        if name == "SUBPATTERN":
            return _ended(repeated, [*argument[3], ("?", None)])
        if name != "AT":
            return name in _SIMPLE and not repeated & _single((operation, argument))
    return True  # the end of the pattern: what was read is enough


def _distinct(branches: list[Any]) -> bool:
    """Whether the first character tells which of the alternatives it is."""
    seen: frozenset[str] = frozenset()
    for branch in branches:
        first = _single(branch[0]) if len(branch) and str(branch[0][0]) in _SIMPLE else _ALL
        if first & seen:
            return False
        seen |= first
    return True


def _characters(items: Any) -> frozenset[str]:
    return frozenset[str]().union(*(_single(item) for item in items))


def _single(item: Any) -> frozenset[str]:
    """The characters that an item can read; all of them where that is not simple to say."""
    operation, argument = str(item[0]), item[1]
    if operation == "LITERAL":
        return _literal(argument)
    if operation == "NOT_LITERAL":
        return _ALL - (_literal(argument) & _LATIN)
    if operation == "IN":
        return _class(argument)
    if operation == "SUBPATTERN":
        return _characters(argument[3])
    if operation in _REPEATS:
        return _characters(argument[2])
    return frozenset() if operation == "AT" else _ALL


def _literal(code: int) -> frozenset[str]:
    return frozenset(_stand_in(c) for c in chr(code).lower() + chr(code).upper())


def _stand_in(character: str) -> str:
    if character in _LATIN:
        return character
    if character.isspace():
        return _BLANK
    if character.isdigit():
        return _DIGIT
    return _LETTER if character.isalnum() else _SIGN


def _class(items: list[Any]) -> frozenset[str]:
    found: frozenset[str] = frozenset()
    surely: frozenset[str] = frozenset()  # one letter excluded does not exclude all that its stand-in stands for
    for operation, argument in items:
        if str(operation) == "CATEGORY":
            surely |= _category(str(argument))
        elif str(operation) == "LITERAL":
            found |= _literal(argument)
        elif str(operation) == "RANGE":
            found |= _range(*argument)
    if str(items[0][0]) == "NEGATE":
        return _ALL - surely - (found & _LATIN)
    return found | surely


def _range(first: int, last: int) -> frozenset[str]:
    inside = frozenset[str]().union(*(_literal(code) for code in range(first, min(last, 255) + 1)))
    return inside | (_ALL - _LATIN) if last > 255 else inside


def _category(name: str) -> frozenset[str]:
    kind = name.removeprefix("CATEGORY_").removeprefix("NOT_")
    if kind not in _CATEGORIES:
        return _ALL
    members = frozenset(c for c in _ALL if re.fullmatch(_CATEGORIES[kind], c))
    return _ALL - members if "_NOT_" in name else members
