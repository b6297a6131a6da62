"""What is counted is what happened; it stays bounded, cheap, and never goes back."""

import marshal
import sys
import time
import types
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroom.resident import metrics as module
from postroom.resident import totals as totals_module
from postroom.resident.board import SNAPSHOT_LIMIT, Board
from postroom.resident.metrics import BUCKETS, LABEL_LIMIT, LABELS_LIMIT, OTHER, Metrics
from postroom.resident.totals import TOTAL_LABELS_LIMIT, Counts, Totals


def told(metrics: Metrics) -> dict[str, Any]:
    found: dict[str, Any] = marshal.loads(metrics.snapshot())
    return found


labels = st.tuples(
    st.sampled_from(["policy", "lmtp"]),
    st.sampled_from(["rule-policy", "rule-deliver"]),
    st.sampled_from(["", "no-mx", "x" * LABEL_LIMIT, "x" * (LABEL_LIMIT + 1)]),
    st.sampled_from(["REJECT", "DUNNO", "450", "sent", "a@b.example", "", "x" * 200, "ré"]),
)


@given(st.lists(st.tuples(labels, st.floats(0, 200))))
def test_every_request_is_counted_once(requests: list[tuple[tuple[str, str, str, str], float]]) -> None:
    metrics = Metrics()
    for key, seconds in requests:
        metrics.request(*key, seconds)
    found = told(metrics)
    assert sum(found["requests"].values()) == len(requests)
    for protocol in ("policy", "lmtp"):
        times = [seconds for key, seconds in requests if key[0] == protocol]
        numbers = found["latency"].get(protocol, [0] * (len(BUCKETS) + 2))
        assert sum(numbers[:-1]) == len(times)
        assert numbers[-1] == pytest.approx(sum(times))
        for place, bound in enumerate(BUCKETS):
            assert sum(numbers[: place + 1]) == sum(1 for seconds in times if seconds <= bound)


def test_no_address_becomes_a_label() -> None:
    metrics = Metrics()
    for decision in ("ann@example.com", "<ann@example.com>", "192.0.2.1", "REJECT\n", "é", ""):
        metrics.request("policy", "rule-policy", "r", decision, 0.1)
    metrics.request("policy", "rule-policy", "r", "DEFER_IF_PERMIT", 0.1)
    counted = told(metrics)["requests"]
    assert counted == {
        ("policy", "rule-policy", "r", OTHER): 6,
        ("policy", "rule-policy", "r", "DEFER_IF_PERMIT"): 1,
    }


def test_labels_are_bounded_whatever_a_handler_says() -> None:
    metrics = Metrics()
    for number in range(3 * LABELS_LIMIT):
        metrics.request("policy", "rule-policy", f"rule{number % 7}", f"WORD{number}", 0.1)
        metrics.request("lmtp", "rule-deliver", f"{'y' * 90}{number}", "sent", 0.1)
    found = told(metrics)["requests"]
    assert len(found) <= LABELS_LIMIT + 4
    assert sum(found.values()) == 6 * LABELS_LIMIT
    assert found["lmtp", "rule-deliver", OTHER, OTHER] > LABELS_LIMIT


def test_the_snapshot_fits_whatever_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LABELS_LIMIT", 50_000)
    metrics = Metrics()
    for number in range(20_000):
        metrics.request("policy", "rule-policy", f"rule{number}", "REJECT", 0.1)
    assert len(marshal.dumps(metrics._requests)) > SNAPSHOT_LIMIT
    assert len(metrics.snapshot()) <= SNAPSHOT_LIMIT
    assert told(metrics)["requests"] == {("policy", "rule-policy", OTHER, OTHER): 20_000}
    metrics.facts["programs"] = ["x" * SNAPSHOT_LIMIT]
    assert len(metrics.snapshot()) <= SNAPSHOT_LIMIT
    assert told(metrics)["requests"] == {("policy", "rule-policy", OTHER, OTHER): 20_000}
    metrics.facts["programs"] = object()
    assert told(metrics)["facts"] == {}


def test_gauges_are_asked_for_when_they_are_told() -> None:
    waiting = [3]
    metrics = Metrics(queue=lambda: waiting[0], stuck=lambda: 2)
    metrics.opened("policy")
    metrics.opened("policy")
    metrics.closed("policy")
    metrics.fault("lmtp", "busy")
    metrics.facts["programs"] = ["rule-policy"]
    waiting[0] = 4
    found = told(metrics)
    assert (found["queue"], found["stuck"], found["open"], found["accepted"]) == (4, 2, {"policy": 1}, {"policy": 2})
    assert found["faults"] == {("lmtp", "busy"): 1}
    assert found["facts"] == {"programs": ["rule-policy"]}
    assert found["memory"] > 1_000_000
    assert 0 <= time.monotonic() - found["beat"] < 5


def test_what_other_parts_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read where it is loaded, and whatever it holds; nothing is imported for it."""
    for name in ("postroom.dns", "postroom.store.grouped", "postroom.store.writer"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    metrics = Metrics()
    assert (told(metrics)["dns"], told(metrics)["store"]) == ({}, {})
    part = types.ModuleType("postroom.dns")
    part.counts = {"hits": 5, "server": "192.0.2.1"}  # type: ignore[attr-defined]  # a module
    monkeypatch.setitem(sys.modules, "postroom.dns", part)
    assert told(metrics)["dns"] == {"hits": 5}


# All workers together


class Place:
    """A slot of a board, and who is in it."""

    def __init__(self, board: Board, slot: int) -> None:
        self.board = board
        self.slot = slot
        self.begin(0)

    def begin(self, since: float, **facts: object) -> None:
        self.metrics = Metrics()
        self.metrics._since = since
        self.metrics.facts.update(facts)

    def work(self, requests: int) -> None:
        for _ in range(requests):
            self.metrics.request("policy", "rule-policy", "r", "REJECT", 0.1)
            self.metrics.fault("policy", "handler")
        self.board.write(self.slot, self.metrics.snapshot())


def requests(totals: Totals) -> int:
    totals.look()
    counts = totals.counts()
    numbers = counts.latency["policy"]
    assert counts.requests["policy", "rule-policy", "r", "REJECT"] == sum(numbers[:-1])
    assert numbers[-1] == pytest.approx(0.1 * sum(numbers[:-1]))
    assert counts.faults["policy", "handler"] == sum(numbers[:-1])
    return sum(counts.requests.values())


def test_a_worker_that_is_started_again_takes_nothing_back() -> None:
    board = Board(2)
    first, second = Place(board, 0), Place(board, 1)
    totals = Totals(board)
    first.work(5)
    second.work(7)
    assert requests(totals) == 12
    assert requests(totals) == 12, "looked at twice, counted once"
    first.begin(1)
    first.work(0)
    assert (requests(totals), totals.restarts) == (12, 1)
    first.work(3)
    assert (requests(totals), totals.restarts) == (15, 1)
    assert totals.lately().requests == 3
    assert totals.lately().faults == {("policy", "handler"): 3}
    assert totals.lately().restarts == 1


def test_the_last_word_of_a_worker_is_heard_after_its_successor_has_spoken() -> None:
    board = Board(1)
    place = Place(board, 0)
    totals = Totals(board)
    place.work(5)
    assert requests(totals) == 5
    place.work(4)
    place.begin(1)
    place.work(2)
    assert requests(totals) == 11


def test_a_health_process_that_is_started_again_goes_on_counting() -> None:
    board = Board(1)
    place = Place(board, 0)
    totals = Totals(board)
    for since in range(1, 6):
        place.work(10)
        assert requests(totals) == 10 * since
        place.begin(since)
    place.work(1)
    again = Totals(board)
    assert (requests(again), again.restarts) == (51, 5)


def test_who_was_told_to_go_has_not_died() -> None:
    board = Board(1)
    place = Place(board, 0)
    totals = Totals(board)
    place.begin(1, draining=True)
    place.work(1)
    totals.look()
    place.begin(2)
    place.work(1)
    totals.look()
    assert totals.restarts == 0
    board.write(board.supervisor, marshal.dumps({"restarts": 4}))
    totals.look()
    assert totals.restarts == 4, "the supervisor knows better"


def test_labels_of_all_times_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = Counts()
    for generation in range(7):
        keys = {("policy", "rule-policy", f"g{generation}r{n}", "REJECT"): 1 for n in range(LABELS_LIMIT)}
        counts.add({"requests": keys})
    assert len(counts.requests) <= TOTAL_LABELS_LIMIT + 1
    assert sum(counts.requests.values()) == 7 * LABELS_LIMIT
    board = Board(1)
    totals = Totals(board)
    totals._base = counts
    monkeypatch.setattr(totals_module, "SNAPSHOT_LIMIT", 10_000)
    totals._keep()
    assert sum(Totals(board).counts().requests.values()) == 7 * LABELS_LIMIT
