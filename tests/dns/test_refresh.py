"""What is asked for again while nobody waits: answers that have expired or are about to; and servers that fail then."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import dns.message
import dns.rrset
import pytest

from postroom import dns as postroom_dns
from postroom import dnsasker, dnscache
from postroom.deadline import Deadline
from postroom.dns import Resolver
from postroom.dnscache import LAST, Refresher
from postroom.dnsshared import PREFETCH_USES, REFRESH_WINDOW, Shared

TTL = 300


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Voice:
    """A server whose answer and manners change: a host, or what to do with the query instead."""

    def __init__(self) -> None:
        self.host = "mx1.test."
        self.instead: Callable[[bytes], list[bytes]] | None = None

    def __call__(self, query: bytes) -> list[bytes]:
        if self.instead is not None:
            return self.instead(query)
        message = dns.message.from_wire(query)
        reply = dns.message.make_response(message, recursion_available=True)
        if self.host:
            reply.answer.append(dns.rrset.from_text(message.question[0].name, TTL, "IN", "MX", f"10 {self.host}"))
        else:
            reply.set_rcode(3)
            reply.authority.append(dns.rrset.from_text("test.", TTL, "IN", "SOA", f"n.test. h.test. 1 2 3 4 {TTL}"))
        return [reply.to_wire()]


def silent(_query: bytes) -> list[bytes]:
    return []


def servfail(query: bytes) -> list[bytes]:
    return [query[:2] + b"\x81\x82" + bytes(8)]


def garbage(query: bytes) -> list[bytes]:
    """The header of an answer, with noise behind it; then noise alone."""
    return [query[:2] + b"\x81\x80" + query[4:6] + b"\xff" * 6 + query[12:] + b"\xc0\xff" * 40, b"\xff" * 30, b""]


def slow(query: bytes) -> list[bytes]:
    """Five seconds against the time-out of half a minute, in the proportion that a test has time for."""
    time.sleep(0.4)
    return servfail(query)


def late(query: bytes) -> list[bytes]:
    time.sleep(0.25)
    return servfail(query)


@pytest.fixture
def shared() -> Iterator[Shared]:
    one = Shared(256)
    postroom_dns.share(one)
    yield one
    settle(one)
    postroom_dns.share(None)
    one.close()


def settle(shared: Shared) -> None:
    """Until nothing is asked for in the background."""
    end = time.monotonic() + 10
    while shared.refresher._threads:
        assert time.monotonic() < end, "a thread never ended"
        time.sleep(0.002)


@pytest.fixture
def stage(server, shared: Shared):
    voice, clock = Voice(), Clock()
    one = server(voice)
    return voice, clock, one, Resolver((one.address,), timeout=0.3, clock=clock)


def host(plan: object) -> str:
    return getattr(plan, "primary", ("",))[0]


def test_an_expired_plan_is_given_at_once_and_asked_for_meanwhile(stage, shared: Shared) -> None:
    voice, clock, one, resolver = stage
    resolver.plan("a.test", Deadline(5))
    voice.host = "mx2.test."
    clock.now += TTL + REFRESH_WINDOW - 1
    assert host(resolver.plan("a.test", Deadline(5))) == "mx1.test"
    settle(shared)
    assert len(one.queries) == 2
    assert host(resolver.plan("a.test", Deadline(5))) == "mx2.test"
    assert len(one.queries) == 2
    assert (postroom_dns.counts["refreshed"], postroom_dns.counts["misses"]) == (1, 1)


def test_past_the_window_it_is_waited_for(stage, shared: Shared) -> None:
    voice, clock, one, resolver = stage
    resolver.plan("a.test", Deadline(5))
    voice.host = "mx2.test."
    clock.now += TTL + REFRESH_WINDOW
    assert resolver.peek("a.test") is None
    assert host(resolver.plan("a.test", Deadline(5))) == "mx2.test"
    assert len(one.queries) == 2
    assert postroom_dns.counts["refreshed"] == 0


def test_many_who_want_what_has_expired_ask_once_and_do_not_wait(stage, shared: Shared) -> None:
    voice, clock, one, resolver = stage
    resolver.plan("a.test", Deadline(5))
    clock.now += TTL + 1
    voice.instead = late
    start = time.monotonic()
    assert {host(resolver.plan("a.test", Deadline(5))) for _ in range(100)} == {"mx1.test"}
    assert host(resolver.peek("a.test")) == "mx1.test"
    assert time.monotonic() - start < 0.2
    settle(shared)
    assert len(one.queries) == 2


def test_that_there_is_nothing_is_not_said_past_its_time(stage, shared: Shared) -> None:
    """A domain that has come to life would be refused for it."""
    voice, clock, _one, resolver = stage
    voice.host = ""
    assert resolver.plan("a.test", Deadline(5)).state == "none"
    voice.host = "mx1.test."
    clock.now += TTL - 1
    assert resolver.plan("a.test", Deadline(5)).state == "none"
    clock.now += 2
    assert resolver.plan("a.test", Deadline(5)).state == "mx"


def test_a_domain_that_is_gone_is_gone_with_the_next_question(stage, shared: Shared) -> None:
    voice, clock, _one, resolver = stage
    resolver.plan("a.test", Deadline(5))
    voice.host = ""
    clock.now += TTL + 1
    resolver.plan("a.test", Deadline(5))
    settle(shared)
    assert resolver.plan("a.test", Deadline(5)).state == "none"


def test_what_is_in_use_is_asked_for_before_it_expires(stage, shared: Shared) -> None:
    voice, clock, one, resolver = stage
    for _ in range(PREFETCH_USES):
        resolver.plan("a.test", Deadline(5))
    voice.host = "mx2.test."
    clock.now += TTL * (1 - LAST) - 1
    resolver.plan("a.test", Deadline(5))
    settle(shared)
    assert len(one.queries) == 1
    clock.now += 2
    assert host(resolver.plan("a.test", Deadline(5))) == "mx1.test"
    settle(shared)
    assert host(resolver.plan("a.test", Deadline(5))) == "mx2.test"
    assert (len(one.queries), postroom_dns.counts["prefetched"], postroom_dns.counts["misses"]) == (2, 1, 1)


def test_what_is_hardly_used_is_not(stage, shared: Shared) -> None:
    _voice, clock, one, resolver = stage
    for _ in range(PREFETCH_USES - 2):
        resolver.plan("a.test", Deadline(5))
    clock.now += TTL - 1
    resolver.plan("a.test", Deadline(5))
    settle(shared)
    assert len(one.queries) == 1


def test_answers_that_are_no_plans_are_fetched_before_they_expire_and_not_given_past_it(server, good, shared) -> None:
    one, clock = server(good(ttl=TTL, text="192.0.2.1", kind="A")), Clock()
    resolver = Resolver((one.address,), timeout=0.3, clock=clock)

    def listed() -> object:
        return resolver.dnsbl("2.0.0.127", ("bl.test",), Deadline(5))["bl.test"]

    for _ in range(PREFETCH_USES):
        assert listed() == ("192.0.2.1",)
    clock.now += TTL - 1
    listed()
    settle(shared)
    assert (len(one.queries), postroom_dns.counts["prefetched"]) == (2, 1)
    clock.now += TTL + 1
    one.talk = servfail
    assert getattr(listed(), "reason", "").startswith("SERVFAIL")


def test_what_another_process_has_asked_for_is_not_asked_for_again(stage, shared: Shared) -> None:
    """Two memories in front of one table are what two processes have."""
    voice, clock, one, resolver = stage
    again = (one.address,), 53, 0.3, "/etc/resolv.conf", clock
    mine, theirs = dnsasker.Asker(*again), dnsasker.Asker(*again)
    for _ in range(PREFETCH_USES):
        for asker in (mine, theirs):
            asker.plan("a.test", Deadline(5))
    assert len(one.queries) == 1
    clock.now += TTL - 1
    voice.host = "mx2.test."
    mine.plan("a.test", Deadline(5))
    settle(shared)
    assert host(theirs.plan("a.test", Deadline(5))) == "mx2.test"
    settle(shared)
    assert len(one.queries) == 2
    mine_again = [host(mine.plan("a.test", Deadline(5))), host(resolver.plan("b.test", Deadline(5)))]
    assert mine_again == ["mx2.test", "mx2.test"]


@pytest.mark.parametrize("instead", [silent, servfail, garbage, slow])
def test_a_plan_outlives_the_failures_of_its_window(stage, shared: Shared, instead) -> None:
    voice, clock, one, resolver = stage
    resolver.plan("a.test", Deadline(5))
    voice.instead = instead
    clock.now += TTL + 1
    for _ in range(3):
        assert host(resolver.plan("a.test", Deadline(5))) == "mx1.test"
        settle(shared)
    failed = len(one.queries)
    clock.now += dnsasker.FAILURE_TTL + 0.1
    assert host(resolver.plan("a.test", Deadline(5))) == "mx1.test"  # and asks again
    settle(shared)
    assert len(one.queries) == failed + (failed - 1)
    clock.now += REFRESH_WINDOW
    start = time.monotonic()
    assert resolver.plan("a.test", Deadline(1)).state == "error"
    assert time.monotonic() - start < 1.3
    voice.instead = None
    clock.now += dnsasker.FAILURE_TTL + 0.1
    assert host(resolver.plan("a.test", Deadline(5))) == "mx1.test"


def test_a_server_that_was_stopped_and_comes_back(stage, shared: Shared) -> None:
    _voice, clock, one, resolver = stage
    resolver.plan("a.test", Deadline(5))
    one.stop()
    clock.now += TTL + 1
    assert host(resolver.plan("a.test", Deadline(5))) == "mx1.test"
    settle(shared)
    clock.now += REFRESH_WINDOW
    plan = resolver.plan("a.test", Deadline(5))
    assert (plan.state, "refused" in plan.reason) == ("error", True)
    assert host(resolver.plan("a.test", Deadline(5), stale=3600)) == "mx1.test"


def test_alone_nothing_is_asked_in_the_background(server, good) -> None:
    one, clock = server(good(ttl=TTL)), Clock()
    resolver = Resolver((one.address,), clock=clock)
    threads = threading.active_count()
    for _ in range(3 * PREFETCH_USES):
        resolver.plan("a.test", Deadline(5))
    clock.now += TTL - 1
    resolver.plan("a.test", Deadline(5))
    assert (len(one.queries), threading.active_count()) == (1, threads)
    clock.now += 2
    resolver.plan("a.test", Deadline(5))
    assert len(one.queries) == 2


def test_the_hosts_clock_may_jump(server, good, shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    one = server(good(ttl=TTL))
    resolver = Resolver((one.address,))
    plan = resolver.plan("a.test", Deadline(5))
    real = time.time
    for jump in (3600, -7200, 86400 * 365):
        monkeypatch.setattr(time, "time", lambda jump=jump: real() + jump)
        assert resolver.plan("a.test", Deadline(5)) is plan
    assert len(one.queries) == 1


# The queue


def test_the_queue_has_an_end_and_few_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dnscache, "REFRESH_LIMIT", 10)
    refresher, gate, done, together = Refresher(), threading.Event(), [], []

    def work(number: int) -> None:
        together.append(refresher._threads)
        gate.wait(10)
        done.append(number)

    for number in range(50):
        for _ in range(2):
            refresher.want(number, lambda number=number: work(number))
    gate.set()
    end = time.monotonic() + 10
    while refresher._threads and time.monotonic() < end:
        time.sleep(0.002)
    assert len(done) == len(set(done))
    assert 10 <= len(done) <= 10 + dnscache.REFRESH_THREADS
    assert max(together) <= dnscache.REFRESH_THREADS
    assert not refresher._queue
    assert not refresher._busy


def test_a_bug_in_one_answer_is_logged_and_costs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    from postroom import log

    said: list[str] = []
    monkeypatch.setattr(log, "error", lambda _id, **fields: said.append(fields["text"]))
    refresher, done = Refresher(), threading.Event()
    refresher.want("bad", lambda: {}["nothing"])
    refresher.want("good", done.set)
    assert done.wait(10)
    while refresher._threads:
        time.sleep(0.002)
    assert len(said) == 1
    assert "KeyError" in said[0]


def test_no_thread_to_be_had_is_a_refresh_some_other_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> None:
        raise RuntimeError("can't start new thread")

    refresher, done = Refresher(), threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(dnscache, "start_new_thread", refuse)
        refresher.want("a", done.set)
    assert not done.is_set()
    refresher.want("a", done.set)
    assert done.wait(10)
