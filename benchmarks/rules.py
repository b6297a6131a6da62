"""What a decision costs by the number of rules

    benchmarks/rules.py [--rounds N]

In process: microseconds a decision, for requests of which one in ten is hit by a rule, as multiples of what ten rules
cost in the same round; with the index, and (up to 1000) by trying each rule. `blocks` and `bytes` are what the decision
holds, at its most, beside its answer: objects of the allocator, and tracemalloc's peak.

Exit status 1: ten thousand rules cost more than TARGET times what ten do.
"""

import argparse
import statistics
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from load import rulesets  # benchmarks/ is the first place that is looked at, being this file's

from postroom.rules.check import check
from postroom.rules.compile import compile_model
from postroom.rules.evaluate import decide
from postroom.rules.read import parse

TARGET = 1.5
BASE = 10
LINEAR_LIMIT = 1000


def compiled(size: int) -> Any:
    model, report = check(parse(rulesets.postroom(size).encode(), "postroom.toml"), "/")
    if model is None:
        sys.exit(str(report.errors[0]))
    return compile_model(model)["rules"]


def decided(ruleset: Any, request: dict[str, str]) -> str:
    try:
        next(decide(ruleset, "rcpt", request))
    except StopIteration as end:
        action: str = end.value.action
        return action
    sys.exit("these rules ask nothing")


def microseconds(ruleset: Any, requests: list[dict[str, str]], seconds: float) -> float:
    count, start, now = 0, time.perf_counter(), 0.0
    while now < seconds:
        for request in requests[count % len(requests) :][:50]:
            decided(ruleset, request)
        count += 50
        now = time.perf_counter() - start
    return now / count * 1e6


def held(ruleset: Any, request: dict[str, str]) -> tuple[int, int]:
    """(blocks, bytes) that a decision holds: blocks when it returns, its variables still there; bytes at the peak."""
    blocks = 0

    def returning(frame: Any, event: str, argument: object) -> None:
        nonlocal blocks
        if event == "return" and frame.f_code is decide.__code__:
            blocks = sys.getallocatedblocks() - before

    decided(ruleset, request)
    sys.setprofile(returning)
    before = sys.getallocatedblocks()
    decided(ruleset, request)
    sys.setprofile(None)
    tracemalloc.start()
    decided(ruleset, request)
    tracemalloc.reset_peak()
    start = tracemalloc.get_traced_memory()[0]
    decided(ruleset, request)
    peak = tracemalloc.get_traced_memory()[1] - start
    tracemalloc.stop()
    return blocks, peak


def verify(ruleset: Any, requests: list[dict[str, str]], size: int) -> None:
    for n, request in enumerate(requests):
        action = decided(ruleset, request)
        wanted = rulesets.answer(n, size).decode()[len("action=") : -2]
        if action.lower() != wanted.lower():
            sys.exit(f"{size} rules: {action!r}, expected {wanted!r}, for {request}")


def measure(rounds: int) -> dict[tuple[int, str], list[float]]:
    requests = {size: [rulesets.attributes(n, size) for n in range(rulesets.VARIANTS)] for size in rulesets.SIZES}
    sets = {(size, "indexed"): compiled(size) for size in rulesets.SIZES}
    for size in rulesets.SIZES:
        verify(sets[size, "indexed"], requests[size], size)
        if size <= LINEAR_LIMIT:
            sets[size, "one by one"] = {**sets[size, "indexed"], "index": {}}
    times: dict[tuple[int, str], list[float]] = {which: [] for which in sets}
    for _ in range(rounds):
        for which, ruleset in sets.items():
            times[which].append(microseconds(ruleset, requests[which[0]], 0.2))
    print("| rules | way | µs a decision | min - max | x ten | blocks | bytes |\n|---|---|---|---|---|---|---|")
    for which, values in times.items():
        blocks, size = held(sets[which], requests[which[0]][1])
        print(
            f"| {which[0]} | {which[1]} | {statistics.median(values):.1f} | {min(values):.1f} - {max(values):.1f} "
            f"| {ratio(values, times[BASE, 'indexed']):.2f} | {blocks} | {size} |"
        )
    return times


def ratio(values: list[float], base: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(values, base, strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    times = measure(parser.parse_args().rounds)
    return int(ratio(times[max(rulesets.SIZES), "indexed"], times[BASE, "indexed"]) > TARGET)


if __name__ == "__main__":
    sys.exit(main())
