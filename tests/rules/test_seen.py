"""What is remembered of values must never change a decision, nor a question, however it is asked and in which order."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rules.test_oracle import PLANS, World, compiled, indexed, requests, rulesets

from postroom.mx import Plan
from postroom.policy import PolicyRequest
from postroom.rules import seen
from postroom.rules.evaluate import decide
from postroom.sources import Sources


def decided(ruleset: Any, attributes: Any, world: World) -> tuple[Any, ...]:
    steps = decide(ruleset, "rcpt", attributes)
    try:
        question = next(steps)
        while True:
            question = steps.send(world.answer(question.kind, question.argument))
    except StopIteration as end:
        found = end.value
        return found.action, found.rule, found.on_error, found.reason, found.shadow, found.skipped, world.questions


def remembered(ruleset: Any, attributes: Any, world: World) -> tuple[Any, ...]:
    """As Sources.decide goes about it."""
    memory = ruleset["seen"]["rcpt"]
    if memory.passes(attributes):
        nothing = memory.nothing
        return nothing.action, nothing.rule, nothing.on_error, nothing.reason, (), (), []
    return decided(ruleset, attributes, world)


def only_rcpt(ruleset: Any) -> Any:
    return {
        **ruleset,
        "stages": {"rcpt": ruleset["stages"]["rcpt"]},
        "otherwise": {"rcpt": ruleset["otherwise"]["rcpt"]},
    }


@settings(deadline=None, max_examples=150)
@given(rulesets(), st.lists(requests(), min_size=1, max_size=12), st.sampled_from(PLANS), st.booleans())
def test_decisions_are_those_of_the_rules(
    rules: list[dict[str, Any]], asked: list[dict[str, str]], plan: object, vrfy: bool
) -> None:
    plain = only_rcpt(indexed(compiled(rules)))
    ruleset = seen.remember(plain)
    for attributes in [*asked, *asked, *reversed(asked)]:
        state = {"protocol_state": "VRFY" if vrfy else "RCPT"}
        given_ = {**state, **attributes}
        for form in (given_, PolicyRequest.of(given_)):
            theirs = remembered(ruleset, form, World(plan, None, frozenset()))
            assert theirs == decided(plain, form, World(plan, None, frozenset()))


RULES = [
    {"id": f"r{number}", "at": "rcpt", "match": {"sender": f"s{number}@x.example"}, "action": "REJECT no"}
    for number in range(10)
]


def memory(rules: list[dict[str, Any]] = RULES) -> Any:
    return seen.remember(only_rcpt(indexed(compiled(rules))))


def request(sender: str, state: str = "RCPT") -> PolicyRequest:
    return PolicyRequest.of({"request": "smtpd_access_policy", "protocol_state": state, "sender": sender})


def known(ruleset: Any) -> dict[Any, Any]:
    ((*_, values),) = ruleset["seen"]["rcpt"]._sources
    return dict(values)


def test_a_value_passes_when_it_was_met_and_no_rule_names_it() -> None:
    ruleset = memory()
    passes = ruleset["seen"]["rcpt"].passes
    assert not passes(request("new@x.example"))
    assert decided(ruleset, request("new@x.example"), World(None, None, frozenset()))[0] == "DUNNO"
    assert passes(request("new@x.example"))
    assert decided(ruleset, request("s3@x.example"), World(None, None, frozenset()))[1] == "r3"
    assert not passes(request("s3@x.example"))
    assert decided(ruleset, request("s3@x.example"), World(None, None, frozenset()))[1] == "r3"


def test_strangers_cannot_fill_the_memory() -> None:
    ruleset = memory()
    for number in range(seen.VALUES_LIMIT + 100):
        decided(ruleset, request(f"{number}@x.example"), World(None, None, frozenset()))
    assert len(known(ruleset)) == 100
    decided(ruleset, request("a" * seen.VALUE_LIMIT + "@x.example"), World(None, None, frozenset()))
    assert len(known(ruleset)) == 100


def test_the_empty_sender_of_vrfy_is_none() -> None:
    rules: list[dict[str, Any]] = [{"id": "null", "at": "rcpt", "match": {"sender": ""}, "action": "REJECT null"}]
    ruleset = memory(rules)
    for state, expected in [("VRFY", None), ("RCPT", "null"), ("VRFY", None), ("RCPT", "null")]:
        assert remembered(ruleset, request("", state), World(None, None, frozenset()))[1] == expected


@pytest.mark.parametrize("rules", [[], RULES])
def test_rules_that_are_all_known_not_to_match_cost_no_decision(rules: list[dict[str, Any]]) -> None:
    class Unasked(Sources):
        def answer(self, question: Any) -> Any:
            raise AssertionError(question)

    class Configuration:
        record = ""

    configuration: Any = Configuration()
    plain = compiled(rules)
    configuration.rules = seen.remember(only_rcpt(indexed(plain) if rules else plain))
    sources = Unasked(configuration, None, None)
    first, second = sources.decide("rcpt", request("b@y.example")), sources.decide("rcpt", request("b@y.example"))
    assert (first.action, first.rule, second.action, second.rule) == ("DUNNO", None, "DUNNO", None)
    assert second is configuration.rules["seen"]["rcpt"].nothing


def test_a_rule_that_may_ask_is_always_tried() -> None:
    rules: list[dict[str, Any]] = [
        *RULES,
        {"id": "mx", "at": "rcpt", "match": {"primary_mx": "m.x"}, "action": "REJECT"},
    ]
    ruleset = memory(rules)
    given_ = request("b@y.example")
    mail = PolicyRequest.of({**given_.attributes(), "recipient": "a@x.example"})
    for plan, rule in [(Plan("d", "mx", ((1, "m.x"),)), "mx"), (Plan("d", "mx", ((1, "n.x"),)), None)] * 2:
        assert remembered(ruleset, mail, World(plan, None, frozenset()))[1] == rule
