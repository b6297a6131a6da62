"""Decisions: what is asked and what is not, what is missing, what is unknown, what strangers' text may become."""

import marshal
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postroom.mx import Plan
from postroom.rules import STAGE_OF_STATE, Unknown, keys
from postroom.rules.check import check
from postroom.rules.compile import compile_model
from postroom.rules.evaluate import decide
from postroom.rules.read import parse
from postroom.rules.values import FLAGS
from postroom.store import Suppression

Load = Callable[[str], Any]

SHADY = Plan("victim.example", "mx", ((10, "mx1.shadysmtpd.example"), (20, "mx.good.example")))
BACKUP = Plan("victim.example", "mx", ((10, "mx.good.example"), (20, "mx1.shadysmtpd.example")))
FAILED = Plan("victim.example", "error", reason="SERVFAIL from 127.0.0.1:53")

USER = """
[list.blocked]
values = ["a@victim.example"]
[provider.shady]
mx = [".shadysmtpd.example"]
[[rule]]
id = "shady"
at = "rcpt"
match = { primary_mx = "provider:shady", recipient = "list:blocked" }
action = "HANGUP"
"""


def one(stage: str, conditions: str, action: str = "521 5.7.1 no", more: str = "") -> str:
    return f'[[rule]]\nid = "r"\nat = "{stage}"\naction = "{action}"\n{conditions}\n{more}\n'


def test_the_rule_that_it_is_all_about(rules: Load) -> None:
    file, on_list = rules(USER), {"recipient": "A@Victim.Example"}
    assert file.decide("rcpt", on_list, {"list": True, "mx": SHADY}).action == "HANGUP"
    assert file.decide("rcpt", on_list, {"list": True, "mx": BACKUP}).action == "DUNNO"
    assert file.decide("rcpt", on_list, {"list": False}).action == "DUNNO"
    assert file.asked == ["list"], "not on the list: DNS is left alone"


def test_dns_that_fails_is_not_no(rules: Load) -> None:
    answers = {"list": True, "mx": FAILED}
    decision = rules(USER).decide("rcpt", {"recipient": "a@victim.example"}, answers)
    assert decision.on_error and decision.rule == "shady"
    assert decision.action.startswith("DEFER_IF_PERMIT 4.3.0 ")
    assert "SERVFAIL" in decision.reason and "SERVFAIL" not in decision.action
    skipped = rules(USER + 'on_error = "skip"\n').decide("rcpt", {"recipient": "a@victim.example"}, answers)
    assert (skipped.action, skipped.rule, skipped.on_error) == ("DUNNO", None, False)
    refused = rules(USER + 'on_error = "521 5.7.1 no"\n').decide("rcpt", {"recipient": "a@victim.example"}, answers)
    assert (refused.action, refused.on_error) == ("521 5.7.1 no", True)


def test_false_settles_it_whatever_is_unknown(rules: Load) -> None:
    file = rules(USER)
    assert file.decide("rcpt", {"recipient": "a@victim.example"}, {"list": Unknown("gone"), "mx": BACKUP}).rule is None
    assert file.decide("rcpt", {"recipient": "a@victim.example"}, {"list": Unknown("gone"), "mx": SHADY}).on_error


@pytest.mark.parametrize(
    ("conditions", "asked"),
    [
        ('match = { primary_mx = "x.example", suppressed = true, recipient = "list:l", sender = "s@x" }', []),
        ('match = { primary_mx = "x.example", suppressed = true, recipient = "list:l" }', ["list"]),
        ('match = { primary_mx = "x.example", suppressed = true }', ["suppressed"]),
        ('match = { primary_mx = "x.example" }\nunless = { client_address = "10.0.0.0/8" }', []),
        ('any = [ { primary_mx = "x.example" }, { client_address = "10.0.0.0/8" } ]', []),
        ('match = { recipient = ["list:l", "r@y.example"] }', []),
        ('unless = { primary_mx = "x.example", client_address = "192.0.2.0/24" }', []),
        ('any = [ { primary_mx = "x.example", client_address = "192.0.2.0/24" } ]', []),
    ],
)
def test_cheap_conditions_come_first_and_end_it(rules: Load, conditions: str, asked: list[str]) -> None:
    file = rules('[list.l]\nvalues = ["q@q"]\n' + one("rcpt", conditions))
    given_ = {"recipient": "r@y.example", "sender": "o@y", "client_address": "10.1.2.3"}
    file.decide("rcpt", given_, {"list": False, "suppressed": None})
    assert file.asked == asked


STATES = {
    "equals": ({"client_name": "a.example"}, True, False),
    "differs": ({"client_name": "b.example"}, False, True),
    "empty": ({"client_name": ""}, False, False),
    "absent": ({}, False, False),
}


@pytest.mark.parametrize("state", STATES)
def test_what_is_missing_never_helps_a_rule(rules: Load, state: str) -> None:
    attributes, matches, unless = STATES[state]
    condition = '{ client_name = "a.example" }'
    for text, expected in (
        (f"match = {condition}", matches),
        (f"any = [ {condition} ]", matches),
        (f"unless = {condition}", unless),
    ):
        assert (rules(one("rcpt", text)).decide("rcpt", attributes).rule == "r") is expected, text


@pytest.mark.parametrize(
    ("stage", "attributes", "conditions", "matches"),
    [
        ("rcpt", {"sender": ""}, 'match = { sender = "" }', True),
        ("rcpt", {"sender": ""}, 'match = { sender = "<>" }', True),
        ("rcpt", {"sender": ""}, 'unless = { sender = "a@b" }', True),
        ("rcpt", {"sender": ""}, 'match = { sender = "*" }', False),
        ("rcpt", {"sender": "", "protocol_state": "VRFY"}, 'unless = { sender = "a@b" }', False),
        ("rcpt", {"sender": "", "protocol_state": "VRFY"}, 'match = { sender = "" }', False),
        ("rcpt", {"sasl_username": ""}, 'unless = { sasl_username = "*" }', True),
        ("rcpt", {}, 'unless = { sasl_username = "*" }', False),
        ("helo", {"sasl_username": ""}, 'unless = { sasl_username = "*" }', False),
        ("mail", {"size": "0"}, 'unless = { size = ">10" }', False),
        ("end-of-message", {"size": "0"}, 'unless = { size = ">10" }', True),
        ("end-of-message", {"size": "0"}, "match = { size = 0 }", True),
        ("data", {"recipient": ""}, 'unless = { recipient = "a@b" }', False),
        ("data", {"recipient_count": "3"}, 'match = { recipient_count = ">2" }', True),
        ("rcpt", {"recipient": "a@b"}, 'unless = { recipient_extension = "x" }', True),
        ("rcpt", {"recipient": "a@b"}, 'match = { recipient_extension = "" }', True),
        ("rcpt", {"recipient": "postmaster"}, 'match = { recipient_domain = "" }', True),
        ("rcpt", {"recipient": "postmaster"}, 'unless = { primary_mx = "x.example" }', False),
        ("rcpt", {"recipient": "POSTMASTER"}, 'match = { recipient = "postmaster" }', True),
        ("rcpt", {"sasl_username": "bob"}, 'match = { sasl_username = "Bob" }', False),
        ("rcpt", {"client_address": "unknown"}, 'unless = { client_address = "10.0.0.0/8" }', False),
        ("rcpt", {"client_address": "::FFFF:10.0.0.1"}, 'match = { client_address = "10.0.0.0/8" }', True),
        ("rcpt", {"helo_name": "MX.Example."}, 'match = { helo_name = "mx.example" }', True),
        ("rcpt", {"helo_name": "notmx.example"}, 'match = { helo_name = ".mx.example" }', False),
        ("rcpt", {"recipient": "a@xn--bcher-kva.example"}, 'match = { recipient = "bücher.example" }', True),
        ("rcpt", {"recipient": "a@BÜCHER.example"}, 'match = { recipient = "bücher.example" }', True),
        ("rcpt", {"stress": ""}, 'match = { stress = "" }', True),
        ("deliver", {"sender": "", "size": "0"}, 'match = { sender = "", size = 0 }', True),
        ("etrn", {"etrn_domain": "A.example"}, 'match = { etrn_domain = "a.example" }', True),
    ],
)
def test_what_empty_means(rules: Load, stage: str, attributes: dict[str, str], conditions: str, matches: bool) -> None:
    action = "discard" if stage == "deliver" else "521 5.7.1 no"
    assert (rules(one(stage, conditions, action)).decide(stage, attributes).rule == "r") is matches


PLANS = {
    "mx": SHADY,
    "two": Plan("d", "mx", ((10, "a.shadysmtpd.example"), (10, "b.good.example"))),
    "implicit": Plan("d", "implicit", ((0, "x.shadysmtpd.example"),)),
    "null": Plan("d", "null"),
    "none": Plan("d", "none"),
    "literal": Plan("d", "literal", ((0, "192.0.2.1"),)),
}


@pytest.mark.parametrize(
    ("key", "matching"),
    [
        ("primary_mx", {"mx", "two", "implicit"}),
        ("any_mx", {"mx", "two", "implicit"}),
        ("every_mx", {"implicit"}),
    ],
)
def test_mx_keys_over_every_kind_of_plan(rules: Load, key: str, matching: set[str]) -> None:
    for table, expected in (("match", matching), ("unless", set(PLANS) - matching)):
        file = rules(one("rcpt", f'{table} = {{ {key} = ".shadysmtpd.example" }}'))
        found = {name for name, plan in PLANS.items() if file.decide("rcpt", {"recipient": "a@d"}, {"mx": plan}).rule}
        assert found == expected, table


def test_every_host_fits_one_of_the_values(rules: Load) -> None:
    file = rules(one("rcpt", 'match = { every_mx = [".shadysmtpd.example", "mx.good.example"] }'))
    assert file.decide("rcpt", {"recipient": "a@d"}, {"mx": SHADY}).rule == "r"


def test_mx_hosts_may_be_looked_up_in_a_list(rules: Load) -> None:
    file = rules('[list.l]\nvalues = ["x"]\n' + one("rcpt", 'match = { every_mx = "list:l" }'))
    yes, no = ("list", ("l", "mx1.shadysmtpd.example", "domain")), ("list", ("l", "mx.good.example", "domain"))
    assert file.decide("rcpt", {"recipient": "a@d"}, {"mx": SHADY, yes: True, no: True}).rule == "r"
    assert file.decide("rcpt", {"recipient": "a@d"}, {"mx": SHADY, yes: True, no: False}).rule is None
    assert file.decide("rcpt", {"recipient": "a@d"}, {"mx": SHADY, yes: Unknown("gone"), no: False}).rule is None
    assert file.decide("rcpt", {"recipient": "a@d"}, {"mx": SHADY, yes: Unknown("gone"), no: True}).on_error


@pytest.mark.parametrize("answer", [FAILED, Unknown("no resolver")])
def test_mx_state_can_speak_of_the_failure_itself(rules: Load, answer: object) -> None:
    given_ = {"recipient": "a@d"}
    assert rules(one("rcpt", 'match = { mx_state = "error" }')).decide("rcpt", given_, {"mx": answer}).rule == "r"
    assert rules(one("rcpt", 'unless = { mx_state = "error" }')).decide("rcpt", given_, {"mx": answer}).rule is None
    assert rules(one("rcpt", 'match = { mx_state = "null" }')).decide("rcpt", given_, {"mx": answer}).on_error


def test_headers_at_deliver(rules: Load) -> None:
    file = rules(one("deliver", 'match = { header.Subject = "*INVOICE*" }', "discard"))
    assert file.decide("deliver", {}, {("header", "subject"): ["hello", "Your Invoice"]}).rule == "r"
    assert file.decide("deliver", {}, {"header": []}).rule is None
    assert file.decide("deliver", {}, {"header": Unknown("unreadable")}).on_error
    absent = rules(one("deliver", 'unless = { header.Subject = "x" }', "discard"))
    assert absent.decide("deliver", {}, {"header": []}).rule is None


def test_suppressed(rules: Load) -> None:
    found = Suppression("a@b", 1767225600, why="mailbox\nis full")
    file = rules(one("rcpt", "match = { suppressed = true }", "550 5.1.1 since {suppressed.since}: {suppressed.why}"))
    assert (
        file.decide("rcpt", {"recipient": "a@b"}, {"suppressed": found}).action
        == "550 5.1.1 since 2026-01-01: mailbox is full"
    )
    assert file.decide("rcpt", {"recipient": "a@b"}, {"suppressed": None}).rule is None
    assert file.decide("rcpt", {"recipient": "a@b"}, {"suppressed": Unknown("locked")}).on_error
    free = rules(one("rcpt", "match = { suppressed = false }"))
    assert free.decide("rcpt", {"recipient": "a@b"}, {"suppressed": None}).rule == "r"
    assert free.decide("rcpt", {}, {"suppressed": None}).rule is None


def test_shadow_rules_decide_nothing_and_are_told(rules: Load) -> None:
    shadow = one("rcpt", 'match = { recipient = "a@b" }', "521 5.7.1 {recipient}", 'mode = "shadow"')
    decision = rules(shadow + shadow.replace('"r"', '"s"').replace('mode = "shadow"', "")).decide(
        "rcpt", {"recipient": "a@b"}
    )
    assert (decision.rule, decision.action, decision.shadow) == ("s", "521 5.7.1 a@b", (("r", "521 5.7.1 a@b"),))


def test_no_rule(rules: Load) -> None:
    file = rules("")
    assert file.decide("rcpt", {}).action == "DUNNO"
    assert file.decide("deliver", {}).words == ("4.3.5", "no delivery rule applies to this recipient")
    assert file.decide("route", {}).action == ""
    assert file.decide("rcpt", {}).rule is None


def test_a_template_asks_what_its_conditions_did_not(rules: Load) -> None:
    file = rules(one("rcpt", "", "521 5.7.1 not through {primary_mx}"))
    assert (
        file.decide("rcpt", {"recipient": "a@d"}, {"mx": SHADY}).action
        == "521 5.7.1 not through mx1.shadysmtpd.example"
    )


def test_a_rule_that_matches_is_not_undone_by_words_that_cannot_be_found(rules: Load) -> None:
    file = rules(one("rcpt", "", "521 5.7.1 not through {primary_mx}", more='on_error = "skip"'))
    decision = file.decide("rcpt", {"recipient": "a@d"}, {"mx": FAILED})
    assert (decision.action, decision.on_error) == ("521 5.7.1 not through unknown", False)


def test_an_on_error_may_speak_of_what_failed(rules: Load) -> None:
    file = rules(
        one("rcpt", 'match = { primary_mx = "x.example" }', more='on_error = "521 5.7.1 through {primary_mx}"')
    )
    decision = file.decide("rcpt", {"recipient": "a@d"}, {"mx": FAILED})
    assert (decision.action, decision.on_error) == ("521 5.7.1 through unknown", True)


@pytest.mark.parametrize(
    ("value", "action"),
    [
        ("x" * 1000, "550 5.1.1 " + "x" * 394),
        ("a\r\nb\0c\tb", "550 5.1.1 a b?c b"),
        ("\udcff\udcfe", "550 5.1.1 ??"),
        ("é" * 400, "550 5.1.1 " + "é" * 197),
    ],
)
def test_strangers_text_in_a_reply_is_one_short_line(rules: Load, value: str, action: str) -> None:
    decision = rules(one("rcpt", "", "550 5.1.1 {recipient}")).decide("rcpt", {"recipient": value})
    assert decision.action == action
    decision.action.encode()


def test_a_reply_of_strangers_text_alone_is_never_bare(rules: Load) -> None:
    assert rules(one("rcpt", "", "521 {helo_name}")).decide("rcpt", {"helo_name": ""}).action == "521 no reason given"
    assert rules(one("rcpt", "", "521 5.7.1 {sender}")).decide("rcpt", {"sender": ""}).action == "521 5.7.1 <>"


MAILDIR = one("deliver", "", "maildir /srv/{recipient_domain}/{recipient_localpart}")


@pytest.mark.parametrize(
    "recipient",
    [
        "../../etc/passwd@x.example", "..@x.example", ".@x.example", ".hidden@x.example", "a/b@x.example", "@x.example",
        "a@..", "a@../..", "a\0b@x.example", "a\nb@x.example", "a" * 201 + "@x.example", "é" * 101 + "@x.example", "a",
        "", "a@", "\ud800@x",
        "/@x.example", "a@/", "a@.x.example",
    ],
)  # fmt: skip
def test_no_stranger_leads_a_path_astray(rules: Load, recipient: str) -> None:
    decision = rules(MAILDIR).decide("deliver", {"recipient": recipient})
    assert decision.words == ("5.1.3", "bad destination mailbox address syntax")
    assert decision.rule == "r"


@pytest.mark.parametrize(
    ("recipient", "path"),
    [
        ("Bob@X.example", "/srv/x.example/bob"),
        ("a@b@x.example", "/srv/x.example/a@b"),
        ("a b\"'$(id)@x.example", "/srv/x.example/a b\"'$(id)"),
        ("\udcff@x.example", "/srv/x.example/\udcff"),
        ("-rf@x.example", "/srv/x.example/-rf"),
    ],
)
def test_odd_addresses_that_are_names_of_files(rules: Load, recipient: str, path: str) -> None:
    assert rules(MAILDIR).decide("deliver", {"recipient": recipient}).words == ("maildir", path)


@pytest.mark.parametrize("recipient", ["bob@x.example", "Bob@x.example", "BOB+news@X.example", "bob+@x.example"])
def test_all_spellings_of_a_recipient_share_one_mailbox(rules: Load, recipient: str) -> None:
    by_user = rules(one("deliver", "", "maildir /srv/{recipient_user}"))
    assert by_user.decide("deliver", {"recipient": recipient}).words == ("maildir", "/srv/bob")


@given(st.text(alphabet=st.sampled_from("ab./\\@\0\n \udcff+é") | st.characters(), max_size=30))
def test_a_path_stays_in_its_folder_whatever_the_address(recipient: str) -> None:
    words = _decide_maildir(recipient)
    if words[0] == "maildir":
        folders = words[1].split("/")
        assert len(folders) == 4
        assert folders[:2] == ["", "srv"]
        assert all(folder and folder[0] != "." and "\0" not in folder for folder in folders[1:])
    else:
        assert words[0] == "5.1.3"


def _decide_maildir(recipient: str) -> tuple[str, ...]:
    model, _ = check(parse(MAILDIR.encode(), "f"), "/")
    assert model
    steps = decide(compile_model(model)["rules"], "deliver", {"recipient": recipient})
    try:
        next(steps)
    except StopIteration as end:
        words: tuple[str, ...] = end.value.words
        return words
    raise AssertionError("a question, though nothing is unknown")


def test_a_senders_fault_is_said_to_be_the_senders(rules: Load) -> None:
    file = rules(one("deliver", "", "maildir /srv/{sender_localpart}"))
    assert file.decide("deliver", {"sender": "../x@y"}).words[0] == "5.1.7"


def test_a_maildir_folder_by_extension(rules: Load) -> None:
    file = rules(one("deliver", 'match = { recipient_extension = "*" }', "maildir /srv/bob/.{recipient_extension}"))
    assert file.decide("deliver", {"recipient": "bob+news@x"}).words == ("maildir", "/srv/bob/.news")
    assert file.decide("deliver", {"recipient": "bob+.x@x"}).words[0] == "5.1.3"
    assert file.decide("deliver", {"recipient": "bob@x"}).rule is None


@pytest.mark.parametrize(
    ("action", "attributes", "words"),
    [
        ("command /x {sender} {recipient}", {"sender": "", "recipient": "a b;c@x"}, ("command", "/x", "", "a b;c@x")),
        ("command /x {sender}", {"sender": "-rf@x"}, ("5.1.7", "bad sender's mailbox address syntax")),
        ("command /x -- {sender}", {"sender": "-rf@x"}, ("command", "/x", "--", "-rf@x")),
        ("command /x --from={sender}", {"sender": "-rf@x"}, ("command", "/x", "--from=-rf@x")),
        ("command /x {recipient}", {"recipient": "a\0b@x"}, ("5.1.3", "bad destination mailbox address syntax")),
        ("command /x {recipient}", {"recipient": "a" * 5000}, ("5.1.3", "bad destination mailbox address syntax")),
        ("command /x /srv/{recipient}", {"recipient": "../x@y"}, ("5.1.3", "bad destination mailbox address syntax")),
        ("command /x 'q {recipient}'", {"recipient": "a' b@x"}, ("command", "/x", "q a' b@x")),
    ],
)
def test_arguments_of_commands(rules: Load, action: str, attributes: dict[str, str], words: tuple[str, ...]) -> None:
    assert rules(one("deliver", "", action)).decide("deliver", attributes).words == words


@pytest.mark.parametrize(
    ("action", "recipient", "expected"),
    [
        ("REDIRECT {recipient_localpart}@archive.example", "bob@x", "REDIRECT bob@archive.example"),
        ("REDIRECT {recipient_localpart}@archive.example", "bob b@x", None),
        ("REDIRECT {recipient_localpart}@archive.example", "a@b@x", None),
        ("FILTER smtp:[{recipient_domain}]", "bob@x", "FILTER smtp:[x]"),
        ("FILTER smtp:[{recipient_domain}]", "bob@x]:25", None),
        ("FILTER smtp:[{recipient_domain}]", "bob", None),
    ],
)
def test_what_postfix_parses_takes_plain_values_only(
    rules: Load, action: str, recipient: str, expected: str | None
) -> None:
    decision = rules(one("rcpt", "", action)).decide("rcpt", {"recipient": recipient})
    assert decision.on_error if expected is None else decision.action == expected


def test_routes(rules: Load) -> None:
    file = rules(one("route", 'match = { every_mx = ".google.com" }', "slow:"))
    plan = Plan("d", "mx", ((1, "aspmx.l.google.com"),))
    assert file.decide("route", {"recipient": "a@d"}, {"mx": plan}).action == "slow:"
    undecided = file.decide("route", {"recipient": "a@d"}, {"mx": FAILED})
    assert (undecided.action, undecided.on_error) == ("", True)  # what that means, [route] says
    nexthop = rules(one("route", "", "smtp:[{recipient_domain}]:25"))
    assert nexthop.decide("route", {"recipient": "a@mx.example"}).action == "smtp:[mx.example]:25"


def test_a_value_too_long_for_a_pattern_leaves_the_rule_undecided(rules: Load) -> None:
    file = rules(one("rcpt", 'match = { helo_name = "re:^a.*b" }'))
    assert file.decide("rcpt", {"helo_name": "axxb"}).rule == "r"
    assert file.decide("rcpt", {"helo_name": "a" * 9000}).on_error


@pytest.mark.parametrize("size", ["x", "-1", "\u0661", "9" * 5000, "1_0", " 1"])
def test_a_number_that_is_none_is_unknown(rules: Load, size: str) -> None:
    assert rules(one("rcpt", "match = { size = 10 }")).decide("rcpt", {"size": size}).on_error


VALUES = {
    "number": '">5"',
    **dict.fromkeys(FLAGS, "true"),
    "ip": '"10.0.0.0/8"',
    "mx_address": '"10.0.0.0/8"',
    "mx_state": '"null"',
    "dnsbl": '"zen.example"',
    "time": '"08:00-18:00"',
    "weekday": '"mon-fri"',
    "country": '"DE"',
    "seen": '{ key = "client_address" }',
    "greylist": '{ key = "client_address" }',
    "rate": '{ key = "client_address", limit = "5/1h" }',
}
EVERY_KEY = "".join(
    f'[[rule]]\nid = "r-{stage}-{number}"\nat = "{stage}"\naction = "{action}"\nmode = "shadow"\n'
    f'{table} = {{ "{name}" = {value} }}\n'
    for stage, action in (("rcpt", "521 5.7.1 no"), ("deliver", "discard"), ("end-of-message", "521 5.7.1 no"))
    for number, (table, name, value) in enumerate(
        (table, name, VALUES.get(kind, '"*a*"'))
        for name, kind in ((key.name, key.kind) for key in keys.KEYS.values() if stage in key.stages)
        for table in ("match", "unless")
    )
)
hostile = st.sampled_from(
    ["", "a@" + "b." * 200_000 + "c", "x" * 1_000_000, "@" * 1000, "\0", "a\nb=c", "\udcff@\udcfe"]
)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_attribute_of_a_stranger_breaks_a_decision(data: st.DataObject) -> None:
    ruleset = _every_key()
    attributes = {name: data.draw(hostile | st.text(max_size=20)) for name in keys.attributes()}
    answers = {
        "mx": SHADY, "suppressed": None, "addresses": ("10.0.0.1",), "ns": (), "dnsbl": {"zen.example": ()},
        "fcrdns": True, "country": "", "now": (0, 0), "seen": False, "greylist": 0, "rate": 0, "attachments": [],
    }  # fmt: skip
    start = time.process_time()
    for stage in ("rcpt", "deliver", "end-of-message"):
        steps = decide(ruleset, stage, attributes)
        try:
            question = next(steps)
            while True:
                question = steps.send(answers[question.kind])
        except StopIteration as end:
            assert end.value.action
    assert time.process_time() - start < 5


_compiled: list[Any] = []


def _every_key() -> Any:
    if not _compiled:
        model, report = check(parse(EVERY_KEY.encode(), "f"), "/")
        assert model, report.problems
        _compiled.append(compile_model(model)["rules"])
    return _compiled[0]


def test_what_is_compiled_survives_being_kept(rules: Load) -> None:
    compiled = rules(USER + EVERY_KEY).compiled
    assert marshal.loads(marshal.dumps(compiled)) == compiled


def test_each_state_of_the_protocol_has_a_stage() -> None:
    assert set(STAGE_OF_STATE.values()) == set(keys.POLICY_STAGES)
