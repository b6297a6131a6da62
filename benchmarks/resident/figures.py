"""Rounds, medians and the rows that the benchmarks print."""

import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One measurement of one contender: how many a second, and what each cost the server."""

    rate: float
    cpu: float  # microseconds of CPU, of all the server's processes, for each
    busy: float  # the share of one CPU that the server used: at 1.0 it, and not the load client, was the limit
    p50: float = 0.0  # microseconds
    p99: float = 0.0


def figure(count: int, seconds: float, cpu: float, p50: float = 0.0, p99: float = 0.0) -> Figure:
    return Figure(count / seconds, cpu / max(1, count) * 1e6, cpu / seconds, p50, p99)


def rounds(contenders: Mapping[str, Callable[[], Figure]], number: int) -> dict[str, list[Figure]]:
    """Each in its turn, A B C A B C: a noisy spell of the machine then meets all of them."""
    taken: dict[str, list[Figure]] = {name: [] for name in contenders}
    for _ in range(number):
        for name, take in contenders.items():
            taken[name].append(take())
    return taken


def ratio(ours: Sequence[Figure], theirs: Sequence[Figure], name: str) -> float:
    """The median of the rounds' ratios of one field."""
    pairs = [(getattr(a, name), getattr(b, name)) for a, b in zip(ours, theirs, strict=True)]
    return statistics.median(a / b if b else 0.0 for a, b in pairs)


def span(values: Sequence[float], digits: int = 0) -> str:
    """median (least-most)"""
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f}-{max(values):,.{digits}f})"


HEAD = "| {what} | a second (min-max) | x {floor} | CPU µs | x {floor} | busy | p50 µs | p99 µs | x {floor} |"


def table(what: str, taken: dict[str, list[Figure]], floor: str) -> None:
    """All contenders, with their ratios to the floor."""
    print(HEAD.format(what=what, floor=floor))
    print("|---" * 9 + "|")
    for name, figures in taken.items():
        by = {key: ratio(figures, taken[floor], key) for key in ("rate", "cpu", "p99")}
        print(
            f"| {name} | {span([f.rate for f in figures])} | {by['rate']:.2f} | {span([f.cpu for f in figures])} "
            f"| {by['cpu']:.2f} | {statistics.median(f.busy for f in figures):.2f} "
            f"| {statistics.median(f.p50 for f in figures):,.0f} | {span([f.p99 for f in figures])} | {by['p99']:.2f} |"
        )
    print(flush=True)


def verdict(what: str, value: float, target: float, most: bool = False) -> bool:
    """Print whether a target is met: at least `target`, or with `most` at most."""
    met = value <= target if most else value >= target
    print(
        f"{'met' if met else 'MISSED'}: {what}: {value:.2f}, aim {'at most' if most else 'at least'} {target}",
        flush=True,
    )
    return met


def cpus() -> tuple[set[int], set[int]]:
    """One CPU for the load client, another for the server; the same where there is but one."""
    allowed = sorted(os.sched_getaffinity(0))
    return {allowed[0]}, {allowed[-1]}
