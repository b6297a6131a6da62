"""seen, greylist and rate: what they answer, in each engine, with a clock that the test moves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postroom import store
from postroom.store import counters
from postroom.store.names import MAX_LABEL, digest, label

if TYPE_CHECKING:
    from postroom.store import Store

DAY = 86400.0
GREY = (300.0, 2 * DAY, 35 * DAY)  # delay, retry, lifetime
ANN = ("ann@example.com", "bob@example.net")


# --- seen ----------------------------------------------------------------------------------------------------------


def test_seen_is_from_the_second_time_on(timed: Store) -> None:
    assert not timed.seen("rule", ANN, 30 * DAY)
    assert timed.seen("rule", ANN, 30 * DAY)
    assert not timed.seen("rule", ANN[:1], 30 * DAY)
    assert not timed.seen("other", ANN, 30 * DAY)


def test_a_mail_is_not_seen_before_itself(timed: Any) -> None:
    """smtpd(8) asks of each list that names the service, and for each of several actions."""
    for _ in range(3):
        assert not timed.seen("rule", ANN, 30 * DAY, "one")
    assert timed.seen("rule", ANN, 30 * DAY, "two")
    assert timed.seen("rule", ANN, 30 * DAY, "two")
    assert timed.seen("rule", ANN, 30 * DAY)
    assert not timed.seen("other", ANN, 30 * DAY, "one")


def test_seen_is_forgotten_after_its_time_and_each_time_counts_anew(timed: Store, clock: Any) -> None:
    timed.seen("rule", ANN, 30 * DAY)
    for _ in range(3):
        clock.now += 29 * DAY
        assert timed.seen("rule", ANN, 30 * DAY)
    clock.now += 30 * DAY + 1
    assert not timed.seen("rule", ANN, 30 * DAY)
    assert timed.seen("rule", ANN, 30 * DAY)


def test_seen_often_is_not_forgotten_more_than_a_thousandth_early(timed: Store, clock: Any) -> None:
    timed.seen("rule", ANN, 1000.0)
    clock.now += 0.9
    assert timed.seen("rule", ANN, 1000.0), "too soon to be written"
    clock.now += 999.0
    assert timed.seen("rule", ANN, 1000.0)


# --- greylist ------------------------------------------------------------------------------------------------------


def test_a_greylisted_key_waits_then_passes_then_is_known(timed: Store, clock: Any) -> None:
    assert timed.greylist("192.0.2.0/24", ANN, *GREY) == 300
    clock.now += 100.5
    assert timed.greylist("192.0.2.0/24", ANN, *GREY) == 200, "199.5, upwards"
    clock.now += 199
    assert timed.greylist("192.0.2.0/24", ANN, *GREY) == 1
    clock.now += 1
    assert timed.greylist("192.0.2.0/24", ANN, *GREY) == 0
    clock.now += 34 * DAY
    assert timed.greylist("192.0.2.0/24", ANN, *GREY) == 0
    clock.now += 34 * DAY
    assert timed.greylist("192.0.2.0/24", ANN, *GREY) == 0, "used once in a lifetime"
    clock.now += 35 * DAY + 1
    assert timed.greylist("192.0.2.0/24", ANN, *GREY) == 300


def test_who_comes_back_too_late_waits_again(timed: Store, clock: Any) -> None:
    timed.greylist("192.0.2.0/24", ANN, *GREY)
    clock.now += 2 * DAY + 1
    assert timed.greylist("192.0.2.0/24", ANN, *GREY) == 300
    clock.now += 300
    assert timed.greylist("192.0.2.0/24", ANN, *GREY) == 0


def test_another_pool_and_another_key_wait_for_themselves(timed: Store, clock: Any) -> None:
    timed.greylist("192.0.2.0/24", ANN, *GREY)
    clock.now += 300
    assert timed.greylist("198.51.100.0/24", ANN, *GREY) == 300
    assert timed.greylist("192.0.2.0/24", ("x@example.com", ANN[1]), *GREY) == 300
    assert timed.greylist("192.0.2.0/24", ANN, *GREY) == 0


def test_a_delay_of_nothing_passes_at_once(timed: Store) -> None:
    assert timed.greylist("p", ANN, 0.0, DAY, DAY) == 0


def test_a_pool_passes_after_so_many_different_keys(timed: Store, clock: Any) -> None:
    keys = [(f"{number}@example.com",) for number in range(3)]
    for key in keys:
        timed.greylist("example.com", key, *GREY, 3)
    clock.now += 300
    for key in keys[:2] * 2:
        assert timed.greylist("example.com", key, *GREY, 3) == 0
    assert timed.greylist("example.com", ("new@example.com",), *GREY, 3) == 300, "two keys, however often"
    assert timed.greylist("example.com", keys[2], *GREY, 3) == 0
    assert timed.greylist("example.com", ("newer@example.com",), *GREY, 3) == 0
    assert timed.greylist("example.com", ("newer@example.com",), *GREY, 0) == 300, "a rule without auto_allow"
    assert timed.greylist("example.com", ("newer@example.com",), *GREY, 4) == 300, "one that asks for more"
    assert timed.greylist("example.org", ("newer@example.com",), *GREY, 3) == 300
    clock.now += 34 * DAY
    assert timed.greylist("example.com", ("newest@example.com",), *GREY, 3) == 0
    clock.now += 34 * DAY
    assert timed.greylist("example.com", ("newest 2@example.com",), *GREY, 3) == 0, "for as long as it is used"
    clock.now += 35 * DAY + 1
    assert timed.greylist("example.com", ("newest 3@example.com",), *GREY, 3) == 300


def test_keys_that_are_forgotten_do_not_count_for_the_pool(timed: Store, clock: Any) -> None:
    for number in range(3):
        timed.greylist("example.com", (f"{number}",), *GREY, 3)
        clock.now += 300
        assert timed.greylist("example.com", (f"{number}",), *GREY, 3) == 0
        clock.now += 20 * DAY
    assert timed.greylist("example.com", ("new",), *GREY, 3) == 300


# --- rate ----------------------------------------------------------------------------------------------------------


def test_a_rate_is_within_its_limit_then_over_it_then_free_again(timed: Store, clock: Any) -> None:
    limits = ((3, 3600.0),)
    assert [timed.rate("r", ("bob",), limits) for _ in range(3)] == [0, 0, 0]
    wait = timed.rate("r", ("bob",), limits)
    assert 3600 <= wait <= 3660
    assert timed.rate("r", ("carol",), limits) == 0
    assert timed.rate("other", ("bob",), limits) == 0
    clock.now += wait - 1
    assert timed.rate("r", ("bob",), limits) == 1
    clock.now += 1
    assert [timed.rate("r", ("bob",), limits) for _ in range(3)] == [0, 0, 0]
    assert timed.rate("r", ("bob",), limits) > 0


def test_what_is_refused_is_not_counted(timed: Store, clock: Any) -> None:
    limits = ((10, 60.0),)
    assert timed.rate("r", ("bob",), limits, 6) == 0
    for _ in range(5):
        assert timed.rate("r", ("bob",), limits, 5) > 0
    assert timed.rate("r", ("bob",), limits, 4) == 0
    assert timed.rate("r", ("bob",), limits, 1) > 0


def test_all_limits_have_to_hold_and_the_longest_wait_counts(timed: Store, clock: Any) -> None:
    limits = ((2, 60.0), (3, 3600.0))
    assert [timed.rate("r", ("b",), limits) for _ in range(2)] == [0, 0]
    assert 60 <= timed.rate("r", ("b",), limits) <= 61
    clock.now += 62
    assert timed.rate("r", ("b",), limits) == 0
    assert 3500 < timed.rate("r", ("b",), limits) <= 3660
    assert timed.rate("r", ("b",), ((2, 60.0),)) == 0, "the other limit alone"


def test_what_never_fits_is_told_to_wait_for_the_window(timed: Store) -> None:
    assert timed.rate("r", ("b",), ((100, 60.0), (1000, 3600.0)), 101) == 60
    assert timed.rate("r", ("b",), ((100, 60.0), (1000, 3600.0)), 1001) == 3600
    assert timed.rate("r", ("b",), ((100, 60.0),), 100) == 0
    assert timed.rate("r", ("b",), ((0, 60.0),)) == 60


def test_nothing_and_less_count_as_nothing(timed: Store) -> None:
    assert timed.rate("r", ("b",), ((1, 60.0),), 0) == 0
    assert timed.rate("r", ("b",), ((1, 60.0),), -5) == 0
    assert timed.rate("r", ("b",), ((1, 60.0),), 1) == 0
    assert timed.rate("r", ("b",), ((1, 60.0),), 0) == 0
    assert timed.rate("r", ("b",), ((1, 60.0),), 1) > 0
    assert timed.rate("r", ("b",), (), 1) == 0


def test_huge_amounts(timed: Store) -> None:
    limits = ((10**15, 60.0),)
    assert timed.rate("r", ("b",), limits, 10**15 - 1) == 0
    assert timed.rate("r", ("b",), limits, 10**30) == 60
    assert timed.rate("r", ("b",), limits, 1) == 0
    assert timed.rate("r", ("b",), limits, 1) > 0


def test_once_counts_once_and_is_told_the_same(timed: Store, clock: Any) -> None:
    limits = ((2, 3600.0),)
    assert [timed.rate("r", ("b",), limits, 1, "one") for _ in range(5)] == [0] * 5
    assert timed.rate("r", ("b",), limits, 1, "two") == 0
    first = timed.rate("r", ("b",), limits, 1, "three")
    assert 3600 <= first <= 3660
    clock.now += 10
    assert timed.rate("r", ("b",), limits, 1, "three") == first - 10
    assert timed.rate("r", ("b",), limits, 1, "two") == 0, "it was within"
    clock.now += first - 11
    assert timed.rate("r", ("b",), limits, 1, "three") == 1
    clock.now += 1
    assert timed.rate("r", ("b",), limits, 1, "three") == 0, "its wait is over: judged anew"
    assert timed.rate("r", ("c",), limits, 1, "three") == 0
    assert timed.rate("r", ("b",), limits, 1, "four") == 0
    assert timed.rate("r", ("b",), limits, 1, "five") > 0
    clock.now += counters.ONCE_LIFETIME + 1
    assert [timed.rate("r", ("b",), limits, 1, once) for once in ("three", "six")] == [0, 0]
    assert timed.rate("r", ("b",), limits, 1, "four") > 0, "forgotten at last, it counts again"


def test_a_limit_that_was_changed_holds_at_once(timed: Store) -> None:
    for _ in range(5):
        timed.rate("r", ("b",), ((10, 60.0),))
    assert timed.rate("r", ("b",), ((5, 60.0),)) > 0
    assert timed.rate("r", ("b",), ((6, 60.0),)) == 0


def test_a_refusal_that_is_only_read_is_the_same_as_one_that_is_written(timed: Store, clock: Any) -> None:
    limits = ((2, 60.0), (3, 600.0))
    timed.rate("r", ("b",), limits, 2)
    for amount, least in ((1, 60), (2, 600), (3, 600), (4, 600)):
        for _ in range(3):
            clock.now += 0.001
            assert least <= timed.rate("r", ("b",), limits, amount) <= least * 61 // 60


# --- all of them ---------------------------------------------------------------------------------------------------


def test_dry_answers_and_keeps_nothing(timed: Store, clock: Any) -> None:
    timed.rate("r", ("b",), ((2, 60.0),))
    timed.dry = True
    for _ in range(3):
        assert timed.rate("r", ("b",), ((2, 60.0),)) == 0
        assert timed.rate("r", ("b",), ((2, 60.0),), 2) > 0
        assert timed.greylist("p", ANN, *GREY) == 300
        assert not timed.seen("s", ANN, DAY)
    timed.dry = False
    assert timed.counts() == {"seen": 0, "greylist": 0, "pools": 0, "rates": 1, "verdicts": 0}
    assert timed.rate("r", ("b",), ((2, 60.0),)) == 0
    assert timed.rate("r", ("b",), ((2, 60.0),)) > 0


ODD = st.text(st.characters(exclude_categories=[]), max_size=8) | st.sampled_from(
    ["", "\udcff", "\ud800", "\0", "a" * 5000, "'); DROP TABLE rates; --", "\x1b[31m", "\n"]
)


@given(st.lists(st.tuples(ODD, ODD), min_size=1, max_size=4))
@settings(max_examples=60)
def test_any_text_is_a_key_and_no_two_are_one(keys: list[tuple[str, str]]) -> None:
    one = store.memory()
    known = set()
    for key in keys:
        assert one.seen("n", key, 60.0) == (key in known)
        assert (one.greylist(key[0], key, *GREY) > 0) and one.rate(key[1], key, ((10, 60.0),)) == 0
        known.add(key)
    shown = [*one.met(), *one.rates(), *one.greylisted()]
    assert len(shown) >= 3 * len(known)
    for entry in shown:
        assert entry.key.isprintable() and len(entry.key) <= MAX_LABEL
    one.close()


def test_where_one_text_ends_and_the_next_begins_matters() -> None:
    assert (
        len({digest(b"k", "n", key) for key in (("a", "bc"), ("ab", "c"), ("abc",), ("abc", ""), ("1:a", "bc"))}) == 5
    )
    assert digest(b"k", "na", ("b",)) != digest(b"k", "n", ("ab",))
    assert label(("", "a\nb")) == "<>, a b"


@pytest.mark.parametrize("table", ["seen", "greylist", "rates", "verdicts"])
def test_what_has_ended_is_taken_away_as_new_rows_come(timed: Store, clock: Any, table: str) -> None:
    def come(number: int) -> None:
        timed.seen("n", (str(number),), 60.0)
        timed.greylist("p", (str(number),), 10.0, 60.0, 60.0)
        timed.rate("r", (str(number),), ((5, 60.0),), 1, str(number))

    for number in range(300):
        come(number)
    assert timed.counts()[table] == 300
    clock.now += counters.ONCE_LIFETIME + 100
    for number in range(300, 420):
        come(number)
    left = timed.counts()[table]
    assert 120 <= left < 200, "eight rows are looked at for each that comes"
    assert timed.counts()[table] == timed.read(f"SELECT count(*) FROM {table}")[0][0]  # type: ignore[attr-defined]


def test_a_full_table_stays_as_large_as_it_is(timed: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counters, "MAX_ROWS", 50)
    timed.greylist("good", ANN, 0.0, DAY, 35 * DAY)
    for number in range(300):
        timed.greylist("bad", (str(number),), *GREY)
        timed.rate("r", (str(number),), ((5, 60.0),))
    counts = timed.counts()
    assert counts["greylist"] == counts["rates"] == 50
    assert timed.greylist("good", ANN, 300.0, DAY, 35 * DAY) == 0, "who has passed is not pushed out by who has not"
