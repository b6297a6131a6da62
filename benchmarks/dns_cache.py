"""dns_cache - lookups of MX plans a second: cold from an nsd on this host, against aiodns; hot from either memory

    benchmarks/dns_cache.py [--seconds S] [--rounds N] [--names N]

Measured in turns, one after the other in each round. Cold: each name once, all of them distinct, two MX records each.

    ours               dns.Resolver of the resident, one thread
    ours, 16 threads   the same by the threads of a worker
    aiodns, 50         c-ares under asyncio, 50 questions on their way at a time
    aiodns, 1          the same, one after the other

Hot, in microseconds of CPU time of one thread:

    dict               Resolver.peek, which the event loop asks: the plan is in the process's own dictionary
    plan               Resolver.plan of the same
    mmap               Resolver.plan where another process asked first: the plan comes from the shared table

`cpu` is the CPU time of this process for a lookup; nsd has its own. aiodns is in the extra `bench`; without it its rows
are left out.

Exit status 1: a plan in memory takes more than TARGET microseconds.
"""

import argparse
import asyncio
import itertools
import statistics
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from postroom import dns, dnsasker
from postroom.deadline import Deadline
from postroom.dns import Resolver
from postroom.dnsshared import Shared
from postroom.lab.nameserver import HOST, Nameserver

TARGET = 2.0
THREADS = 16
FLIGHT = 50
HOT = 1000


def zone(count: int) -> str:
    return "".join(f"d{n} MX 10 mx1.d{n}\nd{n} MX 20 mx2.d{n}\n" for n in range(count))


def cold(address: str, names: list[str], threads: int) -> None:
    """Each name once; the shared memory is new, so that none is known."""
    shared = Shared()
    dns.share(shared)
    feed = iter(names)

    def work() -> None:
        resolver = Resolver((address,))
        for name in feed:
            if resolver.plan(name, Deadline(5)).state != "mx":
                sys.exit(f"no plan for {name}")

    if threads == 1:
        work()
    else:
        running = [threading.Thread(target=work) for _ in range(threads)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
    dns.share(None)
    shared.close()


async def c_ares(port: int, names: list[str], flight: int) -> None:
    import aiodns

    resolver = aiodns.DNSResolver(nameservers=[HOST], udp_port=port)
    feed = iter(names)

    async def work() -> None:
        for name in feed:
            found = await resolver.query_dns(name, "MX")
            if len(found.answer) != 2:
                sys.exit(f"no answer for {name}")

    await asyncio.gather(*(work() for _ in range(flight)))
    await resolver.close()


def rate(work: object, names: itertools.islice, seconds: float) -> tuple[float, float]:
    """(lookups a second, CPU microseconds a lookup), by batches of 500 names until the time is over."""
    count, start, before = 0, time.perf_counter(), time.process_time()
    while (now := time.perf_counter() - start) < seconds:
        batch = [next(names) for _ in range(500)]
        work(batch)
        count += len(batch)
    return count / now, (time.process_time() - before) / count * 1e6


def hot(address: str, names: list[str], seconds: float) -> dict[str, float]:
    """Microseconds of a lookup whose answer is known."""
    shared = Shared()
    dns.share(shared)
    resolver = Resolver((address,))
    for name in names:
        resolver.plan(name, Deadline(5))
    deadline = Deadline(3600)
    found = {
        "dict": _microseconds(lambda: [resolver.peek(name) for name in names], len(names), seconds),
        "plan": _microseconds(lambda: [resolver.plan(name, deadline) for name in names], len(names), seconds),
    }

    def other() -> None:
        asker = dnsasker.Asker((address,), 53, 2.0, "", time.monotonic)  # as a process that has asked for nothing yet
        for name in names:
            asker.plan(name, deadline)

    same = Resolver((address,), resolv_conf="")
    for name in names:
        same.plan(name, deadline)
    found["mmap"] = _microseconds(other, len(names), seconds)
    dns.share(None)
    shared.close()
    return found


def _microseconds(work: object, size: int, seconds: float) -> float:
    """Of CPU time: nobody is waited for, and the machine may have other work."""
    count, start = 0, time.process_time()
    while (now := time.process_time() - start) < seconds:
        work()
        count += size
    return now / count * 1e6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.5, help="per row and round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--names", type=int, default=50_000)
    arguments = parser.parse_args()
    with Nameserver({"bench.test": zone(arguments.names)}) as server:
        names = itertools.cycle(f"d{n}.bench.test" for n in range(arguments.names))
        works = {
            "ours": lambda batch: cold(server.address, batch, 1),
            f"ours, {THREADS} threads": lambda batch: cold(server.address, batch, THREADS),
        }
        try:
            import aiodns  # noqa: F401  # whether it is installed is all that is asked

            works[f"aiodns, {FLIGHT}"] = lambda batch: asyncio.run(c_ares(server.port, batch, FLIGHT))
            works["aiodns, 1"] = lambda batch: asyncio.run(c_ares(server.port, batch, 1))
        except ImportError:
            print("aiodns is not installed: only ours", file=sys.stderr)
        rates: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
        known: dict[str, list[float]] = {"dict": [], "plan": [], "mmap": []}
        for _ in range(arguments.rounds):
            for name, work in works.items():
                rates[name].append(rate(work, names, arguments.seconds))
            for name, value in hot(server.address, [next(names) for _ in range(HOT)], arguments.seconds / 3).items():
                known[name].append(value)
    return report(rates, known)


def report(rates: dict[str, list[tuple[float, float]]], known: dict[str, list[float]]) -> int:
    print("| cold | lookups/s | min - max | cpu µs | x ours |\n|---|---|---|---|---|")
    for name, values in rates.items():
        found = [value for value, _ in values]
        ratio = statistics.median(a / b for a, (b, _) in zip(found, rates["ours"], strict=True))
        used = statistics.median(cpu for _, cpu in values)
        spread = f"{min(found):,.0f} - {max(found):,.0f}"
        print(f"| {name} | {statistics.median(found):,.0f} | {spread} | {used:.0f} | {ratio:.2f} |")
    print("\n| hot | µs | min - max | lookups/s |\n|---|---|---|---|")
    for name, values in known.items():
        middle = statistics.median(values)
        print(f"| {name} | {middle:.2f} | {min(values):.2f} - {max(values):.2f} | {1e6 / middle:,.0f} |")
    return 1 if statistics.median(known["dict"]) > TARGET else 0


if __name__ == "__main__":
    sys.exit(main())
