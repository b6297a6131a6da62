"""Durable changes of the state a second: one by one, in shared commits, and by a crowd of programs that write alone.

    python benchmarks/state.py [--seconds S] [--rounds N] [--directory DIR]

Measured in turns, one after the other in each round, in a new state each, in DIR (its disk is what counts; default: the
current one). A durable change is an upsert with synchronous = FULL, a delivery a claim and a record of its outcome,
as rule-deliver makes them; the store of a process is open all the time.

    alone            one process with a store of its own: one commit, one fsync, each
    crowd            twenty of those at the same time, who take turns: their longest wait is what matters
    busy             the same twenty on SQLite's own busy handler, without turns
    shared PxT       P processes of T threads, whose changes share commits (postroom.store.grouped)
    deliveries       one process alone, and in shared commits

Exit status 1: an aim is missed (AIMS).
"""

import argparse
import os
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

from postroom import store
from postroom.deadline import Deadline
from postroom.store import engine, grouped

PATIENCE = 600.0
CROWD = 20
UPSERT = "INSERT INTO tally VALUES (?, 1) ON CONFLICT (name) DO UPDATE SET rows = rows + 1"


def durable(directory: str, name: str) -> Callable[[int], object]:
    one: Any = store.open(directory, Deadline(PATIENCE))
    return lambda turn: one.write(lambda c: c.execute(UPSERT, (f"{name} {turn % 100}",)), "FULL")


def delivery(directory: str, name: str) -> Callable[[int], object]:
    def deliver(turn: int) -> None:
        one = store.open(directory, Deadline(PATIENCE))
        key = f"{name} {turn}".encode()
        one.claim(key)
        one.done(key, "2.0.0 sent")

    kept = store.open(directory, Deadline(PATIENCE))
    if isinstance(kept, grouped.GroupedStore):
        return deliver
    return lambda turn: (kept.claim(f"{name} {turn}".encode()), kept.done(f"{name} {turn}".encode(), "2.0.0 sent"))


def bare(directory: str, name: str) -> Callable[[int], object]:
    """Without turns, each waiting as SQLite has it wait."""
    connection = sqlite3.connect(f"{directory}/state.db", timeout=PATIENCE, isolation_level=None)
    connection.execute("PRAGMA wal_autocheckpoint = 100")
    return lambda turn: engine.transaction(connection, lambda c: c.execute(UPSERT, (f"{name} {turn % 100}",)), "FULL")


# Name: what is done, processes, threads of each, whether they share.
ROWS: dict[str, tuple[Callable[[str, str], Callable[[int], object]], int, int, bool]] = {
    "alone": (durable, 1, 1, False),
    "crowd": (durable, CROWD, 1, False),
    "busy": (bare, CROWD, 1, False),
    "shared 1x1": (durable, 1, 1, True),
    "shared 1x16": (durable, 1, 16, True),
    "shared 2x16": (durable, 2, 16, True),
    "shared 2x64": (durable, 2, 64, True),
    "deliveries alone": (delivery, 1, 1, False),
    "deliveries 2x16": (delivery, 2, 16, True),
}
# What is to be at least, or at most for milliseconds: of the medians of the rounds' ratios, and of the longest waits.
AIMS = {"shared 2x16 / alone": 10.0, "crowd / alone": 0.7, "longest wait in the crowd, ms": 150.0}


class Measured:
    def __init__(self, waits: list[float], seconds: float) -> None:
        waits.sort()
        self.rate = len(waits) / seconds
        self.median, self.late, self.longest = (
            1000 * waits[place] for place in (len(waits) // 2, len(waits) * 99 // 100, -1)
        )


def work(act: Callable[[int], object], until: float, waits: list[float]) -> None:
    turn, now = 0, time.monotonic()
    while now < until:
        act(turn)
        then, now = now, time.monotonic()
        waits.append(now - then)
        turn += 1


def process(name: str, directory: str, number: int, until: float, writer: int) -> None:
    prepare, _, threads, shared = ROWS[name]
    if shared:
        store.share(grouped.open)
    waits: list[list[float]] = [[] for _ in range(threads)]

    def run(thread: int) -> None:
        work(prepare(directory, f"{number}.{thread}"), until, waits[thread])

    started = [threading.Thread(target=run, args=(thread,)) for thread in range(threads)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    with os.fdopen(writer, "w") as out:
        out.writelines(f"{wait!r}\n" for each in waits for wait in each)


def measure(name: str, place: str, seconds: float) -> Measured:
    with tempfile.TemporaryDirectory(dir=place) as directory:
        made = store.open(directory, Deadline(PATIENCE))
        made.claim(b"made")
        made.close()
        readers = []
        until = time.monotonic() + 0.2 + seconds
        for number in range(ROWS[name][1]):
            reader, writer = os.pipe()
            if os.fork() == 0:
                process(name, directory, number, until, writer)
                os._exit(0)
            os.close(writer)
            readers.append(os.fdopen(reader))
        waits = [float(line) for reader in readers for line in reader]
        for _ in readers:
            os.wait()
        return Measured(waits, seconds + 0.2)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--directory", default=".")
    options = parser.parse_args()
    rounds = [{name: measure(name, options.directory, options.seconds) for name in ROWS} for _ in range(options.rounds)]
    print(f"{'':18} {'a second (min-max)':>24} {'x alone':>8} {'p50 ms':>8} {'p99 ms':>8} {'longest ms':>11}")
    ratio = {}
    for name in ROWS:
        found = [measured[name] for measured in rounds]
        rates = sorted(one.rate for one in found)
        base = "deliveries alone" if name.startswith("deliveries") else "alone"
        ratio[name] = statistics.median(measured[name].rate / measured[base].rate for measured in rounds)
        numbers = (statistics.median(getattr(one, part) for one in found) for part in ("median", "late", "longest"))
        spread = f"{statistics.median(rates):,.0f} ({rates[0]:,.0f}-{rates[-1]:,.0f})"
        print(f"{name:18} {spread:>24} {ratio[name]:8.2f} {'{:8.2f} {:8.2f} {:11.1f}'.format(*numbers)}")
    longest = statistics.median(measured["crowd"].longest for measured in rounds)
    met = (ratio["shared 2x16"], ratio["crowd"], -longest)
    return int(any(got < (-aim if got < 0 else aim) for got, aim in zip(met, AIMS.values(), strict=True)))


if __name__ == "__main__":
    sys.exit(main())
