"""What all workers together have counted, those that are gone included.

A worker counts from nothing; what its predecessor in the slot had counted last is added to a base, so that no total
goes back when a worker is started again. The base lies in the board: it outlives the health process.
"""

from __future__ import annotations

import marshal
import time
from collections import deque
from typing import Any

from postroom.resident.board import SNAPSHOT_LIMIT, Board
from postroom.resident.metrics import OTHER, without_rules

# Combinations of labels over all the rules that there ever were since the start; past it, they go to "other".
TOTAL_LABELS_LIMIT = 5000

# Seconds that "lately" looks back.
LATELY = 60.0


class Lately:
    """What the last minute brought, or what there is of it."""

    __slots__ = ("faults", "requests", "restarts", "seconds")

    def __init__(self, seconds: float, requests: int, faults: dict[tuple[str, str], int], restarts: int) -> None:
        self.seconds = seconds
        self.requests = requests
        self.faults = faults
        self.restarts = restarts


class Counts:
    """Counters of one worker, or of many."""

    __slots__ = ("accepted", "cpu", "dns", "faults", "latency", "requests", "store")

    def __init__(self) -> None:
        self.requests: dict[tuple[str, str, str, str], int] = {}
        self.latency: dict[str, list[float]] = {}
        self.faults: dict[tuple[str, str], int] = {}
        self.accepted: dict[str, int] = {}
        self.dns: dict[str, float] = {}
        self.store: dict[str, float] = {}
        self.cpu = 0.0

    def add(self, told: dict[str, Any]) -> None:
        """Add what a snapshot, or `told()`, says."""
        for key, number in told.get("requests", {}).items():
            if key not in self.requests and len(self.requests) >= TOTAL_LABELS_LIMIT:
                key = (key[0], key[1], OTHER, OTHER)
            self.requests[key] = self.requests.get(key, 0) + number
        for protocol, numbers in told.get("latency", {}).items():
            before = self.latency.get(protocol) or [0] * len(numbers)
            self.latency[protocol] = [a + b for a, b in zip(before, numbers, strict=True)]
        for name in ("faults", "accepted", "dns", "store"):
            into = getattr(self, name)
            for key, number in told.get(name, {}).items():
                into[key] = into.get(key, 0) + number
        self.cpu += told.get("cpu", 0.0)

    def told(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


class Totals:
    """The board as it is now, and as it was."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._base = Counts()
        self._numbers: dict[int, int] = {}  # slot -> number of the write that was seen last
        self._lately: deque[Lately] = deque()  # each as it was at a moment; `seconds` is the moment
        self.workers: dict[int, dict[str, Any]] = {}  # slot -> its last snapshot
        self._restarts = 0  # of workers that came to write something
        self.supervisor: dict[str, Any] = {}
        kept = _loaded(board.read(board.health))
        if kept is not None:
            self._base.add(kept["base"])
            self._restarts = kept["restarts"]

    def look(self) -> None:
        """Read the board. To be called once a second: what is written in between is not missed, see Board.both."""
        for slot in range(self._board.slots):
            for number, data in self._board.both(slot):
                if number > self._numbers.get(slot, 0):
                    self._numbers[slot] = number
                    self._seen(slot, _loaded(data))
        told = _loaded(self._board.read(self._board.supervisor))
        self.supervisor = told if told is not None else self.supervisor
        self._remember()

    @property
    def restarts(self) -> int:
        """Of workers: by the supervisor's count, which knows of those that died at once; else by what was seen."""
        return int(self.supervisor.get("restarts", self._restarts))

    def _seen(self, slot: int, told: dict[str, Any] | None) -> None:
        if told is None:
            return
        before = self.workers.get(slot)
        self.workers[slot] = told
        if before is not None and (before["pid"], before["since"]) != (told["pid"], told["since"]):
            self._base.add(before)
            self._restarts += not before["facts"].get("draining")  # which one does that was told to go
            self._keep()

    def _keep(self) -> None:
        kept = {"base": self._base.told(), "restarts": self._restarts}
        data = marshal.dumps(kept)
        if len(data) > SNAPSHOT_LIMIT:
            kept["base"] = {**self._base.told(), "requests": without_rules(self._base.requests)}
            data = marshal.dumps(kept)
        self._board.write(self._board.health, data)

    def counts(self) -> Counts:
        """All that was counted since the start of the supervisor."""
        found = Counts()
        found.add(self._base.told())
        for told in self.workers.values():
            found.add(told)
        return found

    def beating(self, within: float) -> list[int]:
        """The slots whose workers have said something in the last seconds."""
        least = time.monotonic() - within
        return [slot for slot, told in sorted(self.workers.items()) if told["beat"] >= least]

    def _remember(self) -> None:
        now, counts = time.monotonic(), self.counts()
        self._lately.append(Lately(now, sum(counts.requests.values()), counts.faults, self.restarts))
        while len(self._lately) > 2 and now - self._lately[1].seconds > LATELY:
            self._lately.popleft()

    def lately(self) -> Lately:
        if not self._lately:
            return Lately(0.0, 0, {}, 0)
        first, last = self._lately[0], self._lately[-1]
        grown = {key: number - first.faults.get(key, 0) for key, number in last.faults.items()}
        faults = {key: number for key, number in grown.items() if number > 0}
        return Lately(
            last.seconds - first.seconds, last.requests - first.requests, faults, last.restarts - first.restarts
        )


def _loaded(data: bytes | None) -> dict[str, Any] | None:
    """A snapshot; None where there is none. Its checksum was right: it is what a process of ours wrote, whole."""
    if data is None:
        return None
    told: dict[str, Any] = marshal.loads(data)  # noqa: S302 - see above; nobody else can write to this memory
    return told
