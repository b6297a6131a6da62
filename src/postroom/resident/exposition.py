"""The totals in Prometheus' words. What each metric means is in docs/metrics.md.

Rules for this file: names and base units as prometheus.io/docs/practices/naming has them; a label's values come from
the configuration, from Postfix's protocols or from this source, never from a mail.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from postroom import __version__
from postroom.resident.metrics import BUCKETS
from postroom.resident.report import BEAT_LIMIT, merged
from postroom.resident.totals import Counts, Totals

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# What postroom.dns counts -> metric and label.
_DNS = {
    "hits": ("lookups", "hit"),
    "misses": ("lookups", "miss"),
    "refreshed": ("refreshes", "stale"),
    "prefetched": ("refreshes", "prefetch"),
}

# What postroom.store.grouped counts -> metric, help.
_STORE = {
    "batches": ("postroom_store_batches", "Transactions that changes of the state were grouped into."),
    "changes": ("postroom_store_changes", "Changes of the state."),
    "failures": ("postroom_store_failures", "Changes that could not be made, or not in time."),
}


class Postroom(Collector):
    """One look at the totals."""

    def __init__(self, about: dict[str, Any], totals: Totals) -> None:
        self._about = merged(about, totals)
        self._totals = totals

    def collect(self) -> Iterator[Metric]:
        counts = self._totals.counts()
        yield from self._process()
        yield from _requests(counts)
        yield from self._workers()
        yield from self._configuration()
        yield from _dns(counts.dns)
        yield from _store(counts.store)

    def _process(self) -> Iterator[Metric]:
        build = GaugeMetricFamily("postroom_build_info", "Always 1; what is running.", labels=["version", "python"])
        build.add_metric([__version__, ".".join(map(str, sys.version_info[:3]))], 1)
        yield build
        if "since" in self._about:
            text = "When the supervisor was started, in Unix time."
            yield GaugeMetricFamily("postroom_start_time_seconds", text, self._about["since"])

    def _workers(self) -> Iterator[Metric]:
        slots = self._totals.beating(BEAT_LIMIT)
        workers = {str(slot): self._totals.workers[slot] for slot in slots}
        yield GaugeMetricFamily("postroom_workers", "Workers heard of in the last seconds.", len(workers))
        if "workers" in self._about:
            yield GaugeMetricFamily("postroom_workers_configured", "Workers there should be.", self._about["workers"])
        text = "Workers that were started again after they had died."
        yield CounterMetricFamily("postroom_worker_restarts", text, self._totals.restarts)
        text = "Processor time of all workers."
        yield CounterMetricFamily("postroom_worker_cpu_seconds", text, self._totals.counts().cpu)
        memory = GaugeMetricFamily("postroom_worker_memory_bytes", "Memory of a worker, resident.", labels=["worker"])
        for slot, told in workers.items():
            memory.add_metric([slot], told["memory"])
        yield memory
        queue = sum(told["queue"] for told in workers.values())
        yield GaugeMetricFamily("postroom_queue_depth", "Requests that wait for a thread.", queue)
        stuck = sum(told["stuck"] for told in workers.values())
        yield GaugeMetricFamily("postroom_threads_stuck", "Threads in a handler past its deadline.", stuck)
        yield _open(workers)

    def _configuration(self) -> Iterator[Metric]:
        if "loaded" in self._about:
            text = "When the configuration that is in force was read, in Unix time."
            yield GaugeMetricFamily("postroom_configuration_loaded_timestamp_seconds", text, self._about["loaded"])
        if "reloads" in self._about:
            text = "Reloads of the configuration, by what came of them."
            reloads = CounterMetricFamily("postroom_reloads", text, labels=["result"])
            for result, number in zip(("good", "refused"), self._about["reloads"], strict=True):
                reloads.add_metric([result], number)
            yield reloads


def _requests(counts: Counts) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        "postroom_requests", "Requests and mails answered.", labels=["protocol", "program", "rule", "decision"]
    )
    for labels, number in counts.requests.items():
        requests.add_metric(labels, number)
    yield requests
    latency = HistogramMetricFamily(
        "postroom_request_duration_seconds", "From the last byte of a request to its answer.", labels=["protocol"]
    )
    for protocol, numbers in counts.latency.items():
        latency.add_metric([protocol], _buckets(numbers), numbers[-1])
    yield latency
    text = "Requests put off by our own fault, or (protocol) refused since the client erred."
    faults = CounterMetricFamily("postroom_faults", text, labels=["protocol", "kind"])
    busy = CounterMetricFamily("postroom_busy", "Requests put off since no thread was free.", labels=["protocol"])
    for (protocol, kind), number in counts.faults.items():
        if kind == "busy":
            busy.add_metric([protocol], number)
        else:
            faults.add_metric([protocol, kind], number)
    yield faults
    yield busy
    opened = CounterMetricFamily("postroom_connections_opened", "Connections taken.", labels=["protocol"])
    for protocol, number in counts.accepted.items():
        opened.add_metric([protocol], number)
    yield opened


def _buckets(numbers: list[float]) -> list[tuple[str, float]]:
    """Prometheus' buckets hold what is below them, too."""
    found, sum = [], 0.0
    for bound, number in zip([*map(str, BUCKETS), "+Inf"], numbers, strict=False):
        sum += number
        found.append((bound, sum))
    return found


def _open(workers: dict[str, dict[str, Any]]) -> Metric:
    found = GaugeMetricFamily("postroom_connections_open", "Connections that are open.", labels=["protocol"])
    numbers: dict[str, int] = {}
    for told in workers.values():
        for protocol, number in told["open"].items():
            numbers[protocol] = numbers.get(protocol, 0) + number
    for protocol, number in numbers.items():
        found.add_metric([protocol], number)
    return found


def _dns(counts: dict[str, float]) -> Iterator[Metric]:
    lookups = CounterMetricFamily("postroom_dns_lookups", "Questions, by whether memory knew.", labels=["result"])
    text = "Answers that were asked for again in the background."
    refreshes = CounterMetricFamily("postroom_dns_refreshes", text, labels=["cause"])
    families = {"lookups": lookups, "refreshes": refreshes}
    for name, (metric, label) in _DNS.items():
        families[metric].add_metric([label], counts.get(name, 0))
    yield lookups
    yield refreshes
    text = "Questions that no name server answered."
    yield CounterMetricFamily("postroom_dns_failures", text, counts.get("failures", 0))
    text = "Questions that waited for the same question of another request."
    yield CounterMetricFamily("postroom_dns_waits", text, counts.get("in_flight_waits", 0))


def _store(counts: dict[str, float]) -> Iterator[Metric]:
    for name, (metric, text) in _STORE.items():
        yield CounterMetricFamily(metric, text, counts.get(name, 0))


def page(about: dict[str, Any], totals: Totals) -> bytes:
    """What /metrics answers."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Postroom(about, totals))
    return generate_latest(registry)
