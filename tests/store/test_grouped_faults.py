"""The shared store under what one fears: killed, locked out, a full disk, a crowd of processes, readers without end."""

from __future__ import annotations

import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from postroom import store
from postroom.deadline import Deadline
from postroom.status import Fault
from postroom.store import Event, Suppression, grouped, wal

Spawn = Callable[..., Any]
Tell = Callable[[bytes], None]


def together(number: int, work: Callable[[int], None]) -> None:
    """`work` in so many threads, to the end of all of them."""
    threads = [threading.Thread(target=work, args=(n,)) for n in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)


def integrity(state: Path) -> str:
    connection = sqlite3.connect(state / "state.db")
    try:
        return str(connection.execute("PRAGMA integrity_check").fetchone()[0])
    finally:
        connection.close()


def test_who_was_answered_finds_it_after_a_kill_at_any_moment(state: Path, spawn: Spawn) -> None:
    rounds, threads = 60, 8

    def service(tell: Tell) -> None:
        store.share(grouped.open)

        def write(number: int) -> None:
            one = store.open(str(state), Deadline(20))
            for turn in range(10**6):
                key = b"%d %d %d" % (os.getpid(), number, turn)
                if number % 2:
                    one.record(Event(key, int(time.time()), "failed", fields={"a": "b"}))
                else:
                    one.claim(key)
                    one.done(key, "2.0.0 ok")
                tell(key + b"\n")

        together(threads, write)

    store.open(str(state), Deadline(5)).claim(b"made")
    chance = random.Random(7)
    answered: set[bytes] = set()
    for _ in range(rounds):
        process = spawn(service)
        time.sleep(chance.uniform(0.03, 0.15))
        process.kill()
        answered.update(process.heard().splitlines())
        assert process.end() == -9
    one = store.open(str(state), Deadline(5))
    events = {event.key: event.fields for event in one.events()}
    connection = sqlite3.connect(state / "state.db")
    done = {row[0] for row in connection.execute("SELECT key FROM deliveries WHERE outcome IS NOT NULL")}
    connection.close()
    assert len(answered) > rounds
    assert answered <= set(events) | done
    assert all(fields == {"a": "b"} for fields in events.values()), "an event was recorded in part"
    assert len(set(events) | done) <= len(answered) + rounds * threads, "more than what was under way at each kill"
    assert integrity(state) == "ok"


def test_locked_by_an_outsider_each_is_told_at_its_deadline_then_all_goes_on(
    state: Path, spawn: Spawn, shared: None
) -> None:
    def hold(tell: Tell) -> None:
        connection = sqlite3.connect(state / "state.db", isolation_level=None)
        connection.execute("BEGIN EXCLUSIVE")
        tell(b"held")
        time.sleep(3)
        connection.execute("ROLLBACK")

    store.open(str(state), Deadline(5)).claim(b"made")
    process = spawn(hold)
    assert os.read(process.reader, 4) == b"held"
    took: dict[int, float] = {}
    faults: dict[int, str] = {}

    def write(number: int) -> None:
        begin = time.monotonic()
        try:
            seconds = 0.5 if number % 2 else 20
            store.open(str(state), Deadline(seconds)).done(b"%d" % number, "2.0.0 ok")
        except Fault as fault:
            faults[number] = str(fault)
        took[number] = time.monotonic() - begin

    together(16, write)
    assert faults == dict.fromkeys(range(1, 16, 2), "the state is locked")
    assert all(0.4 < took[number] < 2 for number in faults)
    assert all(2 < took[number] < 6 for number in set(took) - set(faults))
    assert process.end() == 0
    one = store.open(str(state), Deadline(5))
    assert [one.claim(b"%d" % number) for number in range(16)] == ["2.0.0 ok", None] * 8


def test_a_full_disk_is_told_to_all_of_a_commit_and_heals(small_disk: Path, shared: None) -> None:
    """Whoever was answered finds it, whoever was not does not: then and after it has healed."""
    store.open(str(small_disk), Deadline(5)).done(b"before", "2.0.0 ok")
    with (small_disk / "filler").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(b"x" * 4096)
    answered: set[bytes] = set()
    faults: list[str] = []

    def write(number: int) -> None:
        one = store.open(str(small_disk), Deadline(5))
        for turn in range(30):
            key = b"%d %d" % (number, turn)
            try:
                one.record(Event(key, int(time.time()), "failed", fields={"subject": "x" * 900}))
                answered.add(key)
            except Fault as fault:
                faults.append(str(fault))

    together(8, write)
    assert set(faults) == {"no room to keep state"}
    one = store.open(str(small_disk), Deadline(5))
    assert {event.key for event in one.events()} == answered
    (small_disk / "filler").unlink()
    told = len(answered)
    write(-1)
    assert len(answered) > told
    assert one.claim(b"before") == "2.0.0 ok"
    grouped.close()
    assert integrity(small_disk) == "ok"


def test_two_services_and_programs_alone_let_exactly_the_limit_pass(state: Path, spawn: Spawn) -> None:
    limit = 150
    limits = ((limit, 3600.0), (10**6, 86400.0))

    def service(tell: Tell) -> None:
        store.share(grouped.open)
        passed = []

        def ask(number: int) -> None:
            one = store.open(str(state), Deadline(60))
            passed.append(sum(one.rate("r", ("bob",), limits) == 0 for _ in range(8)))

        together(25, ask)
        tell(b"%d" % sum(passed))

    def program(tell: Tell) -> None:
        tell(b"%d" % sum(store.open(str(state), Deadline(60)).rate("r", ("bob",), limits) == 0 for _ in range(8)))

    crowd = [spawn(service), *(spawn(program) for _ in range(4)), spawn(service), *(spawn(program) for _ in range(4))]
    passed = sum(int(process.heard()) for process in crowd)
    assert [process.end() for process in crowd] == [0] * len(crowd)
    assert passed == limit, "neither more nor fewer"
    assert [entry.used for entry in store.open(str(state), Deadline(5)).rates()] == [limit] * 2


def test_the_log_stays_short_under_sixteen_threads_that_never_stop_reading(
    state: Path, spawn: Spawn, shared: None
) -> None:
    """Without a moment of no readers the log would never begin anew; it grew by 3 KB a write."""

    def readers(tell: Tell) -> None:
        store.share(grouped.open)

        def read(number: int) -> None:
            one = store.open(str(state), Deadline(60))
            while True:
                one.suppression(f"a{number}@example.com")
                for _ in zip(range(100), one.met(), strict=False):  # a page of rows
                    pass
                time.sleep(0.001)

        together(16, read)

    def ten(connection: sqlite3.Connection) -> None:
        for _ in range(10):
            connection.execute("INSERT INTO seen VALUES (randomblob(16), 1, 9000000000000000000, 'a', 'b')")

    store.open(str(state), Deadline(5)).seen("rule", ("ann",), 600.0)
    grouped.close()
    process = spawn(readers)
    longest = 0

    def write(number: int) -> None:
        nonlocal longest
        one: Any = store.open(str(state), Deadline(60))
        for _ in range(100_000 // 10 // 32):
            one.write(ten, "NORMAL")
            longest = max(longest, (state / "state.db-wal").stat().st_size)

    together(32, write)
    process.kill()
    process.end()
    assert 0 < longest < 16 * wal.LOG_LIMIT
    store.open(str(state), Deadline(5)).suppress(Suppression("a@example.com", 1))
    assert store.open(str(state), Deadline(5)).counts()["seen"] > 99_000


def test_a_log_that_somebody_reads_for_long_is_left_until_it_has_grown(state: Path, tmp_path: Path) -> None:
    one: Any = store.open(str(state), Deadline(5))
    one.claim(b"made")
    reader = sqlite3.connect(state / "state.db", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM deliveries").fetchone()
    path = state / "state.db-wal"

    def fill(connection: sqlite3.Connection) -> None:
        for _ in range(100):
            connection.execute("INSERT INTO seen VALUES (randomblob(16), 1, 9000000000000000000, 'a', ?)", ("x" * 900,))

    before = time.monotonic()
    while path.stat().st_size < 2 * wal.LOG_LIMIT:
        one.write(fill, "NORMAL")
    assert time.monotonic() - before < 30, "and nobody waits for it each time"
    reader.execute("COMMIT")
    reader.close()
    for _ in range(60):
        one.write(fill, "NORMAL")
    assert path.stat().st_size < wal.LOG_LIMIT
    one.close()
