"""How a decision is shown to a person: the rules in order, their conditions in columns, colours on a terminal only."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection
from dataclasses import dataclass

import click

from postroom.rules import keys
from postroom.rules.describe import MISSING
from postroom.rules.explain import NOT_NEEDED, Judged, RuleView

_COLOURS = {
    "true": "green",
    "matches": "green",
    "unknown": "yellow",
    "missing": "yellow",
    "error": "red",
    "warning": "yellow",
}
_EXPECTED_LIMIT = 60


@dataclass(frozen=True)
class Style:
    """Whether there are colours."""

    colours: bool

    @classmethod
    def for_stdout(cls) -> Style:
        """On a terminal, unless the user wants none (https://no-color.org)."""
        return cls(sys.stdout.isatty() and not os.environ.get("NO_COLOR"))

    def paint(self, text: str, what: str) -> str:
        return click.style(text, fg=_COLOURS[what]) if self.colours and what in _COLOURS else text

    def strong(self, text: str) -> str:
        return click.style(text, bold=True) if self.colours else text

    def level(self, level: str) -> str:
        return self.paint(level, level)


def rule_lines(rule: RuleView, style: Style, given: Collection[str]) -> list[str]:
    """One rule: its verdict, then each condition with what it expected, what it saw, and what that came to.

    `given` are the names of the attributes that are there, empty or not.
    """
    lines = [f"{style.strong(rule.identity)}: {style.paint(_verdict(rule), rule.verdict)}"]
    if rule.verdict == "unreached":
        return lines
    rows = [_row(condition, given) for condition in rule.conditions]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    for row, condition in zip(rows, rule.conditions, strict=True):
        cells = [f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)]
        truth = style.paint(f"{row[3]:<10}", condition.truth)
        lines.append("  " + "  ".join([*cells, truth, row[4]]).rstrip())
    if not rule.conditions:
        lines.append("  no conditions: matches always")
    return lines


def _row(condition: Judged, given: Collection[str]) -> tuple[str, str, str, str, str]:
    expected = ", ".join(condition.expected)
    if len(expected) > _EXPECTED_LIMIT:
        expected = expected[: _EXPECTED_LIMIT - 3] + "..."
    seen = condition.seen
    if condition.truth == "unknown":
        seen = condition.reason
    elif seen == MISSING:
        seen = f"{_absence(condition.key, given)}, so the rule does not match"
    return condition.place, condition.key, expected or '""', condition.truth, seen


def _absence(name: str, given: Collection[str]) -> str:
    """Why it is missing: Postfix sends an empty text for what it does not know; a person may have left it out."""
    key = keys.find(name)
    if key and key.kind in ("header", "attachment"):
        return "not in the message"
    if key and not key.source:
        return "what it counts by is missing"
    return "not known at this moment" if key and key.source in given else "not given"


# What an empty value says, where it says something.
_EMPTY = {"sasl_username": '"no login"', "sasl_method": '"no login"', "sender": "the null sender"}


def not_given(rules: list[RuleView], given: Collection[str], stage: str) -> str:
    """One line that names what the conditions looked for in vain, since nobody gave it; empty where there is none.

    With it goes what the same rules would have looked for next, so that one more try is enough.
    """
    held_up = [rule for rule in rules if any(one.truth == MISSING for one in rule.conditions)]
    wanted = [one for rule in held_up for one in rule.conditions if one.truth in (MISSING, NOT_NEEDED)]
    asked = [keys.find(one.key) for one in wanted]
    sources = [key.source for key in asked if key and key.kind != "header" and key.source and key.source not in given]
    names = [name + _hint(name, stage) for name in dict.fromkeys(sources)]
    return "Not given, though rules ask for it: " + ", ".join(names) if names else ""


def _hint(name: str, stage: str) -> str:
    key = keys.find(name)
    if key is None or stage not in key.known or key.kind == "number":
        return ""
    return f" (add {name}= for {_EMPTY.get(name, 'none')})"


def _verdict(rule: RuleView) -> str:
    if rule.verdict == "unreached":
        return "not reached, a rule above has decided"
    if rule.verdict == "differs":
        return "does not match"
    then = f" -> {rule.action}" if rule.action else ""
    if rule.verdict == "unknown":
        return f"cannot be decided ({rule.reason}); its on_error says " + (rule.action or "skip")
    if rule.mode == "shadow":
        return f"would match{then} (mode = shadow: only logged)"
    return f"matches{then}" + (f"; {rule.reason}" if rule.reason else "")


_NAMES = {
    "primary_mx": "the primary MX of the {} domain",
    "any_mx": "one of the MX hosts of the {} domain",
    "every_mx": "every MX host of the {} domain",
    "mx_state": "what DNS says about the {} domain",
    "mx_address": "one of the addresses of the MX hosts of the {} domain",
    "ns": "one of the name servers of the {} domain",
}

# Where the value that was seen says it all.
_PHRASES = {
    "suppressed": "the recipient is {}",
    "null_sender": "the sender is {}",
    "client_is_literal": "the HELO name is {}",
    "fcrdns": "the client's reverse name is {}",
    "dnsbl": "the client is {}",
    "rhsbl": "the sender's domain is {}",
    "helo_rhsbl": "the HELO name is {}",
    "client_rhsbl": "the client's name is {}",
    "country": "the client is in {}",
    "time": "it is {}",
    "weekday": "it is {}",
    "seen": "by what was seen, {}",
    "greylist": "by the greylist, {}",
    "rate": "by its rate, {}",
}


def _name(key: str) -> str:
    plain = key.removeprefix("sender_")
    return _NAMES[plain].format("recipient's" if plain == key else "sender's") if plain in _NAMES else key


def because(rule: RuleView) -> str:
    """Why a rule matched, as a sentence for somebody who has never seen a rule."""
    if not rule.conditions:
        return "this rule has no conditions"
    counting = sorted(filter(_counts, rule.conditions), key=lambda condition: condition.place == "unless")
    reasons = [_reason(condition) for condition in counting]
    if len(reasons) < 2:
        return "".join(reasons)
    return ", ".join(reasons[:-1]) + ", and " + reasons[-1]


def _counts(condition: Judged) -> bool:
    return condition.truth == ("false" if condition.place == "unless" else "true")


def _reason(condition: Judged) -> str:
    if condition.key in _PHRASES:
        return _PHRASES[condition.key].format(condition.seen)
    name = _name(condition.key)
    isnt = "is not" if condition.place == "unless" else "is"
    if name != condition.key:
        return f"{name} {isnt} {_expected(condition)} (it has: {condition.seen})"
    return f"{name} {condition.seen} {isnt} {_expected(condition)}"


_REFERENCES = {"list": "on the list", "provider": "at the provider", "attr": "the same as the"}


def _expected(condition: Judged) -> str:
    words = []
    for value in condition.expected:
        kind, colon, name = value.partition(":")
        if colon and kind in _REFERENCES:
            words.append(f"{_REFERENCES[kind]} {name}")
        else:
            words.append(f'"{value}"')
    return " or ".join(words)
