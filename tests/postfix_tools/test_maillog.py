"""Reading Postfix's log: status lines as values, and waiting for a line that may be half written."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroom.postfix.maillog import DELIVERY, Delivery, Maillog, Waited, delivery

HEAD = "Nov  2 15:11:08 lab postfix/pipe[13615]: 4jXXb05KfBzJ9Xp: "


def read(line: str) -> Delivery | None:
    match = DELIVERY.match(line)
    return delivery(match) if match else None


def test_a_status_line() -> None:
    line = HEAD + (
        "to=<x@y.test>, orig_to=<z@y.test>, relay=svc, conn_use=2, delay=0.2, delays=0.03/0.15/0/0.03, dsn=4.3.0, "
        "status=deferred (temporary failure. Command output: (a), b=c )"
    )
    assert read(line) == Delivery(
        "4jXXb05KfBzJ9Xp", "x@y.test", "z@y.test", "pipe", "svc", "4.3.0", "deferred",
        "temporary failure. Command output: (a), b=c ",
    )  # fmt: skip


def test_other_lines_are_none() -> None:
    for text in ("removed", "from=<a@b>, size=1, nrcpt=1 (queue active)", "to=<a@b>, relay=x"):
        assert read(text) is None
        assert read(HEAD + text) is None


@given(st.text(st.characters(blacklist_categories=["C"])))
def test_the_text_is_kept_whole(text: str) -> None:
    found = read(HEAD + f"to=<a@b>, relay=none, delay=0, delays=0/0/0/0, dsn=2.0.0, status=sent ({text})")
    assert found is not None and found.text == text


def test_a_cut_line_is_still_a_delivery() -> None:
    found = read(HEAD + "to=<a@b>, relay=svc, delay=0, delays=0/0/0/0, dsn=5.3.0, status=bounced (Command died with")
    assert found is not None and found.text == "Command died with"


def test_a_log_that_is_not_there_yet_is_empty(tmp_path: Path) -> None:
    log = Maillog(tmp_path / "log")
    assert (log.text(), log.size(), log.deliveries()) == ("", 0, [])


def test_waiting_sees_a_line_only_when_it_is_whole(tmp_path: Path) -> None:
    log = Maillog(tmp_path / "log")
    log.path.write_text("number 12")
    with pytest.raises(Waited, match="number 12"):
        log.wait_for(r"number (\d+)", timeout=0.1)

    def finish() -> None:
        time.sleep(0.1)
        with log.path.open("a") as file:
            file.write("34\n")

    thread = threading.Thread(target=finish)
    thread.start()
    assert log.wait_for(r"number (\d+)", timeout=10)[1] == "1234"
    thread.join()


def test_waiting_from_a_place_on(tmp_path: Path) -> None:
    log = Maillog(tmp_path / "log")
    log.path.write_text("status=sent\n")
    with pytest.raises(Waited):
        log.wait_for("status=sent", timeout=0.05, since=log.size())
