"""The index: what it saves, and where it must not be in the way. That it decides rightly is test_oracle.py's matter."""

import marshal
import sys
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroom.mx import Plan
from postroom.rules import Decision, Unknown, evaluate, index
from postroom.rules.check import check
from postroom.rules.compile import compile_model
from postroom.rules.lint import lint
from postroom.rules.lookup import keys_of, whole_keys
from postroom.rules.read import parse

MANY = 1000
_JUDGE = evaluate._judge


class Asked:
    """A rule set, how many rules a decision judged, and what it asked."""

    def __init__(self, patch: pytest.MonkeyPatch, rules: list[str], stage: str = "rcpt") -> None:
        text = "".join(
            f'[[rule]]\nid = "r{number}"\nat = "{stage}"\naction = "550 5.7.1 r{number}"\n{rule}\n'
            for number, rule in enumerate(rules)
        )
        model, report = check(parse(text.encode(), "postroom.toml"), "/")
        assert model, report.problems
        self.model, self.report, self.stage = model, report, stage
        self.ruleset: Mapping[str, Any] = compile_model(model)["rules"]
        self.judged = 0
        self.questions: list[tuple[str, object]] = []
        patch.setattr(evaluate, "_judge", self._counting(_JUDGE))

    def _counting(self, judge: Any) -> Any:
        def counted(*arguments: Any) -> Any:
            self.judged += 1
            return judge(*arguments)

        return counted

    def decide(self, answer: object = None, trace: Any = None, **attributes: str) -> Decision:
        self.judged, self.questions = 0, []
        steps = evaluate.decide(self.ruleset, self.stage, attributes, trace)
        try:
            question = next(steps)
            while True:
                self.questions.append((question.kind, question.argument))
                question = steps.send(answer)
        except StopIteration as end:
            assert isinstance(end.value, Decision)
            return end.value


def plan(*hosts: str) -> Plan:
    return Plan("d", "mx", tuple((10 * place, host) for place, host in enumerate(hosts)))


LOOKED_UP = [
    ('match = {{ recipient = "u{n}@x.example" }}', {"recipient": "U7+news@x.example."}),
    ('match = {{ recipient = [".d{n}.example", "d{n}.example"] }}', {"recipient": "a@b.d7.example"}),
    ('match = {{ sender_domain = ".d{n}.example" }}', {"sender": "a@b.c.d7.example"}),
    ('match = {{ client_address = "10.0.{n}.0/{bits}" }}', {"client_address": "::ffff:10.0.7.9"}),
    ('match = {{ client_address = "2001:db8:{n}::/48" }}', {"client_address": "2001:db8:7::1"}),
    ('match = {{ sasl_username = "user{n}" }}', {"sasl_username": "user7"}),
    ('any = [{{ sender = "s{n}@x.example" }}, {{ helo_name = "h{n}.example" }}]', {"helo_name": "H7.example"}),
    # Nobody looks a rule up by what all rules have.
    (
        'match = {{ recipient_domain = "x.example", sender = "s{n}@y.example" }}',
        {"recipient": "a@x.example", "sender": "s7@y.example"},
    ),
    ('match = {{ size = ">1", sender = "s{n}@y.example" }}', {"size": "2", "sender": "s7@y.example"}),
    ('match = {{ null_sender = false, recipient = "{n}@y.example" }}', {"sender": "a", "recipient": "7@y.example"}),
]


@pytest.mark.parametrize(("rule", "request_"), LOOKED_UP)
def test_a_rule_is_looked_up(rule: str, request_: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    number = 250 if "10.0" in rule else MANY
    asked = Asked(monkeypatch, [rule.format(n=n, bits=24) for n in range(number)])
    assert asked.decide(**request_).rule == "r7"
    assert asked.judged == 1
    none = dict.fromkeys(request_, "a@none.example")
    assert asked.decide(**none).rule is None
    assert asked.judged == 0


@given(st.text("ab+-@.", max_size=12) | st.text(), st.sampled_from(["", "+", "+-"]))
def test_the_fewer_keys_are_those_that_whole_values_have(value: str, delimiter: str) -> None:
    """Should keys_of() learn another spelling, the index must learn it too."""
    for kind in ("text", "fold", "domain", "address"):
        if value:
            found = {key for key in keys_of(kind, value, delimiter) if index._whole(kind, [key])}
            assert found - {""} <= set(whole_keys(kind, value, delimiter))


@pytest.mark.parametrize("more", ["", "x.example", ".x.example", "q@", "a@b@"])
def test_an_address_is_found_by_all_its_keys(more: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the index has whole addresses only, and is asked for fewer."""
    rules = [f'match = {{ sender = "u{n}@y.example" }}' for n in range(20)]
    asked = Asked(monkeypatch, [*rules, f'match = {{ sender = "{more}" }}'] if more else rules)
    assert asked.decide(sender="u7@y.example").rule == "r7"
    assert asked.decide(sender="U7+a+b@y.example.").rule == "r7"
    assert asked.decide(sender="u7+@y.example").rule == "r7"
    found = {"x.example": "c@x.example", ".x.example": "c@d.x.example", "q@": "q+1@z.example", "a@b@": "a@b@c.example"}
    assert not more or asked.decide(sender=found[more]).rule == "r20"


def test_what_has_no_anchor_is_tried_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = [f'match = {{ recipient = "u{n}@x.example" }}' for n in range(MANY)]
    rules[5] = 'match = { recipient = "*7@x.example" }'
    rules[9] = 'unless = { sender = "a@x.example" }'
    asked = Asked(monkeypatch, rules)
    assert asked.decide(recipient="u7@x.example", sender="a@x.example").rule == "r5"
    assert asked.decide(recipient="u6@x.example", sender="a@x.example").rule == "r6"
    assert asked.judged == 2
    assert asked.decide(recipient="u600@x.example", sender="b@x.example").rule == "r9"
    assert asked.decide(recipient="u600@x.example", sender="a@x.example").rule == "r600"
    assert asked.judged == 3


def test_one_rule_asks_for_the_plan_and_its_hosts_are_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(monkeypatch, [f'match = {{ primary_mx = [".h{n}.example", "h{n}.example"] }}' for n in range(MANY)])
    assert asked.decide(plan("mx.h700.example"), recipient="a@d").rule == "r700"
    assert (asked.judged, asked.questions) == (3, [("mx", "d")])  # r0, r0 again with the plan, r700
    assert asked.decide(plan("mx.other.example"), recipient="a@d").rule is None
    assert asked.judged == 2
    assert asked.decide(plan("mx.h0.example", "mx.h700.example"), recipient="a@d").rule == "r0"
    assert asked.decide(recipient="no-domain").rule is None
    assert (asked.judged, asked.questions) == (0, [])


@pytest.mark.parametrize("answer", [Plan("d", "error", reason="SERVFAIL"), Unknown("no resolver")])
def test_without_a_plan_each_rule_has_its_say(answer: object, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = [f'match = {{ any_mx = "h{n}.example" }}\non_error = "skip"' for n in range(MANY)]
    rules[600] = 'match = { any_mx = "h.example" }\non_error = "450 4.4.3 no answer"'
    decision = Asked(monkeypatch, rules).decide(answer, recipient="a@d")
    assert (decision.rule, decision.on_error) == ("r600", True)


def test_a_rule_that_asks_before_its_mx_hosts_are_looked_at_still_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else what a list's failure does would hang on the order of the rules."""
    text = 'match = {{ suppressed = true, primary_mx = "h{n}.example" }}\non_error = "450 4.3.0 no state"'
    asked = Asked(monkeypatch, ['match = { primary_mx = "x.example" }', *(text.format(n=n) for n in range(20))])
    assert asked.decide(plan("mx.example"), recipient="a@d").rule is None
    assert [kind for kind, _ in asked.questions] == ["mx", "suppressed"]


def test_a_shadow_rule_found_under_two_keys_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = 'match = {{ recipient = ["a@x.example", "x.example", ".example"] }}\nmode = "shadow"'
    for at_once in (0, 1000):
        monkeypatch.setattr(index, "_AT_ONCE", at_once)
        asked = Asked(monkeypatch, [rule.format() for _ in range(20)])
        decision = asked.decide(recipient="a@x.example")
        assert [name for name, _ in decision.shadow] == [f"r{number}" for number in range(20)]


@pytest.mark.parametrize("number", [1, 20])
def test_an_address_without_a_domain_is_not_the_null_sender(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(monkeypatch, ['match = { sender = "" }'] * number)
    assert [asked.decide(sender=text).rule for text in ("", "a@", "@", "a")] == ["r0", None, None, None]


def test_the_first_of_many_that_match_does_not_wait_for_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = ['match = { recipient = "x.example", sender = "x.example" }' for _ in range(3 * index._AT_ONCE)]
    asked = Asked(monkeypatch, rules)
    assert asked.decide(recipient="a@x.example", sender="b@x.example").rule == "r0"
    assert asked.judged == 1


def test_who_traces_sees_every_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    class Trace:
        def __init__(self) -> None:
            self.rules: list[str] = []

        def judged(self, *_: object) -> None: ...

        def ended(self, rule: str, *_: object) -> None:
            self.rules.append(rule)

    trace = Trace()
    asked = Asked(monkeypatch, [f'match = {{ recipient = "u{n}@x.example" }}' for n in range(20)])
    assert asked.decide(trace=trace, recipient="u19@x.example").rule == "r19"
    assert trace.rules == [f"r{number}" for number in range(20)]


def test_few_rules_have_no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = 'match = { recipient = "a@x.example" }'
    stages = [Asked(monkeypatch, [rule] * number).ruleset["index"]["rcpt"] for number in (index.WORTH - 1, index.WORTH)]
    assert [found is None for found in stages] == [True, False]


def test_rules_without_any_anchor_have_no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(monkeypatch, ['match = { recipient = "re:^a" }'] * 20)
    assert asked.ruleset["index"]["rcpt"] is None


def test_a_long_value_has_no_more_keys_than_a_name_has_parents(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(monkeypatch, [f'match = {{ recipient = ".d{n}.example" }}' for n in range(20)])
    assert asked.decide(recipient="a@" + "x." * 500_000 + "d7.example").rule == "r7"
    assert asked.judged == 1


def test_strangers_text_finds_nothing_and_breaks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = 'match = {{ recipient = "u{n}@x.example" }}\nany = [{{ client_address = "192.0.2.{n}" }}, {{ sender = "" }}]'
    asked = Asked(monkeypatch, [rule.format(n=n) for n in range(20)])
    for text in ("", "\0", "@", "@@", "\udcff@\udcff", "a@.", "a@..", "u7@x.example@y", "192.0.2.7\0", "[192.0.2.7]"):
        decision = asked.decide(recipient=text, sender=text, client_address=text)
        assert decision.rule is None, text


def test_marshal_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(monkeypatch, [LOOKED_UP[n % 7][0].format(n=n % 250, bits=24) for n in range(MANY)])
    before = asked.ruleset
    kept = marshal.loads(marshal.dumps(before["index"]))
    assert kept == before["index"]
    asked.ruleset = {**before, "index": kept}
    assert asked.decide(sasl_username="user5").rule == "r5"


def test_ten_thousand_rules_are_no_more_work_than_ten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in calls of functions, which no other work on this machine can change; benchmarks/ has the time."""

    def calls(number: int) -> int:
        asked = Asked(monkeypatch, [f'match = {{ recipient = "u{n}@x.example" }}' for n in range(number)])
        counted = 0

        def count(*event: object) -> None:
            nonlocal counted
            counted += event[1] == "call"

        sys.setprofile(count)
        try:
            decision = asked.decide(recipient="u9@x.example", sender="", client_address="192.0.2.1")
        finally:
            sys.setprofile(None)
        assert decision.rule == "r9"
        return counted

    assert calls(10_000) == calls(10)


def test_rules_never_reached_are_found_among_ten_thousand(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = [f'match = {{ recipient_domain = "x.example", sender = "s{n}@y.example" }}' for n in range(5_000)]
    rules.append('match = { recipient_domain = "x.example", sender = "s77@y.example", helo_name = "h.example" }')
    asked = Asked(monkeypatch, rules)
    counted = 0

    def count(*event: object) -> None:
        nonlocal counted
        counted += event[1] == "call"

    sys.setprofile(count)
    try:
        lint(asked.model, asked.report)
    finally:
        sys.setprofile(None)
    assert [(problem.rule, "r77" in problem.text) for problem in asked.report.problems] == [("r5000", True)]
    assert counted < 200 * len(rules)  # every pair of them would be 12 million
