"""The supervisor as a process: a worker that asks for another in its place, and ends that must not be waited for."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from resident.supervised import Supervised, alive, until

Start = Callable[..., Supervised]

ROUNDS = 5


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    made: list[Supervised] = []

    def one(*settings: str, **given: object) -> Supervised:
        made.append(Supervised(tmp_path, *settings, **given))  # type: ignore[arg-type]  # handed through
        return made[-1]

    yield one
    for each in made:
        each.close()


def answered(service: Supervised, stop: threading.Event, by: list[int]) -> None:
    while not stop.is_set():
        by.append(service.ask()[0])


def test_the_next_one_is_there_before_who_asked_for_it_goes(start: Start) -> None:
    service = start(workers=1).up()
    (old,) = service.children()
    stop, by = threading.Event(), list[int]()
    traffic = threading.Thread(target=answered, args=(service, stop, by))
    traffic.start()
    service.ask("retire")
    until(lambda: not alive(old))
    (new,) = service.children()
    until(lambda: new in by)
    stop.set()
    traffic.join()
    assert set(by) == {old, new}
    assert "has asked for another in its place: worker 1 is started" in service.logged()
    assert "killed" not in service.logged() and "started again" not in service.logged()


def test_while_the_next_one_does_not_come_up_the_first_goes_on(start: Start) -> None:
    service = start("LAST_PAUSE=0.3", workers=1).up()
    (old,) = service.children()
    service.write(serve='programs = ["/no/such"]')
    service.ask("retire")
    service.await_log("told not to start", 3)
    assert service.ask()[0] == old
    service.write()
    until(lambda: not alive(old))
    assert service.ask()[0] in service.children()


def test_the_one_that_asked_may_die_meanwhile(start: Start) -> None:
    service = start("LAST_PAUSE=0.3", workers=1).up()
    (old,) = service.children()
    service.write(serve='programs = ["/no/such"]')
    service.ask("retire")
    service.await_log("told not to start")
    os.kill(old, signal.SIGKILL)
    until(lambda: not alive(old))
    service.write()
    until(lambda: len(service.children()) == 1)
    assert service.ask()[0] in service.children()
    service.signal(signal.SIGTERM)
    assert service.process.wait(5) == 0


def test_a_reload_takes_the_one_that_asked_along(start: Start) -> None:
    service = start("LAST_PAUSE=20", "FIRST_PAUSE=20", workers=1).up()
    (old,) = service.children()
    service.ask("retire")
    service.await_log("has asked for another")
    service.signal(signal.SIGHUP)
    service.await_log("is in force")
    until(lambda: service.ask() == [old, 1])
    service.write(workers=2)
    service.signal(signal.SIGHUP)
    service.await_log("is in force: 2 workers")
    until(lambda: not alive(old))
    assert len(service.children()) == 2


def test_asking_again_and_again_starts_no_crowd(start: Start) -> None:
    service = start("LAST_PAUSE=0.5", workers=1).up()
    for _ in range(30):
        service.ask("retire")
        assert len(service.children()) <= 4
    until(lambda: len(service.children()) == 1)
    assert service.ask()[0] in service.children()


@pytest.mark.parametrize("number", range(ROUNDS))
def test_it_ends_at_once_though_a_worker_was_killed_just_before(start: Start, number: int) -> None:
    service = start(workers=1 + number % 2).up()
    os.kill(min(service.children()), signal.SIGKILL)
    if number > 2:
        service.await_log("is started again")
    service.signal(signal.SIGTERM)
    assert service.process.wait(2) == 0


@pytest.mark.parametrize("number", range(ROUNDS))
def test_it_ends_at_once_after_reloads_bad_and_good(start: Start, number: int) -> None:
    service = start("RELOAD_INTERVAL=0.1", workers=1).up()
    service.config.write_text("rules = maybe")
    service.signal(signal.SIGHUP)
    service.await_log("fault=configuration")
    service.write(workers=1 + number % 2)
    service.signal(signal.SIGHUP)
    service.await_log("is in force")
    service.signal(signal.SIGTERM)
    assert service.process.wait(2) == 0
