"""Conditions over DNS, clock, counters, attachments and reports: what they ask, and what each answer comes to."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroom.mx import Plan
from postroom.rules import Unknown, clock, keys
from postroom.rules.problems import Refused
from postroom.wire.policy import check_action

Load = Callable[[str], Any]

FAR = Unknown("no answer from 127.0.0.1:53")
PLAN = Plan("b.example", "mx", ((10, "mx1.b.example"), (20, "mx2.b.example")))


def one(stage: str, conditions: str, action: str = "550 5.7.1 no", more: str = "") -> str:
    return f"[[rule]]\nid = 'r'\nat = '{stage}'\naction = '{action}'\n{conditions}\n{more}\n"


def holds(rules: Load, conditions: str, attributes: dict[str, str], answers: Any = None, stage: str = "rcpt") -> Any:
    """True, False or "unknown"."""
    decision = rules(one(stage, conditions)).decide(stage, attributes, answers)
    return "unknown" if decision.on_error else decision.rule == "r"


@pytest.mark.parametrize(
    ("conditions", "attributes", "expected"),
    [
        ("match = { null_sender = true }", {"sender": ""}, True),
        ("match = { null_sender = true }", {"sender": "a@b"}, False),
        ("match = { null_sender = false }", {"sender": "a@b"}, True),
        ("match = { null_sender = true }", {}, False),
        ("match = { null_sender = false }", {"sender": "", "protocol_state": "VRFY"}, False),
        ("unless = { null_sender = true }", {}, False),
        ("match = { client_is_literal = true }", {"helo_name": "[192.0.2.1]"}, True),
        ("match = { client_is_literal = true }", {"helo_name": "192.0.2.1"}, False),
        ("match = { client_is_literal = false }", {"helo_name": "a.example"}, True),
        ("match = { helo_name = 'attr:client_name' }", {"helo_name": "A.example.", "client_name": "a.EXAMPLE"}, True),
        ("match = { helo_name = 'attr:client_name' }", {"helo_name": "a.example", "client_name": "b.example"}, False),
        ("match = { helo_name = 'attr:client_name' }", {"helo_name": "a.example", "client_name": ""}, False),
        ("unless = { helo_name = 'attr:client_name' }", {"helo_name": "a.example", "client_name": ""}, False),
        ("unless = { helo_name = 'attr:client_name' }", {"helo_name": "a.example", "client_name": "b"}, True),
        ("match = { sender = 'attr:sasl_username' }", {"sender": "", "sasl_username": ""}, False),
        ("match = { sender = ['attr:sasl_username', 'x@y'] }", {"sender": "x@y", "sasl_username": ""}, True),
        (
            "match = { sender = 'attr:sasl_username' }",
            {"sender": "Bob@b.example", "sasl_username": "bob@B.example"},
            True,
        ),
        ("match = { recipient_domain = 'attr:sender_domain' }", {"sender": "a@x.org", "recipient": "b@X.org"}, True),
        (
            "match = { client_address = 'attr:server_address' }",
            {"client_address": "::1", "server_address": "::1"},
            True,
        ),
        ("match = { attribute.new_thing = 'Yes' }", {"new_thing": "Yes"}, True),
        ("match = { attribute.new_thing = 'yes' }", {"new_thing": "Yes"}, False),
        ("unless = { attribute.new_thing = 'yes' }", {}, False),
    ],
)
def test_what_the_request_says_itself(rules: Load, conditions: str, attributes: dict[str, str], expected: bool) -> None:
    assert holds(rules, conditions, attributes) is expected


@pytest.mark.parametrize(
    ("conditions", "answers", "expected"),
    [
        ("match = { mx_address = '192.0.2.0/24' }", {("addresses", "mx2.b.example"): ("192.0.2.9",)}, True),
        ("match = { mx_address = '192.0.2.0/24' }", {"addresses": ("198.51.100.1", "2001:db8::1")}, False),
        ("match = { mx_address = '2001:db8::/32' }", {"addresses": ("198.51.100.1", "2001:db8::1")}, True),
        ("match = { mx_address = '192.0.2.0/24' }", {"addresses": ()}, False),
        ("match = { mx_address = '192.0.2.0/24' }", {"addresses": FAR}, "unknown"),
        ("unless = { mx_address = '192.0.2.0/24' }", {"addresses": ()}, True),
        ("match = { ns = '.dns.example' }", {"ns": ("a.dns.example", "b.dns.example")}, True),
        ("match = { ns = '.dns.example' }", {"ns": ("a.other.example",)}, False),
        ("match = { ns = '.dns.example' }", {"ns": FAR}, "unknown"),
        ("match = { fcrdns = false }", {"fcrdns": False}, True),
        ("match = { fcrdns = true }", {"fcrdns": False}, False),
        ("match = { fcrdns = false }", {"fcrdns": FAR}, "unknown"),
        ("match = { country = ['DE', 'AT'] }", {"country": "AT"}, True),
        ("unless = { country = 'DE' }", {"country": ""}, True),
        ("match = { country = 'de' }", {"country": "FR"}, False),
        ("match = { dnsbl = 'zen.example' }", {"dnsbl": {"zen.example": ("127.0.0.4",)}}, True),
        ("match = { dnsbl = 'zen.example=127.0.0.[5..9]' }", {"dnsbl": {"zen.example": ("127.0.0.4",)}}, False),
        ("match = { dnsbl = 'zen.example' }", {"dnsbl": {"zen.example": FAR}}, "unknown"),
        ("match = { dnsbl = 'zen.example' }", {"dnsbl": FAR}, "unknown"),
        (
            "match = { dnsbl = { zones = ['a.example*2', 'b.example', 'c.example*-3'], at_least = 3 } }",
            {"dnsbl": {"a.example": ("127.0.0.2",), "b.example": ("127.0.0.2",), "c.example": ()}},
            True,
        ),
        (
            "match = { dnsbl = { zones = ['a.example*2', 'b.example', 'c.example*-3'], at_least = 3 } }",
            {"dnsbl": {"a.example": ("127.0.0.2",), "b.example": ("127.0.0.2",), "c.example": FAR}},
            "unknown",
        ),
        ("match = { time = '08:00-18:00' }", {"now": (0, 480)}, True),
        ("match = { time = '08:00-18:00' }", {"now": (0, 1080)}, False),
        ("match = { time = ['22:00-06:00'] }", {"now": (0, 60)}, True),
        ("match = { time = ['22:00-06:00'] }", {"now": (0, 720)}, False),
        ("match = { weekday = 'sat-mon' }", {"now": (6, 0)}, True),
        ("match = { weekday = ['tue', 'wed-fri'] }", {"now": (0, 0)}, False),
        ("match = { seen = { key = 'sender' } }", {("seen", ("r", ("a@x.org",), 2592000.0, "1.2.3")): True}, True),
        ("unless = { seen = { key = ['sender', 'client_address'], within = '1d' } }", {"seen": False}, True),
        ("match = { seen = { key = 'sasl_username' } }", {}, False),
        ("match = { rate = { key = 'sender_domain', limit = '5/1h' } }", {"rate": 12}, True),
        ("match = { rate = { key = 'sender_domain', limit = '5/1h' } }", {"rate": 0}, False),
        ("match = { rate = { key = 'sender_domain', limit = '5/1h' } }", {"rate": FAR}, "unknown"),
        ("match = { greylist = { } }", {"greylist": 300}, True),
        ("match = { greylist = { delay = '1m' } }", {"greylist": 0}, False),
        ("match = { greylist = { } }", {"greylist": FAR}, "unknown"),
    ],
)
def test_what_is_asked_for(rules: Load, conditions: str, answers: dict[Any, Any], expected: object) -> None:
    attributes = {
        "sender": "a@X.org",
        "recipient": "b@b.example",
        "client_address": "203.0.113.7",
        "client_name": "unknown",
        "sasl_username": "",
        "instance": "1.2.3",
    }
    assert holds(rules, conditions, attributes, {"mx": PLAN, "addresses": (), **answers}) is expected


def test_a_verified_client_name_needs_no_dns(rules: Load) -> None:
    file = rules(one("rcpt", "match = { fcrdns = true }"))
    assert file.decide("rcpt", {"client_address": "192.0.2.1", "client_name": "a.example"}).rule == "r"
    assert file.asked == []


def test_only_what_everything_else_holds_for_is_counted(rules: Load) -> None:
    text = one("rcpt", "match = { rate = { key = 'sender', limit = '5/1h' }, primary_mx = 'x.example' }")
    file = rules(text)
    file.decide("rcpt", {"sender": "a@b", "recipient": "b@b.example"}, {"mx": PLAN, "rate": 0})
    assert file.asked == ["mx"], "the MX is another: nothing is counted"


@pytest.mark.parametrize("written", ["bücher.example", "xn--bcher-kva.example", "BÜCHER.example"])
@pytest.mark.parametrize(
    "sent", ["bücher.example", "bu\u0308cher.example", "\uff42ücher.example", "XN--bcher-kva.Example."]
)
def test_a_domain_is_one_in_all_its_spellings(rules: Load, written: str, sent: str) -> None:
    for key, value, came in (
        ("recipient_domain", written, f"a@{sent}"),
        ("recipient", written, f"a@{sent}"),
        ("recipient", f"a@{written}", f"a@{sent}"),
        ("recipient", f".{written}", f"a@mx.{sent}"),
    ):
        assert holds(rules, f"match = {{ {key} = '{value}' }}", {"recipient": came}) is True, (key, value)
    assert holds(rules, f"match = {{ helo_name = '{written}' }}", {"helo_name": sent}) is True
    assert holds(rules, f"match = {{ recipient = '{written}' }}", {"recipient": "a@ü\u0300\ud800.example"}) is False


def test_the_country_in_a_text(rules: Load) -> None:
    text = one("rcpt", "match = { country = ['AQ', 'BV'] }", "550 5.7.1 no mail from {country}")
    decision = rules(text).decide("rcpt", {"client_address": "192.0.2.1"}, {"country": "BV"})
    assert decision.action == "550 5.7.1 no mail from BV"


def test_a_rule_that_is_skipped_is_told(rules: Load) -> None:
    text = one("rcpt", "match = { ns = 'a.example' }", more="on_error = 'skip'")
    decision = rules(text).decide("rcpt", {"recipient": "a@b.example"}, {"ns": FAR})
    assert (decision.rule, decision.skipped) == (None, (("r", FAR.reason),))
    assert decision.notes() == {"skipped": f"r: {FAR.reason}"}
    assert rules(text).decide("rcpt", {"recipient": "a@b.example"}, {"ns": ()}).notes() == {}


def test_many_rules_know_the_spellings_too(rules: Load) -> None:
    text = "".join(
        f"[[rule]]\nid = 'r{n}'\nat = 'rcpt'\naction = '550 no'\nmatch = {{ recipient = 'u{n}@bücher.example' }}\n"
        for n in range(300)
    )
    assert rules(text).decide("rcpt", {"recipient": "U217@bu\u0308cher.example"}).rule == "r217"


def test_nothing_is_counted_while_it_is_unknown_whom_the_rule_is_for(rules: Load) -> None:
    text = one("rcpt", "match = { rate = { key = 'sender', limit = '5/1h' }, primary_mx = 'x.example' }")
    file = rules(text)
    plan = Plan("b.example", "error", reason="SERVFAIL")
    assert file.decide("rcpt", {"sender": "a@b", "recipient": "b@b.example"}, {"mx": plan, "rate": 9}).on_error
    assert file.asked == ["mx"]


@pytest.mark.parametrize(
    ("stage", "setting", "attributes", "expected"),
    [
        ("rcpt", "", {"instance": "i"}, ("r", ("<>",), ((5, 3600.0),), 1, "i")),
        ("rcpt", ", count = 'recipients'", {"instance": "i"}, ("r", ("<>",), ((5, 3600.0),), 1, "i b@b")),
        ("data", ", count = 'recipients'", {"recipient_count": "7"}, ("r", ("<>",), ((5, 3600.0),), 7, "")),
        ("end-of-message", ", count = 'bytes', name = 'n'", {"size": "900"}, ("n", ("<>",), ((5, 3600.0),), 900, "")),
        ("deliver", ", count = 'recipients'", {"queue_id": "Q"}, ("r", ("<>",), ((5, 3600.0),), 1, "Q b@b")),
    ],
)
def test_what_a_rate_counts(
    rules: Load, stage: str, setting: str, attributes: dict[str, str], expected: tuple[Any, ...]
) -> None:
    action = "4.7.1 slow down" if stage == "deliver" else "450 4.7.1 slow down {rate.wait} s"
    file = rules(one(stage, f"match = {{ rate = {{ key = 'sender', limit = '5/1h'{setting} }} }}", action))
    given_ = {"sender": "", "recipient": "b@b" if stage in ("rcpt", "deliver") else "", **attributes}
    decision = file.decide(stage, given_, {("rate", expected): 42})
    assert decision.rule == "r" and not decision.on_error, decision.reason
    assert stage == "deliver" or decision.action.endswith("slow down 42 s")


def test_two_rates_of_one_rule_count_apart_and_a_name_joins_rules(rules: Load) -> None:
    rate = "{ key = 'sender', limit = '5/1h' }"
    named = "{ key = 'sender', limit = '5/1h', name = 'all' }"
    file = rules(
        one("rcpt", f"match = {{ rate = [{rate}, {rate}] }}")
        + one("data", f"match = {{ rate = {named} }}").replace("'r'", "'s'")
    )
    seen: list[str] = []

    class Answers(dict[Any, Any]):
        def get(self, key: Any, default: Any = None) -> Any:
            if isinstance(key, tuple):
                seen.append(key[1][0])
                return 0
            return default

    for stage in ("rcpt", "data"):
        file.decide(stage, {"sender": "a@b", "recipient": "c@d"}, Answers())
    assert seen == ["r", "r:2", "all"]


@pytest.mark.parametrize(
    "other", ["limit = '80/1h'", "limit = '5/1h', count = 'recipients'", "limit = ['5/1h', '9/1d']"]
)
def test_one_name_has_one_set_of_limits(problems: Callable[[str], Any], other: str) -> None:
    """The second rule would be told what the first one was, and its own limits would never be kept."""
    first = one("rcpt", "match = { rate = { key = 'sender', limit = '5/1h', name = 'n' } }")
    found = problems(
        first + one("data", f"any = [{{ rate = {{ key = 'sender', {other}, name = 'n' }} }}]").replace("'r'", "'s'")
    )
    assert len(found) == 1 and 'counts as "n"' in str(found[0]) and 'rule "r" on line 1' in str(found[0])


def test_a_login_is_counted_in_any_spelling(rules: Load) -> None:
    """A stolen password must not be good for one limit more with each capital letter."""
    file = rules(one("rcpt", "match = { rate = { key = 'sasl_username', limit = '5/1h' } }"))
    for name in ("ann@x.example", "Ann@X.example", "ANN@x.EXAMPLE"):
        answers = {("rate", ("r", ("ann@x.example",), ((5, 3600.0),), 1, "i")): 7}
        assert file.decide("rcpt", {"sasl_username": name, "instance": "i"}, answers).action == "550 5.7.1 no"


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3::7", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::/64"),
        ("unknown", "unknown"),
    ],
)
def test_a_client_has_one_count_for_its_ipv6_network(rules: Load, address: str, counted: str) -> None:
    known = {
        ("seen", ("r", (counted,), 2592000.0, "")): True,
        ("rate", ("r", (counted,), ((5, 3600.0),), 1, "")): 7,
    }
    for condition in ("seen = { key = 'client_address' }", "rate = { key = 'client_address', limit = '5/1h' }"):
        assert holds(rules, f"match = {{ {condition} }}", {"client_address": address}, known) is True


@pytest.mark.parametrize("key", ["rhsbl", "helo_rhsbl", "client_rhsbl"])
@pytest.mark.parametrize("name", ["192.0.2.1", "a.example.7", "[192.0.2.1]", "unknown", "12"])
def test_a_list_of_domains_is_not_asked_about_an_address(rules: Load, key: str, name: str) -> None:
    file = rules(one("rcpt", f"match = {{ {key} = 'dbl.example' }}"))
    attributes = {"sender": f"a@{name}", "helo_name": name, "client_name": name}
    assert file.decide("rcpt", attributes, {"dnsbl": {"dbl.example": ("127.0.1.255",)}}).rule is None
    assert file.asked == []


def test_greylist_pools_clients(rules: Load) -> None:
    file = rules(
        one("rcpt", "match = { greylist = { key = 'sender', auto_allow = 3 } }", "451 4.7.1 in {greylist.wait} s")
    )
    asked: list[Any] = []

    class Answers(dict[Any, Any]):
        def get(self, key: Any, default: Any = None) -> Any:
            if isinstance(key, tuple):
                asked.append(key[1])
            return 17

    attributes = {
        "sender": "a@b",
        "client_address": "192.0.2.77",
        "client_name": "unknown",
        "reverse_client_name": "unknown",
    }
    assert file.decide("rcpt", attributes, Answers()).action == "451 4.7.1 in 17 s"
    pool, key, *settings = asked[0]
    assert pool.startswith("r ") and "192.0.2." in pool and "77" not in pool
    assert (key, settings) == (("a@b",), [300.0, 172800.0, 3024000.0, 3])


def test_the_text_beside_an_entry(rules: Load) -> None:
    text = "[list.one]\nvalues = ['x']\n[list.two]\nvalues = ['y']\n" + one(
        "rcpt",
        "match = { sender = 'list:one', recipient = ['list:two'] }",
        "550 5.7.1 {list.reason}; {list.two} or {list.one}",
    )
    found = rules(text).decide(
        "rcpt",
        {"sender": "a@b", "recipient": "c@d"},
        {("list", ("one", "a@b", "address")): "first\r\nline", ("list", ("two", "c@d", "address")): "second"},
    )
    assert found.action == "550 5.7.1 first line; second or first line"


@pytest.mark.parametrize(
    ("conditions", "attributes", "expected"),
    [
        ("match = { bounce.hard = true }", {"bounce.hard": "true"}, True),
        ("match = { bounce.hard = false }", {"bounce.hard": "true"}, False),
        ("match = { bounce.reason = ['full', 'no-mailbox'] }", {"bounce.reason": "no-mailbox"}, True),
        ("match = { bounce.recipient = 'gone.example' }", {"bounce.recipient": "a@gone.example"}, True),
        ("unless = { bounce.kind = 'failed' }", {}, False),
    ],
)
def test_reports(rules: Load, conditions: str, attributes: dict[str, str], expected: bool) -> None:
    decision = rules(one("bounce", conditions, "record")).decide("bounce", attributes)
    assert (decision.rule == "r") is expected


def test_attachments(rules: Load) -> None:
    text = one("deliver", "match = { attachment = ['*.exe', 're:^invoice'] }", "5.7.1 no programs")
    for names, expected in ((["A.EXE"], True), (["a.txt", "Invoice 1"], True), (["a.txt"], False), ([], False)):
        assert (rules(text).decide("deliver", {}, {"attachments": names}).rule == "r") is expected
    assert rules(text).decide("deliver", {}).on_error


SEVERAL = '["PREPEND X-Rule: {recipient}", "BCC archive@example.com", "450 4.7.1 later"]'


def test_several_actions_of_one_rule(rules: Load) -> None:
    file = rules(f'[[rule]]\nid = "r"\nat = "rcpt"\naction = {SEVERAL}\n')
    decision = file.decide("rcpt", {"recipient": "a\nb@c"})
    assert decision.actions == ("PREPEND X-Rule: a b@c", "BCC archive@example.com", "450 4.7.1 later")
    assert decision.action == ", ".join(decision.actions)


def test_restrictions_and_classes_by_name(rules: Load) -> None:
    file = rules('[[rule]]\nid = "r"\nat = "rcpt"\naction = "restrict reject_unlisted_sender my_class"\n')
    action = file.decide("rcpt", {}).action
    assert check_action(action) == action == "reject_unlisted_sender, my_class"


@pytest.mark.parametrize(
    ("stage", "conditions", "words"),
    [
        ("rcpt", "match = { null_sender = 'yes' }", "true or false"),
        ("connect", "match = { null_sender = true }", "only at mail"),
        ("rcpt", "match = { helo_name = 'attr:client_nam' }", 'did you mean "client_name"'),
        ("rcpt", "match = { size = 'attr:recipient_count' }", "expected a number"),
        ("rcpt", "match = { primary_mx = 'attr:helo_name' }", "one that is a text"),
        ("rcpt", "match = { attribute.sender = 'x' }", "unknown key"),
        ("rcpt", "match = { dnsbl = 'zen.example=300.0.0.1' }", "zen.example=300.0.0.1"),
        ("rcpt", "match = { dnsbl = { zone = ['x.example'] } }", 'did you mean "zones"'),
        ("rcpt", "match = { dnsbl = { zones = [] } }", "a list of texts"),
        ("rcpt", "match = { time = '8-18' }", "from 00:00 to 24:00"),
        ("rcpt", "match = { time = '08:00-08:00' }", "no time at all"),
        ("rcpt", "match = { time = '08:00-24:01' }", "24:00"),
        ("rcpt", "match = { weekday = 'monday' }", 'did you mean "mon"'),
        ("rcpt", "match = { country = 'Germany' }", "two letters"),
        ("rcpt", "match = { rate = '5/1h' }", "expected a table"),
        ("rcpt", "match = { rate = { key = 'sender' } }", '"limit" is missing'),
        ("rcpt", "match = { rate = { limit = '5/1h' } }", '"key" is missing'),
        ("rcpt", "match = { rate = { key = 'sender', limit = '0/1h' } }", "no limit but a ban"),
        ("rcpt", "match = { rate = { key = 'sender', limit = '5/0s' } }", "a time above 0"),
        ("rcpt", "match = { rate = { key = 'sender', limit = '5' } }", "a number and a time"),
        ("rcpt", "match = { rate = { key = 'sender', limit = '5/1h', count = 'bytes' } }", "only at end-of-message"),
        ("mail", "match = { rate = { key = 'sender', limit = '5/1h', count = 'recipients' } }", "only at rcpt"),
        ("mail", "match = { rate = { key = 'recipient', limit = '5/1h' } }", "cannot be known at mail"),
        ("rcpt", "match = { rate = { key = 'primary_mx', limit = '5/1h' } }", "unknown attribute"),
        ("rcpt", "match = { rate = { key = 'sender', limit = '5/1h', cout = 'bytes' } }", 'did you mean "count"'),
        ("rcpt", "match = { rate = { key = [], limit = '5/1h' } }", "1 to 8 attributes"),
        ("route", "match = { rate = { key = 'recipient', limit = '5/1h' } }", "cannot be known at route"),
        ("rcpt", "match = { greylist = { delay = '5m', retry = '1m' } }", "nobody would ever pass"),
        ("rcpt", "match = { greylist = { mask = 24 } }", "[24, 64]"),
        ("rcpt", "match = { greylist = { auto_allow = -1 } }", "0 for never"),
        ("bounce", "match = { greylist = { } }", "has no client"),
        ("rcpt", "match = { seen = { key = 'sender', within = '9000d' } }", "within:"),
        ("rcpt", "match = { seen = { key = 'sender', name = 'a b' } }", "name:"),
        ("rcpt", "match = { attachment = '*.exe' }", "only at deliver"),
        ("deliver", "match = { bounce.hard = true }", "only at bounce"),
    ],
)
def test_what_is_wrong_is_said(problems: Callable[[str], Any], stage: str, conditions: str, words: str) -> None:
    found = problems(
        one(stage, conditions, {"bounce": "record", "deliver": "5.7.1 no", "route": "smtp:"}.get(stage, "550 5.7.1 no"))
    )
    assert len(found) == 1, found
    assert words in str(found[0])


def test_each_wrong_value_of_a_list_is_named(problems: Callable[[str], Any]) -> None:
    found = problems(one("rcpt", "match = { client_address = ['10.0.0.0/33', '10.0.0.1', 'x', '10.0.0.1/8'] }"))
    assert len(found) == 3, found


@pytest.mark.parametrize(
    ("action", "words"),
    [
        ('["550 no", "BCC a@b.example"]', "550 ends what Postfix checks"),
        ('["OK", "BCC a@b.example"]', "OK skips"),
        ("[]", "1 to 4 actions"),
        ('"restrict"', "expected names"),
        ('"restrict 550"', "expected names"),
        ('"restrict my_class, ok"', "expected names"),
        ('"restrict check_client_access hash:/x"', "no tables"),
        ('"restrict permit_mynetworks"', "allow_ok = true"),
        ('["BCC a@b.example", 5]', "a text in quotes"),
        ('"550 5.7.1 {list.reason}"', '"list:..."'),
        ('"550 5.7.1 {list.other}"', '"list:other"'),
        ('"PREPEND {helo_name}: x"', "header's name"),
        ('"550 5.7.1 {rate.wait}"', "rate = { ... }"),
    ],
)
def test_actions_that_cannot_be(problems: Callable[[str], Any], action: str, words: str) -> None:
    found = problems(f'[[rule]]\nid = "r"\nat = "rcpt"\nmatch = {{ sender = "a@b" }}\naction = {action}\n')
    assert words in "\n".join(map(str, found))


@given(st.integers(0, 6), st.integers(0, 6))
def test_days_wrap_round_the_weeks_end(first: int, last: int) -> None:
    found = clock.days(f"{clock.WEEKDAYS[first]}-{clock.WEEKDAYS[last].upper()}")
    expected = {first}
    while first != last:
        first = (first + 1) % 7
        expected.add(first)
    assert found == expected


@given(st.text(max_size=14))
def test_no_text_breaks_the_clock(text: str) -> None:
    for read in (clock.span, clock.days):
        try:
            read(text)
        except Refused as refused:
            assert str(refused)


def test_every_kind_of_key_can_be_judged() -> None:
    from postroom.rules.evaluate import _KINDS

    assert {key.kind for key in keys.KEYS.values()} | {"header"} == set(_KINDS)
