"""The sliding window against a list of everything that was ever counted."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from postroom import store
from postroom.store import window

SECOND = 1_000_000
STEPS = st.lists(st.tuples(st.integers(0, 40 * SECOND), st.integers(0, 6)), max_size=60)


@given(STEPS, st.integers(0, 12), st.sampled_from([1, 7, 59 * SECOND, 60 * SECOND, 61_000_003]))
@settings(max_examples=300)
def test_never_more_than_the_limit_within_any_window(steps: list[tuple[int, int]], limit: int, span: int) -> None:
    now, buckets, counted = 1_800_000_000 * SECOND, [], []
    width = window.width(span)
    for pause, amount in steps:
        now += pause
        buckets = window.live(buckets, span, now)
        wait = window.wait(buckets, limit, span, now, amount)
        within = sum(n for at, n in counted if at > now - span)
        longer = sum(n for at, n in counted if at > now - span - width)
        if wait == 0:
            assert within + amount <= limit
            buckets = window.add(buckets, span, now, amount)
            counted.append((now, amount))
        else:
            assert amount > limit or longer + amount > limit, "refused, though even a longer window had room"
        assert len(buckets) <= span // width + 2
        assert window.unpack(window.pack(buckets)) == buckets


@given(STEPS, st.integers(1, 12), st.integers(1, 12))
@settings(max_examples=200)
def test_after_the_wait_it_fits_and_a_second_before_not(steps: list[tuple[int, int]], limit: int, amount: int) -> None:
    now, span, buckets = 1_800_000_000 * SECOND, 60 * SECOND, []
    for pause, more in steps:
        now += pause
        buckets = window.live(buckets, span, now)
        if window.wait(buckets, limit, span, now, more) == 0:
            buckets = window.add(buckets, span, now, more)
    wait = window.wait(buckets, limit, span, now, amount)
    if amount <= limit and wait:
        later = window.live(buckets, span, now + wait)
        assert window.wait(later, limit, span, now + wait, amount) == 0
        before = window.live(buckets, span, now + wait - 1)
        assert window.wait(before, limit, span, now + wait - 1, amount) == 1


@given(st.lists(st.tuples(st.floats(0, 90), st.integers(0, 5)), max_size=40))
@settings(max_examples=60, deadline=None)  # a busy machine
def test_the_store_keeps_several_limits_at_once(steps: list[tuple[float, int]]) -> None:
    limits = ((4, 10.0), (9, 60.0), (20, 600.0))
    now = [1_800_000_000.0]
    one = store.memory(lambda: now[0])
    counted: list[tuple[float, int]] = []
    for pause, amount in steps:
        now[0] += pause
        wait = one.rate("r", ("k",), limits, amount)
        if wait == 0:
            counted.append((now[0], amount))
        else:
            assert any(
                sum(n for at, n in counted if at > now[0] - span * 61 / 60 - 1e-5) + amount > most
                for most, span in limits
            )
        for most, span in limits:
            assert sum(n for at, n in counted if at > now[0] - span + 1e-5) <= most
    one.close()
