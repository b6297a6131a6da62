"""The resolver: a blocking loop over the machines of postroom.mx, with the plans kept for their TTL.

Which server is asked, for how long, and how long its answer is believed. dnsquery.py holds the exchange with one.
"""

from __future__ import annotations

import os
import time
from _thread import allocate_lock

from postroom import mx
from postroom.dnsquery import Failure, Server, ask, parse_server, show_server

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from typing import TypeVar

    from postroom.deadline import Deadline

    T = TypeVar("T")

# A recursive resolver that walks from the root answers within a second as a rule; one that is down must leave time for
# the next inside the 10 s or so that a policy decision may take. Two rounds, since UDP loses packets.
TRY_SECONDS = 2.0
ROUNDS = 2

# As the C library: it reads no more than three servers (MAXNS), and asks the local host where there is none.
RESOLV_CONF = "/etc/resolv.conf"
MAX_SERVERS = 3
MAX_RESOLV_CONF = 64 * 1024
LOCAL = "127.0.0.1"

# One SMTP session asks for the same domain at several stages and for each recipient: a TTL of 0 must not ask each time.
MIN_TTL = 5
# An MX that moved has to be noticed the next day, a domain that came to life within the hour; unbound's own defaults.
MAX_TTL = 86400
MAX_NEGATIVE_TTL = 3600
# Long enough that the second recipient of a session does not wait for the same dead server, shorter than any retry
# of a deferred mail (RFC 9520 section 3.2: between one second and five minutes).
FAILURE_TTL = 5

# A plan weighs 1 and 1 for each host; a host of the longest name takes some 400 bytes, so the cache ends at 8 MB even
# where every domain in it is hostile. Of ordinary domains it holds 7000.
MAX_WEIGHT = 20_000


class Resolver:
    """Plans for domains from `servers` ("192.0.2.1", "127.0.0.1:5353", "[::1]:5353"; none: resolv.conf's).

    ValueError for a server that is no address; nothing else is ever raised: what goes wrong is a plan of state "error",
    its reason naming server and code. `timeout` is for one try; the caller's deadline stands above all of them.
    """

    def __init__(
        self,
        servers: tuple[str, ...] = (),
        port: int = 53,
        timeout: float = TRY_SECONDS,
        *,
        resolv_conf: str = RESOLV_CONF,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.port = port
        self.timeout = timeout
        self._given = tuple(parse_server(server, port) for server in servers)
        self._resolv_conf = resolv_conf
        self._read: tuple[tuple[int, int], tuple[Server, ...]] = ((0, 0), ())
        self._good: Server | None = None
        self._clock = clock
        self._cache = _Cache()

    def plan(self, domain: str, deadline: Deadline) -> mx.Plan:
        """Where mail for `domain` goes, from the cache or by asking."""
        key = domain.lower()
        known = self._cache.get(key, self._clock())
        if known is not None:
            return known
        start = self._clock()
        plan, questions = self._run(mx.resolution(domain), deadline)
        cut_short = deadline.expired and self._clock() - start < self.timeout
        if questions and not (plan.state == "error" and cut_short):  # no time for one full try proves nothing
            self._cache.put(key, plan, start + _hold(plan))
        return plan

    def reach(self, plan: mx.Plan, deadline: Deadline) -> tuple[tuple[mx.Host, ...], str]:
        """The addresses of the plan's hosts, and what smtp(8) would do with them."""
        return self._run(mx.addresses(plan), deadline)[0]

    def servers(self) -> tuple[Server, ...]:
        """Whom it asks: the servers given, else resolv.conf's, read again when it changes; the last good one first."""
        servers = self._given or self._configured()
        if self._good in servers:
            return (self._good, *(server for server in servers if server != self._good))
        return servers

    def ask(self, question: mx.Question, deadline: Deadline) -> mx.Answer:
        """Ask the servers in turn, those that stay silent a second time; what each of them did is in the text."""
        try:
            import dns.message  # noqa: F401  (here, so that a broken installation shows as such, not as a dead server)
        except Exception as fault:  # a half-installed package may raise anything; our fault, not the domain's
            return mx.Answer(mx.SERVFAIL, text=f"dnspython cannot be loaded: {fault}")
        servers = self.servers()
        turns = servers * ROUNDS
        failures: dict[Server, Failure] = {}
        for turn, server in enumerate(turns):
            if server in failures and not failures[server].again:
                continue
            left = deadline.remaining()
            if left <= 0:
                break
            try:
                seconds = min(self.timeout, left / (len(turns) - turn))
                answer = ask(question, server, seconds, edns=turn < len(servers))  # some firewalls drop EDNS
            except Failure as failure:
                failures[server] = failure
                continue
            self._good = server
            return answer
        return _failed(question, failures)

    def _run(self, machine: Generator[mx.Question, mx.Answer, T], deadline: Deadline) -> tuple[T, int]:
        """Drive a machine to its end; its value, and how many questions that took."""
        questions = 0
        try:
            question = next(machine)
            while True:
                questions += 1
                question = machine.send(self.ask(question, deadline))
        except StopIteration as end:
            return end.value, questions

    def _configured(self) -> tuple[Server, ...]:
        try:
            stat = os.stat(self._resolv_conf)
            stamp = (stat.st_mtime_ns, stat.st_ino)
            if self._read[0] != stamp:
                self._read = (stamp, _read_resolv_conf(self._resolv_conf, self.port))
        except OSError:
            return ((LOCAL, self.port),)
        return self._read[1]


class _Cache:
    """Plans until their time is up, the longest unused going first when it is full."""

    def __init__(self) -> None:
        self._plans: dict[str, tuple[float, mx.Plan]] = {}
        self._weight = 0
        self._lock = allocate_lock()

    def get(self, key: str, now: float) -> mx.Plan | None:
        with self._lock:
            until, plan = self._plans.pop(key, (now, None))
            if plan is None:
                return None
            if until <= now:
                self._weight -= 1 + len(plan.hosts)
                return None
            self._plans[key] = (until, plan)  # to the end of the queue
            return plan

    def put(self, key: str, plan: mx.Plan, until: float) -> None:
        with self._lock:
            self._forget(key)
            self._plans[key] = (until, plan)
            self._weight += 1 + len(plan.hosts)
            while self._weight > MAX_WEIGHT:
                self._forget(next(iter(self._plans)))

    def _forget(self, key: str) -> None:
        if key in self._plans:
            self._weight -= 1 + len(self._plans.pop(key)[1].hosts)


def _hold(plan: mx.Plan) -> int:
    if plan.state == "error":
        return FAILURE_TTL
    return min(max(plan.ttl, MIN_TTL), MAX_NEGATIVE_TTL if plan.state == "none" else MAX_TTL)


def _read_resolv_conf(path: str, port: int) -> tuple[Server, ...]:
    """The `nameserver` lines of resolv.conf(5). Its options are not read: the deadline is the caller's."""
    servers = []
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file.read(MAX_RESOLV_CONF).splitlines():
            words = line.split()
            if len(words) > 1 and words[0] == "nameserver":
                try:
                    servers.append(parse_server(words[1], port))
                except ValueError:
                    continue
    return tuple(servers[:MAX_SERVERS]) or ((LOCAL, port),)


def _failed(question: mx.Question, failures: dict[Server, Failure]) -> mx.Answer:
    """The answer when no server gave one. Hard only if all said so: one that may pass says nothing for sure."""
    name, kind = question
    if not failures:
        return mx.Answer(mx.TIMEOUT, text=f"no time left to ask for {kind} {name}")
    soft = [failure.kind for failure in failures.values() if failure.kind != mx.FAILED]
    said = ", ".join(f"{failure.text} from {show_server(server)}" for server, failure in failures.items())
    return mx.Answer(soft[-1] if soft else mx.FAILED, text=f"{said} for {kind} {name}")
