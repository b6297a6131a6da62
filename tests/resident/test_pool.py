"""resident.pool: an answer for each request, exactly one, whatever its thread does."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from postroom.resident.pool import Late, Pool

FAR = 60.0


class Bench:
    """A loop, a pool in it, and what came back."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.results: list[tuple[Any, Any]] = []
        self.faults: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda loop, context: self.faults.append(context))
        self.gate = threading.Event()

    def pool(self, threads: int = 2, queue: int = 2) -> Pool:
        return Pool(self.loop, threads, queue)

    def done(self, name: Any) -> Callable[[Any], None]:
        def add(result: Any) -> None:
            assert threading.current_thread() is threading.main_thread()
            self.results.append((name, result))

        return add

    def until(self, true: Callable[[], bool], seconds: float = 10.0) -> None:
        async def wait() -> None:
            end = time.monotonic() + seconds
            while not true() and time.monotonic() < end:
                await asyncio.sleep(0.005)
            assert true()

        self.loop.run_until_complete(wait())


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.gate.set()
    made.until(lambda: not [one for one in threading.enumerate() if one.name.startswith("request-")])
    made.loop.close()


def soon(seconds: float = FAR) -> float:
    return time.monotonic() + seconds


def test_what_a_work_returns_or_raises_comes_back_in_the_loop(bench: Bench) -> None:
    pool = bench.pool()
    error = KeyError("x")

    def fail() -> None:
        raise error

    def leave() -> None:
        raise SystemExit(3)

    assert pool.submit(lambda: 7, bench.done("good"), soon())
    assert pool.submit(fail, bench.done("bad"), soon())
    assert pool.submit(leave, bench.done("exit"), soon())
    bench.until(lambda: len(bench.results) == 3)
    found = dict(bench.results)
    assert found["good"] == 7 and found["bad"] is error and isinstance(found["exit"], SystemExit)
    assert (pool.waiting, pool.stuck, pool.unanswered) == (0, 0, 0)
    pool.close()


def test_threads_are_started_when_there_is_something_to_do_and_no_more_than_asked_for(bench: Bench) -> None:
    pool = bench.pool(threads=3, queue=20)
    before = threading.active_count()
    for _ in range(5):
        pool.submit(lambda: 1, bench.done(1), soon())
        bench.until(lambda: not pool.unanswered)
    assert threading.active_count() == before + 1, "one was always free"
    for _ in range(10):
        assert pool.submit(bench.gate.wait, bench.done(2), soon())
    bench.until(lambda: pool.waiting == 7)
    assert threading.active_count() == before + 3
    bench.gate.set()
    bench.until(lambda: not pool.unanswered)
    pool.close()


def test_a_full_queue_refuses_at_once_and_takes_again(bench: Bench) -> None:
    pool = bench.pool(threads=1, queue=2)
    taken = [pool.submit(bench.gate.wait, bench.done(number), soon()) for number in range(6)]
    assert taken == [True, True, True, False, False, False]
    bench.gate.set()
    bench.until(lambda: len(bench.results) == 3)
    assert pool.submit(lambda: 1, bench.done("later"), soon())
    bench.until(lambda: len(bench.results) == 4)
    assert [name for name, _ in bench.results] == [0, 1, 2, "later"]
    pool.close()


def test_who_is_late_is_answered_once_and_counts_as_stuck_until_it_is_back(bench: Bench) -> None:
    pool = bench.pool(threads=1, queue=2)
    assert pool.submit(bench.gate.wait, bench.done("stuck"), soon(0.05))
    assert pool.submit(lambda: 1, bench.done("behind it"), soon(0.1))
    bench.until(lambda: len(bench.results) == 2)
    (_, stuck), (_, behind) = bench.results
    assert isinstance(stuck, Late) and stuck.thread, "it tells which thread to look at"
    assert isinstance(behind, Late) and behind.thread == 0, "none had begun with it"
    assert (pool.stuck, pool.unanswered) == (1, 0)
    bench.gate.set()
    bench.until(lambda: pool.stuck == 0)
    assert pool.submit(lambda: 2, bench.done("next"), soon())
    bench.until(lambda: len(bench.results) == 3)
    assert bench.results[2] == ("next", 2)
    pool.close()


def test_what_is_late_before_its_turn_is_not_begun(bench: Bench) -> None:
    pool = bench.pool(threads=1, queue=2)
    begun: list[int] = []
    pool.submit(bench.gate.wait, bench.done("first"), soon())
    pool.submit(lambda: begun.append(1), bench.done("second"), soon(0.05))
    bench.until(lambda: len(bench.results) == 1)
    bench.gate.set()
    bench.until(lambda: len(bench.results) == 2)
    time.sleep(0.05)
    assert begun == [] and pool.stuck == 0
    pool.close()


def test_a_failing_end_of_one_request_takes_no_other_with_it(bench: Bench) -> None:
    pool = bench.pool(threads=2, queue=10)

    def fail(result: Any) -> None:
        raise ValueError("no")

    for number in range(6):
        pool.submit(lambda: 1, fail if number % 2 else bench.done(number), soon())
    bench.until(lambda: not pool.unanswered)
    assert len(bench.results) == 3 and len(bench.faults) == 3
    assert all(isinstance(fault["exception"], ValueError) for fault in bench.faults)
    pool.close()


def test_nothing_is_kept_of_a_request_that_is_done(bench: Bench) -> None:
    import gc
    import weakref

    class Big:
        pass

    pool, big = bench.pool(threads=1), Big()
    gone = weakref.ref(big)
    pool.submit(lambda big=big: id(big), bench.done(1), soon())  # type: ignore[misc]  # mypy gives up on the default
    del big
    bench.until(lambda: not pool.unanswered)
    time.sleep(0.05)
    gc.collect()
    assert gone() is None
    pool.close()


def test_a_closed_pool_takes_nothing_and_a_closed_loop_is_no_trouble_to_threads(bench: Bench) -> None:
    pool = bench.pool(threads=1)
    pool.submit(bench.gate.wait, bench.done(1), soon())
    pool.close()
    assert not pool.submit(lambda: 1, bench.done(2), soon())
    loop = bench.loop
    loop.close()
    bench.loop = asyncio.new_event_loop()
    bench.gate.set()
    bench.until(lambda: not [one for one in threading.enumerate() if one.name.startswith("request-")])
    assert bench.results == []


def test_thousands_from_both_sides_are_answered_once_each(bench: Bench) -> None:
    """Deadlines that fall into the work, so that both ends reach for the same request."""
    pool = bench.pool(threads=8, queue=5000)
    number = 3000
    for one in range(number):
        assert pool.submit(lambda one=one: time.sleep(one % 7 / 10000) or one, bench.done(one), soon(one % 50 / 1000))  # type: ignore[misc]  # mypy infers no lambda
    bench.until(lambda: not pool.unanswered, 30)
    bench.until(lambda: pool.stuck == 0 and pool.waiting == 0)
    assert sorted(name for name, _ in bench.results) == list(range(number))
    assert all(result == name or isinstance(result, Late) for name, result in bench.results)
    assert {type(result) for _, result in bench.results} == {int, Late}
    pool.close()
