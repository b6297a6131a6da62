"""What `postroom check` warns of, with its place and its words; and what it has to be silent about."""

import time
from typing import Any

import pytest

from postroom.rules.check import check
from postroom.rules.lint import lint
from postroom.rules.read import parse

HEAD = """
[list.nets]
table = "cidr:{ {192.0.2.0/24 here} }"
[list.people]
values = ["ann@x.example", "bob@"]
[list.names]
values = ["x.example", ".x.example"]
[list.hosts]
values = ["192.0.2.0/24", "10.1"]
"""


def rule(name: str, stage: str, conditions: str, action: str = '"550 5.7.1 no"', more: str = "") -> str:
    return f'[[rule]]\nid = "{name}"\nat = "{stage}"\n{conditions}\naction = {action}\n{more}\n'


def warnings(text: str) -> list[tuple[int, str, str, str]]:
    """(line of the file, rule, key, text) of each; that a list of HEAD is not used is none of them."""
    model, report = check(parse((text + HEAD).encode(), "postroom.toml"), "/etc/postroom")
    assert model, "\n".join(map(str, report.problems))
    lint(model, report)
    return [(p.line, p.rule, p.key, p.text) for p in report.problems if not p.key.startswith("list.")]


# What stands in `match` of a rule at a stage; the words of the one warning.
ODD = [
    # The wrong stage (SMTPD_POLICY_README; src/smtpd/smtpd_check.c): row by row what Postfix does not know there.
    ("rcpt", 'queue_id = "4*"', "is missing at rcpt until a first recipient has been accepted"),
    ("mail", 'instance = "1*"', "is missing at mail"),
    ("connect", 'instance = "1*"', "is missing at connect"),
    ("helo", 'sasl_username = "ann"', "is missing at helo: a client logs in after"),
    ("helo", 'sasl_method = "PLAIN"', "is missing at helo"),
    ("connect", 'encryption_protocol = "TLSv1.3"', "is known at connect only where TLS comes first"),
    ("connect", 'ccert_fingerprint = "AB:CD"', "is known at connect only where TLS comes first"),
    ("mail", 'size = ">1000"', "is what the client announces"),
    ("rcpt", 'size = ">1000"', "is what the client announces"),
    ("data", 'recipient_domain = "x.example"', "is known at data only for a message with one recipient"),
    ("end-of-message", "suppressed = true", "is known at end-of-message only for a message with one recipient"),
    # Values that nothing will ever have
    ("rcpt", 'sender = "ann"', '"ann" is a domain of one label, or an address without a domain; expected "ann@"'),
    ("rcpt", 'recipient_localpart = "ann@x.example"', "recipient_localpart is a part of an address"),
    ("rcpt", 'recipient_user = "ann+shop"', "is without its extension; expected it at recipient_localpart"),
    ("rcpt", 'recipient_extension = "+shop"', 'begins with the delimiter, which is not part of it; expected "shop"'),
    ("rcpt", 'recipient_domain = "*@x.example"', 'a name has no @; expected "x.example"'),
    ("rcpt", 'primary_mx = "*@x.example"', "a name has no @"),
    ("rcpt", 'protocol_state = "DATA"', '"DATA" never matches; expected RCPT, VRFY'),
    ("rcpt", 'protocol_state = "rcpt"', 'never matches; expected "RCPT", upper and lower case told apart'),
    ("rcpt", 'protocol_name = "Esmtp"', 'expected "ESMTP", upper and lower case told apart'),
    ("rcpt", 'encryption_protocol = "tlsv1.3"', 'expected "TLSv1.3", upper and lower case told apart'),
    ("rcpt", 'stress = "true"', "never matches; expected yes"),
    ("rcpt", 'sasl_username = "ann@Example.com"', "the domain too"),
    ("rcpt", 'country = "UK"', 'expected "GB"'),
    ("rcpt", "server_port = 70000", "a port is below 65536"),
    ("rcpt", 'client_port = ">70000"', "a port is below 65536"),
    ("data", 'recipient_count = "<0"', "no number is below 0"),
    ("bounce", 'bounce.category = "policy"', '"policy" never matches; expected invalid'),
    ("bounce", 'bounce.reason = "spam"', '"spam" never matches; expected bad-mailbox'),
    ("bounce", 'bounce.authentic = "true"', "expected verified, unverified, forged"),
    ("bounce", 'bounce.kind = "fail"', "never matches; expected failed"),
    # Lists of something else
    ("rcpt", 'recipient = "list:nets"', "list nets is a cidr table, which is asked about addresses of hosts only"),
    ("rcpt", 'helo_name = "list:nets"', "list nets is a cidr table"),
    ("rcpt", 'client_address = "list:people"', "list people holds no address or network"),
    ("rcpt", 'recipient_domain = "list:people"', "list people holds no name"),
    ("rcpt", 'any_mx = "list:people"', "list people holds no name"),
    ("rcpt", 'sender = "list:hosts"', ""),
    # Said twice
    ("rcpt", 'sender = ["a@x.example", "A@X.example."]', 'stands in the list already, as "a@x.example"'),
    ("rcpt", 'sender = ["<>", ""]', 'stands in the list already, as "<>"'),
    ("rcpt", 'helo_name = ["bücher.example", "xn--bcher-kva.example"]', 'already, as "bücher.example"'),
    ("rcpt", 'client_address = ["::ffff:192.0.2.1", "192.0.2.1"]', "stands in the list already"),
    ("end-of-message", "size = [5, 5]", "stands in the list already"),
    ("rcpt", 'time = ["8:00-9:00", "08:00-09:00"]', "stands in the list already"),
    # Two conditions that exclude each other
    ("rcpt", 'recipient = "a@x.example", recipient_domain = "y.example"', "recipient and recipient_domain exclude"),
    ("rcpt", 'recipient = "a@x.example", recipient_user = "b"', "recipient and recipient_user exclude each other"),
    ("rcpt", 'null_sender = true, sender_domain = "x.example"', "null_sender and sender_domain exclude each other"),
    ("rcpt", 'null_sender = true, sender = "a@x.example"', "null_sender and sender exclude each other"),
    ("rcpt", 'mx_state = "null", any_mx = ".x.example"', "mx_state and any_mx exclude each other"),
]  # fmt: skip

ACTIONS = {"bounce": '"record"', "deliver": '"discard"'}


@pytest.mark.parametrize(("stage", "condition", "words"), ODD, ids=[f"{case[0]} {case[1]}" for case in ODD])
def test_an_odd_condition(stage: str, condition: str, words: str) -> None:
    found = warnings(rule("r", stage, f"match = {{ {condition} }}", ACTIONS.get(stage, '"550 5.7.1 no"')))
    if not words:
        assert found == []
        return
    expected = words.replace("part of it", "part of recipient_extension")
    assert [(line, name, expected in text) for line, name, _, text in found] == [(4, "r", True)], found
    assert found[0][2].startswith("match")


FINE = [
    ("rcpt", 'recipient = ["postmaster", "localhost", "ann@", "x.example", "*@*.example", "bücher.example"]'),
    ("rcpt", 'sasl_username = ["Ann", "ann@example.com"]'),
    ("rcpt", 'protocol_name = "SMTP", protocol_state = "VRFY", stress = ["", "yes"]'),
    ("rcpt", 'encryption_protocol = ["", "TLSv1"], encryption_keysize = "<128"'),
    ("rcpt", 'client_address = ["list:nets", "list:hosts"], sender = "list:people", helo_name = "list:names"'),
    ("rcpt", 'recipient = "ann@x.example", recipient_domain = ["y.example", "x.example"], recipient_user = "ann"'),
    ("rcpt", 'recipient = "ann+shop@x.example", recipient_user = "ann", recipient_extension = "shop"'),
    ("rcpt", 'mx_state = ["null", "mx"], any_mx = ".x.example"'),
    ("rcpt", 'null_sender = false, sender_domain = "x.example", sender = ["", "x.example"]'),
    ("rcpt", 'any_mx = ".x.example", every_mx = "*.y.example", country = ["GB", "DE"], server_port = [25, 465]'),
    ("helo", 'encryption_protocol = "", helo_name = "x.example"'.partition(", ")[2]),
    ("end-of-message", 'size = [">5", "<3"], instance = "*.1", queue_id = "4*", recipient_count = 1'),
    ("deliver", 'header.subject = ["a", "b"], attachment = ["*.exe", "*.scr"], recipient = "ann@x.example"'),
    ("bounce", 'bounce.kind = "Failed", bounce.reason = ["policy", "undetermined"], bounce.status = "5.1.1"'),
    ("rcpt", 'rate = { key = "sasl_username", limit = "100/1h" }, seen = { key = "sender" }'),
]


@pytest.mark.parametrize(("stage", "condition"), FINE)
def test_what_may_well_be_meant(stage: str, condition: str) -> None:
    assert warnings(rule("r", stage, f"match = {{ {condition} }}", ACTIONS.get(stage, '"550 5.7.1 no"'))) == []


def test_conditions_of_unless_and_any() -> None:
    text = rule("r", "rcpt", 'match = { recipient_domain = "x.example" }\nunless = { recipient = "a@y.example" }')
    expected = "never holds where the rule matches, for recipient_domain excludes recipient: it changes nothing"
    assert warnings(text) == [(5, "r", "unless", expected)]
    text = rule("r", "rcpt", 'match = { sender = "a@x.example" }\nunless = { sender_domain = ["y", "x.example"] }')
    assert warnings(text) == [(5, "r", "unless", "always holds where the conditions of the rule do: it never matches")]
    text = rule("r", "end-of-message", 'match = { size = ">10" }\nany = [ { size = "<5" }, { size = ">20" } ]')
    assert warnings(text) == [(5, "r", "any", "never holds: size and size exclude each other")]
    text = rule("r", "rcpt", 'any = [ { sender = "a@x.example" }, { sender = "A@x.example" } ]')
    assert warnings(text) == [(4, "r", "any", "is the same as a table before it")]
    text = rule("r", "rcpt", 'match = { weekday = "mon-fri", time = "08:00-09:00" }\nunless = { weekday = "sat" }')
    assert len(warnings(text)) == 1


# Conditions of an earlier rule and a later one that it covers.
COVERED = [
    ('match = { recipient_domain = "x.example" }', 'match = { recipient = "a@x.example" }'),
    ('match = { recipient = "x.example" }', 'match = { recipient_domain = "x.example", sender = "" }'),
    ('match = { recipient = ".example" }', 'match = { recipient = ["a@x.example", "b@y.example"] }'),
    ('match = { recipient = "ann@" }', 'match = { recipient = "ann+shop@x.example" }'),
    ('match = { recipient = "ann@x.example" }', 'match = { recipient = "ann+shop@x.example" }'),
    ('match = { sender = ["a@x.example", "b@x.example"] }', 'match = { sender = "b@x.example", helo_name = "h" }'),
    ('match = { sender = "*@x.example" }', 'match = { sender = "b@x.example" }'),
    ('match = { client_address = "192.0.2.0/24" }', 'match = { client_address = ["192.0.2.1", "192.0.2.64/26"] }'),
    ('match = { recipient = "list:people" }', 'match = { recipient = ["ann@x.example", "bob@y.example"] }'),
    ('match = { recipient = ["list:people", "z.example"] }', 'match = { recipient = "list:people", sender = "" }'),
    ('match = { any_mx = ".x.example" }', 'match = { primary_mx = "mx.x.example" }'),
    ('match = { time = "08:00-18:00" }', 'match = { time = "09:00-12:00", weekday = "mon" }'),
    ('match = { recipient_count = ">5" }', 'match = { recipient_count = [">10", 7] }'),
    ('match = { null_sender = true }', 'match = { sender = "" }'),
    ('any = [ { sender = "" }, { sender = "x.example" } ]', 'match = { sender = "a@x.example" }'),
    ('match = { sender = ".example" }', 'any = [ { sender = "a@x.example" }, { sender = "a@y.example" } ]'),
    ('unless = { sender = "a@x.example" }', 'unless = { sender = "x.example" }'),
    ('unless = { sasl_username = "" }', 'match = { sasl_username = "ann" }'),
]  # fmt: skip
# And some where it only looks so.
OPEN = [
    ('match = { recipient = ".x.example" }', 'match = { recipient = "a@x.example" }'),
    ('match = { recipient = "ann+shop@x.example" }', 'match = { recipient = "ann@x.example" }'),
    ('match = { recipient_localpart = "ann" }', 'match = { recipient = "ann@x.example" }'),
    ('match = { primary_mx = "mx.x.example" }', 'match = { any_mx = "mx.x.example" }'),
    ('match = { any_mx = ".x.example" }', 'match = { sender_any_mx = "mx.x.example" }'),
    ('match = { sender = "a@x.example" }', 'match = { sender = ["a@x.example", "list:people"] }'),
    ('match = { client_address = "192.0.2.0/25" }', 'match = { client_address = "192.0.2.0/24" }'),
    ('match = { sender = "re:^a" }', 'match = { sender = "a@x.example" }'),
    ('match = { sender = "*" }', 'match = { sender = "" }'),
    ('match = { sender = "x.example", helo_name = "h" }', 'match = { sender = "a@x.example" }'),
    ('unless = { sender = "x.example" }', 'unless = { sender = "a@x.example" }'),
    ('unless = { sasl_username = "" }', 'match = { sender = "a@x.example" }'),
    ('match = { sender = ".example" }', 'any = [ { sender = "a@x.example" }, { helo_name = "h" } ]'),
    ('match = { rate = { key = "sender", limit = "1/1h" } }', 'match = { rate = { key = "sender", limit = "1/1h" } }'),
]  # fmt: skip


@pytest.mark.parametrize(("first", "second"), COVERED)
def test_a_rule_that_an_earlier_one_covers(first: str, second: str) -> None:
    stage = "data" if "recipient_count" in first else "rcpt"
    found = warnings(rule("a", stage, first) + rule("b", stage, second))
    text = 'is never reached: rule "a" on line 1 matches whenever this one does'
    assert found == [(7 if first.count("\n") == 0 else 8, "b", "", text)], found


@pytest.mark.parametrize(("first", "second"), OPEN)
def test_a_rule_that_only_looks_covered(first: str, second: str) -> None:
    assert warnings(rule("a", "rcpt", first) + rule("b", "rcpt", second)) == []


def test_a_rule_that_passes_where_it_cannot_be_decided_covers_less() -> None:
    """B is asked where the DNS failed for A, and its on_error speaks."""
    skips = rule("a", "rcpt", 'match = { any_mx = ".x.example" }', more='on_error = "skip"')
    later = 'match = { any_mx = "mx.x.example" }'
    assert warnings(skips + rule("b", "rcpt", later)) == []
    assert len(warnings(skips + rule("b", "rcpt", later, more='on_error = "skip"'))) == 1
    shadow = rule("a", "rcpt", "", more='mode = "shadow"')
    assert warnings(shadow + rule("b", "rcpt", later)) == []


def test_entries_of_a_list_that_stand_there_twice() -> None:
    model, report = check(parse(b'[list.l]\nvalues = [\n"a@x.example",\n"b@",\n"A@x.example"]\n', "f"), "/")
    assert model
    lint(model, report)
    assert str(report.problems[0]) == 'f: line 5: list.l.values: "A@x.example" stands in the list already'


RELAY = {
    'match = { sender = "boss@x.example" }': True,
    'match = { helo_name = "x.example", fcrdns = true }': True,
    'match = { country = "DE" }': True,
    'match = { sasl_username = "" }': True,
    'match = { recipient = "*" }': True,
    'any = [ { sasl_username = "*?" }, { sender = "x@y.example" } ]': True,
    "": True,
    'match = { client_address = "192.0.2.0/24" }': False,
    'match = { sender = "x@y.example" }\nunless = { sasl_username = "" }': False,
    'match = { recipient_domain = "x.example" }': False,
    'any = [ { ccert_fingerprint = "AB" }, { client_address = "192.0.2.1" } ]': False,
}


@pytest.mark.parametrize("conditions", RELAY)
@pytest.mark.parametrize("action", ['"OK"', '["WARN seen", "OK"]', '"restrict permit"'])
def test_an_ok_that_anybody_gets(conditions: str, action: str) -> None:
    found = warnings(rule("r", "rcpt", conditions, action, "allow_ok = true"))
    assert ["can make an open relay" in text for _, _, _, text in found] == [True] * RELAY[conditions], found


@pytest.mark.parametrize("action", ['"restrict permit_mynetworks, reject_unauth_destination"', '"DUNNO"'])
def test_a_permit_that_is_a_condition_itself(action: str) -> None:
    assert warnings(rule("r", "rcpt", 'match = { sender = "x@y.example" }', action, "allow_ok = true")) == []


def test_actions() -> None:
    several = '["PREPEND X-A: b", "HOLD", "BCC a@x.example"]'
    found = warnings(rule("r", "rcpt", 'match = { policy_context = "submission" }', several))
    assert [(line, key) for line, _, key, _ in found] == [(5, "action"), (4, "match.policy_context")]
    assert "HOLD is for the whole message" in found[0][3]
    assert "never lets several actions happen" in found[1][3]
    assert warnings(rule("r", "data", "", several)) == []
    assert warnings(rule("r", "rcpt", 'match = { policy_context = "x" }')) == []


def test_what_is_counted_where_it_decides_nothing() -> None:
    rate = 'match = { rate = { key = "sender", limit = "9/1h" } }'
    assert warnings(rule("r", "rcpt", rate)) == []
    found = warnings(rule("r", "rcpt", rate, more='mode = "shadow"'))
    assert [text for *_, text in found] == [
        'is counted all the same, although the rule decides nothing (mode = "shadow")'
    ]
    found = warnings(rule("r", "rcpt", rate.replace("match", "unless")))
    assert "lets it match what is within the limit; expected in match" in found[0][3]
    assert warnings(rule("r", "rcpt", 'unless = { seen = { key = "sender" } }')) == []


# A stage where the thing is never known: an error, and not for lint to say.
REFUSED = [
    ("connect", 'helo_name = "x.example"'), ("connect", 'sasl_username = "a"'), ("connect", 'sender = "a@x.example"'),
    ("helo", 'sender = "a@x.example"'), ("mail", 'recipient = "a@x.example"'), ("helo", "size = 5"),
    ("connect", "size = 5"), ("etrn", "size = 5"), ("mail", 'queue_id = "4"'), ("connect", 'queue_id = "4"'),
    ("rcpt", "recipient_count = 1"), ("mail", "recipient_count = 1"), ("etrn", 'sender = "a@x.example"'),
    ("rcpt", 'etrn_domain = "x.example"'), ("rcpt", 'original_recipient = "a@x.example"'), ("rcpt", 'nexthop = "x"'),
    ("route", 'header.subject = "x"'), ("route", "size = 5"), ("route", 'attachment = "x"'),
    ("route", 'sender = "a@x.example"'),
    ("route", 'client_address = "192.0.2.1"'), ("route", 'rate = { key = "recipient", limit = "1/1h" }'),
    ("end-of-message", 'header.subject = "x"'), ("deliver", 'protocol_state = "RCPT"'), ("deliver", 'stress = "yes"'),
]  # fmt: skip


@pytest.mark.parametrize(("stage", "condition"), REFUSED)
def test_a_condition_on_what_is_never_known_there_is_an_error(stage: str, condition: str) -> None:
    action: Any = {"deliver": '"discard"', "route": '"slow:"'}.get(stage, '"550 no"')
    _, report = check(parse(rule("r", stage, f"match = {{ {condition} }}", action).encode(), "f"), "/")
    assert ["cannot be known at" in problem.text for problem in report.errors] == [True], report.problems


@pytest.mark.parametrize("action", ['["PREPEND X-A: b", "HOLD"]', '"PREPEND X-A: b"', '["WARN", "PREPEND X-A: b"]'])
def test_prepend_comes_too_late_at_end_of_message(action: str) -> None:
    _, report = check(parse(rule("r", "end-of-message", "", action).encode(), "f"), "/")
    assert ["PREPEND does nothing at end-of-message" in problem.text for problem in report.errors] == [True]


SHAPES = {
    "addresses": 'match = {{ recipient = "u{0}@d{1}.example", sender_domain = "s.example" }}',
    "globs": 'match = {{ sender = "*x{0}.example" }}',
    "any": 'any = [ {{ sender = "a{0}@b.example" }}, {{ client_address = "10.{1}.{2}.0/24" }} ]',
    "one field alike": 'match = {{ recipient_domain = "d.example", helo_name = "h", sender = "s{0}@x.example" }}',
}


@pytest.mark.parametrize("kind", SHAPES)
def test_many_rules_are_not_compared_each_with_each(kind: str) -> None:
    """5,000 of them, and the last one is covered by the first; each with each would be 12 million comparisons."""
    texts = [rule(f"r{n}", "rcpt", SHAPES[kind].format(n, n // 250, n % 250)) for n in range(5000)]
    model, report = check(parse("".join([*texts, texts[0].replace('"r0"', '"last"')]).encode(), "f"), "/")
    assert model
    started = time.process_time()
    lint(model, report)
    assert time.process_time() - started < 10
    assert [problem.rule for problem in report.problems] == ["last"]
