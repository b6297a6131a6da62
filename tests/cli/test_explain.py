"""`postroom explain`: a person sees why, and the exact bytes."""

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from postroom.cli.explain import command
from postroom.cli.trace import Style, because, rule_lines
from postroom.rules.explain import Judged, RuleView

TEXT = """\
state = "state"
[dns]
servers = ["127.0.0.1:1"]
timeout = 0.2
[list.blocked]
values = ["a@victim.example"]
[provider.shady]
mx = [".shadysmtpd.example"]
[[rule]]
id = "watch"
at = "rcpt"
match = { sender_domain = "victim.example" }
action = "WARN {sender} sends"
mode = "shadow"
[[rule]]
id = "shady-primary-mx"
at = "rcpt"
match = { primary_mx = "provider:shady", recipient = "list:blocked" }
unless = { client_address = "10.0.0.0/8" }
action = "HANGUP"
[[rule]]
id = "suppressed"
at = "rcpt"
match = { suppressed = true }
action = "550 5.1.1 suppressed since {suppressed.since}: {suppressed.why}"
[[rule]]
id = "mail"
at = "deliver"
match = { header.subject = "*hello*" }
action = "maildir /srv/{recipient_localpart}"
"""
USER = ["recipient=a@victim.example", "client_address=192.0.2.1"]
SHADY = ["mx=10 mx1.shadysmtpd.example", "mx=20 mx.good.example"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "postroom.toml"
    path.write_text(TEXT)
    return path


def run(file: Path, *words: str) -> tuple[int, str]:
    result = CliRunner().invoke(command, ["--config", str(file), *words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def test_a_stranger_understands_why_the_connection_was_dropped(file: Path) -> None:
    code, output = run(file, *USER, *SHADY, "sender=s@victim.example")
    assert code == 0
    lines = output.splitlines()
    assert "  watch: would match -> WARN s@victim.example sends (mode = shadow: only logged)" in lines
    assert "  shady-primary-mx: matches -> HANGUP" in lines
    assert "  suppressed: not reached, a rule above has decided" in lines
    rows = [line.split() for line in lines]
    assert ["match", "recipient", "list:blocked", "true", "a@victim.example"] in rows
    assert ["unless", "client_address", "10.0.0.0/8", "false", "192.0.2.1"] in rows
    assert any(line.startswith("  list blocked: a@victim.example: found (") for line in lines)
    end = lines[lines.index("Decision: HANGUP") :]
    assert end == [
        "Decision: HANGUP",
        "Why: rule shady-primary-mx matches, since recipient a@victim.example is on the list blocked, the primary MX "
        "of the recipient's domain is at the provider shady (it has: mx1.shadysmtpd.example (10), mx.good.example (20))"
        ', and client_address 192.0.2.1 is not "10.0.0.0/8".',
        "Only logged: rule watch (mode = shadow) would have said WARN s@victim.example sends",
        "Postfix gets: action=HANGUP\\n\\n",
        "Postfix then closes the TCP connection at once, without any reply: the client is told nothing (log: "
        '"hangup").',
    ]


def test_dns_that_fails_is_shown_as_unknown(file: Path) -> None:
    code, output = run(file, *USER)
    assert code == os.EX_TEMPFAIL
    assert "shady-primary-mx: cannot be decided (MX of victim.example: " in output
    assert "Postfix gets: action=DEFER_IF_PERMIT 4.3.0 " in output
    assert "127.0.0.1:1" in output


def test_what_is_not_given_is_missing(file: Path) -> None:
    _, output = run(file, "recipient=a@victim.example", *SHADY, "suppressed=false")
    row = next(line for line in output.splitlines() if "client_address" in line)
    assert row.split()[:4] == ["unless", "client_address", "10.0.0.0/8", "missing"]
    assert "not given, so the rule does not match" in row
    assert "Not given, though rules ask for it: sender, client_address" not in output
    assert "Not given, though rules ask for it: sender (add sender= for the null sender), client_address\n" in output
    _, output = run(file, "recipient=a@victim.example", *SHADY, "suppressed=false", "client_address=", "sender=s@x")
    assert "not known at this moment, so the rule does not match" in output
    assert "Not given" not in output
    assert "Why: no rule at rcpt matches." in output
    assert "Postfix gets: action=DUNNO\\n\\n" in output


def test_a_state_that_is_not_there_is_unknown_not_no(file: Path) -> None:
    code, output = run(file, "recipient=b@good.example")
    assert code == os.EX_TEMPFAIL
    assert "suppressed: cannot be decided (" in output


def test_a_delivery_with_its_message(file: Path, tmp_path: Path) -> None:
    message = tmp_path / "mail"
    message.write_bytes(b"Subject: Hello there\n\nbody\n")
    code, output = run(file, "--at", "deliver", "--message", str(message), "recipient=bob@home.example")
    assert code == 0
    assert "Decision: maildir /srv/bob" in output
    assert "Postfix gets" not in output
    assert "Postfix then takes the mail for delivered" in output
    _, output = run(file, "--at", "deliver", "header.subject=nothing", "recipient=bob@home.example")
    assert "Decision: 4.3.5 no delivery rule applies to this recipient" in output
    assert "Postfix then keeps the mail in its queue" in output


def test_json_has_all_of_it(file: Path) -> None:
    code, output = run(file, "--json", *USER, *SHADY)
    found = json.loads(output)
    assert code == 0
    assert (found["action"], found["rule"], found["reply"]) == ("HANGUP", "shady-primary-mx", "action=HANGUP\n\n")
    assert [rule["verdict"] for rule in found["rules"]] == ["differs", "matches", "unreached"]
    assert found["rules"][0]["conditions"][0]["truth"] == "missing"
    assert [asked["kind"] for asked in found["asked"]] == ["list", "mx"]
    assert all(asked["milliseconds"] >= 0 for asked in found["asked"])
    assert found["given"]["protocol_state"] == "RCPT"


@pytest.mark.parametrize(
    "words",
    [["recipient"], ["recipent=a@b"], ["mx=10"], ["mx=x y"], ["suppressed=maybe"], ["--at", "nowhere"], ["--nonsense"]],
)
def test_wrong_usage_is_64(file: Path, words: list[str]) -> None:
    assert run(file, *words)[0] == os.EX_USAGE


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["client_address=300.1.1.1"], 'client_address: expected an IP address, found "300.1.1.1"'),
        (["size=big"], 'size: expected a whole number, found "big"'),
        (["header.subject=hi"], "header.subject: cannot be known at rcpt, only at deliver, bounce"),
        (["recipient=a@b.example", "recipient=c@d.example"], "recipient: is given twice"),
        (["mx=null", "mx=10 a.example"], "mx: is given twice"),
        ([], "such as recipient=user@example.com"),
    ],
)
def test_nonsense_is_refused(file: Path, words: list[str], said: str) -> None:
    code, output = run(file, *words)
    assert code == os.EX_USAGE
    assert said in output


def test_all_that_a_rule_would_have_asked_for_is_named_at_once(file: Path) -> None:
    file.write_text(
        '[[rule]]\nid = "dyn"\nat = "rcpt"\naction = "550 5.7.1 no"\n'
        'match = { helo_name = "*.dynamic.*", sasl_username = "" }\nunless = { client_address = "10.0.0.0/8" }\n'
    )
    words = ["recipient=a@b.example", "helo_name=foo.dynamic.bar"]
    lines = run(file, *words)[1].splitlines()
    told = lines.index(
        'Not given, though rules ask for it: sasl_username (add sasl_username= for "no login"), client_address'
    )
    assert lines[told + 2] == "Decision: DUNNO"
    _, output = run(file, *words, "sasl_username=", "client_address=192.0.2.1")
    assert "Decision: 550 5.7.1 no" in output
    assert "Not given" not in output


def test_a_header_may_come_twice(file: Path) -> None:
    _, output = run(file, "--at", "deliver", "recipient=b@x.example", "header.subject=no", "header.Subject=hello")
    assert "Decision: maildir /srv/b" in output


@pytest.mark.parametrize(
    ("words", "trouble"),
    [
        (["recipient=bob@home.example"], "{queue_id} is empty (not given)"),
        (["recipient=bob@home.example", "queue_id="], "{queue_id} is empty"),
        (["recipient=bob@home.example", "queue_id=a/b"], "{queue_id} holds a slash"),
        (["recipient=bob@home.example", "queue_id=.a"], "{queue_id} begins with a dot"),
        (["recipient=bob@home.example", "queue_id=" + "a" * 300], "{queue_id} makes a name of more than 200 bytes"),
        (["recipient=-bob@home.example", "queue_id=1"], "{recipient_localpart} begins with a hyphen"),
    ],
)
def test_an_action_that_cannot_be_filled_in_says_why(file: Path, words: list[str], trouble: str) -> None:
    file.write_text(
        '[[rule]]\nid = "tickets"\nat = "deliver"\n'
        'action = "command /bin/true /srv/ticket/{queue_id} {recipient_localpart}"\n'
    )
    code, output = run(file, "--at", "deliver", *words)
    assert code == 0
    assert "Decision: 5.1.3 bad destination mailbox address syntax" in output
    assert f"; its action cannot be filled in: {trouble}\n" in output
    assert f"; but its action cannot be filled in: {trouble}.\n" in output


def test_the_hint_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "my rules.toml"
    file.write_text("x = ")
    assert f"See: postroom check '{file}'\n" in run(file, *USER)[1]


def test_at_bounce_nothing_is_said_of_routes(file: Path) -> None:
    _, output = run(file, "--at", "bounce", "recipient=a@b.example")
    assert "rules decide nothing at bounce in this version." in output


def test_the_nearest_name_is_told(file: Path) -> None:
    assert 'did you mean "recipient"?' in run(file, "recipent=a@b")[1]


def test_a_bad_configuration_is_78(file: Path) -> None:
    file.write_text("x = ")
    code, output = run(file, *USER)
    assert code == os.EX_CONFIG
    assert "postroom.toml: line 1: is not TOML" in output
    assert "4.3.5" in output


def test_hostile_values_stay_on_their_line(file: Path) -> None:
    _, output = run(file, "recipient=a\x1b[31m\nPostfix gets: action=OK@victim.example", *SHADY, "suppressed=false")
    assert "\x1b" not in output
    assert not any(line.startswith("Postfix gets: action=OK") for line in output.splitlines())


def test_colours_on_a_terminal_only() -> None:
    rule = RuleView("r", "enforce", "matches", "", "HANGUP", (Judged("match", "sender", ("x",), "true", "x", ""),))
    assert "\x1b[" in "".join(rule_lines(rule, Style(True), ()))
    assert "\x1b[" not in "".join(rule_lines(rule, Style(False), ()))


@pytest.mark.parametrize(
    ("conditions", "sentence"),
    [
        ((), "this rule has no conditions"),
        (
            (Judged("match", "suppressed", ("true",), "true", "suppressed: full", ""),),
            "the recipient is suppressed: full",
        ),
        (
            (
                Judged("any 1", "size", (">1",), "false", "1", ""),
                Judged("any 2", "sender", ("x@y",), "true", "x@y", ""),
            ),
            'sender x@y is "x@y"',
        ),
    ],
)
def test_reasons_as_sentences(conditions: tuple[Judged, ...], sentence: str) -> None:
    assert because(RuleView("r", "enforce", "matches", "", "HANGUP", conditions)) == sentence
