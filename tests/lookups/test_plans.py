"""The resolver for routing: what it remembers, for how long, and whom it leaves alone."""

import os
import resource
import signal
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroom import dns, plans
from postroom.deadline import Deadline
from postroom.dnsshared import Shared
from postroom.mx import Plan
from postroom.plans import FAILURES, MAX_PLANS, PAUSE, SAVE_INTERVAL, LastingResolver, Memory, Pauses

GOOD = Plan("a.test", "mx", ((10, "mx1.a.test"), (20, "mx2.a.test")), 300)
FAILED = Plan("a.test", "error", reason="TIMEOUT")


class Clock:
    def __init__(self) -> None:
        self.time = 1_800_000_000.0

    def __call__(self) -> float:
        return self.time


def hosts(plan: Plan | None) -> object:
    return None if plan is None else (plan.state, plan.hosts)


def test_another_process_recalls_what_one_has_learnt(tmp_path: Path) -> None:
    path = str(tmp_path / "cache" / "plans")
    Memory(path).learn("a.test", GOOD)
    assert hosts(Memory(path).recall("a.test", 60)) == hosts(GOOD)
    assert Memory(path).recall("b.test", 60) is None
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path / "cache") == ["plans"]


def test_a_plan_is_recalled_for_its_ttl_and_as_long_as_is_allowed_after(tmp_path: Path) -> None:
    now = Clock()
    memory = Memory(str(tmp_path / "plans"), now)
    memory.learn("a.test", GOOD)
    now.time += 300 + 60
    assert memory.recall("a.test", 60) is GOOD
    now.time += 1
    assert memory.recall("a.test", 60) is None
    assert memory.recall("a.test", 61) is GOOD


def test_what_the_resolver_gives_again_grows_old_all_the_same(tmp_path: Path) -> None:
    """From its cache it gives the same object: that DNS was asked must not be read into it."""
    now = Clock()
    memory = Memory(str(tmp_path / "plans"), now)
    memory.learn("a.test", GOOD)
    now.time += 400
    memory.learn("a.test", GOOD)
    assert memory.recall("a.test", 60) is None


def test_a_clock_that_was_wrong_leaves_nothing_behind(tmp_path: Path) -> None:
    now = Clock()
    memory = Memory(str(tmp_path / "plans"), now)
    now.time += 86400 * 365
    memory.learn("a.test", GOOD)
    now.time -= 86400 * 365
    assert memory.recall("a.test", 86400) is None


def test_two_processes_add_to_one_file_and_it_is_written_now_and_then(tmp_path: Path) -> None:
    path, clock = str(tmp_path / "plans"), Clock()
    one, two = Memory(path, clock=clock), Memory(path, clock=clock)
    one.learn("a.test", GOOD)
    two.learn("b.test", GOOD)
    assert hosts(Memory(path).recall("a.test", 60)) == hosts(Memory(path).recall("b.test", 60)) == hosts(GOOD)
    one.learn("c.test", GOOD)
    assert Memory(path).recall("c.test", 60) is None
    clock.time += SAVE_INTERVAL
    one.learn("c.test", GOOD)
    assert hosts(Memory(path).recall("c.test", 60)) == hosts(GOOD)
    assert hosts(Memory(path).recall("b.test", 60)) == hosts(GOOD)


def test_the_oldest_go_where_there_are_too_many(tmp_path: Path) -> None:
    path, clock = tmp_path / "plans", Clock()
    memory = Memory(str(path), clock=clock)
    for number in range(MAX_PLANS + 10):
        memory.learn(f"d{number}.test", Plan("d", "implicit", ((0, "d"),), 60))
    clock.time += SAVE_INTERVAL
    memory.learn("last.test", GOOD)
    lines = path.read_text().splitlines()
    assert len(lines) == MAX_PLANS
    assert any(line.startswith("last.test ") for line in lines)
    assert path.stat().st_size < plans.FILE_LIMIT


@pytest.mark.parametrize("state", ["error", "literal"])
def test_what_is_no_answer_of_dns_is_not_kept(state: str, tmp_path: Path) -> None:
    Memory(str(tmp_path / "plans")).learn("a.test", Plan("a.test", state))
    assert not (tmp_path / "plans").exists()


@pytest.mark.parametrize("key", ["a b.test", "a\nb.test", "a\0.test", "\udcff.test"])
def test_a_name_that_would_break_the_file_is_not_kept(key: str, tmp_path: Path) -> None:
    Memory(str(tmp_path / "plans")).learn(key, GOOD)
    assert not (tmp_path / "plans").exists()


@given(st.binary(max_size=200))
def test_a_damaged_file_is_read_as_far_as_it_can_be(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("plans") / "plans"
    Memory(str(path)).learn("a.test", GOOD)
    path.write_bytes(data + b"\n" + path.read_bytes())
    assert hosts(Memory(str(path)).recall("a.test", 60)) == hosts(GOOD)


def test_a_file_of_somebody_else_or_none_that_can_be_read_is_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "plans"
    Memory(str(path)).learn("a.test", GOOD)
    path.chmod(0o666)
    assert Memory(str(path)).recall("a.test", 60) is None
    path.chmod(0o600)
    os.chown(path, 65534, 65534)
    assert Memory(str(path)).recall("a.test", 60) is None
    path.unlink()
    path.symlink_to("/etc/passwd")
    assert Memory(str(path)).recall("root:x:0:0:root:/root:/bin/bash", 60) is None
    path.unlink()
    os.mkfifo(path)
    assert Memory(str(path)).recall("a.test", 60) is None


def test_a_state_that_cannot_be_written_is_a_memory_of_this_process(tmp_path: Path) -> None:
    memory = Memory("/proc/nothing/cache/plans")
    memory.learn("a.test", GOOD)
    assert memory.recall("a.test", 60) is GOOD


def test_a_domain_that_failed_is_left_alone_for_a_moment() -> None:
    clock = Clock()
    pauses = Pauses(clock)
    assert pauses.get("a.test") is None
    pauses.note("a.test", FAILED, silent=True)
    assert pauses.get("a.test") is FAILED
    assert pauses.get("b.test") is None
    clock.time += PAUSE
    assert pauses.get("a.test") is None


def test_after_several_that_were_met_by_silence_none_is_asked() -> None:
    clock = Clock()
    pauses = Pauses(clock)
    for number in range(FAILURES):
        assert pauses.get("other.test") is None
        pauses.note(f"d{number}.test", FAILED, silent=True)
    assert getattr(pauses.get("other.test"), "state", "") == "error"
    clock.time += PAUSE
    assert pauses.get("other.test") is None


def test_an_answer_in_between_or_a_failure_that_is_one_speaks_for_the_server() -> None:
    pauses = Pauses(Clock())
    for number in range(FAILURES * 3):
        pauses.note(f"d{number}.test", FAILED, silent=number % FAILURES != 0)
        if number % FAILURES == 0:
            pauses.note("good.test", GOOD, silent=False)
    assert pauses.get("other.test") is None


def test_silence_costs_its_deadline_a_few_times_and_not_more(tmp_path: Path, silent_server: SimpleNamespace) -> None:
    resolver = LastingResolver((silent_server.address,), 53, 2.0, str(tmp_path / "plans"))
    resolver.memory.learn("d9.test", GOOD)
    resolver.stale = 60.0
    start = time.monotonic()
    found = [resolver.plan(f"d{number}.test", Deadline(0.2)).state for number in range(10)]
    assert time.monotonic() - start < 0.2 * FAILURES + 0.5
    assert found == ["error"] * 9 + ["mx"]


def test_without_stale_it_is_the_resolver_that_it_is(tmp_path: Path, silent_server: SimpleNamespace) -> None:
    resolver = LastingResolver((silent_server.address,), 53, 2.0, str(tmp_path / "plans"))
    resolver.memory.learn("a.test", GOOD)
    assert resolver.plan("a.test", Deadline(0.1)).state == "error"
    assert resolver.pauses.get("a.test") is None


# Threads of the resident


def test_a_full_disk_leaves_no_draft_and_the_file_as_it_was(tmp_path: Path) -> None:
    """A limit for the size of a file does what a full disk does: part of it, then nothing."""
    clock = Clock()
    memory = Memory(str(tmp_path / "plans"), clock=clock)
    memory.learn("a.test", GOOD)
    before = (tmp_path / "plans").read_bytes()
    memory.learn("b.test", GOOD)
    clock.time += SAVE_INTERVAL
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 5, limit[1]))
    try:
        memory.learn("c.test", GOOD)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert os.listdir(tmp_path) == ["plans"]
    assert (tmp_path / "plans").read_bytes() == before
    assert memory.recall("c.test", 60) is GOOD


def test_threads_learn_recall_and_write_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "SAVE_INTERVAL", 0.0)
    monkeypatch.setattr(plans, "MAX_PLANS", 50)
    memory, wrong, done = Memory(str(tmp_path / "plans")), [], []

    def work(number: int) -> None:
        for turn in range(150):
            key = f"d{(turn * 7 + number) % 80}.test"
            memory.learn(key, Plan(key, "mx", ((10, f"mx.{key}"),), 300))
            found = memory.recall(key, 60)
            if found is not None and found.primary != (f"mx.{key}",):
                wrong.append((key, found))
        done.append(number)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert (wrong, sorted(done)) == ([], list(range(8)))
    assert len(memory._known) <= 50
    assert os.listdir(tmp_path) == ["plans"]
    lines = (tmp_path / "plans").read_text().splitlines()
    assert len(lines) == 50
    assert all(line.split()[-1] == f"10:mx.{line.split()[0]}" for line in lines)


def test_who_comes_while_another_thread_writes_does_not_wait(tmp_path: Path) -> None:
    memory = Memory(str(tmp_path / "plans"))
    memory._pen.acquire()
    memory.learn("a.test", GOOD)
    assert os.listdir(tmp_path) == []
    memory._pen.release()
    memory.learn("a.test", GOOD)
    assert hosts(Memory(str(tmp_path / "plans")).recall("a.test", 60)) == hosts(GOOD)


def test_in_the_resident_all_lookups_have_one_memory_and_pause_together(
    tmp_path: Path, silent_server: SimpleNamespace
) -> None:
    shared = Shared(64)
    dns.share(shared)
    try:
        one, two = (LastingResolver((silent_server.address,), 53, 2.0, str(tmp_path / "plans")) for _ in range(2))
        one.memory.learn("a.test", GOOD)
        assert hosts(two.memory.recall("a.test", 60)) == hosts(GOOD)
        assert one.plan("b.test", Deadline(0.2), stale=60).state == "error"
        start = time.monotonic()
        assert two.plan("b.test", Deadline(5), stale=60).state == "error"
        assert time.monotonic() - start < 0.1
    finally:
        dns.share(None)
        shared.close()


def test_peek_leaves_files_to_plan(tmp_path: Path, silent_server: SimpleNamespace) -> None:
    resolver = LastingResolver((silent_server.address,), 53, 2.0, str(tmp_path / "plans"))
    resolver.stale = 60.0
    assert resolver.peek("a.test") is None
    resolver._asker.plans.keep("a.test", GOOD, 3, time.monotonic(), 300)
    assert resolver.peek("a.test") is None  # it is to be written down
    assert os.listdir(tmp_path) == []
    assert resolver.plan("A.test", Deadline(0.1)) is GOOD
    assert os.listdir(tmp_path) == ["plans"]
    assert resolver.peek("A.test") is GOOD
    resolver._asker.plans.fail("b.test", FAILED, float("inf"), time.monotonic(), 5)
    assert resolver.peek("b.test") is None  # the file may know it
    resolver.stale = 0.0
    assert resolver.peek("b.test") is FAILED


def test_the_file_is_read_again_only_when_it_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, clock, read = str(tmp_path / "plans"), Clock(), []
    Memory(path).learn("a.test", GOOD)
    memory, pair = Memory(path), plans._pair
    monkeypatch.setattr(plans, "_pair", lambda line: read.append(line) or pair(line))
    for _ in range(5):
        assert hosts(memory.recall("a.test", 60)) == hosts(GOOD)
    assert read.count(read[0]) == 1
    Memory(path, clock=clock).learn("b.test", GOOD)
    assert hosts(memory.recall("b.test", 60)) == hosts(GOOD)
