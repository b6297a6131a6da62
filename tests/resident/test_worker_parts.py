"""resident.worker and resident.doors, a part at a time: the last word, program files that hang, descriptors used up."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from postroom import log
from postroom.resident import doors, programs, worker
from postroom.resident.board import Board
from postroom.resident.doors import Doors
from postroom.resident.metrics import Metrics
from postroom.resident.totals import Totals
from postroom.resident.worker import Worker


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


@pytest.fixture
def logfile(tmp_path: Path) -> Iterator[Path]:
    log.open("serve", str(tmp_path / "log"))
    yield tmp_path / "log"
    log.open("serve", "")


def part(loop: asyncio.AbstractEventLoop, board: Board) -> Any:
    """A worker without sockets or threads of a pool."""
    made: Any = Worker.__new__(Worker)
    made.loop, made.slot = loop, SimpleNamespace(board=board, number=0)
    made.connections, made._entering = set(), set()
    made.pool = SimpleNamespace(unanswered=0)
    made.metrics = Metrics()
    made.service = SimpleNamespace(reload=lambda: "", serve=SimpleNamespace(programs=()))
    made.programs, made.lines = {"old": None}, SimpleNamespace(renew=lambda: None)
    made._reloading = made._again = False
    made._loading, made._end_by = None, 0.0
    return made


def test_what_was_counted_since_the_last_second_is_on_the_board_at_the_end(loop: asyncio.AbstractEventLoop) -> None:
    board = Board(1)
    totals = Totals(board)
    for _ in range(2):
        one = part(loop, board)
        board.write(0, one.metrics.snapshot())
        for _ in range(7):
            one.metrics.request("policy", "rule-policy", "bad", "REJECT", 0.001)
        one._drained()
        loop.run_forever()
        totals.look()
    assert sum(totals.counts().requests.values()) == 14


def until(loop: asyncio.AbstractEventLoop, holds: Any) -> None:
    end = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < end
        loop.run_until_complete(asyncio.sleep(0.01))


def test_a_program_file_that_hangs_is_reported_and_later_calls_are_heard(
    loop: asyncio.AbstractEventLoop, logfile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, hangs, begun = part(loop, Board(1)), threading.Event(), []

    def load(more: tuple[str, ...], before: dict[str, Any]) -> dict[str, Any]:
        begun.append(one.service.serve.programs)
        hangs.wait(20)
        return {"new": None}

    reloads: list[int] = []

    def reload() -> str:
        reloads.append(1)
        return ""

    one.service.reload = reload
    monkeypatch.setattr(programs, "load", load)
    monkeypatch.setattr(worker, "LOAD_SECONDS", 0.1)
    for count in (1, 2, 3):
        one.metrics.facts.pop("reloaded", None)
        one.reload()
        until(loop, lambda: "reloaded" in one.metrics.facts)
        assert (len(reloads), len(begun)) == (count, 1), "the configuration each time, files by one thread"
        assert "has not come to its end" in one.metrics.facts["reloaded"][1]
        assert "old" in one.programs
    assert logfile.read_text().count("fault=program") == 3
    hangs.set()
    until(loop, lambda: one.metrics.facts["reloaded"][1] == "" and len(begun) == 2 and not one._reloading)
    assert one.programs == {"new": None}, "and once more, for the calls that came meanwhile"


class Listening:
    """A listening socket whose accept(2) fails."""

    def __init__(self, number: int) -> None:
        self.number = number

    def accept(self) -> None:
        raise OSError(self.number, os.strerror(self.number))

    def fileno(self) -> int:
        return -1

    def setblocking(self, _: bool) -> None:
        pass


@pytest.fixture
def door() -> Iterator[Doors]:
    quiet = SimpleNamespace(
        time=time.monotonic, call_later=lambda *_: SimpleNamespace(cancel=lambda: None),
        remove_reader=lambda _: None, add_reader=lambda *_: None,
    )  # fmt: skip
    made = Doors(SimpleNamespace(loop=quiet, connections=set(), open_connections=0), [], lambda *_: None)  # type: ignore[arg-type]  # stand-ins
    yield made
    if made._reserve >= 0:
        os.close(made._reserve)


def test_a_reserve_that_a_thread_was_faster_to_take_is_had_again_later(
    door: Doors, logfile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", full)
        door._rest("a test")
        assert door._reserve == -1
        door._told = -doors.NEVER
        door._rest("a test")
    door.open()
    assert os.fstat(door._reserve)


@pytest.mark.parametrize("number", [errno.EPERM, errno.EINVAL, errno.EMFILE])
def test_whatever_accept_says_is_logged_and_it_goes_on(door: Doors, logfile: Path, number: int) -> None:
    door._accept(SimpleNamespace(socket=Listening(number), listen=None))  # type: ignore[arg-type]  # stand-ins
    assert f"no connection can be accepted now: {os.strerror(number)}" in logfile.read_text()
    assert door._pause is not None
