"""What is asked once and for how long it is believed; an injected clock stands for time."""

from __future__ import annotations

import sys
import threading
import time

import dns.message
import dns.rrset
import pytest

from postroom import dnsasker
from postroom.deadline import Deadline
from postroom.dns import Resolver


def weight(resolver: Resolver) -> int:
    """The weight of the plans, which is what the cache believes it to be."""
    cache = resolver._asker.plans.answers
    assert cache._weight == sum(1 + len(entry.value.hosts) for entry in cache._entries.values())
    return cache._weight


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def asking(server: str, clock: Clock, timeout: float = 0.3):
    resolver = Resolver((server,), timeout=timeout, clock=clock)
    return lambda domain="a.test", seconds=5: resolver.plan(domain, Deadline(seconds))


@pytest.mark.parametrize(
    ("ttl", "hold"),
    [
        (300, 300),
        (0, dnsasker.MIN_TTL),
        (2**31 - 1, dnsasker.MAX_TTL),
    ],
)
def test_a_plan_holds_for_its_ttl(server, good, ttl: int, hold: int) -> None:
    one, clock = server(good(ttl=ttl)), Clock()
    plan = asking(one.address, clock)
    first = plan()
    clock.now += hold - 0.1
    assert plan() is first
    assert plan("A.TEST") is first
    assert len(one.queries) == 1
    clock.now += 0.2
    assert plan().primary == first.primary
    assert len(one.queries) == 2


def negative(minimum: int | None):
    def talk(query: bytes) -> list[bytes]:
        reply = dns.message.make_response(dns.message.from_wire(query), recursion_available=True)
        reply.set_rcode(3)
        if minimum is not None:
            soa = f"ns.test. h.test. 1 3600 900 604800 {minimum}"
            reply.authority.append(dns.rrset.from_text("test.", 7200, "IN", "SOA", soa))
        return [reply.to_wire()]

    return talk


@pytest.mark.parametrize(
    ("minimum", "hold"),
    [(60, 60), (86400, dnsasker.MAX_NEGATIVE_TTL), (None, dnsasker.MIN_TTL)],
)
def test_no_such_domain_holds_as_its_soa_says(server, minimum: int | None, hold: int) -> None:
    one, clock = server(negative(minimum)), Clock()
    plan = asking(one.address, clock)
    assert plan().state == "none"
    asked = len(one.queries)
    clock.now += hold - 0.1
    assert plan().state == "none"
    assert len(one.queries) == asked
    clock.now += 0.2
    plan()
    assert len(one.queries) == 2 * asked


def test_a_failure_holds_for_seconds(server) -> None:
    one, clock = server(lambda query: [query[:2] + b"\x81\x82" + bytes(8)]), Clock()
    plan = asking(one.address, clock)
    assert plan().state == plan().state == "error"
    assert len(one.queries) == 1
    clock.now += dnsasker.FAILURE_TTL + 0.1
    plan()
    assert len(one.queries) == 2


def test_a_time_out_for_lack_of_the_callers_time_is_not_kept(server, good) -> None:
    """A hurried caller must not spoil the domain for the next one, who has time."""
    turn: list[bytes] = []

    def talk(query: bytes) -> list[bytes]:
        turn.append(query)
        return good()(query) if len(turn) > 2 else []

    plan = asking(server(talk).address, Clock(), timeout=2)
    assert plan(seconds=0.2).state == "error"
    assert plan(seconds=5).state == "mx"


def test_what_needs_no_question_is_not_kept(server, good) -> None:
    resolver = Resolver((server(good()).address,))
    for domain in ("[192.0.2.1]", "a..b", "", "192.0.2.1"):
        resolver.plan(domain, Deadline(5))
    assert resolver._asker.plans.answers._entries == resolver._asker.plans.failures._entries == {}


def test_the_cache_is_bounded_by_what_is_in_it(server, good, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dnsasker, "MAX_WEIGHT", 20)
    one = server(good())
    resolver = Resolver((one.address,))
    for number in range(30):  # a plan with one host weighs two
        resolver.plan(f"d{number}.test", Deadline(5))
        resolver.plan("d0.test", Deadline(5))  # in use: it stays
    assert len(one.queries) == 30
    assert weight(resolver) == 20
    assert "d0.test" in resolver._asker.plans.answers._entries
    assert "d1.test" not in resolver._asker.plans.answers._entries


def test_one_plan_larger_than_the_cache_is_given_but_not_kept(server, good, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dnsasker, "MAX_WEIGHT", 1)
    resolver = Resolver((server(good()).address,))
    assert resolver.plan("a.test", Deadline(5)).primary == ("mx.test",)
    assert (resolver._asker.plans.answers._entries, weight(resolver)) == ({}, 0)


def test_threads_share_it(server, good, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dnsasker, "MAX_WEIGHT", 10)
    monkeypatch.setattr(dnsasker, "MIN_TTL", 0)
    resolver = Resolver((server(good(ttl=0)).address,), timeout=5)
    states: list[str] = []

    def work() -> None:
        states.extend(resolver.plan(f"d{number % 9}.test", Deadline(30)).state for number in range(40))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert states == ["mx"] * 160
    assert weight(resolver) <= 10


def switching(server, good):
    """A server that can be told to fail, and the resolver that asks it."""
    failing: list[bool] = []

    def talk(query: bytes) -> list[bytes]:
        return [query[:2] + b"\x81\x82" + bytes(8)] if failing else good(ttl=300)(query)

    one, clock = server(talk), Clock()
    return one, clock, Resolver((one.address,), timeout=0.3, clock=clock), failing


def test_an_expired_plan_is_given_where_dns_fails_and_the_caller_allows(server, good) -> None:
    _, clock, resolver, failing = switching(server, good)
    fresh = resolver.plan("a.test", Deadline(5), stale=3600)
    assert (fresh.state, fresh.stale) == ("mx", False)
    failing.append(True)
    clock.now += 300 + 3599
    old = resolver.plan("A.test", Deadline(5), stale=3600)
    assert (old.state, old.hosts, old.outcome, old.stale) == ("mx", fresh.hosts, "deliver", True)
    assert "SERVFAIL" in old.notes[-1]
    assert not fresh.stale  # the one in the cache is as it was
    assert resolver.plan("a.test", Deadline(5)).state == "error"
    clock.now += 2
    assert resolver.plan("a.test", Deadline(5), stale=3600).state == "error"


def test_a_failure_does_not_push_out_the_older_answer_and_does_not_outlive_a_newer_one(server, good) -> None:
    one, clock, resolver, failing = switching(server, good)
    resolver.plan("a.test", Deadline(5))
    failing.append(True)
    clock.now += 301
    for _ in range(3):
        assert resolver.plan("a.test", Deadline(5), stale=60).stale
    assert len(one.queries) == 2  # a failure is remembered for who is content with an old answer too
    failing.clear()
    clock.now += dnsasker.FAILURE_TTL + 0.1
    plan = resolver.plan("a.test", Deadline(5), stale=60)
    assert (plan.state, plan.stale) == ("mx", False)


def test_the_hurried_do_not_wait_again_for_what_was_too_slow_for_them(server) -> None:
    one = server(lambda _query: [])
    resolver = Resolver((one.address,), timeout=2)
    assert resolver.plan("a.test", Deadline(0.2)).state == "error"
    asked = len(one.queries)
    assert resolver.plan("a.test", Deadline(0.2)).state == "error"
    assert len(one.queries) == asked
    assert resolver.plan("a.test", Deadline(0.6)).state == "error"
    assert len(one.queries) > asked


def test_threads_that_want_the_same_ask_once(server, good) -> None:
    def slow(query: bytes) -> list[bytes]:
        time.sleep(0.3)
        return good()(query)

    one = server(slow)
    resolver = Resolver((one.address,), timeout=5)
    plans: list[object] = []
    threads = [
        threading.Thread(target=lambda: plans.append(resolver.plan("a.test", Deadline(5)).primary)) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (plans, len(one.queries)) == ([("mx.test",)] * 8, 1)


def test_who_waits_for_another_does_so_no_longer_than_its_own_deadline(server) -> None:
    resolver = Resolver((server(lambda _query: []).address,), timeout=2)
    patient = threading.Thread(target=lambda: resolver.plan("a.test", Deadline(1.5)))
    patient.start()
    time.sleep(0.2)
    start = time.monotonic()
    plan = resolver.plan("a.test", Deadline(0.3))
    assert time.monotonic() - start < 0.8
    assert (plan.state, plan.outcome.split()[:2]) == ("error", ["defer", "4.4.3"])
    patient.join()
    assert resolver._asker._turns._gates == {}
