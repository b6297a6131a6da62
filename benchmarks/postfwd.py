"""rule-policy against postfwd with the same rules: requests a second

    benchmarks/postfwd.py [--seconds S] [--rounds N] [--connections N] [SIZE ...]

Servers, one after the other in each round, so that a noisy spell of the machine meets all of them:

    rule-policy       as under spawn(8), a process a connection; it logs each hit to a file
    postfwd, cached   its cache of replies holds each of the requests, which it has all seen; no log
    postfwd           without that cache
    floor             asyncio.BufferedProtocol and three bytes.find (policy_wire.py): no rules

One connection: the socket is the server's standard input and output, postfwd's too, which does more so than as a
daemon; client and server share one CPU, which makes the server's cost show. More connections: postfwd is one daemon
on TCP, as it is used; client and servers share all CPUs.

Before it is measured a server must answer the requests as the rules say.

Exit status 1: rule-policy does not reach TARGET_CACHED times the cached figure at every size, and TARGET_PLAIN
times the uncached one at 1000 rules.
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
from contextlib import AbstractContextManager
from pathlib import Path
from socket import socket

from load import client, rulesets, servers  # benchmarks/ is the first place that is looked at, being this file's

TARGET_CACHED = 5.0
TARGET_PLAIN = 500.0
# Of the requests: without a cache postfwd answers fifteen a second by a thousand rules.
VERIFIED_PLAIN = 30

OURS, CACHED, PLAIN, FLOOR = "rule-policy", "postfwd, cached", "postfwd", "floor"


def write(folder: Path, size: int) -> tuple[Path, Path]:
    ours, theirs = folder / f"{size}.toml", folder / f"{size}.postfwd"
    ours.write_text(rulesets.postroom(size, f'state = "{folder}/state"'))
    theirs.write_text(rulesets.postfwd(size))
    theirs.chmod(0o644)
    return ours, theirs


def serve(name: str, folder: Path, size: int, cpu: set[int], count: int) -> AbstractContextManager[list[socket]]:
    ours, theirs = write(folder, size)
    if name == OURS:
        return servers.connected(servers.rule_policy(ours, folder / "log"), cpu, count)
    if name == FLOOR:
        return servers.connected(servers.FLOOR, cpu, count)
    cache = servers.CACHED if name == CACHED else 0
    if count > 1:
        return servers.postfwd_daemon(theirs, cache, cpu, count)
    return servers.connected(servers.postfwd(theirs, cache), cpu)


def measure(name: str, folder: Path, size: int, cpu: set[int], count: int, seconds: float) -> float:
    requests = rulesets.requests(size)
    checked = {FLOOR: 0, PLAIN: VERIFIED_PLAIN}.get(name, len(requests))
    with serve(name, folder, size, cpu, count) as connections:
        client.verify(connections[0], requests[:checked], [rulesets.answer(n, size) for n in range(checked)])
        for connection in connections:
            client.rate(connection, requests, 0.05)  # each process of ours has its own start
        if count > 1:
            return client.rate_of_many(connections, requests, seconds)
        return client.rate(connections[0], requests, seconds)


def ratio(ours: list[float], theirs: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def row(size: int, rates: dict[str, list[float]]) -> bool:
    """Print it; whether the targets are met."""
    ratios = {name: ratio(rates[OURS], rates[name]) for name in (CACHED, PLAIN, FLOOR)}
    cells = [f"{statistics.median(values):,.0f} ({min(values):,.0f}-{max(values):,.0f})" for values in rates.values()]
    print(f"| {size} | " + " | ".join([*cells, *(f"{value:.2f}" for value in ratios.values())]) + " |", flush=True)
    return ratios[CACHED] >= TARGET_CACHED and (size != 1000 or ratios[PLAIN] >= TARGET_PLAIN)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0, help="per server and round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("sizes", nargs="*", type=int, metavar="SIZE", default=[1, 10, 100, 1000])
    given = parser.parse_args()
    servers.postfwd_program()
    cpu = os.sched_getaffinity(0)
    if given.connections == 1:
        cpu = {min(cpu)}
        os.sched_setaffinity(0, cpu)
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)  # postfwd reads its rules as nobody
    names = (OURS, CACHED, PLAIN, FLOOR)
    print("| rules | " + " | ".join(names) + " | x cached | x postfwd | x floor |\n|" + "---|" * 8)
    met = True
    try:
        for size in given.sizes:
            rates: dict[str, list[float]] = {name: [] for name in names}
            for _ in range(given.rounds):
                for name in names:
                    rates[name].append(measure(name, folder, size, cpu, given.connections, given.seconds))
            met = row(size, rates) and met
    finally:
        shutil.rmtree(folder)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
