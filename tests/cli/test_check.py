"""`postroom check`: findings with their places, warnings, and the tests in the file."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from postroom.cli.check import command

GOOD = """\
[list.blocked]
table = "texthash:blocked"

[provider.shady]
mx = [".shadysmtpd.example"]

[[rule]]
id       = "shady-primary-mx"
at       = "rcpt"
match    = { primary_mx = "provider:shady", recipient = "list:blocked" }
action   = "HANGUP"
on_error = "skip"

[[rule]]
id     = "mailboxes"
at     = "deliver"
match  = { header.subject = "*", size = "<1000" }
action = "maildir /srv/{recipient_localpart}"

[[test]]
at          = "rcpt"
given       = { recipient = "a@victim.example", mx = ["10 mx1.shadysmtpd.example", "20 mx.good.example"] }
expect      = "HANGUP"
expect_rule = "shady-primary-mx"

[[test]]
at     = "rcpt"
given  = { recipient = "a@victim.example", mx = ["10 mx.good.example", "20 mx1.shadysmtpd.example"] }
expect = "DUNNO"

[[test]]
at     = "deliver"
given  = { recipient = "bob@home.example", size = 10, header.subject = "hello" }
expect = "maildir /srv/bob"

[[test]]
at     = "rcpt"
given  = { recipient = "a@victim.example", mx = "error" }
expect = "dunno"
"""


def run(folder: Path, text: str, *options: str) -> tuple[int, list[str]]:
    (folder / "blocked").write_text("a@victim.example  why not\n")
    file = folder / "postroom.toml"
    file.write_text(text)
    result = CliRunner().invoke(command, [*options, str(file)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output.replace(f"{folder}/postroom.toml", "postroom.toml").splitlines()


def test_a_good_file_is_one_line(tmp_path: Path) -> None:
    assert run(tmp_path, GOOD) == (0, ["postroom.toml: 2 rules, 4 of 4 tests passed, 0 errors, 0 warnings"])


def test_all_mistakes_are_shown_as_editors_want_them(tmp_path: Path) -> None:
    text = 'stat = "x"\n[[rule]]\nid = "r"\nat = "rcpt"\naction = "550"\nmatch = { recipent = "a" }\n'
    code, lines = run(tmp_path, text)
    assert code == os.EX_CONFIG
    assert lines[0] == 'postroom.toml:1: error: stat: unknown key "stat"; did you mean "state"?'
    assert lines[1].startswith('postroom.toml:5: error: rule "r": action: "550" alone means OK to Postfix')
    assert (
        lines[2]
        == 'postroom.toml:6: error: rule "r": match.recipent: unknown key "recipent"; did you mean "recipient"?'
    )
    assert lines[3] == "postroom.toml: 3 errors, 0 warnings; programs refuse this file"


def test_a_failed_test_is_explained(tmp_path: Path) -> None:
    text = GOOD.replace('expect = "DUNNO"', 'expect = "HANGUP"')
    code, lines = run(tmp_path, text)
    assert code == os.EX_CONFIG
    assert lines[0] == "postroom.toml:26: FAILED test 2 (at rcpt): expected HANGUP, got DUNNO since no rule matched"
    assert lines[1] == "    shady-primary-mx: does not match"
    assert "primary_mx" in lines[3] and "false" in lines[3]
    assert "mx.good.example (10), mx1.shadysmtpd.example (20)" in lines[3]
    assert lines[-1] == "postroom.toml: 2 rules, 3 of 4 tests passed, 0 errors, 0 warnings"


def test_a_database_of_countries_that_is_not_there_or_broken_is_told(tmp_path: Path) -> None:
    said = f"postroom.toml:2: warning: country.database: conditions on country are unknown: {tmp_path}/some.mmdb: "
    text = '[country]\ndatabase = "some.mmdb"\n'
    code, lines = run(tmp_path, text)
    assert code == 0
    assert lines == [f"{said}No such file or directory", "postroom.toml: 0 rules, no tests, 0 errors, 1 warning"]
    (tmp_path / "some.mmdb").write_bytes(b"no database")
    code, lines = run(tmp_path, text)
    assert code == 0
    assert lines[0].startswith(said) and "No such file" not in lines[0]


def test_the_right_action_of_the_wrong_rule_fails(tmp_path: Path) -> None:
    twin = (
        GOOD[GOOD.index("[[rule]]") : GOOD.index("[[test]]")]
        .replace("shady-primary-mx", "twin")
        .replace("mailboxes", "m2")
    )
    code, lines = run(tmp_path, GOOD.replace('expect_rule = "shady-primary-mx"', 'expect_rule = "twin"') + twin)
    assert code == os.EX_CONFIG
    assert any("expected HANGUP by rule twin, got HANGUP by rule shady-primary-mx" in line for line in lines)


RULE = '[[rule]]\nid = "{}"\nat = "{}"\naction = "521 5.7.1 no"\n{}\n'
WARNINGS = {
    "an earlier rule without conditions": (
        RULE.format("a", "rcpt", "") + RULE.format("b", "rcpt", 'match = { sender = "x@y" }'),
        'postroom.toml:6: warning: rule "b": is never reached: rule "a" on line 1 matches whenever this one does',
    ),
    "the same conditions in another order": (
        RULE.format("a", "rcpt", 'match = { sender = ["x@y", "z.example"], helo_name = "h" }')
        + RULE.format("b", "rcpt", 'match = { helo_name = "H", sender = ["z.example", "x@y"] }'),
        'postroom.toml:6: warning: rule "b": is never reached: rule "a" on line 1 has the same conditions and action',
    ),
    "fewer conditions": (
        RULE.format("a", "rcpt", 'match = { sender = "x@y" }')
        + RULE.format("b", "rcpt", 'match = { helo_name = "h", sender = "x@y" }'),
        'postroom.toml:6: warning: rule "b": is never reached: rule "a" on line 1 matches whenever this one does',
    ),
    "recipient at data": (
        RULE.format("a", "data", 'match = { recipient = "x@y" }'),
        'postroom.toml:5: warning: rule "a": match.recipient: is known at data only for a message with one recipient; '
        "with several this never matches",
    ),
    "MX at end-of-message": (
        RULE.format("a", "end-of-message", 'any = [ { mx_state = "null" } ]'),
        'postroom.toml:5: warning: rule "a": any.mx_state: is known at end-of-message only for a message with one '
        "recipient; with several this never matches",
    ),
    "announced size": (
        RULE.format("a", "rcpt", 'match = { size = ">1" }'),
        'postroom.toml:5: warning: rule "a": match.size: is what the client announces, or missing, at rcpt; the real '
        "size is known at end-of-message",
    ),
    "a list nobody uses": ('[list.a]\nvalues = ["x"]\n', "postroom.toml:1: warning: list.a: no rule uses this list"),
    "one address with a blank": (
        RULE.format("a", "rcpt", 'match = { recipient = ["a b@c.example", "re:a b@c"] }'),
        'postroom.toml:5: warning: rule "a": match.recipient: is the one address "a b"@c.example; several values are a '
        'list: ["...", "..."]',
    ),
    "whole-message action": (
        RULE.format("a", "rcpt", "").replace("521 5.7.1 no", "HOLD"),
        'postroom.toml:4: warning: rule "a": action: HOLD is for the whole message and all its recipients, though the '
        "rule looks at one",
    ),
}


@pytest.mark.parametrize("case", WARNINGS)
def test_warnings_do_not_stop_the_file(tmp_path: Path, case: str) -> None:
    text, expected = WARNINGS[case]
    code, lines = run(tmp_path, text)
    assert (code, lines[:-1]) == (0, [expected])


NO_WARNINGS = {
    "a shadow rule decides nothing": RULE.format("a", "rcpt", 'mode = "shadow"') + RULE.format("b", "rcpt", ""),
    "another stage": RULE.format("a", "rcpt", "") + RULE.format("b", "mail", ""),
    "the more particular rule first": RULE.format("a", "rcpt", 'match = { sender = "x@y" }')
    + RULE.format("b", "rcpt", ""),
    "an exception": RULE.format("a", "rcpt", 'unless = { sender = "x@y" }')
    + RULE.format("b", "rcpt", 'match = { sender = "x@y" }'),
}


@pytest.mark.parametrize("case", NO_WARNINGS)
def test_what_deserves_no_warning(tmp_path: Path, case: str) -> None:
    code, lines = run(tmp_path, NO_WARNINGS[case])
    assert (code, len(lines)) == (0, 1), lines


def test_a_list_that_cannot_be_read_is_an_error_here(tmp_path: Path) -> None:
    code, lines = run(tmp_path, GOOD.replace("texthash:blocked", "texthash:gone"))
    assert code == os.EX_CONFIG
    assert lines[0].startswith("postroom.toml:1: error: list.blocked: ")
    assert lines[0].endswith("gone: No such file or directory")
    assert any("cannot be decided (list blocked: " in line for line in lines), "and the tests that need it fail"


def test_nothing_is_asked_of_the_world(tmp_path: Path) -> None:
    """A test that gives no MX cannot be decided; it is not looked up."""
    text = GOOD.replace('on_error = "skip"\n', "").replace(
        ', mx = "error" }\nexpect = "dunno"', ' }\nexpect = "DEFER_IF_PERMIT"'
    )
    assert run(tmp_path, text)[0] == 0


@pytest.mark.parametrize("kind", ["directory", "binary", "big", "missing", "fifo"])
def test_a_file_that_is_none(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "postroom.toml"
    if kind == "directory":
        file.mkdir()
    elif kind == "binary":
        file.write_bytes(os.urandom(1000) + b"\xff\0")
    elif kind == "big":
        file.write_bytes(b"#" * (10 << 20))
    elif kind == "fifo":
        os.mkfifo(file)
    result = CliRunner().invoke(command, [str(file)])
    assert result.exit_code == os.EX_CONFIG
    first, last = result.output.splitlines()
    assert first.startswith(f"{file}:") and "error: " in first
    assert last == f"{file}: 1 error, 0 warnings; programs refuse this file"


def test_the_path_is_shown_as_it_was_given() -> None:
    result = CliRunner().invoke(command, ["/nonexistent/sub/postroom.toml"])
    assert result.output.splitlines() == [
        "/nonexistent/sub/postroom.toml: error: No such file or directory",
        "/nonexistent/sub/postroom.toml: 1 error, 0 warnings; programs refuse this file",
    ]


def test_a_failed_test_names_what_it_does_not_say(tmp_path: Path) -> None:
    text = RULE.format("a", "rcpt", 'match = { helo_name = "*.dyn.*", sasl_username = "" }') + (
        '[[test]]\nat = "rcpt"\ngiven = { helo_name = "x.dyn.y" }\nexpect = "521"\n'
    )
    code, lines = run(tmp_path, text)
    assert code == os.EX_CONFIG
    assert any("not given, so the rule does not match" in line for line in lines)
    assert '    Not given, though rules ask for it: sasl_username (add sasl_username= for "no login")' in lines
    assert run(tmp_path, text.replace('"x.dyn.y"', '"x.dyn.y", sasl_username = ""'))[0] == 0


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ('primary_mx = ".x"', "the test does not say mx)"),
        ('sender_primary_mx = ".x"', "the test does not say sender_mx)"),
    ],
)
def test_what_a_test_does_not_say_is_named(tmp_path: Path, condition: str, words: str) -> None:
    text = RULE.format("a", "rcpt", f"match = {{ {condition} }}") + (
        '[[test]]\nat = "rcpt"\ngiven = { sender = "s@a.example", recipient = "r@b.example" }\nexpect = "521"\n'
    )
    _, lines = run(tmp_path, text)
    assert any(words in line for line in lines), lines


def test_json_is_one_object_a_line(tmp_path: Path) -> None:
    text = GOOD.replace('expect = "DUNNO"', 'expect = "HANGUP"') + RULE.format("a", "mail", 'match = { size = ">1" }')
    code, lines = run(tmp_path, text, "--json")
    objects: list[dict[str, Any]] = [json.loads(line) for line in lines]
    assert code == os.EX_CONFIG
    assert objects[0] == {
        "level": "warning", "file": "postroom.toml", "line": 44, "rule": "a", "key": "match.size",
        "message": "is what the client announces, or missing, at mail; the real size is known at end-of-message",
    }  # fmt: skip
    assert [one["passed"] for one in objects[1:5]] == [True, False, True, True]
    assert objects[2]["rules"][0]["conditions"][1]["truth"] == "false"
    assert objects[5] == {"summary": {"rules": 3, "tests": 4, "failed": 1, "errors": 0, "warnings": 1}}


def test_wrong_usage_is_64() -> None:
    assert CliRunner().invoke(command, ["--nonsense"]).exit_code == os.EX_USAGE


def warnings(lines: list[str]) -> list[str]:
    return [line.partition("warning: ")[2] for line in lines if "warning: " in line]


def test_a_service_that_this_host_can_run_is_no_matter_for_a_warning(tmp_path: Path) -> None:
    (tmp_path / "tickets.py").write_text("")
    text = (
        '[serve]\nprograms = ["tickets.py"]\n[listen.policy]\nat = "unix:/run/postroom/policy"\n'
        '[listen.mine]\nprotocol = "policy"\nprogram = "tickets"\nat = "127.0.0.1:2530"\n'
        '[listen.handoff]\nat = "unix:/run/handoff"\nusers = ["nobody", "root"]\ngroup = "daemon"\n'
    )
    assert warnings(run(tmp_path, text)[1]) == []


@pytest.mark.parametrize(
    ("keys", "warned"),
    [("", True), ('mode = "0666"\n', True), ('group = "daemon"\n', True), ('mode = "0660"\ngroup = "daemon"\n', False)],
)
def test_a_socket_for_mail_that_everybody_can_connect_to(tmp_path: Path, keys: str, warned: bool) -> None:
    said = warnings(run(tmp_path, f'[listen.lmtp]\nat = "unix:/run/postroom/lmtp"\n{keys}')[1])
    text = 'every user of this host can hand in mail there, in any name: set mode = "0660" and group = "postfix"'
    assert said == ([f"listen.lmtp.mode: {text}"] if warned else [])
    assert warnings(run(tmp_path, f'[listen.policy]\nat = "unix:/run/postroom/policy"\n{keys}')[1]) == []


def test_a_service_that_this_host_cannot_run(tmp_path: Path) -> None:
    text = (
        '[serve]\nprograms = ["gone.py"]\n[listen.policy]\nat = "unix:/no/such/policy"\nprogram = "tickets"\n'
        '[listen.handoff]\nat = "unix:/var/tmp/handoff"\nusers = ["nobody", "no-such-user"]\ngroup = "no-such-group"\n'
    )
    code, lines = run(tmp_path, text)
    assert (code, warnings(lines)) == (
        0,
        [
            f"serve.programs: {tmp_path}/gone.py: there is no such file",
            "listen.policy.at: there is no folder /no/such: make it, for the user of the service to write to",
            "listen.policy.program: tickets is none of Postroom's programs; the path of any other belongs into "
            "[serve] programs",
            "listen.handoff.at: postroom.service has a /tmp of its own (PrivateTmp=): nobody else finds the socket "
            "there",
            "listen.handoff.users: there is no user no-such-user here",
            "listen.handoff.group: there is no group no-such-group here",
        ],
    )
    assert lines[2].startswith("postroom.toml:5: "), "at the line of the key"
