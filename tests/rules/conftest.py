"""Rule files as text, and their decisions, in one line each."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from postroom.rules import Decision, Unknown
from postroom.rules.check import check
from postroom.rules.compile import compile_model
from postroom.rules.evaluate import decide
from postroom.rules.problems import Problem
from postroom.rules.read import Unreadable, parse

Answers = Mapping[str, Any]


class Rules:
    """A compiled file. `answers`: "kind" or ("kind", argument) -> answer; `asked` keeps the kinds asked for."""

    def __init__(self, text: str) -> None:
        model, report = check(parse(text.encode(), "postroom.toml"), "/etc/postroom")
        assert model, "\n".join(map(str, report.problems))
        self.model = model
        self.report = report
        self.compiled = compile_model(model)
        self.asked: list[str] = []

    def decide(self, stage: str, attributes: Mapping[str, str], answers: Mapping[Any, Any] | None = None) -> Decision:
        steps = decide(self.compiled["rules"], stage, attributes)
        known = {} if answers is None else answers
        self.asked = []
        try:
            question = next(steps)
            while True:
                self.asked.append(question.kind)
                answer = known.get((question.kind, question.argument), known.get(question.kind, Unknown("not given")))
                question = steps.send(answer)
        except StopIteration as end:
            assert isinstance(end.value, Decision)
            return end.value


@pytest.fixture
def rules() -> Callable[[str], Rules]:
    return Rules


@pytest.fixture
def problems() -> Callable[[str], list[Problem]]:
    def found(text: str) -> list[Problem]:
        try:
            _, report = check(parse(text.encode(), "postroom.toml"), "/etc/postroom")
        except Unreadable as unreadable:
            return [unreadable.problem]
        return report.problems

    return found
