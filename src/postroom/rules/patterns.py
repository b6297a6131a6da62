r"""Which regular expressions a stranger's text may be put to.

Python's engine backtracks. Strangers choose the text, so a pattern that can be read in many ways over one text is a way
to stop the mail: `(a+)+$` takes 2^n steps. Refused here, with a hint:

* an unbounded repetition inside another one, and a bounded one there that may end in several places: `(a{1,3})+`;
* alternatives that can start alike inside an unbounded repetition: `(a|ab)*`;
* more than two unbounded repetitions that what follows does not end, as in `.*a.*b.*c`: each multiplies the steps by
  the length of the text. (`\w+\.\w+` has none: no dot is a word character, so there is one place to stop.)

With that, and with a limit to the length of the text, the worst case is a fraction of a second. Doubt refuses: a
pattern that looks back at its groups, say, is not understood here.
"""

from __future__ import annotations

import re
import warnings
from typing import Any

from postroom.rules.problems import Refused

# One repetition that may end anywhere is what "contains" needs; a second lets a pattern have a middle.
_AMBIGUOUS_LIMIT = 2

# The longest text, in characters, that a pattern with so many of them is put to: the steps grow with the square of
# its length, or with two with the cube. About 0.3 s each in the worst case; a longer text leaves the rule undecided.
TEXT_LIMITS = (8192, 8192, 500)

# Above this a bounded repetition counts as unbounded: `(a{1,30}){1,30}` is no better than `(a+)+`.
_BOUND = 16

# Sets of characters are taken over Latin-1, and beyond it over one letter, digit, blank and sign for all others.
_LATIN = frozenset(map(chr, range(256)))
_LETTER, _DIGIT, _BLANK, _SIGN = "\u0101", "\u0660", "\u2003", "\u2026"
_ALL = _LATIN | {_LETTER, _DIGIT, _BLANK, _SIGN}
_CATEGORIES = {"WORD": r"\w", "DIGIT": r"\d", "SPACE": r"\s"}

_SIMPLE = ("LITERAL", "NOT_LITERAL", "ANY", "IN")
_REPEATS = ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT")
_NESTED = (
    "has a repetition inside an unbounded one that can be read in several ways; a text made for it keeps it busy for "
    "years. Write it with one: a+ instead of (a+)+"
)


def check(pattern: str) -> int:
    """The longest text to put it to. Raises Refused where the pattern is wrong or can run away."""
    if not pattern:
        raise Refused('is empty and would match everything; expected a pattern after "re:"')
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            re.compile(pattern, re.IGNORECASE)
            tree = re._parser.parse(pattern, re.IGNORECASE)  # type: ignore[attr-defined]  # re has no public parser
    except (re.error, RecursionError, OverflowError, Warning) as error:
        raise Refused(f"is no regular expression of Python's: {error}") from error
    found = _sequence(list(tree), [])
    if found > _AMBIGUOUS_LIMIT:
        raise Refused(
            f"has {found} unbounded repetitions that what follows does not end, expected at most {_AMBIGUOUS_LIMIT}: "
            "slow over a text made for it. Say what ends each, as in [^@]*@ instead of .*@"
        )
    return TEXT_LIMITS[found]


def _sequence(items: list[Any], rest: list[Any]) -> int:
    """How many repetitions among the items, `rest` following them, may end in more than one place."""
    return sum(_item(item, items[index + 1 :] + rest) for index, item in enumerate(items))


def _item(item: Any, rest: list[Any]) -> int:
    operation, argument = str(item[0]), item[1]
    if operation in _REPEATS:
        return _repeat(argument, rest)
    if operation == "SUBPATTERN":
        return _sequence(list(argument[3]), rest)
    if operation == "ATOMIC_GROUP":
        return _sequence(list(argument), rest)
    if operation == "BRANCH":
        return max(_sequence(list(branch), rest) for branch in argument[1])
    if operation in ("ASSERT", "ASSERT_NOT"):
        return _sequence(list(argument[1]), [])
    if operation in (*_SIMPLE, "AT"):
        return 0
    raise Refused(f"uses {operation.lower()}, of which it cannot be said how long it takes over a text made for it")


def _repeat(argument: Any, rest: list[Any]) -> int:
    _, most, body = argument
    items = list(body)
    if most <= _BOUND:
        return int(most) * _sequence(items, (items if most > 1 else []) + rest)
    _repeated(items, items)
    return 0 if _ended(_characters(items), rest) else 1


def _repeated(items: list[Any], rest: list[Any]) -> None:
    """Inside an unbounded repetition there must be one way only to read a text; `rest` begins it again."""
    for index, (operation, argument) in enumerate(items):
        name, following = str(operation), items[index + 1 :] + rest
        if name in _REPEATS:
            least, most, body = argument
            if most > _BOUND or (least != most and not _ended(_characters(body), following)):
                raise Refused(_NESTED)
            _repeated(list(body), list(body) + following)
        elif name == "SUBPATTERN":
            _repeated(list(argument[3]), following)
        elif name == "BRANCH":
            _distinct(argument[1])
            for branch in argument[1]:
                _repeated(list(branch), following)
        elif name not in (*_SIMPLE, "AT"):
            raise Refused(f"uses {name.lower()} inside an unbounded repetition")


def _ended(repeated: frozenset[str], rest: list[Any]) -> bool:
    """Whether what follows cannot be what was repeated, so that there is one place to stop."""
    for operation, argument in rest:
        name = str(operation)
        if name == "SUBPATTERN":
            return _ended(repeated, [*argument[3], ("?", None)])
        if name != "AT":
            return name in _SIMPLE and not repeated & _single((operation, argument))
    return True  # the end of the pattern: what was read is enough


def _distinct(branches: list[Any]) -> None:
    seen: frozenset[str] = frozenset()
    for branch in branches:
        first = _single(branch[0]) if len(branch) and str(branch[0][0]) in _SIMPLE else _ALL
        if first & seen:
            raise Refused("has alternatives that can start alike inside an unbounded repetition, as in (a|ab)*")
        seen |= first


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
