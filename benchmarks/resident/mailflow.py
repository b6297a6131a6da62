"""Mail through a real, private Postfix: the queue filled while the queue manager is off, then emptied and watched.

    with Flow(services) as flow:
        flow.fill(2000)
        drained = flow.drain("lmtp-one:unix:/path", group)     # a line of transport(5) for all of it

Its queue is in memory, so that a disk's fsync is not what is measured; its CPU is that of all of Postfix, with the
programs that pipe(8) starts.
"""

import itertools
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from postroom.postfix.instance import Instance
from postroom.postfix.postconf import command
from resident.usage import Group

SENDER, RECIPIENT = "a@example.com", "bob@example.org"
CONCURRENCY = 20

# The first and the last tenth are the queue manager's start and a tail that is no longer side by side.
CUT = 0.1
PATIENCE = 600.0


@dataclass(frozen=True)
class Drained:
    count: int
    rate: float  # a second, between the first and the last tenth
    postfix: float  # microseconds of CPU for each, Postfix and what it started
    server: float  # the same of the server that it delivered to

    @property
    def cpu(self) -> float:
        return self.postfix + self.server


class Flow:
    def __init__(self, folder: Path, services: str, transports: list[str]) -> None:
        limits = {}
        for transport in transports:
            limits[f"{transport}_destination_concurrency_limit"] = str(CONCURRENCY)
            limits[f"{transport}_initial_destination_concurrency"] = str(CONCURRENCY)
            limits[f"{transport}_destination_recipient_limit"] = "1"
        self.group = Group()
        self.postfix = Instance(
            {
                **limits,
                "master_service_disable": "qmgr.unix",
                "transport_maps": "static:discard:",
                "in_flow_delay": "0",  # without a queue manager nobody hands out its tokens
            },
            services=services,
            directory=folder / "postfix",
        )
        self.filled = 0

    def __enter__(self) -> "Flow":
        self.group.__enter__()
        try:
            with self.group.joined():
                self.postfix.start()
        except BaseException:
            self.group.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.postfix.close()
        self.group.__exit__()

    def fill(self, count: int, size: int = 4096) -> None:
        words = ["-s", "4", "-m", str(count), "-l", str(size), "-f", SENDER, "-t", RECIPIENT]
        host, port = self.postfix.address
        subprocess.run([command("smtp-source"), *words, f"{host}:{port}"], check=True)
        self.filled = count

    def drain(self, transport: str, server: Callable[[], float]) -> Drained:
        """Deliver what is in the queue by a transport(5) result; `server` tells the server's CPU seconds so far."""
        since, before, theirs = self.postfix.log.size(), self.group.cpu(), server()
        self.postfix.set({"transport_maps": f"static:{transport}", "master_service_disable": ""})
        times = self._watch(since)
        used, used_there = self.group.cpu() - before, server() - theirs
        self.postfix.set({"master_service_disable": "qmgr.unix"})
        first, last = int(self.filled * CUT), int(self.filled * (1 - CUT)) - 1
        span = _when(times, last) - _when(times, first)
        return Drained(self.filled, (last - first) / span, used / self.filled * 1e6, used_there / self.filled * 1e6)

    def _watch(self, since: int) -> list[tuple[float, int]]:
        """(when, how many mails have gone), looked at until all have."""
        seen: list[tuple[float, int]] = [(time.perf_counter(), 0)]
        with self.postfix.log.path.open("rb") as log:
            log.seek(since)
            while seen[-1][1] < self.filled:
                text = log.read()
                if b"status=deferred" in text or b"status=bounced" in text:
                    sys.exit(f"not delivered: {next(li for li in text.splitlines() if b'status=' in li).decode()}")
                seen.append((time.perf_counter(), seen[-1][1] + text.count(b": removed\n")))
                if seen[-1][0] - seen[0][0] > PATIENCE:
                    sys.exit(f"{seen[-1][1]} of {self.filled} mails delivered in {PATIENCE:g} s")
                time.sleep(0.02)
        return seen


def _when(times: list[tuple[float, int]], count: int) -> float:
    """The moment at which so many had gone, between two looks in proportion."""
    for (before, less), (after, more) in itertools.pairwise(times):
        if more > count:
            return before + (after - before) * (count - less) / (more - less)
    return times[-1][0]
