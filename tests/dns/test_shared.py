"""What several processes know together: the table they map, and whose turn it is to ask."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postroom import dns, dnsasker, dnsshared
from postroom.deadline import Deadline
from postroom.dns import Resolver
from postroom.dnsshared import MAX_RECORD, WAYS, Shared, Slot, Table
from postroom.mx import Answer, Plan
from postroom.plans import LastingResolver

names = st.text(st.characters(codec="ascii", min_codepoint=33), max_size=30)
plans = st.builds(
    Plan,
    names,
    st.sampled_from(["mx", "implicit", "null", "none"]),
    st.lists(st.tuples(st.integers(0, 65535), names), max_size=4).map(tuple),
    st.integers(0, 2**31),
    st.text(max_size=20),
    names,
    st.lists(names, max_size=2).map(tuple),
)
records = st.tuples(names, st.sampled_from(["A", "PTR"]), st.integers(0, 2**31), st.integers(0, 9), names)
answers = st.builds(Answer, st.just("records"), st.lists(records, max_size=3).map(tuple), st.integers(0, 9), names)


def content(value: Plan | Answer) -> object:
    return dnsshared._FIELDS[type(value)](value)


def nobody(*_arguments: object) -> None:
    """Who is told of refreshes and waits in tests that are about neither."""


@pytest.fixture
def shared() -> Iterator[Shared]:
    one = Shared(64)
    dns.share(one)
    yield one
    dns.share(None)
    one.close()


def child(work: Callable[[], object]) -> int:
    """Run it in a forked process, which ends with 0 where it gave something true."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if work() else 1
        finally:
            os._exit(code)
    return pid


def ended(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# The table


@given(plan=plans, answer=answers)
@settings(max_examples=60, deadline=None)
def test_what_one_process_keeps_another_finds(plan: Plan, answer: Answer) -> None:
    one = Shared(64)
    mine, theirs = (one.plans("x", 100, nobody) for _ in range(2))
    mine.keep("a.test", plan, 1, 1000.0, 60)
    found = theirs.known("a.test", 1030.0, 5.0)
    fits = len(dnsshared.marshal.dumps(content(plan), 2)) <= MAX_RECORD
    assert (found is not None) == fits
    assert not fits or content(found) == content(plan)
    assert theirs.known("b.test", 1030.0, 5.0) is None
    mine, theirs = (one.answers("x", 100, nobody) for _ in range(2))
    mine.keep(("a.test", "A"), answer, 1, 1000.0, 60)
    found = theirs.known(("a.test", "A"), 1030.0, 5.0)
    assert found is None or content(found) == content(answer)
    one.close()


def test_other_servers_are_another_memory() -> None:
    one = Shared(64)
    one.plans("x", 100, nobody).keep("a.test", Plan("a.test", "mx"), 1, 1000.0, 60)
    assert one.plans("y", 100, nobody).known("a.test", 1001.0, 5.0) is None
    assert one.plans("x", 100, nobody).known("a.test", 1001.0, 5.0) is not None
    one.close()


def test_a_failure_is_known_to_all_for_its_time_and_takes_no_answers_place() -> None:
    one = Shared(64)
    mine, theirs, third = (one.plans("x", 100, nobody) for _ in range(3))
    mine.keep("a.test", Plan("a.test", "mx"), 1, 1000.0, 60)
    mine.fail("a.test", Plan("a.test", "error"), 2.0, 5000.0, 5.0)
    assert theirs.known("a.test", 5001.0, 1.0).state == "error"
    assert third.known("a.test", 5001.0, 30.0) is None  # who has more time than those who failed asks
    assert theirs.known("a.test", 5005.0, 1.0) is None
    assert theirs.old("a.test", 5005.0, 86400.0).state == "mx"
    one.close()


@given(place=st.integers(4, dnsshared._HEAD.size + 99), bit=st.integers(0, 7))
@settings(deadline=None)
def test_a_slot_that_was_written_by_two_is_a_miss(place: int, bit: int) -> None:
    """Any byte but those of the count of uses."""
    table, digest = Table(WAYS), bytes(range(16))
    table.put(digest, Slot(1.0, 2.0, 3.0, 4, b"r" * 100), 0.0)
    assert table.get(digest) is not None
    table._map[place] ^= 1 << bit
    assert table.get(digest) is None


@given(garbage=st.binary(min_size=dnsshared.SLOT_SIZE, max_size=dnsshared.SLOT_SIZE))
@settings(deadline=None)
def test_garbage_is_a_miss_and_is_written_over(garbage: bytes) -> None:
    table, digest = Table(WAYS), garbage[8:24]
    table._map[:] = garbage * WAYS
    assert table.get(digest) is None
    assert table.put(digest, Slot(1.0, 2.0, 3.0, 4, b"record"), 0.0)
    found = table.get(digest)
    assert found is not None
    assert (found.soon, found.until, found.patience, found.weight, found.record) == (1.0, 2.0, 3.0, 4, b"record")


def test_a_good_checksum_over_what_is_no_plan_is_a_miss() -> None:
    one = Shared(64)
    memory = one.plans("x", 100, nobody)
    for record in (b"", b"i\0", dnsshared.marshal.dumps((1,)), dnsshared.marshal.dumps(7)):
        one.table.put(memory.digest("a.test"), Slot(9e9, 9e9, 0.0, 1, record), 0.0)
        assert memory.known("a.test", 1000.0, 5.0) is None
    one.close()


def test_a_full_bucket_gives_up_what_has_expired_then_what_is_not_used() -> None:
    table = Table(WAYS)
    digests = [bytes([number]) * 16 for number in range(WAYS + 2)]
    for number in range(WAYS):
        table.put(digests[number], Slot(0.0, 5.0 if number == 2 else 100.0, 0.0, 1, b"x"), 0.0)
    for number in (0, 3):
        table.get(digests[number])
    table.put(digests[WAYS], Slot(0.0, 100.0, 0.0, 1, b"x"), 10.0)
    table.get(digests[WAYS])
    table.put(digests[WAYS + 1], Slot(0.0, 100.0, 0.0, 1, b"x"), 10.0)
    kept = {number for number in range(WAYS + 2) if table.get(digests[number]) is not None}
    assert kept == {0, 3, WAYS, WAYS + 1}


def test_what_is_too_long_for_a_slot_stays_with_its_process() -> None:
    one = Shared(64)
    mine, theirs = (one.plans("x", 1000, nobody) for _ in range(2))
    large = Plan("a.test", "mx", tuple((10, f"{number}." + "x" * 60) for number in range(100)), 300)
    mine.keep("a.test", large, 101, 1000.0, 60)
    assert mine.known("a.test", 1001.0, 5.0) is large
    assert theirs.known("a.test", 1001.0, 5.0) is None
    one.close()


# Resolvers


def test_resolvers_of_the_same_settings_have_one_memory(server, good, shared: Shared) -> None:
    one = server(good())
    first = Resolver((one.address,), timeout=1).plan("a.test", Deadline(5))
    assert Resolver((one.address,), timeout=1).plan("a.test", Deadline(5)) is first
    lasting = LastingResolver((one.address,), 53, 1, "/proc/nothing/plans")
    assert lasting.plan("a.test", Deadline(5), stale=60) is first
    assert len(one.queries) == 1
    Resolver((one.address,), timeout=2).plan("a.test", Deadline(5))
    assert len(one.queries) == 2


def test_alone_each_has_its_own(server, good) -> None:
    one = server(good())
    for _ in range(2):
        Resolver((one.address,)).plan("a.test", Deadline(5))
    assert len(one.queries) == 2


def test_old_settings_are_forgotten(shared: Shared) -> None:
    for number in range(1, 3 * dnsshared.MAX_COMMON):
        Resolver(("127.0.0.1",), port=number)
    assert len(shared._common) == dnsshared.MAX_COMMON


def test_one_process_asks_for_all(server, good, shared: Shared) -> None:
    one = server(good(text="10 mx.test."))

    def look() -> bool:
        plan = Resolver((one.address,)).plan("A.test", Deadline(5))
        return (plan.domain, plan.state, plan.hosts, plan.outcome) == ("a.test", "mx", ((10, "mx.test"),), "deliver")

    assert ended(child(look)) == 0
    assert look()
    assert ended(child(look)) == 0
    assert len(one.queries) == 1
    assert ended(child(lambda: Resolver((one.address,)).peek("a.test"))) == 0
    other = [child(lambda: Resolver((one.address,)).addresses("h.test", Deadline(5)) == ()) for _ in range(2)]
    assert [ended(pid) for pid in other] == [0, 0]
    assert len(one.queries) == 3  # A and AAAA, each once


def test_processes_that_want_the_same_ask_once(server, good, shared: Shared) -> None:
    def slow(query: bytes) -> list[bytes]:
        time.sleep(0.3)
        return good()(query)

    one = server(slow)

    def look() -> bool:
        return Resolver((one.address,), timeout=5).plan("a.test", Deadline(5)).primary == ("mx.test",)

    children = [child(look) for _ in range(4)]
    assert [ended(pid) for pid in children] == [0] * 4
    assert len(one.queries) == 1


def test_who_waits_for_another_process_does_so_no_longer_than_its_deadline(server, shared: Shared) -> None:
    one = server(lambda _query: [])
    patient = child(lambda: Resolver((one.address,), timeout=2).plan("a.test", Deadline(1.5)).state == "error")
    until(lambda: len(one.queries) == 1)
    start = time.monotonic()
    plan = Resolver((one.address,), timeout=2).plan("a.test", Deadline(0.3))
    assert 0.25 < time.monotonic() - start < 0.8
    assert (plan.state, plan.outcome.split()[:2]) == ("error", ["defer", "4.4.3"])
    assert len(one.queries) == 1
    assert dns.counts["in_flight_waits"] == 1
    assert ended(patient) == 0


def test_the_turn_of_a_process_that_was_killed_is_the_next_ones(server, good, shared: Shared) -> None:
    turn: list[bytes] = []

    def talk(query: bytes) -> list[bytes]:
        turn.append(query)
        return good()(query) if len(turn) > 1 else []

    one = server(talk)
    asking = child(lambda: Resolver((one.address,), timeout=30).plan("a.test", Deadline(30)))
    until(lambda: len(one.queries) == 1)
    os.kill(asking, signal.SIGKILL)
    assert ended(asking) == -signal.SIGKILL
    start = time.monotonic()
    assert Resolver((one.address,), timeout=30).plan("a.test", Deadline(30)).state == "mx"
    assert time.monotonic() - start < 1


def test_a_process_that_was_stopped_is_not_waited_for_for_ever(
    server, good, shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dnsshared, "ASKER_PATIENCE", 0.4)
    turn: list[bytes] = []

    def talk(query: bytes) -> list[bytes]:
        turn.append(query)
        return good()(query) if len(turn) > 1 else []

    one = server(talk)
    asking = child(lambda: Resolver((one.address,), timeout=30).plan("a.test", Deadline(30)))
    until(lambda: len(one.queries) == 1)
    os.kill(asking, signal.SIGSTOP)
    try:
        start = time.monotonic()
        assert Resolver((one.address,), timeout=30).plan("a.test", Deadline(30)).state == "mx"
        assert 0.4 <= time.monotonic() - start < 2
    finally:
        os.kill(asking, signal.SIGKILL)
        os.waitpid(asking, 0)


def test_without_locks_each_process_asks_for_itself(server, good, shared: Shared) -> None:
    """A file that is gone, a kernel that has no locks left: nobody waits for a turn that cannot be had."""
    one = server(good())
    resolver, file = Resolver((one.address,)), os.open("/dev/null", os.O_RDONLY)
    resolver._asker._turns._file = file
    os.close(file)
    start = time.monotonic()
    assert resolver.plan("a.test", Deadline(5)).state == "mx"
    assert time.monotonic() - start < 1


def test_a_child_forked_while_every_lock_is_held_goes_on(server, good, shared: Shared) -> None:
    one = server(good())
    resolver = LastingResolver((one.address,), 53, 5, "/proc/nothing/plans")
    asker = resolver._asker
    held = [
        shared._lock,
        shared.refresher._lock,
        asker.plans.answers._lock,
        asker.plans.failures._lock,
        asker.answers.answers._lock,
        asker._turns._lock,
        resolver.memory._lock,
        resolver.memory._pen,
        resolver.pauses._lock,
    ]
    for lock in held:
        lock.acquire()

    def look() -> bool:
        signal.alarm(10)
        Resolver((one.address,), timeout=4)
        return resolver.plan("a.test", Deadline(5), stale=60).state == "mx" and resolver.peek("a.test") is not None

    assert ended(child(look)) == 0
    for lock in held:
        lock.release()


# peek


def test_peek_asks_nothing_and_gives_what_is_known(server, good, shared: Shared) -> None:
    one = server(good())
    resolver = Resolver((one.address,))
    assert resolver.peek("a.test") is None
    assert one.queries == []
    plan = resolver.plan("a.test", Deadline(5))
    assert resolver.peek("A.test") is plan
    assert len(one.queries) == 1
    assert (dns.counts["hits"], dns.counts["misses"]) == (1, 1)


@pytest.mark.parametrize(
    ("domain", "state"), [("[192.0.2.1]", "literal"), ("a..b", "none"), ("", "none"), ("b\xfccher.test", None)]
)
def test_peek_knows_what_needs_no_question(domain: str, state: str | None) -> None:
    assert getattr(Resolver(("127.0.0.1",), port=9).peek(domain), "state", None) == state


def test_peek_gives_a_failure_that_is_known_and_not_one_for_lack_of_time(server, good) -> None:
    one = server(lambda query: [query[:2] + b"\x81\x82" + bytes(8)])
    resolver = Resolver((one.address,))
    resolver.plan("a.test", Deadline(5))
    assert getattr(resolver.peek("a.test"), "state", "") == "error"
    silent = Resolver((server(lambda _query: []).address,))
    silent.plan("a.test", Deadline(0.1))
    assert silent.peek("a.test") is None


# Memory


def test_a_hundred_thousand_domains_leave_it_as_large_as_it_was(
    shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def ask(_servers: object, question: tuple[str, str], _deadline: Deadline) -> Answer:
        asked.append(1)
        name = question[0]
        return Answer("records", ((name, "MX", 300, 10, f"mx1.{name}"), (name, "MX", 300, 20, f"mx2.{name}")))

    monkeypatch.setattr(dnsasker.Servers, "ask", ask)
    resolver = Resolver(("127.0.0.1",))
    size, after = shared.table.size, []
    for number in range(100_000):
        assert resolver.plan(f"domain{number}.example", Deadline(5)).primary == (f"mx1.domain{number}.example",)
        if number % 25_000 == 24_999:
            after.append((len(resolver._asker.plans.answers._entries), resolver._asker.plans.answers._weight))
    assert after == [(dnsasker.MAX_WEIGHT // 3, dnsasker.MAX_WEIGHT // 3 * 3)] * 4
    assert len(asked) == 100_000
    assert shared.table.size == size == 64 * dnsshared.SLOT_SIZE
    assert resolver._asker._turns._gates == {}


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "it never came about"
        time.sleep(0.01)
