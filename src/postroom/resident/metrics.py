"""What a worker counts: plain numbers in plain dictionaries, since it happens at every request.

    metrics = Metrics(queue=lambda: pool.waiting, stuck=lambda: pool.stuck)
    metrics.request("policy", "rule-policy", "no-mx", "REJECT", 0.00004)
    board.write(slot, metrics.snapshot())    # once a second

All of it is called from the thread of the loop. Labels are what configuration and Postfix name: protocols, programs,
ids of rules, the first word of an action. No address is one: each would be a time series of its own, for ever, and in
a place where nobody expects people's addresses. What a handler says is a label only where it looks like an action, and
past LABELS_LIMIT combinations the rest is counted as "other".
"""

from __future__ import annotations

import marshal
import os
import sys
import time
from bisect import bisect_left
from collections.abc import Callable
from typing import Any

from postroom.resident.board import SNAPSHOT_LIMIT

# Seconds: from an answer out of memory (tens of microseconds) to what Postfix waits for at most.
BUCKETS = (
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    30.0, 100.0,
)  # fmt: skip

# Combinations of protocol, program, rule and decision. Some hundred rules with a few decisions each; each combination
# is a time series in Prometheus.
LABELS_LIMIT = 1000

# The longest label. Ids of rules are shorter, words of access(5) much.
LABEL_LIMIT = 100

OTHER = "other"

# What other parts count, by the module that holds it in `counts`; looked for only where it is loaded.
COUNTED = {"dns": ("postroom.dns",), "store": ("postroom.store.grouped", "postroom.store.writer")}

# Bytes of a page of memory, for /proc/self/statm.
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Metrics:
    """The counters of one worker.

    `facts` is what else it tells of itself: `loaded` (Unix time of the configuration), `fault` (what is wrong with the
    file as it is now, or ""), `programs`, `draining`.
    """

    __slots__ = ("_accepted", "_faults", "_latency", "_open", "_queue", "_requests", "_since", "_stuck", "facts")

    def __init__(self, queue: Callable[[], int] = int, stuck: Callable[[], int] = int) -> None:
        """Asked at each snapshot: `queue`, requests that wait for a thread; `stuck`, threads past their deadline."""
        self._queue = queue
        self._stuck = stuck
        self._since = time.time()
        self._requests: dict[tuple[str, str, str, str], int] = {}
        self._latency: dict[str, list[float]] = {}  # as many as BUCKETS, one for what is slower, the sum of seconds
        self._faults: dict[tuple[str, str], int] = {}
        self._open: dict[str, int] = {}
        self._accepted: dict[str, int] = {}
        self.facts: dict[str, Any] = {}

    def request(self, protocol: str, program: str, rule: str, decision: str, seconds: float) -> None:
        """One request that was answered. `decision`: first word of the action, kind of the answer or of the outcome."""
        try:
            self._requests[protocol, program, rule, decision] += 1
            latency = self._latency[protocol]
        except KeyError:
            self._first((protocol, program, rule, decision))
            latency = self._latency.setdefault(protocol, [0] * (len(BUCKETS) + 1) + [0.0])
        latency[bisect_left(BUCKETS, seconds)] += 1
        latency[-1] += seconds

    def _first(self, key: tuple[str, str, str, str]) -> None:
        """Count one whose labels are new, are not to be labels, or are one combination too many."""
        protocol, program, rule, decision = key
        if not _is_word(decision):
            decision = OTHER
        rule = rule if len(rule) <= LABEL_LIMIT else OTHER
        for key in ((protocol, program, rule, decision), (protocol, program, rule, OTHER)):
            if key in self._requests or len(self._requests) < LABELS_LIMIT:
                break
        else:
            key = (protocol, program, OTHER, OTHER)  # as many more as there are programs, at most
        self._requests[key] = self._requests.get(key, 0) + 1

    def fault(self, protocol: str, kind: str) -> None:
        """One put off by our own fault ("handler", "deadline", "busy", "configuration"), or ("protocol") by theirs."""
        self._faults[protocol, kind] = self._faults.get((protocol, kind), 0) + 1

    def opened(self, protocol: str) -> None:
        self._open[protocol] = self._open.get(protocol, 0) + 1
        self._accepted[protocol] = self._accepted.get(protocol, 0) + 1

    def closed(self, protocol: str) -> None:
        self._open[protocol] = self._open.get(protocol, 0) - 1

    def snapshot(self) -> bytes:
        """All of it, for Board.write. Never more than fits there: rules and decisions are told apart while they fit."""
        told = self._told()
        try:
            data = marshal.dumps(told)
        except ValueError:  # a fact that is no plain value
            told["facts"] = {}
            data = marshal.dumps(told)
        if len(data) > SNAPSHOT_LIMIT:
            told["requests"] = without_rules(told["requests"])
            data = marshal.dumps(told)
        if len(data) > SNAPSHOT_LIMIT:
            data = marshal.dumps({**told, "facts": {}, "dns": {}, "store": {}})
        return data

    def _told(self) -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "since": self._since,
            "beat": time.monotonic(),
            "queue": self._queue(),
            "stuck": self._stuck(),
            "memory": _memory(),
            "cpu": time.process_time(),
            "requests": self._requests,
            "latency": self._latency,
            "faults": self._faults,
            "open": self._open,
            "accepted": self._accepted,
            "facts": self.facts,
            **{name: counted(modules) for name, modules in COUNTED.items()},
        }


def without_rules(requests: dict[tuple[str, str, str, str], int]) -> dict[tuple[str, str, str, str], int]:
    """The same requests by protocol and program alone."""
    found: dict[tuple[str, str, str, str], int] = {}
    for (protocol, program, _, _), number in requests.items():
        key = (protocol, program, OTHER, OTHER)
        found[key] = found.get(key, 0) + number
    return found


def counted(modules: tuple[str, ...]) -> dict[str, float]:
    """What the first of these modules that is loaded and counts has counted."""
    for module in modules:
        counts = getattr(sys.modules.get(module), "counts", None)
        if isinstance(counts, dict):
            return {str(name): number for name, number in counts.copy().items() if isinstance(number, int | float)}
    return {}


def _is_word(text: str) -> bool:
    return len(text) <= LABEL_LIMIT and text.isascii() and text.replace("_", "").replace("-", "").isalnum()


def _memory() -> int:
    """Bytes of this process that are in memory; 0 where there is no /proc."""
    try:
        with open("/proc/self/statm", "rb", 0) as file:
            return int(file.read(200).split()[1]) * _PAGE
    except (OSError, ValueError, IndexError):
        return 0
