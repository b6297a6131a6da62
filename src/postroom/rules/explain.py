"""How a decision came about: what each rule saw, condition by condition, as values that can be printed or sent as JSON.

A Recorder watches one run of evaluate.decide(); `rules()` then goes through the stage's rules in their order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from postroom.rules import SEPARATOR, Question, Unknown
from postroom.rules.describe import MISSING, seen
from postroom.status import clean

if TYPE_CHECKING:
    from collections.abc import Iterator

    from postroom.rules import Ruleset
    from postroom.rules.evaluate import Truth
    from postroom.rules.facts import Facts

NOT_NEEDED = "not needed"


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
            self._judged[id(condition)] = truth, seen(condition, facts)

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
        action = " ".join(words or ()).replace(f" {SEPARATOR} ", ", ")
        return RuleView(identity, mode, verdict, reason, action, conditions)

    def _condition(self, place: str, condition: tuple[Any, ...]) -> Judged:
        key, shown = condition[1], condition[6]
        if id(condition) not in self._judged:
            return Judged(place, key, shown, NOT_NEEDED, "", "")
        truth, saw = self._judged[id(condition)]
        word, reason = _truth(truth)
        return Judged(place, key, shown, MISSING if saw == MISSING else word, saw, reason)


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
