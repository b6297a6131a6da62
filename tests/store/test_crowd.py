"""Counting by many processes at once, and by some that are killed: the limit holds, whatever happens to them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from postroom import store
from postroom.deadline import Deadline

if TYPE_CHECKING:
    from postroom.store import Store

Spawn = Callable[..., Any]
Tell = Callable[[bytes], None]
CROWD, CALLS, LIMIT = 50, 12, 200
LIMITS = ((LIMIT, 3600.0), (10**6, 86400.0))


def opened_by(state: Path) -> Store:
    return store.open(str(state), Deadline(60))


@pytest.mark.parametrize("amount", [1, 3])
def test_fifty_processes_never_let_more_than_the_limit_pass(state: Path, spawn: Spawn, amount: int) -> None:
    def ask(tell: Tell) -> None:
        one = opened_by(state)
        passed = sum(one.rate("r", ("bob",), LIMITS, amount) == 0 for _ in range(CALLS))
        tell(b"%d\n" % passed)

    crowd = [spawn(ask) for _ in range(CROWD)]
    passed = sum(int(process.heard()) for process in crowd)
    assert [process.end() for process in crowd] == [0] * CROWD
    assert passed == LIMIT // amount, "neither more nor fewer"
    assert [entry.used for entry in opened_by(state).rates()] == [passed * amount] * 2


def test_one_message_asked_by_many_counts_once(state: Path, spawn: Spawn) -> None:
    def ask(tell: Tell) -> None:
        one = opened_by(state)
        tell(b"%d\n" % sum(one.rate("r", ("bob",), ((3, 3600.0),), 1, f"{turn}") == 0 for turn in range(5)))

    crowd = [spawn(ask) for _ in range(10)]
    assert [int(process.heard()) for process in crowd] == [3] * 10, "each hears the same"
    assert [process.end() for process in crowd] == [0] * 10


def test_the_greylist_tells_a_crowd_the_same(state: Path, spawn: Spawn) -> None:
    def ask(tell: Tell) -> None:
        one = opened_by(state)
        waits = [one.greylist("p", ("k",), 1.0, 600.0, 6000.0, 1)]
        time.sleep(1.2)
        tell(b"%d %d\n" % (waits[0], one.greylist("p", ("k",), 1.0, 600.0, 6000.0, 1)))

    crowd = [spawn(ask) for _ in range(10)]
    assert {process.heard() for process in crowd} == {b"1 0\n"}
    assert [process.end() for process in crowd] == [0] * 10
    one = opened_by(state)
    assert [entry.state for entry in one.greylisted()] == ["passed"]
    assert [pool.passes for pool in one.pools()] == [1]


def test_what_was_counted_survives_a_kill(state: Path, spawn: Spawn) -> None:
    def count(tell: Tell) -> None:
        one = opened_by(state)
        while True:
            if one.rate("r", ("bob",), ((10**6, 3600.0),)) == 0:
                tell(b"+")
            one.greylist("p", (f"{os.getpid()} {time.monotonic()}",), 300.0, 600.0, 600.0)
            one.seen("s", (f"{os.getpid()} {time.monotonic()}",), 600.0)

    opened_by(state).claim(b"made")
    told = 0
    for turn in range(10):
        process = spawn(count)
        time.sleep(0.08 + 0.007 * turn)
        process.kill()
        told += len(process.heard())
        assert process.end() == -9
    one = opened_by(state)
    (entry,) = one.rates()
    assert told > 10
    assert told <= entry.used <= told + 10, "more than the one that was under way at each kill"
    counts = one.counts()
    assert counts["greylist"] == len(list(one.greylisted())) > 0
    assert counts["seen"] == len(list(one.met())) > 0
