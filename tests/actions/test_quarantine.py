"""actions.quarantine: what counts as failed, when it is enough, and what is kept then."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from postroom import log, store
from postroom.actions import Failed, failed, maildir, perform
from postroom.actions.once import once
from postroom.deadline import Deadline
from postroom.delivery import Mail
from postroom.rules import SEPARATOR
from postroom.status import ConfigurationFault, Fault, Outcome, bounced, deferred, sent

if TYPE_CHECKING:
    from postroom.store import Store

Make = Callable[..., Mail]
Script = Callable[[str], str]


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Store]:
    found = store.open(str(tmp_path), Deadline(20))
    yield found
    found.close()


@pytest.fixture
def script(tmp_path: Path) -> Script:
    def write(text: str) -> str:
        path = tmp_path / "program"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return str(path)

    return write


@pytest.fixture
def errors(tmp_path: Path) -> Callable[[], str]:
    path = tmp_path / "log"
    path.touch()
    log.open("test", str(path))
    return lambda: path.read_text()


def tries(number: int, mail: Mail, state: Store, *action: str, after: int = 3, more: tuple[str, ...] = ()) -> list[str]:
    box = f"{mail.configuration.state}/quarantine"
    words = (*action, SEPARATOR, "quarantine", box, f"after={after}", *more)
    found = []
    for _ in range(number):
        try:
            found.append(str(once(words, mail, lambda: state)))
        except Fault as fault:
            found.append(f"{fault.status} {fault}")
        except Exception as error:
            found.append(f"{type(error).__name__}: {error}")
    return found


def kept(tmp_path: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted((tmp_path / "quarantine").glob("new/*"))]


def test_the_last_failure_puts_the_mail_away_with_its_report(
    script: Script, mail: Mail, state: Store, tmp_path: Path, errors: Callable[[], str]
) -> None:
    program = script("echo x >> $0.runs; kill -SEGV $$")
    failure = "command program died with signal 11"
    end = f"2.0.0 quarantined after 3 failed attempts: {failure}"
    assert tries(5, mail, state, "command", program) == [f"4.3.0 {failure}", f"4.3.0 {failure}", end, end, end]
    assert (tmp_path / "program.runs").read_text() == "x\n" * 3, "in quarantine it is left alone"
    (content,) = kept(tmp_path)
    assert content == maildir.header_lines(mail) + (
        b"X-Postroom-Quarantine-Queue-Id: 4XyzQ\nX-Postroom-Quarantine-Attempts: 3\n"
        b"X-Postroom-Quarantine-Action: command %b\nX-Postroom-Quarantine-Reason: %b\n"
        % (program.encode(), failure.encode())
    ) + b"".join(mail.message.chunks())
    line = f"error: 4XyzQ: to=<r@example.org>, quarantine={tmp_path}/quarantine (after 3 failed attempts: {failure})"
    assert errors().count(line) == 1


def test_one_failure_can_be_enough(script: Script, mail: Mail, state: Store, tmp_path: Path) -> None:
    assert tries(1, mail, state, "command", script("exit 1"), after=1)[0].startswith("2.0.0 quarantined after 1 failed")
    assert len(kept(tmp_path)) == 1


def test_another_mail_has_a_count_of_its_own(script: Script, make_mail: Make, state: Store, tmp_path: Path) -> None:
    program = script("exit 1")
    for number in range(4):
        found = tries(2, make_mail(b"%d\n" % number), state, "command", program)
        assert [line[:5] for line in found] == ["4.3.0", "4.3.0"]
    assert kept(tmp_path) == []


def test_a_success_after_failures_is_a_success(script: Script, mail: Mail, state: Store, tmp_path: Path) -> None:
    tries(2, mail, state, "command", script("exit 1"))
    assert tries(2, mail, state, "command", script("exit 0")) == ["2.0.0 delivered to command program"] * 2
    assert kept(tmp_path) == []


@pytest.mark.parametrize(
    ("end", "counts", "counts_with_any"),
    [
        (failed("it broke down"), True, True),
        (Fault("no such program"), True, True),
        (ValueError("a bug"), True, True),
        (deferred("4.2.2 full", "4.2.2"), False, True),
        (deferred("connection refused", "4.4.1"), False, True),
        (bounced("no such user", "5.1.1"), False, False),
        (ConfigurationFault("the file of secret= cannot be read"), False, False),
    ],
    ids=str,
)
@pytest.mark.parametrize("more", [(), ("any",)])
def test_what_counts(
    mail: Mail, state: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    end: Outcome | Exception, counts: bool, counts_with_any: bool, more: tuple[str, ...],
) -> None:  # fmt: skip
    def act(words: tuple[str, ...], mail: Mail) -> Outcome:
        assert words == ("relay", "smtp:[x]:25")
        if isinstance(end, Exception):
            raise end
        return end

    monkeypatch.setattr("postroom.actions.perform", act)
    found = tries(4, mail, state, "relay", "smtp:[x]:25", more=more)
    assert (len(kept(tmp_path)) == 1) == (counts_with_any if more else counts)
    assert found[0] == found[1], "before it is enough, all is as without a quarantine"
    assert ("quarantined" in found[2]) == bool(kept(tmp_path))


def test_what_does_not_count_takes_nothing_back(
    mail: Mail, state: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Failing, busy, failing: two failures."""
    ends = [failed("x"), deferred("busy"), failed("y"), deferred("busy"), failed("z")]
    monkeypatch.setattr("postroom.actions.perform", lambda words, mail: ends.pop(0))
    assert [line[:8] for line in tries(4, mail, state, "command", "/x")] == [
        "4.3.0 x",
        "4.3.0 bu",
        "4.3.0 y",
        "4.3.0 bu",
    ]
    assert kept(tmp_path) == []
    assert tries(1, mail, state, "command", "/x") == ["2.0.0 quarantined after 3 failed attempts: z"]


def test_whoever_is_killed_over_it_has_counted_it(script: Script, make_mail: Make, tmp_path: Path) -> None:
    program = script("kill -9 $PPID")
    words = ("command", program, SEPARATOR, "quarantine", f"{tmp_path}/quarantine", "after=2")
    for _ in range(2):
        pid = os.fork()
        if pid == 0:
            once(words, make_mail(), lambda: store.open(str(tmp_path), Deadline(20)))
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    state = store.open(str(tmp_path), Deadline(20))
    (found,) = tries(1, make_mail(), state, "command", program, after=2)
    state.close()
    reason = "it did not come to its end (killed, or past its deadline)"
    assert found == f"2.0.0 quarantined after 2 failed attempts: {reason}"
    assert len(kept(tmp_path)) == 1


def test_a_quarantine_that_cannot_be_written_keeps_the_mail(
    script: Script, mail: Mail, state: Store, tmp_path: Path
) -> None:
    (tmp_path / "quarantine").write_text("no folder")
    found = tries(3, mail, state, "command", script("exit 1"), after=1)
    assert found == [f"4.3.0 maildir {tmp_path}/quarantine: Not a directory"] * 3
    (tmp_path / "quarantine").unlink()
    assert tries(1, mail, state, "command", "/bin/true", after=1)[0].startswith("2.0.0 quarantined after 1 failed")
    assert len(kept(tmp_path)) == 1


def test_strangers_write_no_headers_of_the_report(make_mail: Make, state: Store, tmp_path: Path) -> None:
    mail = make_mail(b"Subject: x\n\n", recipient="a\nX-Evil: 1@example.org")
    words = ("command", "/bin/false", "a\nX-Evil: 2", "\udcff")
    tries(1, mail, state, *words, after=1)
    (content,) = kept(tmp_path)
    assert b"\nX-Evil" not in content
    assert content.endswith(b"X-Postroom-Quarantine-Reason: command false failed with exit status 1\nSubject: x\n\n")


def test_a_failure_is_a_deferral_like_any_other() -> None:
    assert failed("x") == deferred("x") and isinstance(failed("x"), Failed)
    assert not isinstance(deferred("x"), Failed) and sent() != failed("x")
    assert perform  # the name that the tests above replace is there
