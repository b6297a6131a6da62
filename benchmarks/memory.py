"""memory - what the resident holds after a million requests and a hundred thousand distinct domains

    benchmarks/memory.py [--requests N] [--domains N] [--workers W]

First policy requests by a hundred rules, on 50 connections; then routes of domains that were never asked for before,
each of which costs a question to a real name server (nsd, a zone with a wildcard) and a plan that is remembered.
Memory is that of all processes of the resident together: `pss` counts a page that they share once.

Exit status 1: between the half and the end of either part, pss grew by more than TARGET.
"""

import argparse
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from load import rulesets
from resident import figures, place, servers, usage
from resident.load import Load

from postroom.lab.nameserver import Nameserver

TARGET = 1.05
STEPS = 10
RULES = 100
ROUTE = '[[rule]]\nid = "wild"\nat = "route"\nmatch = { primary_mx = ".shady.example" }\naction = "slow-one:"\n'
ZONE = "* MX 10 mx1.shady.example.\n"
FOUND = b"12:OK slow-one:,"


def configure(folder: Path, dns: str, workers: int) -> Path:
    path = folder / "postroom.toml"
    head = place.head(folder, {"policy": "", "socketmap": ""}, workers, dns)
    path.write_text(rulesets.postroom(RULES, head) + "\n" + ROUTE)
    return path


def netstring(payload: bytes) -> bytes:
    return b"%d:%b," % (len(payload), payload)


def sample(what: str, count: int, server: servers.Server, since: float) -> float:
    pids = server.pids()
    held = usage.memory(pids)
    print(
        f"| {what} | {count:,} | {count / max(0.001, time.perf_counter() - since):,.0f} | {held['rss']:.1f} "
        f"| {held['pss']:.1f} | {held['private']:.1f} | {usage.descriptors(pids)} | {usage.threads(pids)} |",
        flush=True,
    )
    return held["pss"]


def requests(folder: Path, server: servers.Server, number: int) -> list[float]:
    held = []
    with Load(f"{folder}/policy", 50, rulesets.requests(RULES), b"\n\n") as load:
        load.run(2.0)  # every worker has compiled what it compiles, and started its threads
        held.append(sample("policy requests", 0, server, time.perf_counter()))
        start, count = time.perf_counter(), 0
        for step in range(STEPS):
            while count < number * (step + 1) // STEPS:
                count += load.run(0.5).count
            held.append(sample("policy requests", count, server, start))
    return held


def domains(folder: Path, server: servers.Server, number: int) -> list[float]:
    """Each domain once, on 20 connections at the same time."""
    held, start, size = [], time.perf_counter(), number // STEPS
    for step in range(STEPS):
        keys = [netstring(b"route a@d%d.wild.test" % n) for n in range(step * size, (step + 1) * size)]
        with Load(f"{folder}/socketmap", 20, keys, b",") as load:
            load.all(FOUND)
        held.append(sample("domains", (step + 1) * size, server, start))
    return held


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--domains", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    with ExitStack() as stack:
        folder = stack.enter_context(place.folder())
        nameserver = stack.enter_context(Nameserver({"wild.test": ZONE}))
        configuration = configure(folder, nameserver.address, given.workers)
        server = stack.enter_context(servers.resident(configuration, [f"{folder}/policy", f"{folder}/socketmap"]))
        print(
            "| part | so many | a second | rss MB | pss MB | private MB | descriptors | threads |\n" + "|---" * 8 + "|"
        )
        parts = {
            "policy requests": requests(folder, server, given.requests),
            "domains": domains(folder, server, given.domains),
        }
    met = True
    for name, held in parts.items():
        grown = held[-1] / held[len(held) // 2]
        met = figures.verdict(f"pss at the end of {name}, of that at the half", grown, TARGET, most=True) and met
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
