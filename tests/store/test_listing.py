"""What a person sees of the counters, and may change in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from postroom.store.engine import PAGE
from postroom.store.listing import BY_HAND_LIFETIME
from postroom.store.rows import Greylisted, Rate

if TYPE_CHECKING:
    from postroom.store import Store

DAY = 86400.0
GREY = (300.0, 2 * DAY, 35 * DAY)


def fields(entry: Any) -> dict[str, Any]:
    return {name: getattr(entry, name) for name in type(entry).__slots__ if name != "id"}


def test_rates_tell_what_is_used_and_who_was_refused(timed: Store, clock: Any) -> None:
    for _ in range(4):
        timed.rate("submission", ("ann",), ((3, 60.0), (100, 3600.0)))
    timed.rate("submission", ("bob",), ((3, 60.0),))
    clock.now += 20
    entries: dict[tuple[str, float], Rate] = {(entry.key, entry.window): entry for entry in timed.rates()}
    assert fields(entries["ann", 60.0]) == {
        "name": "submission", "key": "ann", "limit": 3, "window": 60.0, "used": 3, "wait": 41, "refused": 20,
    }  # fmt: skip
    assert fields(entries["ann", 3600.0])["refused"] is None
    assert (entries["bob", 60.0].used, entries["bob", 60.0].wait) == (1, 0)
    clock.now += 60
    assert [entry.window for entry in timed.rates()] == [3600.0], "what no longer counts is not shown"


def test_a_rate_that_is_forgotten_begins_anew(timed: Store) -> None:
    limits = ((1, 60.0), (1, 3600.0))
    for key in ("ann", "bob"):
        timed.rate("r", (key,), limits)
    (entry, *_) = [entry for entry in timed.rates() if entry.key == "ann"]
    assert timed.forget(entry.id) == 2, "both limits of the key"
    assert timed.forget(entry.id) == 0
    assert timed.rate("r", ("ann",), limits) == 0
    assert timed.rate("r", ("bob",), limits) > 0


def test_the_greylist_tells_who_waits_and_who_passed(timed: Store, clock: Any) -> None:
    timed.greylist("example.com", ("early@example.com", "b@x"), *GREY)
    clock.now += 200
    timed.greylist("192.0.2.0/24", ("late@example.com", "b@x"), *GREY)
    clock.now += 150
    entries: dict[str, Greylisted] = {entry.client: entry for entry in timed.greylisted()}
    assert fields(entries["192.0.2.0/24"]) == {
        "client": "192.0.2.0/24", "key": "late@example.com, b@x", "state": "waiting", "wait": 150, "first": 150,
        "last": 150, "ends": 2 * 86400 - 150,
    }  # fmt: skip
    assert (entries["example.com"].state, entries["example.com"].wait) == ("due", 0)
    assert timed.greylist("example.com", ("early@example.com", "b@x"), *GREY) == 0
    assert {entry.client: entry.state for entry in timed.greylisted()}["example.com"] == "passed"


def test_a_key_is_let_pass_and_its_pool_with_it_if_asked(timed: Store, clock: Any) -> None:
    for sender in ("a", "b", "c"):
        timed.greylist("192.0.2.0/24", (sender,), *GREY)
    ids = {entry.key: entry.id for entry in timed.greylisted()}
    assert timed.let_pass(ids["a"]) == "192.0.2.0/24"
    assert timed.greylist("192.0.2.0/24", ("a",), *GREY) == 0
    assert timed.greylist("192.0.2.0/24", ("b",), *GREY) > 0
    assert timed.let_pass(ids["b"], pool=True) == "192.0.2.0/24"
    assert timed.greylist("192.0.2.0/24", ("never seen",), *GREY) == 0
    assert timed.greylist("198.51.100.0/24", ("never seen",), *GREY) > 0
    (pool,) = timed.pools()
    assert (pool.client, pool.passes, pool.ends) == ("192.0.2.0/24", None, BY_HAND_LIFETIME)
    assert timed.forget(pool.id) == 1
    assert timed.greylist("192.0.2.0/24", ("never seen",), *GREY) == 300
    assert timed.let_pass("0" * 12) is None
    clock.now += 30 * DAY
    assert timed.greylist("192.0.2.0/24", ("a",), *GREY) == 0


def test_seen_is_told_and_forgotten(timed: Store, clock: Any) -> None:
    timed.seen("known", ("ann",), 600.0)
    clock.now += 60
    (entry,) = timed.met()
    assert fields(entry) == {"name": "known", "key": "ann", "last": 60, "ends": 540}
    assert timed.forget(entry.id) == 1
    assert not timed.seen("known", ("ann",), 600.0)
    clock.now += 601
    assert list(timed.met()) == []


@pytest.mark.parametrize("wrong", ["", "abc", "zz" * 6, "0" * 10, "0" * 14, "%", "' OR 1"])
def test_what_is_no_id_is_none(timed: Store, wrong: str) -> None:
    with pytest.raises(ValueError):
        timed.forget(wrong)
    with pytest.raises(ValueError):
        timed.let_pass(wrong)


def test_long_lists_come_whole_and_once(timed: Store) -> None:
    count = PAGE + 7
    for number in range(count):
        timed.rate("r", (f"{number}",), ((5, 60.0),))
        timed.greylist("p", (f"{number}",), *GREY)
    for entries in (list(timed.rates()), list(timed.greylisted())):
        assert {entry.key for entry in entries} == {str(number) for number in range(count)}  # type: ignore[attr-defined]
        assert len(entries) == count  # type: ignore[arg-type]
