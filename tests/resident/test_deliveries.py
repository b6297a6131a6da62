"""A delivery off the wire: whatever the handler does, an Outcome and a line, from any thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from postroom import log
from postroom.deadline import Deadline
from postroom.delivery import Mail, Outcome, bounced, deferred, sent
from postroom.envelope import Envelope, Recipient
from postroom.message import Message
from postroom.resident.deliveries import deliver
from postroom.resident.programs import Program
from postroom.runners.captive import Handed
from postroom.status import ConfigurationFault, Fault

ENVELOPE = Envelope([Recipient("r@example.org", "o@example.org")], sender="s@example.com", queue_id="4XyzQ")


class Service:
    @property
    def configuration(self) -> Any:
        raise ConfigurationFault("postroom.toml: line 3: no")


@pytest.fixture
def logfile(tmp_path: Path) -> Path:
    log.open("resident", str(tmp_path / "log"))
    return tmp_path / "log"


def run(handler: Callable[[Mail], Any], name: str = "odd-deliver", seconds: float = 9.0) -> Outcome:
    program = Program(name, f"/x/{name}.py", "", Handed("pipe", handler, None, False))
    recipient = ENVELOPE.recipients[0]
    return deliver(program, ENVELOPE, recipient, Message.of(b"Subject: x\n\nx\n"), Deadline(seconds), Service())


def raising(error: BaseException) -> Callable[[Mail], Any]:
    def handler(mail: Mail) -> Any:
        raise error

    return handler


@pytest.mark.parametrize("said", [sent("kept"), deferred("full", "4.2.2"), bounced("no such user", "5.1.1")])
def test_what_the_handler_says(said: Outcome, logfile: Path) -> None:
    def handler(mail: Mail) -> Outcome:
        mail.log["rule"] = "one"
        return said

    assert str(run(handler)) == str(said)
    line = logfile.read_text()
    assert "postroom/odd-deliver[" in line
    assert f"4XyzQ: to=<r@example.org>, orig_to=<o@example.org>, rule=one, status={said.kind}" in line


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("bad day"), "4.3.0 internal error (ValueError), see the mail log"),
        (SystemExit(1), "4.3.0 internal error (SystemExit), see the mail log"),
        (KeyboardInterrupt(), "4.3.0 internal error (KeyboardInterrupt), see the mail log"),
        (ImportError("no module"), "4.3.5 incomplete installation (ImportError), see the mail log"),
        (Fault("the disk is full"), "4.3.0 the disk is full"),
    ],
)
def test_what_it_raises_is_a_deferral_and_its_place_stands_in_the_log(
    error: BaseException, text: str, logfile: Path
) -> None:
    assert str(run(raising(error))) == text
    assert "postroom/odd-deliver[" in logfile.read_text().splitlines()[0]
    assert "fault=handler" in logfile.read_text()
    assert "status=deferred" in logfile.read_text()


def test_a_broken_configuration_is_met_by_who_asks_for_it(logfile: Path) -> None:
    assert str(run(lambda mail: mail.configuration)) == "4.3.5 postroom.toml: line 3: no"


@pytest.mark.parametrize("result", [None, 0, "sent", b""])
def test_what_is_no_outcome_is_a_deferral(result: object, logfile: Path) -> None:
    assert str(run(lambda mail: result)).startswith("4.3.0 internal error (TypeError)")


def test_a_log_that_raises_does_not_end_the_thread(monkeypatch: pytest.MonkeyPatch, logfile: Path) -> None:
    monkeypatch.setattr(log, "info", lambda *a, **k: 1 // 0)
    assert str(run(lambda mail: sent("kept"))).startswith("4.3.0 internal error (ZeroDivisionError)")


def test_what_comes_past_the_deadline_says_so(logfile: Path) -> None:
    assert run(lambda mail: sent("kept"), seconds=0.0).kind == "sent"
    assert "late=yes" in logfile.read_text()


def test_threads_log_under_their_own_names(logfile: Path) -> None:
    barrier = threading.Barrier(8)

    def handler(mail: Mail) -> Outcome:
        barrier.wait(10)
        log.info(mail.queue_id, text=f"thread {threading.current_thread().name}")
        barrier.wait(10)
        return sent("kept")

    threads = [threading.Thread(target=run, args=(handler, f"deliver-{n}"), name=f"deliver-{n}") for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.info("", text="the end")
    *lines, last = logfile.read_text().splitlines()
    assert "postroom/resident[" in last
    for number in range(8):
        told = [line for line in lines if f"postroom/deliver-{number}[" in line]
        assert len(told) == 2
        assert f"thread deliver-{number}" in told[0]
