"""Two processes of sixteen threads ask for the same thousand names, whose answers soon expire and push each other out.

The server says in its answers for whom and when they are, and counts the questions for a name that come while it still
owes an answer for that name.
"""

from __future__ import annotations

import heapq
import json
import os
import random
import select
import socket
import sys
import threading
import time

import pytest

from postroom import dns, dnsasker, dnsshared
from postroom.deadline import Deadline
from postroom.dns import Resolver
from postroom.dnsshared import Shared
from postroom.mx import Plan

NAMES = 1000
PROCESSES = 2
THREADS = 16
SECONDS = 3.0

# What an answer is good for, and how much later it may be given while it is asked for anew.
HOLD = 0.4
WINDOW = 0.2

# For a thread that does not get its turn between being given an answer and looking at it.
SLACK = 2.0


class Server(threading.Thread):
    """Answers each question after one to eight milliseconds, whatever else it is asked meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.socket.bind(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.socket.getsockname()[1]}"
        self.stopped = False
        self.asked = self.overlaps = 0
        self.owed: list[tuple[float, bytes, bytes, tuple[str, int]]] = []
        self.names: set[bytes] = set()

    def run(self) -> None:
        while not self.stopped:
            wait = max(0.0, self.owed[0][0] - time.monotonic()) if self.owed else 0.05
            if select.select([self.socket], [], [], wait)[0]:
                query, client = self.socket.recvfrom(4096)
                self.take(query, client)
            while self.owed and self.owed[0][0] <= time.monotonic():
                _, name, query, client = heapq.heappop(self.owed)
                self.names.discard(name)
                self.socket.sendto(reply(query), client)

    def take(self, query: bytes, client: tuple[str, int]) -> None:
        name = question(query)
        self.asked += 1
        self.overlaps += name in self.names
        self.names.add(name)
        heapq.heappush(self.owed, (time.monotonic() + random.uniform(0.001, 0.008), name, query, client))


def question(query: bytes) -> bytes:
    return query[12 : query.index(b"\0", 12) + 5]


def reply(query: bytes) -> bytes:
    """One to three MX records, by the number in the name; each host says when it was, and is under the name."""
    asked = question(query)
    number = int(asked[2 : 1 + asked[0]])
    records = b""
    for host in range(number % 3 + 1):
        label = f"h{host}t{time.monotonic_ns() // 1_000_000}".encode()
        data = b"\0\x0a" + bytes([len(label)]) + label + b"\xc0\x0c"
        records += b"\xc0\x0c\0\x0f\0\x01\0\0\0\0" + len(data).to_bytes(2) + data
    return query[:2] + b"\x81\x80\0\1" + (number % 3 + 1).to_bytes(2) + b"\0\0\0\0" + asked + records


def wrong(name: str, plan: Plan) -> str:
    """What is wrong with the plan, by what the server says of the name."""
    hosts = [host.partition(".") for host in plan.every]
    if plan.state != "mx" or len(hosts) != int(name[1:-5]) % 3 + 1 or {parent for _, _, parent in hosts} != {name}:
        return f"{name}: {plan!r}"
    age = time.monotonic() - min(int(label.partition("t")[2]) for label, _, _ in hosts) / 1000
    return f"{name}: {age:.1f} s old" if age > HOLD + WINDOW + SLACK else ""


def hammer(address: str, faults: list[str], done: list[int]) -> None:
    """One thread's share: what is looked up often is as likely as all the rest."""
    resolver, chance = Resolver((address,), timeout=30), random.Random()
    end, count = time.monotonic() + SECONDS, 0
    while time.monotonic() < end:
        name = f"d{chance.randrange(20 if chance.random() < 0.5 else NAMES)}.test"
        plan = resolver.peek(name) if chance.random() < 0.5 else resolver.plan(name, Deadline(30))
        fault = "" if plan is None else wrong(name, plan)
        if fault:
            faults.append(fault)
        count += 1
    done.append(count)


def work(address: str, result: int) -> None:
    sys.setswitchinterval(1e-4)
    faults: list[str] = []
    done: list[int] = []
    threads = [threading.Thread(target=hammer, args=(address, faults, done)) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.write(result, json.dumps({"faults": faults[:5], "done": done, "counts": dns.counts}).encode())


def test_no_wrong_answer_and_one_question_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dnsasker, "MIN_TTL", HOLD)
    monkeypatch.setattr(dnsasker, "MAX_WEIGHT", 400)
    monkeypatch.setattr(dnsshared, "REFRESH_WINDOW", WINDOW)
    shared, server = Shared(512), Server()
    dns.share(shared)
    results = [fork(server.address) for _ in range(PROCESSES)]
    server.start()
    found = []
    try:
        for pid, result in results:
            with open(result, "rb") as file:
                found.append(json.loads(file.read()))
            assert os.waitpid(pid, 0)[1] == 0
    finally:
        server.stopped = True
        server.join()
        server.socket.close()
        dns.share(None)
        shared.close()
    assert [one["faults"] for one in found] == [[], []]
    assert [len(one["done"]) for one in found] == [THREADS] * PROCESSES
    assert server.overlaps == 0
    total = {name: sum(one["counts"][name] for one in found) for name in dns.counts}
    assert server.asked > NAMES
    assert server.asked <= total["misses"] + total["refreshed"] + total["prefetched"]
    assert total["hits"] > total["misses"]
    assert total["failures"] == 0
    assert min(total["refreshed"], total["prefetched"], total["in_flight_waits"]) > 0, total


def fork(address: str) -> tuple[int, int]:
    """Before there is a thread in this process."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        code = 1
        try:
            work(address, writing)
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    return pid, reading
