"""How a decision came about: what each rule saw, condition by condition, as values that can be printed or sent as JSON.

A Recorder watches one run of evaluate.decide(); `rules()` then goes through the stage's rules in their order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from postroom.rules import Question, Unknown
from postroom.status import clean

if TYPE_CHECKING:
    from collections.abc import Iterator

    from postroom.rules import Ruleset
    from postroom.rules.evaluate import Truth
    from postroom.rules.facts import Facts

MISSING = "missing"
NOT_NEEDED = "not needed"
_SHOWN_LIMIT = 200


@dataclass(frozen=True)
class Judged:
    """One condition. `place` is match, unless or any N; `truth` true, false, unknown, missing or "not needed"."""

    place: str
    key: str
    expected: tuple[str, ...]
    truth: str
    seen: str
    reason: str


@dataclass(frozen=True)
class RuleView:
    """One rule. `verdict`: matches, differs, unknown or unreached; `action` what it came to, empty where it passed.

    `reason`: why it is unknown, or why the action of a rule that matches could not be filled in.
    """

    identity: str
    mode: str
    verdict: str
    reason: str
    action: str
    conditions: tuple[Judged, ...]


class Recorder:
    """The Trace of one decision."""

    def __init__(self) -> None:
        self._judged: dict[int, tuple[Truth, str]] = {}
        self._ended: dict[str, tuple[Truth, tuple[str, ...] | None, str]] = {}

    def judged(self, condition: tuple[Any, ...], truth: Truth, facts: Facts) -> None:
        # A rule is judged again after each answer: the last time counts.
        if not isinstance(truth, Question):
            self._judged[id(condition)] = truth, _seen(condition, facts)

    def ended(self, rule: str, truth: Truth, words: tuple[str, ...] | None, unfilled: str) -> None:
        self._ended[rule] = truth, words, unfilled

    def rules(self, ruleset: Ruleset, stage: str) -> list[RuleView]:
        return [self._rule(rule) for rule in ruleset["stages"].get(stage, ())]

    def _rule(self, rule: tuple[Any, ...]) -> RuleView:
        identity, mode, _, _, terms = rule
        conditions = tuple(self._condition(place, one) for place, one in _places(terms))
        if identity not in self._ended:
            return RuleView(identity, mode, "unreached", "", "", conditions)
        truth, words, unfilled = self._ended[identity]
        verdict, reason = _truth(truth)
        if unfilled and not reason:
            reason = f"its action cannot be filled in: {unfilled}"
        verdict = {"true": "matches", "false": "differs"}.get(verdict, verdict)
        return RuleView(identity, mode, verdict, reason, " ".join(words or ()), conditions)

    def _condition(self, place: str, condition: tuple[Any, ...]) -> Judged:
        key, shown = condition[1], condition[6]
        if id(condition) not in self._judged:
            return Judged(place, key, shown, NOT_NEEDED, "", "")
        truth, seen = self._judged[id(condition)]
        word, reason = _truth(truth)
        return Judged(place, key, shown, MISSING if seen == MISSING else word, seen, reason)


def _truth(truth: Truth) -> tuple[str, str]:
    if isinstance(truth, Unknown):
        return "unknown", clean(truth.reason)
    return ("true" if truth else "false"), ""


def _places(terms: tuple[Any, ...]) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """The conditions of a rule, each with the table it stands in."""
    for form, body in terms:
        if form == "is":
            yield "match", body
        elif form == "not":
            for condition in body:
                yield "unless", condition
        else:
            for number, block in enumerate(body, 1):
                for condition in block:
                    yield f"any {number}", condition


def _seen(condition: tuple[Any, ...], facts: Facts) -> str:
    """The value that the condition looked at, for a person."""
    kind, _, source, part, known, _, _ = condition
    if kind in ("mx", "mx_state"):
        plan = facts.plan(source)
        return MISSING if plan is None else describe("mx", plan)
    if kind == "flag":
        return describe("suppressed", facts.suppression(source)) if facts.text(source) else MISSING
    if kind == "header":
        return describe("header", facts.ask("header", source))
    if kind == "number":
        text = facts.text(source)
        return _short(text) if text and (text != "0" or known) else MISSING
    if facts.value(source, part, kind, known) is None:
        return MISSING
    return _short(facts.text(source, part)) or "(empty)"


def describe(kind: str, answer: Any) -> str:
    """The answer to a question, for a person."""
    if isinstance(answer, Question | Unknown):
        return _short(f"unknown: {answer.reason}") if isinstance(answer, Unknown) else "not asked"
    if kind == "mx":
        return _plan(answer)
    if kind == "list":
        return "not in it" if answer is False else "found" + (f": {_short(answer)}" if isinstance(answer, str) else "")
    if kind == "suppressed":
        return "not suppressed" if answer is None else f"suppressed: {_short(answer.why)}"
    return ", ".join(_short(value) for value in answer[:5]) or MISSING


def _plan(plan: Any) -> str:
    if plan.state in ("mx", "implicit", "literal"):
        return ", ".join(f"{name} ({preference})" for preference, name in plan.hosts[:10])
    words = {"null": "null MX: takes no mail", "none": "no mail host", "error": "DNS did not tell"}[plan.state]
    return f"{words}: {clean(plan.reason)}" if plan.reason else words


def _short(text: str) -> str:
    text = clean(text)
    return text if len(text) <= _SHOWN_LIMIT else f"{text[:_SHOWN_LIMIT]}... ({len(text)} characters)"
