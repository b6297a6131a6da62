"""`postroom explain`: a person sees why, and the exact bytes."""

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from click.testing import CliRunner

from postroom.cli.explain import command
from postroom.cli.trace import Style, because, rule_lines
from postroom.mx import Plan
from postroom.record import Record
from postroom.rules import Decision, Question
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
    assert lines[: lines.index("")] == [
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
    row = next(line for line in output.splitlines() if line.split()[:2] == ["unless", "client_address"])
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
    assert lines[told - 2] == "Decision: DUNNO"
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
    assert "Why: no rule at bounce matches.\n" in output
    assert "there are none at bounce" in output
    assert "transport" not in output


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


# A request as Postfix sends it


REQUEST = (
    b"request=smtpd_access_policy\nprotocol_state=DATA\nrecipient=a@victim.example\nsender=s@x.example\n"
    b"client_address=192.0.2.1\nbrand_new=1\n\nrequest=smtpd_access_policy\nprotocol_state=RCPT\n\n"
)


def test_a_request_as_postfix_sends_it(file: Path, tmp_path: Path) -> None:
    (tmp_path / "request").write_bytes(REQUEST)
    _, output = run(file, "--json", "--request", str(tmp_path / "request"))
    found = json.loads(output)
    assert found["at"] == "data"
    assert found["given"]["brand_new"] == "1"
    assert "request" not in found["given"]
    _, output = run(file, "--json", "--at", "rcpt", "--request", str(tmp_path / "request"), *SHADY, "sender=")
    found = json.loads(output)
    assert (found["at"], found["action"], found["given"]["sender"]) == ("rcpt", "HANGUP", "")


def test_a_request_on_standard_input(file: Path) -> None:
    words = [sys.executable, "-c", "from postroom.cli import main; main()", "explain", "--config", str(file)]
    sent = REQUEST.replace(b"\n", b"\r\n").replace(b"DATA", b"RCPT")
    done = subprocess.run([*words, "--request", "-", *SHADY], input=sent, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"Decision: HANGUP\n")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "holds no request"),
        (b"\n\n", "holds no request"),
        (b"a=1\nnonsense\x1b\n", "line 2: expected NAME=VALUE, found 'nonsense?'"),
        (b"=1\n", "line 1: expected NAME=VALUE"),
        (b"a=" + b"x" * 70000, "is longer than 65536 bytes"),
    ],
)
def test_what_is_no_request_is_refused(file: Path, tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "request").write_bytes(data)
    code, output = run(file, "--request", str(tmp_path / "request"))
    assert code == os.EX_USAGE
    assert said in output


# A recorded one


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    record = Record(str(tmp_path / "record"))
    plan = Plan("victim.example", "mx", ((10, "mx1.shadysmtpd.example"),))
    given = {"recipient": "a@victim.example", "client_address": "192.0.2.1", "queue_id": "Q1", "protocol_state": "RCPT"}
    record.write("rcpt", given, [(Question("mx", "victim.example"), plan, 0.0123)], Decision("HANGUP", (), "old"))
    record.write("rcpt", {**given, "queue_id": "Q2"}, [], Decision("DUNNO"))
    record.write("deliver", {**given, "queue_id": "Q1"}, [(Question("header", "subject"), ["hello"], 0)], Decision("x"))
    return tmp_path / "record"


def test_a_recorded_request_is_answered_as_then(file: Path, recorded: Path) -> None:
    code, output = run(file, "--record", f"{recorded}:1")
    assert code == 0
    lines = output.splitlines()
    assert lines[0] == "Decision: HANGUP"
    told = next(line for line in lines if line.startswith("Recorded: "))
    assert told.startswith("Recorded: line 1, 20")
    assert told.endswith("Z: HANGUP by rule old")
    assert "  MX of victim.example: mx1.shadysmtpd.example (10) (12.3 ms)" in lines
    assert "Asked on the way, answered as recorded" in lines


def test_the_last_line_of_a_mail(file: Path, recorded: Path) -> None:
    found = json.loads(run(file, "--json", "--record", str(recorded), "--queue-id", "Q1")[1])
    assert (found["at"], found["action"]) == ("deliver", "maildir /srv/a")
    assert (found["recorded"]["line"], found["recorded"]["others"]) == (3, [1])
    assert json.loads(run(file, "--json", "--record", str(recorded))[1])["recorded"]["line"] == 3
    assert "Same mail: lines 1" in run(file, "--record", str(recorded), "--queue-id", "Q1")[1]


def test_what_was_not_recorded_is_unknown_and_not_asked(file: Path, recorded: Path) -> None:
    code, output = run(file, "--record", f"{recorded}:2")
    assert code == os.EX_TEMPFAIL
    assert "shady-primary-mx: cannot be decided (not in the record)" in output
    assert "127.0.0.1:1" not in output
    _, output = run(file, "--record", f"{recorded}:2", *SHADY)
    assert "Decision: HANGUP" in output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--record", "R:9"], "has no line 9"),
        (["--record", "R", "--queue-id", "Q9"], "has no line with queue id Q9"),
        (["--record", "R/no"], "Not a directory"),
        (["--record", "R:4"], "line 4: is not JSON"),
        (["--queue-id", "Q1"], "--queue-id looks for a line of --record"),
        (["--record", "R", "--request", "R"], "expected one of --request and --record"),
    ],
)
def test_a_line_that_is_not_there(file: Path, recorded: Path, words: list[str], said: str) -> None:
    with recorded.open("a") as more:
        more.write("nonsense\n")
    code, output = run(file, *(word.replace("R", str(recorded), 1) if word[0] == "R" else word for word in words))
    assert code == os.EX_USAGE
    assert said in output


# The bytes


def test_each_of_several_actions_is_shown_as_it_is_asked_for(file: Path) -> None:
    file.write_text('[[rule]]\nid = "r"\nat = "rcpt"\naction = ["PREPEND X-A: b", "REJECT no"]\n')
    found = json.loads(run(file, "--json", "recipient=a@b.example")[1])
    assert [one["bytes"] for one in found["replies"]] == [
        "action=postroom_action_1, postroom_action_2\n\n",
        "action=PREPEND X-A: b\n\n",
        "action=REJECT no\n\n",
    ]
    assert found["replies"][2]["to"] == "policy_context=postroom-action-2"
    assert found["effect"].startswith("adds this header to the message, and goes on; then it refuses for good")


ROUTE = """\
[route]
overrides = "list:exempt"
temp = TEMP
[list.exempt]
table = "texthash:exempt"
[dns]
servers = ["127.0.0.1:1"]
timeout = 0.2
[[rule]]
id = "slow"
at = "route"
match = { every_mx = ".big.example" }
action = "slow:"
on_error = "defer"
"""


@pytest.mark.parametrize(
    ("temp", "words", "replies"),
    [
        ("false", ["recipient=a@x.example", "mx=10 m.big.example"], ["8:OK slow:,", "200 slow:\n"]),
        ("false", ["recipient=a@x.example", "mx=10 m.small.example"], ["9:NOTFOUND ,", "500 "]),
        ("false", ["recipient=a@x.example"], ["9:NOTFOUND ,", "500 "]),
        ("true", ["recipient=a@x.example"], ["TEMP MX of x.example", "400 MX%20of%20x.example"]),
        ("false", ["recipient=vip@x.example"], ["8:OK fast:,", "200 fast:\n"]),
    ],
)
def test_at_route_as_both_protocols_say_it(file: Path, temp: str, words: list[str], replies: list[str]) -> None:
    file.write_text(ROUTE.replace("TEMP", temp))
    (file.parent / "exempt").write_text("vip@x.example fast:\n")
    os.utime(file.parent / "exempt", (1, 1))
    code, output = run(file, "--json", "--at", "route", *words)
    found = json.loads(output)
    assert [one["to"] for one in found["replies"]] == ["socketmap", "tcp_table"]
    for one, expected in zip(found["replies"], replies, strict=True):
        assert expected in one["bytes"]
    assert code == (os.EX_TEMPFAIL if found["on_error"] else 0)
    if "vip@x.example" in words[0]:
        assert "Why: the recipient is on the list exempt, which goes first." in run(file, "--at", "route", *words)[1]


def test_an_override_that_is_no_route(file: Path) -> None:
    file.write_text(ROUTE.replace("TEMP", "false"))
    (file.parent / "exempt").write_text("vip@x.example nonsense\n")
    os.utime(file.parent / "exempt", (1, 1))
    code, output = run(file, "--at", "route", "recipient=vip@x.example")
    assert code == os.EX_TEMPFAIL
    assert "list exempt: 'nonsense', expected transport:nexthop." in output
    assert "Postfix gets: 9:NOTFOUND ," in output


def test_dns_that_is_too_slow_for_a_route_is_told(file: Path) -> None:
    file.write_text(ROUTE.replace("TEMP", "false\ndeadline = 0.00001"))
    (file.parent / "exempt").write_text("vip@x.example fast:\n")
    os.utime(file.parent / "exempt", (1, 1))
    _, output = run(file, "--at", "route", "recipient=a@x.example")
    assert "\nToo late: the answers took " in output


@pytest.mark.parametrize(
    ("action", "told"),
    [
        ("5.1.1 nobody here", ("5.1.1 nobody here\n", 67)),
        ("4.2.1 later", ("4.2.1 later\n", 75)),
        ("discard", ("discarded by rule\n", 0)),
        ("maildir /srv/x", None),
    ],
)
def test_at_deliver_the_line_and_the_exit_status(file: Path, action: str, told: tuple[str, int] | None) -> None:
    file.write_text(f'[[rule]]\nid = "r"\nat = "deliver"\naction = "{action}"\n')
    found = json.loads(run(file, "--json", "--at", "deliver", "recipient=a@b.example")[1])
    assert [(one["bytes"], one["exit_status"]) for one in found["replies"]] == ([told] if told else [])


# Looking changes nothing


COUNTED = """\
state = "state"
record = "record"
[[rule]]
id = "r"
at = "rcpt"
match = { rate = { key = "sasl_username", limit = "1/1h" } }
action = "450 4.7.1 wait {rate.wait}"
[[rule]]
id = "s"
at = "rcpt"
match = { seen = { key = ["sender"], within = "1d" } }
action = "DUNNO"
[[rule]]
id = "g"
at = "rcpt"
match = { greylist = { delay = "5m" } }
action = "450 4.7.1 wait {greylist.wait}"
"""


def test_nothing_is_counted_and_nothing_recorded(file: Path, tmp_path: Path) -> None:
    file.write_text(COUNTED)
    (tmp_path / "state").mkdir(mode=0o700)
    words = ["recipient=b@x.example", "sender=s@y.example", "sasl_username=u", "client_address=192.0.2.1"]
    for _ in range(3):
        code, output = run(file, *words)
        assert code == 0
        assert "Decision: 450 4.7.1 wait 300" in output
        assert "  store, rate of r: u: within the limit (" in output
        assert "  store, seen before by s: s@y.example: not seen before (" in output
        assert "by the greylist, " in output
    assert not (tmp_path / "record").exists()
    assert not (tmp_path / "state" / "state.db").exists()


def test_many_rules_that_are_not_reached_take_one_line(file: Path) -> None:
    rule = '[[rule]]\nid = "r{0}"\nat = "rcpt"\nmatch = {{ recipient = "r{0}@x.example" }}\naction = "HANGUP"\n'
    file.write_text("".join(rule.format(number) for number in range(50)))
    _, output = run(file, "recipient=r3@x.example")
    assert "  46 more are not reached, a rule above has decided\n" in output
    assert output.count("not reached") == 1


# A terminal


def terminal(file: Path, *words: str, **environment: str) -> str:
    """What a person with 80 columns sees."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    program = [sys.executable, "-c", "from postroom.cli import main; main()", "explain", "--config", str(file)]
    with subprocess.Popen(
        [*program, *words], stdin=theirs, stdout=theirs, env={**os.environ, **environment}
    ) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                shown += os.read(ours, 4096)
            except OSError:  # EIO: the other end is closed
                break
    os.close(ours)
    assert process.returncode == 0
    return shown.decode().replace("\r\n", "\n")


def test_a_terminal_sees_colours_and_columns(file: Path) -> None:
    shown = terminal(file, *USER, *SHADY, TERM="xterm")
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert shown != plain
    lines = plain.splitlines()
    assert lines[0] == "Decision:      HANGUP"
    assert lines[1].startswith("Why:           rule shady-primary-mx matches, since recipient")
    head = lines[: lines.index("")]
    assert max(map(len, head)) <= 80
    assert all(line[:15].isspace() or line[13:15].isspace() for line in head)
    bare = terminal(file, *USER, *SHADY, TERM="xterm", NO_COLOR="1")
    assert "\x1b" not in bare
    assert bare.startswith("Decision: HANGUP\n")


# Each kind of condition, in words


@pytest.mark.parametrize(
    ("match", "words", "row", "why"),
    [
        ('mx_address = "192.0.2.0/24"', ["mx=10 m.x.example", "mx_address=192.0.2.9"], "m.x.example (192.0.2.9)",
         'one of the addresses of the MX hosts of the recipient\'s domain is "192.0.2.0/24"'),
        ('ns = ".ns.example"', ["ns=a.ns.example"], "a.ns.example", "one of the name servers of the recipient's"),
        ('dnsbl = "bl.example"', ["dnsbl=bl.example"], "listed by bl.example (127.0.0.2)",
         "the client is listed by bl.example (127.0.0.2)"),
        ("fcrdns = false", ["fcrdns=false"], "not confirmed", "the client's reverse name is not confirmed"),
        ("fcrdns = true", ["client_name=c.example"], "confirmed: c.example", "reverse name is confirmed: c.example"),
        ('time = "17:00-18:00"', ["now=fri 17:30"], "Fri 17:30", "it is Fri 17:30"),
        ('weekday = "fri"', ["now=fri 17:30"], "Fri 17:30", "it is Fri 17:30"),
        ("null_sender = true", ["sender="], "the null sender", "the sender is the null sender"),
        ("client_is_literal = true", ["helo_name=[192.0.2.1]"], "[192.0.2.1]", "the HELO name is [192.0.2.1]"),
        ('seen = { key = "client_address" }', ["seen=true"], "192.0.2.1: seen before", "192.0.2.1: seen before"),
        ('greylist = { key = "client_address" }', ["greylist=90"], "192.0.2.1: has to wait 90 s", "has to wait 90 s"),
        ('rate = { key = "client_address", limit = "1/1h" }', ["rate=7200"], "192.0.2.1: over the limit for 2 h",
         "over the limit for 2 h"),
        ('helo_name = "attr:client_name"', ["helo_name=a.example", "client_name=a.example"], "a.example",
         "helo_name a.example is the same as the client_name"),
    ],
)  # fmt: skip
def test_each_kind_of_condition_in_words(file: Path, match: str, words: list[str], row: str, why: str) -> None:
    file.write_text(f'[[rule]]\nid = "r"\nat = "rcpt"\nmatch = {{ {match} }}\naction = "HANGUP"\n')
    code, output = run(file, "recipient=a@x.example", "client_address=192.0.2.1", *words)
    assert code == 0, output
    lines = output.splitlines()
    assert lines[0] == "Decision: HANGUP"
    assert why in lines[1]
    found = lines[lines.index("  r: matches -> HANGUP") + 1]
    assert found.endswith(f"true        {row}")


def test_the_names_of_what_is_attached(file: Path, tmp_path: Path) -> None:
    file.write_text('[[rule]]\nid = "r"\nat = "deliver"\nmatch = { attachment = "*.exe" }\naction = "5.7.1 no"\n')
    words = ["--at", "deliver", "recipient=a@x.example", "attachment=a.txt", "attachment=b.exe"]
    assert "true        a.txt, b.exe" in run(file, *words)[1]
    (tmp_path / "mail").write_bytes(b"Subject: x\n\nbody\n")
    _, output = run(file, *words[:3], "--message", str(tmp_path / "mail"))
    assert "missing     not in the message, so the rule does not match" in output
