"""`postroom replay`: the decisions that differ, in groups; what cannot be compared, apart; no network asked."""

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from postroom.cli.replay import command
from postroom.mx import Plan
from postroom.record import Record
from postroom.rules import Decision, Question

SHADY = Plan("x.example", "mx", ((10, "mx.shady.example"),))
GOOD = Plan("y.example", "mx", ((10, "mx.good.example"),))
OLD = """\
[[rule]]
id = "shady"
at = "rcpt"
match = { primary_mx = ".shady.example" }
action = "HANGUP"
"""
NEW = OLD.replace('"HANGUP"', '"550 5.7.1 not to {recipient}"')
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    (tmp_path / "old.toml").write_text(OLD)
    (tmp_path / "new.toml").write_text(NEW)

    def run(*words: str) -> tuple[int, str, str]:
        places = {name: str(tmp_path / name) for name in ("old.toml", "new.toml", "record", "missing", ".")}
        done = CliRunner().invoke(command, [places.get(word, word) for word in words])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.exit_code, done.stdout, done.stderr

    return run


@pytest.fixture
def record(tmp_path: Path) -> Record:
    """Three mails to a shady domain, two to a good one, and one that was decided without DNS."""
    record = Record(str(tmp_path / "record"))
    for number in range(3):
        given = {
            "sender": "s@x",
            "recipient": f"a{number}@x.example",
            "queue_id": f"Q{number}",
            "client_address": "192.0.2.1",
        }
        asked = [(Question("mx", "x.example"), SHADY, 0.01)]
        record.write("rcpt", given, asked, Decision("HANGUP", ("HANGUP",), "shady"))
    for number in range(2):
        asked = [(Question("mx", "y.example"), GOOD, 0.01)]
        record.write("rcpt", {"recipient": f"b{number}@y.example"}, asked, Decision("DUNNO"))
    record.write("rcpt", {"recipient": "c@z.example"}, [], Decision("DUNNO", shadow=(("watch", "WARN"),)))
    return record


def test_the_same_rules_decide_the_same(run: Run, record: Record) -> None:
    status, output, _ = run("record", "--rules", "old.toml")
    assert status == 0
    assert "0 of 5 decisions differ.\nNot compared, since the rules ask what was not recorded: 1.\nRead 6 " in output


def test_decisions_that_differ_in_groups(run: Run, record: Record) -> None:
    status, output, _ = run("record", "--rules", "new.toml", "--examples", "1")
    assert status == 1
    lines = output.splitlines()
    assert lines[0] == "3 decisions at rcpt: shady: HANGUP -> shady: 550"
    assert lines[1].startswith("    line 1, 20")
    assert lines[1].endswith(": s@x to a0@x.example, from 192.0.2.1")
    assert "Z, Q0: " in lines[1]
    assert lines[2:5] == ["        was HANGUP", "        now 550 5.7.1 not to a0@x.example", "    and 2 more"]
    assert "  at rcpt: the rules ask for MX records in 1 decision" in lines
    assert "3 of 5 decisions differ." in lines


def test_two_rule_files_against_each_other(run: Run, record: Record, tmp_path: Path) -> None:
    record.write(
        "rcpt", {"recipient": "a@x.example"}, [(Question("mx", "x.example"), SHADY, 0)], Decision("REJECT odd")
    )
    assert run("record", "--rules", "old.toml", "--against", "old.toml")[0] == 0
    status, output, _ = run("record", "--rules", "new.toml", "--against", "old.toml", "--examples", "0")
    assert status == 1
    assert output.startswith("4 decisions at rcpt: shady: HANGUP -> shady: 550\n    4\n")


def test_json(run: Run, record: Record) -> None:
    status, output, _ = run("record", "--rules", "new.toml", "--json", "--summary")
    group, shady, nothing, watch, end = map(json.loads, output.splitlines())
    assert status == 1
    assert (group["at"], group["count"], len(group["examples"])) == ("rcpt", 3, 3)
    assert group["old"] == {"rule": "shady", "action": "HANGUP"}
    assert group["new"] == {"rule": "shady", "action": "550"}
    assert group["examples"][1]["new_action"] == "550 5.7.1 not to a1@x.example"
    # The one that asked what was not recorded was put off by the new rule, for lack of an answer.
    assert shady == {"at": "rcpt", "rule": "shady", "old": 3, "new": 4, "on_error": 1, "old_shadow": 0, "shadow": 0}
    assert (nothing["rule"], nothing["old"], nothing["new"]) == (None, 3, 2)
    assert (watch["rule"], watch["old_shadow"], watch["old"]) == ("watch", 1, 0)
    summary = end["summary"]
    assert summary.pop("seconds") >= 0
    assert summary == {
        "lines": 6, "compared": 5, "differ": 3, "other_rule": 0, "not_recorded": 1, "cut": 0, "bad": 0, "hashed": 0,
    }  # fmt: skip


def test_what_shadow_rules_would_have_done_is_counted(run: Run, record: Record) -> None:
    """No rules needed: the record says it."""
    status, output, _ = run("record", "--summary")
    assert status == 0
    rows = [line.split() for line in output.splitlines()]
    assert rows[:4] == [
        ["at", "rule", "decided", "shadow"],
        ["rcpt", "shady", "3", "-"],
        ["rcpt", "no", "rule", "3", "-"],
        ["rcpt", "watch", "-", "1"],
    ]


def test_bad_lines_are_told_skipped_and_counted(run: Run, record: Record, tmp_path: Path) -> None:
    with (tmp_path / "record").open("ab") as file:
        file.write(b"\x1b[31mnonsense\n" * 30)
    status, output, told = run("record", "--rules", "old.toml")
    assert status == 0
    assert "Lines that are no decisions, and were skipped: 30." in output
    assert told.count("\n") == 10
    assert "record: line 7: is not JSON: " in told
    assert "\x1b" not in told + output


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["record"], 64),
        (["record", "--against", "old.toml"], 64),
        (["record", "--rules", "missing"], 78),
        (["missing", "--rules", "old.toml"], 66),
        ([".", "--rules", "old.toml"], 66),
        ([], 64),
        (["record", "--rules", "old.toml", "--examples", "-1"], 64),
    ],
)
def test_exit_statuses(run: Run, record: Record, words: list[str], status: int) -> None:
    assert run(*words)[0] == status


def test_a_file_that_is_no_record_at_all(run: Run, tmp_path: Path) -> None:
    (tmp_path / "record").write_bytes(os.urandom(5000) + b"\n" + b"\0" * 5000)
    assert run("record", "--rules", "old.toml")[0] == 65
    (tmp_path / "record").write_bytes(b"")
    assert run("record", "--rules", "old.toml")[0] == 0


PROGRAM = [sys.executable, "-c", "from postroom.cli import main; main()", "replay"]


def test_standard_input_and_a_pipe_that_stays_silent(run: Run, record: Record, tmp_path: Path) -> None:
    data = (tmp_path / "record").read_bytes() * 300
    done = subprocess.run([*PROGRAM, "-", "--rules", str(tmp_path / "old.toml")], input=data, capture_output=True)
    assert done.returncode == 0
    assert done.stderr == b""
    assert b"Read 1,800 lines" in done.stdout


def test_a_terminal_sees_progress(run: Run, record: Record, tmp_path: Path) -> None:
    path = tmp_path / "record"
    path.write_bytes(path.read_bytes() * 300)
    ours, theirs = pty.openpty()
    words = [*PROGRAM, str(path), "--rules", str(tmp_path / "old.toml")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                shown += os.read(ours, 4096)
            except OSError:  # EIO: the other end is closed
                break
        assert process.stdout is not None
        assert b"Replaying" not in process.stdout.read()
    os.close(ours)
    assert process.returncode == 0
    assert b"Replaying" in shown
    assert b"100%" in shown


MEMORY = """
import resource, sys
from click.testing import CliRunner
from postroom.cli.replay import command
path, rules = sys.argv[1:]
def peak():
    CliRunner().invoke(command, [path, "--rules", rules], catch_exceptions=False)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
first = peak()
data = open(path, "rb").read()
with open(path, "ab") as file:
    for _ in range(20):
        file.write(data)
print(first, peak())
"""


def test_memory_does_not_grow_with_the_record(run: Run, record: Record, tmp_path: Path) -> None:
    path = tmp_path / "record"
    path.write_bytes(path.read_bytes() * 100)
    words = [sys.executable, "-c", MEMORY, str(path), str(tmp_path / "new.toml")]
    first, second = map(int, subprocess.run(words, capture_output=True, check=True).stdout.split())
    assert second < first + 4096  # KB; 12,000 lines of 700 bytes would be 8 MB, and more as objects


def test_hashed_lines_are_replayed_by_their_domains(run: Run, tmp_path: Path) -> None:
    record = Record(str(tmp_path / "record"), hashed=True, delimiter="+")
    asked: list[Any] = [(Question("mx", "x.example"), SHADY, 0.01)]
    record.write("rcpt", {"recipient": "a@x.example"}, asked, Decision("550 5.7.1 not to a@x.example", (), "shady"))
    status, output, _ = run("record", "--rules", "new.toml")
    assert status == 0
    assert "only first words were compared: 1." in output
    assert run("record", "--rules", "old.toml")[0] == 1


def test_interrupted_it_shows_what_it_has(run: Run, record: Record, tmp_path: Path) -> None:
    words = [*PROGRAM, "-", "--rules", str(tmp_path / "new.toml")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write((tmp_path / "record").read_bytes() * 200)  # more than a pipe holds: it has begun
        process.stdin.flush()
        process.send_signal(signal.SIGINT)
        output = process.stdout.read()
    assert process.returncode == 130
    assert b"Interrupted after " in output
