"""postroom(1) against the command line: verbs, options, JSON fields and exit statuses, in both directions."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from docs.mdoc import page, plain, section, words

from postroom import mx, store
from postroom.bounces import events, report, verp
from postroom.cli import VERBS, main
from postroom.cli.mx import _json as mx_json
from postroom.deadline import Deadline
from postroom.message import Message
from postroom.record import Record
from postroom.rules import Decision

PAGE = page("postroom.1")
DESCRIPTION = section(PAGE, "DESCRIPTION")
HELP = {"--help", "-h"}


def leaves() -> dict[str, click.Command]:
    """Every verb that does something: "check", "suppress add" ..."""
    found: dict[str, click.Command] = {}

    def walk(name: str, command: click.Command) -> None:
        if isinstance(command, click.Group):
            context = click.Context(command)
            for verb in command.list_commands(context):
                below = command.get_command(context, verb)
                assert below is not None
                walk(f"{name} {verb}".strip(), below)
        else:
            found[name] = command

    walk("", main)
    return found


LEAVES = leaves()


def usages() -> dict[str, str]:
    """Verb -> the lines between .It Xo and .Xc."""
    blocks = re.findall(r"^\.It Xo\n((?s:.*?))^\.Xc$", DESCRIPTION, re.MULTILINE)
    return {block.partition("\n")[0].removeprefix(".Cm "): block for block in blocks}


def test_every_verb_and_no_other() -> None:
    assert list(usages()) != []
    assert set(usages()) == set(LEAVES)
    assert {name.partition(" ")[0] for name in LEAVES} == set(VERBS)


@pytest.mark.parametrize("verb", LEAVES)
def test_every_option_and_no_other(verb: str) -> None:
    options = {word for parameter in LEAVES[verb].params for word in parameter.opts if word.startswith("-")}
    shown = {f"-{word}" for word in re.findall(r"Fl (-[a-z-]+)", usages()[verb])}
    assert shown == options - HELP


@pytest.mark.parametrize("verb", LEAVES)
def test_every_argument(verb: str) -> None:
    arguments = [parameter for parameter in LEAVES[verb].params if isinstance(parameter, click.Argument)]
    usage = usages()[verb]
    last = [line for line in usage.strip().split("\n") if line.startswith(".Ar") or re.match(r"\.Op (Fl - )?Ar", line)]
    assert len(last) == len(arguments)
    for line, argument in zip(last, arguments, strict=True):
        assert line.endswith("...") == (argument.nargs == -1), line
        assert line.startswith(".Ar") == argument.required or verb == "explain", line


@pytest.mark.parametrize("verb", LEAVES)
def test_every_option_is_explained(verb: str) -> None:
    """With its verb, or once for all, or with the verb whose options it shares."""
    own = DESCRIPTION.partition(usages()[verb])[2].partition("\n.It Xo\n")[0]
    shared = DESCRIPTION.partition(".Ss ")[0]
    if "The options are those of" in own:
        shared += DESCRIPTION.partition(usages()["wire"])[2].partition("\n.It Xo\n")[0]
    for option in re.findall(r"Fl (-[a-z-]+)", usages()[verb]):
        assert re.search(rf"^\.It Fl (h , )?{option}\b", own + shared, re.MULTILINE), option


@pytest.mark.parametrize(
    ("verb", "option", "told"),
    [
        ("mx", "deadline", "Default: 10."),
        ("import access", "stage", "Default:\n.Ic rcpt ,"),
        ("import apolicy", "stage", "Default:\n.Ic rcpt ."),
        ("wire", "user", "Default:\n.Li postroom ."),
        ("try", "time_limit", "Default: 1000."),
        ("replay", "examples", "Default: 3."),
        ("explain", "stage", "Default:\n.Ic rcpt ."),
    ],
)
def test_defaults(verb: str, option: str, told: str) -> None:
    (parameter,) = [one for one in LEAVES[verb].params if one.name == option]
    assert str(parameter.default).removesuffix(".0") in told
    assert told in DESCRIPTION.partition(usages()[verb])[2].partition("\n.It Xo\n")[0]


def test_kinds_of_events() -> None:
    (kind,) = [one for one in LEAVES["bounces list"].params if one.name == "kind"]
    assert isinstance(kind.type, click.Choice)
    text = DESCRIPTION.partition(".It Fl -kind")[2].partition(".It")[0]
    assert tuple(words(text, "Li")) == tuple(kind.type.choices)


# JSON


def fields(verb: str) -> set[str]:
    """The names that the section on JSON has for a verb, those of `rules` as below included."""
    blocks = section(PAGE, "JSON").split("\n.It ")
    (block,) = [block for block in blocks if block.startswith((f"Cm {verb}\n", f"Cm {verb} ,"))]
    return set(words(block, "Li")) - {":"}


def names(value: Any) -> set[str]:
    """Every key in it, however deep, but those that are data."""
    if isinstance(value, list):
        return set().union(*map(names, value))
    if not isinstance(value, dict):
        return set()
    return set(value).union(*(names(inner) for key, inner in value.items() if key != "given"))


def lines(*arguments: str, status: int | None = 0) -> list[Any]:
    done = CliRunner().invoke(main, list(arguments))
    assert status is None or done.exit_code == status, done.output
    return [json.loads(line) for line in done.stdout.splitlines()]


CONFIG = """\
state = "state"
[bounces]
key = "bounce.key"
domain = "bounces.example.com"
[[rule]]
id = "hang"
at = "rcpt"
match = { recipient = "a@example.com" }
action = "HANGUP"
[[rule]]
id = "dns"
at = "rcpt"
match = { recipient = "b@example.com", primary_mx = ".example.net" }
action = "HANGUP"
on_error = "421 4.3.0 later"
[[test]]
at = "rcpt"
given = { recipient = "a@example.com" }
expect = "DUNNO"
"""


@pytest.fixture
def config(tmp_path: Path) -> str:
    (tmp_path / "state").mkdir(mode=0o700)
    file = tmp_path / "postroom.toml"
    file.write_text(CONFIG)
    assert CliRunner().invoke(main, ["verp", "key", "--config", str(file)]).exit_code == 0
    return str(file)


def test_fields_of_check_and_explain(config: str, tmp_path: Path) -> None:
    rules = {"identity", "mode", "verdict", "reason", "action", "conditions"} | {
        "place", "key", "expected", "truth", "seen", "reason",
    }  # fmt: skip
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("stat = 1\n")
    found = names(lines("check", config, "--json", status=78)) | names(lines("check", str(wrong), "--json", status=78))
    assert found - (rules - fields("check")) == fields("check")
    told = lines("explain", "--config", config, "--json", "recipient=b@example.com", "mx=10 mx.example.net")
    Record(str(tmp_path / "record")).write("rcpt", {"recipient": "a@example.com"}, [], Decision("DUNNO"))
    told += lines("explain", "--config", config, "--json", "--record", str(tmp_path / "record"))
    assert names(told) == fields("explain")
    assert rules <= fields("explain")


def test_fields_of_replay(config: str, tmp_path: Path) -> None:
    path = str(tmp_path / "record")
    Record(path).write("rcpt", {"recipient": "a@example.com"}, [], Decision("DUNNO"))
    told = lines("replay", path, "--rules", config, "--summary", "--json", status=1)
    assert names(told) == fields("replay")


def test_fields_of_import(tmp_path: Path) -> None:
    policy = tmp_path / "postfwd.cf"
    policy.write_text("client_name==unknown; action=REJECT\naction=score(1)\n")
    assert names(lines("import", "postfwd", str(policy), "--json", status=1)) == fields("import")


def test_fields_of_mx() -> None:
    plan = mx.Plan("example.com", "mx", ((10, "mx.example.com"),), 60)
    told = json.loads(mx_json("Example.com", plan, (mx.Host(10, "mx.example.com", ("192.0.2.1",), ""),), "deliver"))
    assert names(told) == fields("mx")


def test_fields_of_suppress_and_verp(config: str) -> None:
    place = ("--config", config, "--json")
    for arguments in (("add", "a@example.net", "--for", "3d"), ("list",), ("why", "a@example.net")):
        assert names(lines("suppress", *arguments, *place)) == fields("suppress list")
    made = lines("verp", "make", "bob@example.net", *place)
    assert names(made) == fields("verp make")
    assert names(lines("verp", "check", made[0]["sender"], *place)) == fields("verp check")


def test_fields_of_state(config: str, tmp_path: Path) -> None:
    one = store.open(str(tmp_path / "state"), Deadline(5))
    one.rate("r", ("ann",), ((1, 3600.0),))
    one.greylist("192.0.2.0/24", ("ann",), 0.0, 60.0, 600.0, 1)
    one.seen("s", ("ann",), 600.0)
    one.close()
    place = ("--config", config, "--json")
    assert names(lines("state", "show", *place)) == fields("state show")
    assert names(lines("state", "rates", *place)) == fields("state rates")
    listed = names(lines("state", "greylist", *place)) | names(lines("state", "greylist", "--pools", *place))
    assert listed == fields("state greylist")
    assert names(lines("state", "seen", *place)) == fields("state seen")


BOUNCE = b"""From: MAILER-DAEMON@mx.example.net
Subject: Undelivered Mail Returned to Sender
Message-ID: <1@mx.example.net>
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status; boundary="b1"

--b1
Content-Type: text/plain

It failed.

--b1
Content-Type: message/delivery-status

Reporting-MTA: dns; mx.example.net
Original-Envelope-Id: e1
X-Postfix-Queue-ID: 4jXYHj0RN5z
X-Postfix-Sender: rfc822; list@example.com
Arrival-Date: Sun, 22 Nov 2026 15:04:54 +0000

Final-Recipient: rfc822; bob@example.net
Original-Recipient: rfc822;bob@example.net
Action: delayed
Status: 4.4.1
Will-Retry-Until: Fri, 27 Nov 2026 15:04:54 +0000
Diagnostic-Code: smtp; 451 4.4.1 later

--b1
Content-Type: message/rfc822

From: list@example.com
To: bob@example.net
Subject: news
Message-ID: <2@example.com>
List-ID: <news.example.com>

News.

--b1--
"""
TRANSCRIPT = b"""From: MAILER-DAEMON@mx.example.com (Mail Delivery System)
To: postmaster@mx.example.com (Postmaster)
Subject: Postfix SMTP server: errors from unknown[192.0.2.1]
Message-ID: <3@mx.example.com>

Transcript of session follows.

 Out: 220 mx.example.com ESMTP Postfix
 In:  NONSENSE
 Out: 502 5.5.2 Error: command not recognized

Session aborted, reason: lost connection

For other details, see the local mail logfile
"""


def test_fields_of_bounces(config: str, tmp_path: Path) -> None:
    for name, data in (("bounce", BOUNCE), ("notice", TRANSCRIPT)):
        (tmp_path / name).write_bytes(data)
    files = [str(tmp_path / "bounce"), str(tmp_path / "notice")]
    parsed = names(lines("bounces", "parse", *files, "--config", config, "--json"))
    recorded: set[str] = set()
    for data in (BOUNCE, TRANSCRIPT):
        message = Message.of(data)
        found = report.read(message)
        verdict = verp.Verdict(verp.VERIFIED, "so it is", "bob@example.net", 0)
        event = events.event(found, verdict, message.digest(), "bounces@bounces.example.com", "4jX", 0)
        recorded |= set(event.fields)
    listed = {"id", "at", "kind", "authentic", "queue_id", "recipients"} | {
        "address", "original", "outcome", "status", "hard", "category", "reason", "diagnostic", "remote_mta",
    }  # fmt: skip
    assert listed | recorded == fields("bounces list")
    returned = {name for name in fields("bounces list") if name.startswith("original_")}
    notice = {"class", "side", "peer", "peer_address", "command", "reply", "aborted"}
    assert parsed == fields("bounces parse") | returned | notice | (listed - {"at"})


def test_fields_of_try() -> None:
    told = lines("try", "/bin/true", "--json", "--", "x", status=None)
    assert names(told) == fields("try")


# Exit statuses


def documented() -> dict[int, set[str]]:
    """Status -> the verbs that it is told of; an empty set: of all."""
    found = {}
    for block in section(PAGE, "EXIT STATUS").split("\n.It ")[1:]:
        number, _, text = block.partition("\n")
        # `.Cm suppress why , Cm remove :` speaks of two verbs below suppress.
        pairs = {plain(two) for two in re.findall(r"^\.Cm (\w+ \w+)", text, re.MULTILINE)}
        pairs |= {f"suppress {verb}" for verb in ("why", "remove") if verb in words(text, "Cm")}
        found[int(number)] = pairs | set(words(text, "Cm"))
    return found


RUNS: list[tuple[tuple[str, ...], int]] = [
    (("check", "CONFIG"), 78),
    (("import", "postfwd", "CONFIG"), 1),
    (("import", "access", "MISSING"), 66),
    (("import", "postfwd", "CONFIG", "--output", "CONFIG"), 73),
    (("check", "CONFIG", "--nonsense"), 64),
    (("nonsense",), 64),
    (("--nonsense",), 64),
    (("demo", "--nonsense"), 64),
    (("wire",), 64),
    (("suppress",), 64),
    (("suppress", "add", "no address", "--config", "CONFIG"), 64),
    (("explain", "--config", "CONFIG", "recipient=a@example.com"), 0),
    (("explain", "--config", "CONFIG", "recipient=b@example.com", "mx=error"), 75),
    (("explain", "--config", "MISSING", "recipient=b@example.com"), 78),
    (("explain", "--config", "CONFIG", "recipient"), 64),
    (("replay", "CONFIG", "--rules", "CONFIG"), 65),
    (("replay", "MISSING", "--rules", "CONFIG"), 66),
    (("replay", "MISSING"), 64),
    (("replay", "CONFIG", "--rules", "MISSING"), 78),
    (("mx", "example.com", "--server", "127.0.0.1:9", "--deadline", "1"), 75),
    (("suppress", "list", "--config", "CONFIG"), 0),
    (("suppress", "list", "--config", "MISSING"), 78),
    (("suppress", "why", "a@example.com", "--config", "CONFIG"), 1),
    (("suppress", "remove", "a@example.com", "--config", "CONFIG"), 1),
    (("bounces", "parse", "MISSING"), 66),
    (("state", "show", "--config", "CONFIG"), 0),
    (("state", "forget", "no id", "--config", "CONFIG"), 64),
    (("state", "forget", "000000000000", "--config", "CONFIG"), 1),
    (("state", "pass", "000000000000", "--config", "CONFIG"), 1),
    (("verp", "check", "bounces@bounces.example.com", "--config", "CONFIG"), 1),
    (("wire", "rule-policy", "--postfix", "MISSING"), 78),
    (("unwire", "rule-policy", "--postfix", "MISSING"), 78),
    (("wire", "no-such-program"), 78),
    (("try", "/bin/sh", "--", "-c", "exit 0"), 0),
    (("try", "/bin/sh", "--", "-c", "exit 75"), 75),
    (("try", "/bin/sh", "--", "-c", "exit 1"), 69),
]


@pytest.mark.parametrize(("arguments", "status"), RUNS, ids=[" ".join(arguments) for arguments, _ in RUNS])
def test_exit_statuses(arguments: tuple[str, ...], status: int, config: str, tmp_path: Path) -> None:
    places = {"CONFIG": config, "MISSING": str(tmp_path / "missing")}
    done = CliRunner().invoke(main, [places.get(word, word) for word in arguments])
    assert done.exit_code == status, done.output
    told = documented()[status]
    assert status in (0, 64, 78) or {arguments[0], " ".join(arguments[:2])} & told, told


def test_a_state_that_cannot_be_used(config: str, tmp_path: Path) -> None:
    (tmp_path / "state").rename(tmp_path / "away")
    done = CliRunner().invoke(main, ["suppress", "list", "--config", config])
    assert done.exit_code == 75
    assert "suppress" in documented()[75]


def test_no_status_is_told_that_none_has() -> None:
    asked = {status for _, status in RUNS} | {130}  # 130 is an interrupt of the demo, which no test sends
    assert set(documented()) == asked
