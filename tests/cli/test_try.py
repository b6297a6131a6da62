"""`postroom try` as an author of programs uses it. That its verdicts are Postfix's is shown in tests/postfix."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from postroom.cli import main
from postroom.postfix.fragment import folder

Make = Callable[[str], str]


@pytest.fixture
def make() -> Iterator[Make]:
    """Writes a program where user nobody can run it; returns its path."""
    made = Path(tempfile.mkdtemp(prefix="postroom-test-"))
    made.chmod(0o755)

    def write(text: str) -> str:
        path = made / "program"
        path.write_text(text)
        path.chmod(0o755)
        return str(path)

    yield write
    shutil.rmtree(made)


def run(*arguments: str, message: bytes | None = None) -> Result:
    return CliRunner().invoke(main, ["try", "--user", "nobody", *arguments], input=message)


def facts(*arguments: str) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(run("--json", *arguments).stdout)
    return told


@pytest.mark.parametrize(
    ("body", "status", "verdict"),
    [
        ("echo fine", 0, "dsn=2.0.0, status=sent (delivered via program service (fine))"),
        ("echo 5.1.1 no such user; exit 75", 69, "dsn=5.1.1, status=bounced (no such user )"),
        ("echo 4.2.2 full; exit 69", 75, "dsn=4.2.2, status=deferred (full )"),
        ("kill -9 $$", 75, "dsn=4.3.0, status=deferred (Command died with signal 9:"),
        ("exit 67", 69, "dsn=5.1.1, status=bounced (user unknown)"),
    ],
)
def test_the_last_line_is_postfixs(make: Make, body: str, status: int, verdict: str) -> None:
    result = run(make(f"#!/bin/sh\n{body}\n"))
    assert result.exit_code == status
    assert result.stdout.splitlines()[-1].startswith(f"Postfix  {verdict}")


def test_warnings_and_the_filter_are_shown(make: Make) -> None:
    lines = run(make("#!/bin/sh\necho oh no\nexit 1\n")).stdout.splitlines()
    assert "warning  text without a status code at its start: the exit status alone decides" in lines
    assert lines[-2].startswith("Postfix  dsn=5.3.0, status=bounced (Command died with status 1:")
    assert lines[-1] == "wired    dsn=4.3.0, status=deferred (with the filter of `wire`)"


def test_a_program_past_the_limit_is_killed_with_its_children(make: Make) -> None:
    told = facts(make("#!/bin/sh\nsleep 60 &\necho $!\nsleep 60\n"), "--time-limit", "0.3")
    assert (told["timed_out"], told["exit"], told["signal"]) == (True, None, 9)
    assert 0.3 <= told["seconds"] < 10
    assert (told["wired_status"], told["wired_dsn"]) == ("deferred", "4.3.0")
    child, end = Path(f"/proc/{told['output'].strip()}/stat"), time.monotonic() + 10
    while child.exists() and child.read_text().split()[2] not in "ZX":
        assert time.monotonic() < end, "the child lives on"
        time.sleep(0.05)


def test_words_are_filled_as_pipe_fills_them(make: Make) -> None:
    program = make('#!/bin/sh\nfor word; do printf "[%s]" "$word"; done\n')
    options = ["--sender", "", "--recipient", "a+x@b.test", "--recipient", "c@d.test", "--recipient-delimiter", "+"]
    words = ["-s", "${sender}", "r=$recipient", "${user}", "$nexthop", "${client_address}", "{x}"]
    told = facts(program, *options, "--client-address", "192.0.2.1", "--", *words)
    expected = ["-s", "MAILER-DAEMON", "r=a+x@b.test", "r=c@d.test", "a", "c", "b.test", "192.0.2.1", "{x}"]
    assert told["arguments"] == [program, *expected]
    assert told["output"] == "".join(f"[{word}]" for word in expected)
    assert facts(program, "--sender", "", "--null-sender", "", "--", "s=${sender}")["output"] == "[s=]"


def test_an_unknown_macro_waits_for_ever_and_nothing_runs(make: Make) -> None:
    result = run(make("#!/bin/sh\necho ran\n"), "--", "$recipent")
    assert result.exit_code == 75
    assert result.stdout.splitlines() == [
        "warning  the program was not run: pipe(8) has no macro ${recipent}, nearest: ${recipient}",
        "Postfix  dsn=4.3.5, status=deferred (mail system configuration error)",
    ]


def test_the_message_and_the_flags(make: Make, tmp_path: Path) -> None:
    program = make("#!/bin/sh\ntr '\\n' '|'\n")
    (tmp_path / "mail").write_bytes(b"Subject: x\r\n\r\nFrom me\r\n.")
    told = facts(program, "--stdin", str(tmp_path / "mail"), "--flags", "R>.", "--sender", "a@b.test")
    assert told["output"] == "Return-Path: <a@b.test>|Subject: x||>From me|..|"
    result = run(program, "--stdin", "-", "--json", message=b"Subject: from here\n\n")
    assert json.loads(result.stdout)["output"] == "Subject: from here||"
    assert "Subject: postroom try|" in facts(program)["output"]


def test_it_runs_as_that_user_in_the_queue_directory(make: Make) -> None:
    told = facts(make('#!/bin/sh\necho "$(id -un) $(id -G) $(umask) $(pwd) $PATH $HOME."\n'))
    assert told["output"].split() == ["nobody", "65534", "0077", told["directory"], "/usr/bin:/bin", "."]
    assert told["user"] == "nobody"


def test_each_try_has_a_queue_id_of_its_own(make: Make) -> None:
    program = make("#!/bin/sh\n")
    first, second = (facts(program, "--", "${queue_id}")["arguments"][1] for _ in range(2))
    assert first != second and first.isalnum()


def test_a_user_that_pipe_refuses(make: Make) -> None:
    result = CliRunner().invoke(main, ["try", "--user", "root", make("#!/bin/sh\n")])
    assert result.exit_code == 75
    assert "status=deferred (unknown mail transport error (pipe(8) refuses to run a program as root" in result.stdout


def test_a_program_of_postrooms_gets_the_words_of_its_fragment(make: Make) -> None:
    path = Path(make('#!/bin/sh\nprintf "[%s]" "$@"\n'))
    known = path.with_name("rule-deliver")
    path.rename(known)
    told = facts(str(known), "--config", "/x/p.toml", "--sender", "", "--recipient", "r@b.test")
    words = told["arguments"][1:]
    assert words[:5] == ["--config", "/x/p.toml", "--", "sender=", "recipient=r@b.test"]
    assert len(words) == 3 + sum("=${" in word for word in (folder() / "rule-deliver.cf").read_text().split())


def test_wrong_usage(make: Make) -> None:
    program = make("#!/bin/sh\n")
    policy = str(Path(program).with_name("rule-policy"))
    for arguments, said in (
        (["--flags", "DZ", program], "unknown flag Z"),
        ([program, "--recipient", "a@b", "--original-recipient", "a", "--original-recipient", "b"], "as often as"),
        ([policy], "run by spawn(8), not by pipe(8)"),
        ([program, "--postfix", "/nonexistent"], "does not exist"),
        ([], "Missing argument"),
    ):
        result = run(*arguments)
        assert (result.exit_code, said in result.stderr) == (64, True), result.output


def test_without_root_it_runs_as_oneself(make: Make) -> None:
    program = make("#!/bin/sh\nid -un\n")
    # Imports what is needed while this checkout can be read.
    assert run("--json", program).exit_code == 0
    pid = os.fork()
    if pid == 0:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        own = CliRunner().invoke(main, ["try", "--json", program])
        other = CliRunner().invoke(main, ["try", "--user", "daemon", program])
        good = json.loads(own.stdout)["output"] == "nobody " and "only root" in other.stderr
        os._exit(0 if good and other.exit_code == 64 else 1)
    assert os.waitpid(pid, 0)[1] == 0
