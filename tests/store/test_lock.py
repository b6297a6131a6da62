"""Turns: nobody is overtaken for long, and who gives up stands in nobody's way."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from postroom.deadline import Deadline
from postroom.store.lock import BURST, Turns

Spawn = Callable[..., Any]
Tell = Callable[[bytes], None]


@pytest.fixture
def path(tmp_path: Path) -> str:
    (tmp_path / "lock").touch()
    return str(tmp_path / "lock")


def test_one_who_asks_again_and_again_keeps_nobody_waiting(path: str, spawn: Spawn) -> None:
    def greedy(tell: Tell) -> None:
        turns = Turns(path)
        tell(b"!")
        while True:
            turns.take(Deadline(20))
            time.sleep(0.001)
            turns.give()

    processes = [spawn(greedy) for _ in range(3)]
    for process in processes:
        assert os.read(process.reader, 1) == b"!"
    turns = Turns(path)
    waits = []
    for _ in range(20):
        begin = time.monotonic()
        assert turns.take(Deadline(20))
        waits.append(time.monotonic() - begin)
        turns.give()
        time.sleep(2 * BURST)
    for process in processes:
        process.kill()
        process.end()
    turns.close()
    assert sorted(waits)[10] < 0.05, "three turns of some milliseconds"
    assert max(waits) < 1


def test_each_in_a_crowd_has_it_alone(path: str, spawn: Spawn) -> None:
    counter = Path(path + ".count")
    counter.write_text("0")

    def add(tell: Tell) -> None:
        turns = Turns(path)
        for turn in range(50):
            assert turns.take(Deadline(60))
            counter.write_text(str(int(counter.read_text()) + 1))
            turns.give()
            if turn % 10 == 0:
                time.sleep(0.003)

    crowd = [spawn(add) for _ in range(12)]
    assert [process.end() for process in crowd] == [0] * 12
    assert counter.read_text() == "600"


def test_killed_it_is_the_next_ones(path: str, spawn: Spawn) -> None:
    def hold(tell: Tell) -> None:
        turns = Turns(path)
        turns.take(Deadline(20))
        tell(b"!")
        time.sleep(60)

    def queue(tell: Tell) -> None:
        turns = Turns(path)
        tell(b"!")
        turns.take(Deadline(60))
        time.sleep(60)

    holder = spawn(hold)
    assert os.read(holder.reader, 1) == b"!"
    queued = spawn(queue)  # holds the queue
    assert os.read(queued.reader, 1) == b"!"
    time.sleep(0.1)
    turns = Turns(path)
    assert not turns.take(Deadline(0.2))
    queued.kill()
    holder.kill()
    assert turns.take(Deadline(10))
    turns.give()
    turns.close()
    assert (queued.end(), holder.end()) == (-9, -9)


@pytest.mark.parametrize("later", [0.0, 0.05, 1.5])
def test_who_gave_up_asks_again(path: str, later: float) -> None:
    """Before and after the thread that was left behind has got it, and after that has gone."""
    holder, turns = Turns(path), Turns(path)
    assert holder.take(Deadline(1))
    for _ in range(3):
        assert not turns.take(Deadline(0.05))
    holder.give()
    time.sleep(later)
    assert turns.take(Deadline(5))
    assert not holder.take(Deadline(0.05)), "it has it in truth"
    turns.give()
    assert holder.take(Deadline(5))
    assert not turns.take(Deadline(0.05))
    holder.give()
    holder.close()
    turns.close()


def test_closed_while_it_was_left_waiting_it_takes_nothing_with_it(path: str) -> None:
    holder, left = Turns(path), Turns(path)
    assert holder.take(Deadline(1))
    assert not left.take(Deadline(0.05))
    left.close()
    holder.give()
    assert holder.take(Deadline(5)), "who waited for it has it no more"
    holder.close()
    end = time.monotonic() + 5
    while path in map(os.path.realpath, (f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd"))):
        assert time.monotonic() < end, "a descriptor was left open"
        time.sleep(0.01)


def test_a_thread_that_only_waits_stands_in_the_same_queue(path: str) -> None:
    holder, waiter = Turns(path), Turns(path)
    assert holder.take(Deadline(1))
    got = threading.Event()

    def wait() -> None:
        waiter.wait()
        got.set()

    thread = threading.Thread(target=wait)
    thread.start()
    assert not got.wait(0.1)
    holder.give()
    assert got.wait(5)
    waiter.give()
    thread.join()
    holder.close()
    waiter.close()
