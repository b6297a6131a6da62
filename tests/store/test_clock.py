"""Clocks that jump: nobody is locked out for ever, nothing opens all at once, no delivery is forgotten."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroom import store
from postroom.store import Event
from postroom.store.clock import MAX_STRIDE, SECOND, elapsed, machine
from postroom.store.sqlite import EVENT_LIFETIME

if TYPE_CHECKING:
    from postroom.store import Store

DAY, YEAR = 86400.0, 366 * 86400.0
GREY = (300.0, 2 * DAY, 35 * DAY)
HOURLY = ((2, 3600.0),)


@pytest.fixture
def one(opened: Store, host: Any) -> Store:
    """Bob is over his limit, Ann has passed the greylist, Carol has just begun to wait, Dave was seen."""
    host.use(opened)
    opened.greylist("p", ("ann",), *GREY)
    opened.seen("s", ("dave",), 30 * DAY)
    opened.claim(b"delivered")
    opened.done(b"delivered", "2.0.0 sent")
    host.passes(300)
    assert opened.greylist("p", ("ann",), *GREY) == 0
    assert opened.greylist("p", ("carol",), *GREY) == 300
    assert [opened.rate("r", ("bob",), HOURLY) for _ in range(2)] == [0, 0]
    assert opened.rate("r", ("bob",), HOURLY) > 0
    return opened


@pytest.mark.parametrize("jump", [-DAY, YEAR, -30 * YEAR, 3.0, -3.0])
def test_a_clock_that_is_set_moves_nothing(one: Store, host: Any, jump: float) -> None:
    host.set_clock(jump)
    assert 3600 <= one.rate("r", ("bob",), HOURLY) <= 3660
    assert one.greylist("p", ("carol",), *GREY) == 300
    assert one.greylist("p", ("ann",), *GREY) == 0
    assert one.seen("s", ("dave",), 30 * DAY)
    host.passes(300)
    assert one.greylist("p", ("carol",), *GREY) == 0
    host.passes(3360)
    assert one.rate("r", ("bob",), HOURLY) == 0
    host.set_clock(-jump)
    assert one.rate("r", ("bob",), HOURLY) == 0
    assert one.rate("r", ("bob",), HOURLY) > 0


@pytest.mark.parametrize("wrong", [-DAY, -30 * YEAR])
def test_a_host_that_boots_with_its_clock_behind_locks_nobody_out(one: Store, host: Any, wrong: float) -> None:
    host.reboots(wrong)
    assert 3600 <= one.rate("r", ("bob",), HOURLY) <= 3660
    assert one.greylist("p", ("carol",), *GREY) == 300
    assert one.greylist("p", ("ann",), *GREY) == 0
    host.set_clock(-wrong)  # the network's time
    host.passes(3660)
    assert one.rate("r", ("bob",), HOURLY) == 0
    assert one.greylist("p", ("carol",), *GREY) == 0


def test_a_host_that_boots_a_year_ahead_forgets_no_more_than_a_week_would(one: Store, host: Any) -> None:
    host.reboots(YEAR)
    assert one.greylist("p", ("ann",), *GREY) == 0
    assert one.greylist("p", ("carol",), *GREY) == 300, "it waits anew: nothing passes that has not waited"
    assert one.seen("s", ("dave",), 30 * DAY)
    assert [one.rate("r", ("bob",), HOURLY) for _ in range(2)] == [0, 0]
    assert one.rate("r", ("bob",), HOURLY) > 0, "a window anew, and not more"
    for number in range(100):
        one.claim(b"%d" % number)
    assert one.claim(b"delivered") == "2.0.0 sent"
    host.set_clock(-YEAR)
    assert 3600 <= one.rate("r", ("bob",), HOURLY) <= 3660
    host.passes(3660)
    assert one.rate("r", ("bob",), HOURLY) == 0


@pytest.mark.parametrize("jump", [-DAY, YEAR])
def test_deliveries_and_events_outlive_a_jump(one: Store, host: Any, jump: float) -> None:
    one.record(Event(b"event", int(host.wall), "failed"))
    host.set_clock(jump + EVENT_LIFETIME if jump > 0 else jump)
    for number in range(50):
        one.claim(b"%d" % number)
        one.record(Event(b"%d" % number, int(host.wall), "failed"))
    assert one.claim(b"delivered") == "2.0.0 sent"
    assert b"event" in {event.key for event in one.events()}


def test_without_a_boot_id_a_jump_is_believed_for_a_week_and_back_for_nothing(one: Store, host: Any) -> None:
    host.boot = ""
    one.claim(b"x")
    host.set_clock(-DAY)
    assert 3600 <= one.rate("r", ("bob",), HOURLY) <= 3660
    host.set_clock(YEAR)
    assert one.greylist("p", ("ann",), *GREY) == 0
    assert one.claim(b"delivered") == "2.0.0 sent"


def test_a_host_that_slept_has_lived_meanwhile(one: Store, host: Any) -> None:
    host.passes(20 * DAY)
    assert one.rate("r", ("bob",), HOURLY) == 0
    host.passes(36 * DAY)
    assert one.greylist("p", ("ann",), *GREY) == 300


MOMENTS = st.tuples(st.integers(-(10**16), 10**16), st.sampled_from(["", "a", "b"]), st.integers(0, 10**15))


@given(MOMENTS, MOMENTS)
def test_time_never_runs_back_and_a_boot_never_takes_more_than_a_stride(
    before: tuple[int, str, int], now: tuple[int, str, int]
) -> None:
    passed = elapsed(before, now)
    assert passed >= 0
    if before[1] != now[1] or not now[1]:
        assert passed <= MAX_STRIDE * SECOND


def test_this_host_tells_its_moments() -> None:
    tell = machine()
    first, now = tell(), time.time()
    time.sleep(0.02)
    second = tell()
    assert abs(first[0] / SECOND - now) < 5
    assert first[1] == second[1]
    assert 20_000 <= elapsed(first, second) < 5 * SECOND


def test_a_restart_of_the_program_is_none_of_the_clock(state: Any, host: Any, clock: Any) -> None:
    from postroom.deadline import Deadline

    for turn in range(3):
        again = host.use(store.open(str(state), Deadline(5)))
        assert (again.rate("r", ("bob",), HOURLY) == 0) == (turn < 2)
        again.close()
        host.passes(60)
