"""What lint claims of rules against the evaluator: a rule called unreachable never decides, whatever is asked."""

from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rules.test_oracle import ATTRIBUTES, PLANS, World, toml

from postroom.mx import Plan
from postroom.rules import Decision, Unknown
from postroom.rules.check import check
from postroom.rules.compile import compile_model
from postroom.rules.evaluate import decide
from postroom.rules.lint import lint
from postroom.rules.model import Model
from postroom.rules.reach import contradictions, unreached
from postroom.rules.read import parse
from postroom.tables import table

HEAD = """
recipient_delimiter = "+-"
[list.few]
values = ["a@x.example", ".y.example", "<>"]
[list.many]
values = ["x.example", ".example", "<>", "b@"]
[provider.shady]
mx = [".shady.example", "mx.odd.example"]
"""

CONDITIONS: dict[str, list[object]] = {
    "recipient": [
        "a@x.example", "x.example", ".x.example", "b@", "a+n@x.example", "*@x.example", "*.example", "a*", "*",
        "list:few", "list:many", "re:^a@", "postmaster", "a b@x.example", "attr:sender",
    ],
    "recipient_domain": ["x.example", ".x.example", "sub.x.example", "*.example", "*", "", "list:many", "postmaster"],
    "recipient_user": ["a", "b", "*"],
    "recipient_localpart": ["a", "a+n", "a*"],
    "sender": ["", "b@y.example", "y.example", "list:few", "list:many", "*"],
    "sender_domain": ["y.example", ""],
    "null_sender": [True, False],
    "sasl_username": ["", "Bob", "bob", "*"],
    "client_address": ["192.0.2.0/24", "192.0.2.0/28", "192.0.2.9", "2001:db8::/32", "2001:db8::1",
        "attr:server_address"],
    "size": [">1000", "<1000", "1000", ">500", "<0"],
    "primary_mx": ["provider:shady", "mx.good.example", "*.example"],
    "any_mx": ["provider:shady", "mx.good.example", ".shady.example"],
    "every_mx": ["provider:shady", ".example"],
    "mx_state": ["mx", "null", "error", "none"],
    "time": ["08:00-18:00", "09:00-10:00", "22:00-06:00"],
    "weekday": ["mon-fri", "sat", "wed"],
    "country": ["DE", "AT"],
    "suppressed": [True, False],
}  # fmt: skip
FLAGS = ("null_sender", "suppressed")
GIVEN = ATTRIBUTES | {
    "recipient": [
        *ATTRIBUTES["recipient"], "a+n@x.example", "a-n@x.example", "A b@x.example", "b@x.example", "x@y@x.example",
    ],
    "sender": [*ATTRIBUTES["sender"], "a@x.example", "p@s.y.example"],
    "server_address": ["192.0.2.9", "198.51.100.7"],
    "client_address": [*ATTRIBUTES["client_address"], "192.0.2.77", "2001:db8:1::"],
    "size": [*ATTRIBUTES["size"], "501", "big"],
}  # fmt: skip
# A literal has the address for its one host.
ALL_PLANS = [*PLANS, Plan("d", "literal", ((0, "192.0.2.1"),))]


def tables(least: int) -> st.SearchStrategy[dict[str, object]]:
    def values(key: str) -> st.SearchStrategy[object]:
        one = st.sampled_from(CONDITIONS[key])
        return one if key in FLAGS else one | st.lists(one, min_size=1, max_size=3)

    names = st.lists(st.sampled_from(sorted(CONDITIONS)), min_size=least, max_size=3, unique=True)
    return names.flatmap(lambda chosen: st.fixed_dictionaries({name: values(name) for name in chosen}))


@st.composite
def rules(draw: st.DrawFn, number: int) -> dict[str, Any]:
    rule: dict[str, Any] = {"id": f"r{number}", "at": "rcpt", "match": draw(tables(0))}
    rule["action"] = draw(st.sampled_from(["550 no", "550 no", "550 {any_mx}", "BCC {sender_user}@x.example"]))
    if draw(st.integers(0, 2)) == 0:
        rule["unless"] = draw(tables(1))
    if draw(st.integers(0, 2)) == 0:
        rule["any"] = draw(st.lists(tables(1), min_size=1, max_size=2))
    rule["on_error"] = draw(st.sampled_from(["skip", "defer", "521 5.7.1 error"]))
    rule["mode"] = draw(st.sampled_from(["enforce", "enforce", "shadow"]))
    return rule


@st.composite
def rulesets(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Later rules often are an earlier one with a condition more, or other values: what the claims are about."""
    found: list[dict[str, Any]] = []
    for number in range(draw(st.integers(1, 4))):
        rule = draw(rules(number))
        if found and draw(st.booleans()):
            rule = draw(st.sampled_from(found)) | {"id": f"r{number}", "on_error": rule["on_error"]}
            rule["match"] = rule["match"] | draw(tables(0))
        found.append(rule)
    return found


def model(written: list[dict[str, Any]]) -> Model:
    text = HEAD + "".join("[[rule]]\n" + "".join(f"{k} = {toml(v)}\n" for k, v in rule.items()) for rule in written)
    found, report = check(parse(text.encode(), "postroom.toml"), "/")
    assert found, report.problems
    lint(found, report)
    return found


class Everything(World):
    def __init__(self, plan: object, suppressed: object, country: object, now: object) -> None:
        super().__init__(plan, suppressed, frozenset())
        self.known = {"country": country, "now": now}

    def answer(self, kind: str, argument: Any) -> object:
        if kind in self.known:
            return self.known[kind]
        if kind == "list":
            name, value, its = argument
            entries = {"few": ("a@x.example", ".y.example", "<>"), "many": ("x.example", ".example", "<>", "b@")}
            return table("values", entries[name]).find(its, value, "+-")
        return super().answer(kind, argument)


requests = st.fixed_dictionaries({}, optional={name: st.sampled_from(values) for name, values in GIVEN.items()})
worlds = st.builds(
    Everything,
    st.sampled_from(ALL_PLANS),
    st.sampled_from([None, object(), Unknown("locked")]),
    st.sampled_from(["DE", "FR", "", Unknown("no database")]),
    st.sampled_from([(0, 540), (5, 570), (2, 1400), (2, 0), Unknown("no clock")]),
)


def run(ruleset: Any, given_: dict[str, str], world: World) -> Decision:
    steps = decide(ruleset, "rcpt", given_)
    try:
        question = next(steps)
        while True:
            question = steps.send(world.answer(question.kind, question.argument))
    except StopIteration as end:
        assert isinstance(end.value, Decision)
        return end.value


@settings(max_examples=500, deadline=None)
@given(rulesets(), st.lists(st.tuples(requests, worlds), min_size=4, max_size=12))
def test_a_rule_called_unreachable_never_decides(written: list[dict[str, Any]], cases: list[Any]) -> None:
    found = model(written)
    claimed = {rule.identity for rule, _, _ in unreached(found)}
    silent = {rule.identity for rule, where, *_ in contradictions(found) if where in ("match", "always")}
    ruleset = compile_model(found)["rules"]
    for given_, world in cases:
        decision = run(ruleset, given_, world)
        spoke = {decision.rule, *(name for name, _ in decision.shadow)}
        assert not claimed & spoke, decision
        assert decision.on_error or decision.rule not in silent, decision


# Keys of one attribute, whose conditions can say something of each other; the attribute that is tried.
GROUPS = {
    "recipient": ("recipient", "recipient_domain", "recipient_user", "recipient_localpart"),
    "sender": ("sender", "sender_domain", "null_sender"),
    "client_address": ("client_address",),
    "size": ("size",),
    "sasl_username": ("sasl_username",),
    "country": ("country", "client_address"),
    "time": ("time", "weekday"),
    "mx": ("primary_mx", "any_mx", "every_mx", "mx_state", "recipient_domain"),
}


@pytest.mark.parametrize("name", GROUPS)
def test_each_pair_of_values_is_judged_right(name: str) -> None:
    """As the conditions of an earlier and a later rule, and as two conditions of one."""
    related = [(key, value) for key in GROUPS[name] for value in CONDITIONS[key]]
    claims = 0
    for (one, first), (other, second) in product(related, related):
        written = [
            {"id": "a", "at": "rcpt", "action": "550 no", "match": {one: first}},
            {"id": "b", "at": "rcpt", "action": "550 no", "match": {other: second}},
            {"id": "c", "at": "rcpt", "action": "550 no", "any": [{one: first}], "match": {other: second}},
            {"id": "d", "at": "rcpt", "action": "550 no", "match": {one: first}, "unless": {other: second}},
        ]
        claims += _judged(written, name)
    assert claims > len(related), "each at least covers itself, and hardly any two are alike"


def _judged(written: list[dict[str, Any]], name: str) -> int:
    found = model(written[:2])
    covered = bool(unreached(found))
    others = model(written[2:])
    apart = {rule.identity: where for rule, where, *_ in contradictions(others)}
    rules_ = compile_model(found)["rules"], compile_model(others)["rules"]
    for given_, world in _world(name):
        if covered:
            assert run(rules_[0], given_, world).rule != "b", (written, given_)
        alone = {one[0]: {**rules_[1], "stages": {"rcpt": (one,)}} for one in rules_[1]["stages"]["rcpt"]}
        if apart.get("c"):
            decision = run(alone["c"], given_, world)
            assert decision.rule is None or decision.on_error, (written[2], given_)
        if apart.get("d") == "always":
            decision = run(alone["d"], given_, world)
            assert decision.rule is None or decision.on_error, (written[3], given_)
        if apart.get("d") == "unless":
            decision = run(alone["d"], given_, world)
            first = run({**rules_[0], "stages": {"rcpt": rules_[0]["stages"]["rcpt"][:1]}}, given_, world)
            assert (decision.rule is None) == (first.rule is None) or first.on_error, (written[3], given_)
    return covered + len(apart)


def _world(name: str) -> list[tuple[dict[str, str], World]]:
    attributes = {"country": "client_address", "time": "size", "mx": "recipient"}.get(name, name)
    base = {"server_address": "192.0.2.9", "sender": "a@x.example"}
    moments = [(0, 540), (5, 570), (2, 1400), (2, 0), Unknown("no clock")] if name == "time" else [(0, 0)]
    countries = ["DE", "AT", "", Unknown("no")] if name == "country" else ["DE"]
    plans = ALL_PLANS if name == "mx" else ALL_PLANS[:1]
    return [
        (base | {attributes: value}, Everything(plan, None, country, now))
        for value in GIVEN[attributes]
        for plan in plans
        for country in countries
        for now in moments
    ]
