"""The evaluator against a slow, obvious model of the language: every condition judged, nothing cut short.

And the index against both: with it the same is decided, and the same asked in the same order, as by trying each rule.
"""

import json
import marshal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postroom.mx import Plan
from postroom.rules import Unknown, index
from postroom.rules.check import check
from postroom.rules.compile import compile_model
from postroom.rules.evaluate import decide
from postroom.rules.read import parse

# Truth: None is unknown. A missing attribute is MISSING until it is known which table it stands in.
MISSING = "missing"

HEAD = """
[list.one]
values = ["a@x.example"]
[list.two]
values = ["b@y.example"]
[provider.shady]
mx = [".shady.example", "mx.odd.example"]
"""

DOMAINS = ["x.example", "y.example", "sub.x.example"]
HOSTS = ["mx1.shady.example", "shady.example", "mx.odd.example", "mx.good.example"]
PLANS = [
    Plan("d", "mx", ((10, HOSTS[0]), (20, HOSTS[3]))),
    Plan("d", "mx", ((10, HOSTS[3]), (20, HOSTS[0]))),
    Plan("d", "mx", ((10, HOSTS[0]), (10, HOSTS[2]))),
    Plan("d", "implicit", ((0, "shady.example"),)),
    Plan("d", "null"),
    Plan("d", "none"),
    Plan("d", "error", reason="SERVFAIL"),
    Unknown("no resolver"),
]

CONDITIONS: dict[str, list[object]] = {
    "recipient": ["a@x.example", "x.example", ".x.example", "b@", "*@y.example", "list:one", "list:two", "re:^a@"],
    "recipient_domain": ["x.example", ".x.example", "*.example"],
    "recipient_extension": ["", "news", "*"],
    "sender": ["", "b@y.example", "list:two", "*"],
    "sasl_username": ["", "Bob", "*"],
    "client_address": ["192.0.2.0/24", "2001:db8::/32", "198.51.100.7"],
    "size": [">1000", "<1000", "1000"],
    "primary_mx": ["provider:shady", "mx.good.example", "*.example"],
    "any_mx": ["provider:shady", "mx.good.example"],
    "every_mx": ["provider:shady", ".example"],
    "mx_state": ["mx", "null", "error", "none"],
}
ATTRIBUTES: dict[str, list[str]] = {
    "recipient": [
        "",
        "a@x.example",
        "A@X.example.",
        "a+news@x.example",
        "b@y.example",
        "c@sub.x.example",
        "postmaster",
    ],
    "sender": ["", "b@y.example", "b+z@Y.example", "q@z.example"],
    "sasl_username": ["", "Bob", "bob"],
    "client_address": ["", "192.0.2.9", "::ffff:192.0.2.9", "2001:db8::1", "198.51.100.7", "unknown"],
    "size": ["", "0", "999", "1000", "1001"],
}


def tables(least: int) -> st.SearchStrategy[dict[str, object]]:
    def values(key: str) -> st.SearchStrategy[object]:
        one = st.sampled_from(CONDITIONS[key])
        return one | st.lists(one, min_size=1, max_size=3)

    keys = st.lists(st.sampled_from(sorted(CONDITIONS)), min_size=least, max_size=3, unique=True)
    plain = keys.flatmap(lambda names: st.fixed_dictionaries({name: values(name) for name in names}))
    flag = st.fixed_dictionaries({}, optional={"suppressed": st.booleans()})
    return st.tuples(plain, flag).map(lambda pair: pair[0] | pair[1])


@st.composite
def rulesets(draw: st.DrawFn) -> list[dict[str, Any]]:
    rules = []
    for number in range(draw(st.integers(1, 4))):
        rule: dict[str, Any] = {"id": f"r{number}", "at": "rcpt", "action": f"550 5.7.1 r{number}"}
        if draw(st.booleans()):
            rule["match"] = draw(tables(0))
        if draw(st.booleans()):
            rule["unless"] = draw(tables(1))
        if draw(st.booleans()):
            rule["any"] = draw(st.lists(tables(1), min_size=1, max_size=3))
        rule["on_error"] = draw(st.sampled_from(["skip", "defer", "521 5.7.1 error"]))
        rule["mode"] = draw(st.sampled_from(["enforce", "enforce", "shadow"]))
        rules.append(rule)
    return rules


@st.composite
def requests(draw: st.DrawFn) -> dict[str, str]:
    given: dict[str, str] = {}
    for name, values in ATTRIBUTES.items():
        if draw(st.integers(0, 5)):
            given[name] = draw(st.sampled_from(values))
    return given


def toml(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(one)}" for key, one in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


def indexed(ruleset: Any) -> Any:
    """With an index, however few its rules are."""
    found = index.build(ruleset["stages"]["rcpt"], worth=1)
    return {**ruleset, "index": {"rcpt": marshal.loads(marshal.dumps(found))}}


def compiled(rules: list[dict[str, Any]]) -> Any:
    text = HEAD + "".join("[[rule]]\n" + "".join(f"{k} = {toml(v)}\n" for k, v in rule.items()) for rule in rules)
    model, report = check(parse(text.encode(), "postroom.toml"), "/")
    assert model, report.problems
    return compile_model(model)["rules"]


class World:
    """What stands behind the questions."""

    def __init__(self, plan: object, suppressed: object, broken: frozenset[str]) -> None:
        self.plan = plan
        self.suppressed = suppressed
        self.broken = broken
        self.asked: list[str] = []
        self.questions: list[tuple[str, Any]] = []

    def answer(self, kind: str, argument: Any) -> object:
        self.asked.append(kind)
        self.questions.append((kind, argument))
        if kind == "mx":
            return self.plan
        if kind == "suppressed":
            return self.suppressed
        name, value, _ = argument
        if name in self.broken:
            return Unknown("vanished")
        return in_list(name, value)


def in_list(name: str, value: str) -> bool:
    local, _, domain = value.partition("@")
    return f"{local.partition('+')[0]}@{domain}" == {"one": "a@x.example", "two": "b@y.example"}[name]


# The model.


def glob(pattern: str, text: str) -> bool:
    if not pattern:
        return not text
    if pattern[0] == "*":
        return any(glob(pattern[1:], text[start:]) for start in range(len(text) + 1))
    return text[:1] == pattern[0] and glob(pattern[1:], text[1:])


def either(truths: list[bool | None]) -> bool | None:
    return True if True in truths else None if None in truths else False


def both(truths: list[bool | None]) -> bool | None:
    return False if False in truths else None if None in truths else True


def host_fits(host: str, value: str) -> bool:
    if value == "provider:shady":
        return host_fits(host, ".shady.example") or host == "mx.odd.example"
    if value.startswith("."):
        return host.endswith(value)
    return glob(value, host)


def address_fits(address: str, value: str, broken: frozenset[str]) -> bool | None:
    if value.startswith("list:"):
        return None if value[5:] in broken else in_list(value[5:], address)
    if value.startswith("re:"):
        return address.startswith("a@")
    if address == "" or value == "":
        return address == value
    if "*" in value:
        return glob(value, address)
    local, _, domain = address.partition("@")
    if value.endswith("@"):
        return local.partition("+")[0] + "@" == value and "@" in address
    if value.startswith("."):
        return domain.endswith(value)
    return value in (address, f"{local.partition('+')[0]}@{domain}", domain)


def mx_truth(key: str, value: list[Any], given: dict[str, str], world: World) -> Any:
    domain = given.get("recipient", "").lower().rstrip(".").partition("@")[2]
    if not domain:
        return MISSING
    state = "error" if isinstance(world.plan, Unknown) else world.plan.state  # type: ignore[attr-defined]
    if key == "mx_state":
        return state in value if state != "error" or "error" in value else None
    if state == "error":
        return None
    assert isinstance(world.plan, Plan)
    hosts = world.plan.primary if key == "primary_mx" else world.plan.every
    fits = [any(host_fits(host, one) for one in value) for host in hosts]
    return bool(fits) and all(fits) if key == "every_mx" else any(fits)


def client_truth(text: str, value: list[Any]) -> Any:
    import ipaddress

    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return MISSING
    address = getattr(address, "ipv4_mapped", None) or address
    return any(address in ipaddress.ip_network(one) for one in value)


def size_truth(text: str, value: list[Any]) -> Any:
    if text in ("", "0"):
        return MISSING
    tests = {">1000": int(text) > 1000, "<1000": int(text) < 1000, "1000": int(text) == 1000}
    return any(tests[one] for one in value)


def condition(key: str, value: Any, given: dict[str, str], world: World) -> Any:
    values = value if isinstance(value, list) else [value]
    recipient = given.get("recipient", "").lower().rstrip(".")
    local, _, domain = recipient.partition("@")
    if key in ("primary_mx", "any_mx", "every_mx", "mx_state"):
        return mx_truth(key, values, given, world)
    if key == "client_address":
        return client_truth(given.get(key, ""), values)
    if key == "size":
        return size_truth(given.get(key, ""), values)
    if key == "suppressed":
        if not recipient:
            return MISSING
        return None if isinstance(world.suppressed, Unknown) else (world.suppressed is not None) == value
    if key == "recipient":
        return either([address_fits(recipient, one, world.broken) for one in values]) if recipient else MISSING
    if key == "sender":
        if "sender" not in given:
            return MISSING
        return either([address_fits(given["sender"].lower(), one, world.broken) for one in values])
    if key == "sasl_username":
        text = given.get(key)
        return MISSING if text is None else any(one == text if "*" not in one else text != "" for one in values)
    if not recipient:
        return MISSING
    part = domain if key == "recipient_domain" else local.partition("+")[2]
    return any((host_fits(part, one) if one else False) if part else one == "" for one in values)


def table(conditions: dict[str, Any], missing: bool, given: dict[str, str], world: World) -> bool | None:
    truths = [condition(key, value, given, world) for key, value in conditions.items()]
    return both([missing if truth == MISSING else truth for truth in truths])


def model(rules: list[dict[str, Any]], given: dict[str, str], world: World) -> tuple[str | None, str, list[str]]:
    shadow = []
    for rule in rules:
        truths = [table(rule.get("match", {}), False, given, world)]
        if "any" in rule:
            truths.append(either([table(block, False, given, world) for block in rule["any"]]))
        if "unless" in rule:
            excluded = table(rule["unless"], True, given, world)
            truths.append(None if excluded is None else not excluded)
        truth = both(truths)
        action = (
            rule["action"]
            if truth
            else {"skip": "", "defer": "DEFER_IF_PERMIT"}.get(rule["on_error"], rule["on_error"])
        )
        if truth is False or not action:
            continue
        if rule["mode"] == "shadow":
            shadow.append(rule["id"])
        else:
            return rule["id"], action, shadow
    return None, "DUNNO", shadow


def run(ruleset: Any, given: dict[str, str], world: World) -> Any:
    steps = decide(ruleset, "rcpt", given)
    try:
        question = next(steps)
        while True:
            question = steps.send(world.answer(question.kind, question.argument))
    except StopIteration as end:
        return end.value


worlds = st.builds(
    World,
    st.sampled_from(PLANS),
    st.sampled_from([None, object(), Unknown("locked")]),
    st.frozensets(st.sampled_from(["one", "two"])),
)


@settings(max_examples=400, deadline=None)
@given(rulesets(), st.lists(st.tuples(requests(), worlds), min_size=1, max_size=4))
def test_the_evaluator_decides_as_the_model_does(rules: list[dict[str, Any]], cases: list[tuple[Any, World]]) -> None:
    ruleset = compiled(rules)
    for given_, world in cases:
        rule, action, shadow = model(rules, given_, world)
        for form in (ruleset, indexed(ruleset)):
            decision = run(form, given_, world)
            assert (decision.rule, [name for name, _ in decision.shadow]) == (rule, shadow)
            assert decision.action.startswith(action)


@settings(max_examples=200, deadline=None)
@given(rulesets(), requests(), worlds)
def test_nothing_is_asked_twice(rules: list[dict[str, Any]], given_: dict[str, str], world: World) -> None:
    run(compiled(rules), given_, world)
    assert world.asked.count("mx") <= 1
    assert world.asked.count("suppressed") <= 1
    assert world.asked.count("list") <= 4  # two lists, two addresses


# The index. Rules of few values each, many of them overlapping, so that most have an anchor and several match.

LOOKED_UP: dict[str, list[object]] = {
    "recipient": ["a@x.example", "b@y.example", "x.example", ".x.example", ".example", "a@", "a+news@x.example"],
    "recipient_domain": ["x.example", ".x.example", ".example", "y.example"],
    "recipient_localpart": ["a", "a+news", "postmaster"],
    "recipient_extension": ["", "news"],
    "sender": ["", "b@y.example", "y.example", "b@", "attr:recipient"],
    "sender_domain": ["", "y.example", ".example"],
    "sasl_username": ["", "Bob"],
    "client_address": [
        "192.0.2.9",
        "192.0.2.0/24",
        "192.0.0.0/16",
        "0.0.0.0/0",
        "2001:db8::/32",
        "2001:db8::1",
        "::/0",
        "list:one",
    ],
    "size": [">1000", "1000"],
    "primary_mx": ["provider:shady", "mx.good.example", ".example", "list:two"],
    "any_mx": ["provider:shady", "mx.good.example", "shady.example"],
    "every_mx": ["provider:shady", "mx.good.example"],
    "sender_any_mx": ["provider:shady", "mx.good.example"],
    "mx_state": ["mx", "error", "null"],
}


# Whole values only, which are looked up by fewer keys.
WHOLE: dict[str, list[object]] = {
    **LOOKED_UP,
    "recipient": ["a@x.example", "b@y.example", "a+news@x.example", "postmaster"],
    "recipient_domain": ["x.example", "y.example"],
    "sender": ["", "b@y.example", "b+z@y.example"],
}


def lookups(most: int, known: dict[str, list[object]]) -> st.SearchStrategy[dict[str, object]]:
    def values(key: str) -> st.SearchStrategy[object]:
        one = st.sampled_from(known[key])
        return one | st.lists(one, min_size=1, max_size=3)

    keys = st.lists(st.sampled_from(sorted(known)), min_size=1, max_size=most, unique=True)
    return keys.flatmap(lambda names: st.fixed_dictionaries({name: values(name) for name in names}))


@st.composite
def many_rules(draw: st.DrawFn) -> list[dict[str, Any]]:
    rules = []
    known = draw(st.sampled_from([LOOKED_UP, WHOLE]))
    for number in range(draw(st.integers(2, 12))):
        rule: dict[str, Any] = {"id": f"r{number}", "at": "rcpt", "action": f"550 5.7.1 r{number}"}
        kind = draw(st.integers(0, 5))
        rule["match"] = draw(lookups(3 if kind else 1, known))
        if kind == 1:
            rule["unless"] = draw(lookups(2, known))
        if kind == 2:
            rule["any"] = draw(st.lists(lookups(2, known), min_size=1, max_size=3))
            if draw(st.booleans()):
                del rule["match"]
        rule["on_error"] = draw(st.sampled_from(["skip", "defer", "521 5.7.1 error"]))
        rule["mode"] = draw(st.sampled_from(["enforce", "shadow", "shadow", "shadow"]))
        rules.append(rule)
    return rules


class TwoPlans(World):
    """Another plan for each domain."""

    def answer(self, kind: str, argument: Any) -> object:
        answer = super().answer(kind, argument)
        return PLANS[(PLANS.index(self.plan) + len(argument)) % len(PLANS)] if kind == "mx" else answer  # type: ignore[arg-type]


two_plans = st.builds(
    TwoPlans,
    st.sampled_from(PLANS),
    st.just(None),
    st.frozensets(st.sampled_from(["one", "two"])),
)


@pytest.mark.parametrize("at_once", [0, 1000])
@settings(max_examples=200, deadline=None)
@given(rules=many_rules(), cases=st.lists(st.tuples(requests(), two_plans), min_size=1, max_size=6))
def test_the_index_decides_and_asks_as_trying_each_rule_does(
    at_once: int, rules: list[dict[str, Any]], cases: list[tuple[Any, World]]
) -> None:
    ruleset = compiled(rules)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index, "_AT_ONCE", at_once)
        for given_, world in cases:
            seen = []
            for form in ({**ruleset, "index": {}}, indexed(ruleset)):
                world.questions = []
                decision = run(form, given_, world)
                seen.append(([getattr(decision, name) for name in decision.__slots__], world.questions))
            assert seen[0] == seen[1]
