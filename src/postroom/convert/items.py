"""One item of a postfwd rule, `key operator value`, as a condition of ours: what postfwd's compare_item comes to.

postfwd's tests on an attribute that is empty are its own: `==` and `!=` are both false there, a pattern is put to the
empty text, a number is 0; the null sender is the text `<>`. Ours are others, so each Test says what it is on nothing.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass

from postroom.rules import keys, values
from postroom.rules.problems import Refused

# The protocol_state of requests that belong to a stage. (Those of VRFY belong to rcpt, too, but who says RCPT does not
# mean them.)
STATES = {
    "connect": ("CONNECT",),
    "helo": ("HELO", "EHLO"),
    "mail": ("MAIL",),
    "rcpt": ("RCPT",),
    "data": ("DATA",),
    "end-of-message": ("END-OF-MESSAGE",),
    "etrn": ("ETRN",),
}

NUMERIC = ("size", "recipient_count", "encryption_keysize")
_NUMBERS = ("==", "=>", "=<", "<", ">", "!=", "!<", "!>")

# Texts that Postfix itself chooses, in its spelling: equal is equal, whatever the case.
_SPELLED = {"stress": ("yes",), "protocol_name": ("SMTP", "ESMTP")}

_PLAIN = r"(?:[\w\-]|\\[.\-])+"
_NAMED = {"alnum": "a-zA-Z0-9", "alpha": "a-zA-Z", "digit": "0-9", "lower": "a-z", "upper": "A-Z", "space": r"\s",
          "punct": "!-/:-@\\[-`{-~", "word": r"\w", "xdigit": "0-9A-Fa-f", "blank": r" \t"}  # fmt: skip


class Untranslated(Exception):
    """There is nothing here that says the same; the text is the reason."""


class Never(Exception):
    """postfwd itself never finds this true; the text is the reason."""


@dataclass(frozen=True)
class Item:
    """As it stands in the file; `<=`, `>=` and `~=` are `=<`, `=>` and `=~`, as postfwd has it."""

    key: str
    operator: str
    value: str

    @property
    def negated(self) -> bool:
        return self.value.startswith("!!")

    @property
    def bare(self) -> str:
        """The value without its !! and the brackets round it (deneg_item)."""
        found = re.match(r"^!!\s*\(?\s*(.+?)\s*\)?$", self.value)
        return found[1] if found else self.value


@dataclass(frozen=True)
class Test:
    """`wanted` are values of ours, any of which makes it true, false where `negated`. `pattern` is the same for any
    text that is not empty, and None where no pattern can say it. `on_empty` is what postfwd finds on an empty text."""

    wanted: tuple[str | int, ...]
    negated: bool
    on_empty: bool
    pattern: str | None = None
    remark: str = ""


def state_truth(items: list[Item], stage: str) -> bool | None:
    """Whether the items on protocol_state hold at a stage; None where there are none."""
    asked = [item for item in items if item.key == "protocol_state"]
    return any(on_text(item, name) for item in asked for name in STATES[stage]) if asked else None


def on_text(item: Item, text: str) -> bool:
    """What postfwd's default comparison says of a text (its `default` function), negation included."""
    value, operator = item.bare, item.operator
    if operator in ("==", "!="):
        truth = bool(text) and (text.lower() == value.lower()) is (operator == "==")
    elif operator in ("=", "=~", "!~"):
        truth = bool(re.search(pattern_of(item), text, re.IGNORECASE)) is (operator != "!~")
    else:
        raise Untranslated(f"{item.operator} on {item.key}, which is no number")
    return truth is not item.negated


def pattern_of(item: Item) -> str:
    """The pattern of an item in Python's spelling. Slashes round it do not count."""
    value = item.bare
    return python_pattern((value[1:] if value.startswith("/") else value).removesuffix("/"))


def python_pattern(text: str) -> str:
    """A pattern of Perl's or POSIX's in Python's spelling."""
    pattern = re.sub(r"\[:(\w+):\]", lambda found: _NAMED.get(found[1], found[0]), text)
    pattern = _sets(pattern.replace(r"\z", r"\Z").replace(r"\h", r"[ \t]"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            re.compile(pattern, re.IGNORECASE)
    except (re.error, OverflowError, RecursionError, Warning) as error:
        raise Untranslated(f"the pattern {text} is none of Python's: {error}") from None
    return pattern


def _sets(pattern: str) -> str:
    """A bracket inside a set is itself to Perl; Python warns that it may once begin a set of its own."""
    inside, parts = False, list[str]()
    for part in re.findall(r"\\.|\[\^?\]?|\]|[^\\\[\]]+|\\$", pattern, re.DOTALL):
        if part.startswith("["):
            parts.append(part.replace("[", "\\[") if inside else part)
            inside = (inside and not part.endswith("]")) or not inside
        else:
            inside = inside and part != "]"
            parts.append(part)
    return "".join(parts)


def literal(text: str) -> str:
    """A pattern for just this text, with no more backslashes than it takes."""
    return "^" + re.sub(r"([\\^$.|?*+()\[\]{}])", r"\\\1", text) + "$"


def text_test(item: Item, key: keys.Key) -> Test:
    """An item on an attribute that is a text."""
    empty = on_text(item, "<>" if key.name == "sender" else "")
    negated = item.negated is not (item.operator in ("!=", "!~"))
    if item.operator in ("==", "!="):
        return Test((_equal(item.bare, key),), negated, empty, literal(item.bare))
    pattern = pattern_of(item)
    return Test((simple(pattern, key),), negated, empty, pattern)


def _equal(text: str, key: keys.Key) -> str:
    """A value of ours that equals this text and nothing else, in whatever case."""
    if key.name == "sender" and text == "<>":
        return ""
    spelled = [one for one in _SPELLED.get(key.name, ()) if one.lower() == text.lower()]
    if spelled:
        return spelled[0]
    if key.kind in ("domain", "fold", "address") and _means_itself(text, key.kind):
        return text
    return "re:" + literal(text)


def _means_itself(text: str, kind: str) -> bool:
    if "*" in text or text.endswith(".") or text.startswith(".") or ":" in text[:9] or not text.isascii():
        return kind == "fold" and "*" not in text and not text.startswith(("re:", "list:", "attr:", "provider:"))
    if kind == "address" and not re.fullmatch(r"[^@\s<>]+@[^@\s<>.][^@\s<>]*", text):
        return False
    try:
        values.parse(kind, text, values.Names())
    except Refused:
        return False
    return True


def simple(pattern: str, key: keys.Key) -> str:
    """A value that says the same as a pattern, where people would write one: .example.com for \\.example\\.com$."""
    bare = pattern.replace("\\", "")
    if key.kind in ("domain", "fold", "address") and re.fullmatch(rf"\^{_PLAIN}(@{_PLAIN})?\$", pattern):
        plain = bare[1:-1]
        if ("@" in plain) is (key.kind == "address") and _means_itself(plain, key.kind):
            return plain
    if key.kind == "domain" and re.fullmatch(rf"\\\.[^\\]{_PLAIN}\$", pattern) and _means_itself(bare[1:-1], "domain"):
        return bare[:-1]
    if key.kind == "address" and re.fullmatch(rf"@{_PLAIN}\$", pattern) and _means_itself(bare[1:-1], "domain"):
        return bare[1:-1]
    if key.name == "sender" and pattern == "^<>$":
        return ""
    value = "re:" + pattern
    try:
        values.parse(key.kind, value, values.Names())
    except Refused as refused:
        raise Untranslated(f"the pattern {pattern} {refused}") from None
    return value


def number_test(item: Item) -> Test:
    """An item on a number. `=` is "at least" to postfwd for those it knows as numbers."""
    if not item.bare.isascii() or not item.bare.isdigit() or len(item.bare) > 15:
        raise Untranslated(f"{item.key} is compared with {item.bare}, which is no whole number")
    operator, number = item.operator, int(item.bare)
    if item.key not in NUMERIC and operator not in _NUMBERS:
        raise Untranslated(f"{item.operator} puts a pattern to {item.key}, which is a number")
    if operator not in _NUMBERS:
        operator = "=>"
    truth, wanted = _NUMBER_TESTS[operator](number)
    return Test(wanted, item.negated, truth is not item.negated)


# operator -> for N: whether it is true of 0, and our values. A ">-1" or "<0" is for conditions.py: always, or never.
_NUMBER_TESTS: dict[str, Callable[[int], tuple[bool, tuple[str | int, ...]]]] = {
    "==": lambda n: (n == 0, (n,)),
    "!=": lambda n: (n != 0, (f"<{n}", f">{n}")),
    "=>": lambda n: (n <= 0, (f">{n - 1}",)),
    "!>": lambda n: (n > 0, (f"<{n}",)),
    "=<": lambda n: (True, (f"<{n + 1}",)),
    "!<": lambda n: (False, (f">{n}",)),
    ">": lambda n: (False, (f">{n}",)),
    "<": lambda n: (n > 0, (f"<{n}",)),
}
