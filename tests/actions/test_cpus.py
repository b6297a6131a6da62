"""cpus: a worker's threads keep to one CPU while it is busy, and what they start does not."""

import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from postroom import cpus
from postroom.actions import perform
from postroom.delivery import Mail

ALL = os.sched_getaffinity(0)


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    cpus.spread()
    for thread in os.listdir("/proc/self/task"):
        assert os.sched_getaffinity(int(thread)) == ALL


def in_thread(step: Callable[[], Any]) -> Any:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(step()))
    thread.start()
    thread.join(20)
    return found[0]


def where() -> set[int]:
    return os.sched_getaffinity(0)


def test_each_worker_has_one_cpu_and_so_have_all_of_its_threads() -> None:
    begun, end = threading.Event(), threading.Event()
    found: list[set[int]] = []

    def earlier() -> None:
        begun.set()
        assert end.wait(20)
        found.append(where())

    thread = threading.Thread(target=earlier)
    thread.start()
    assert begun.wait(20)
    cpus.settle(1)
    own = {sorted(ALL)[1 % len(ALL)]}
    end.set()
    thread.join(20)
    assert found == [own], "one that was there before"
    assert (where(), in_thread(where)) == (own, own)
    cpus.spread()
    assert (where(), in_thread(where)) == (ALL, ALL)


def test_several_workers_take_all_cpus() -> None:
    taken = set()
    for number in range(2 * len(ALL)):
        cpus.settle(number)
        taken |= where()
        cpus.spread()
    assert taken == ALL


def test_a_program_runs_on_any(mail: Mail) -> None:
    cpus.settle(0)
    assert perform(("command", "/usr/bin/nproc"), mail).text == f"delivered to command nproc: {len(ALL)}"
    assert where() == {min(ALL)}


def test_a_thread_that_starts_something_meanwhile_ends_as_the_others() -> None:
    cpus.settle(0)
    with cpus.Everywhere():
        assert where() == ALL
        cpus.spread()
    assert where() == ALL
    with cpus.Everywhere():
        cpus.settle(0)
        assert where() == {min(ALL)}
    assert where() == {min(ALL)}


def test_a_cpu_that_is_taken_away_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(22, "Invalid argument")

    with monkeypatch.context() as patched:
        patched.setattr(os, "sched_setaffinity", refused)
        cpus.settle(0)
        with cpus.Everywhere():
            assert where() == ALL
        cpus.spread()
