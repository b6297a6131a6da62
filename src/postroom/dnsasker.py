"""Who asks: a blocking loop over a machine of mx.py or dnsname.py, with what it found kept for its TTL.

dnsservers.py says which servers are asked, dnscache.py and dnsshared.py keep the answers. One question for a domain is
on its way at a time. In the resident, what is in use is asked for again in the background, before anybody has to wait.
"""

from __future__ import annotations

from postroom import dnsname, mx
from postroom.deadline import Deadline
from postroom.dnscache import Memory, Turns
from postroom.dnsservers import Servers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Hashable
    from typing import TypeVar

    from postroom.dnsshared import Shared

    T = TypeVar("T")
    Machine = Generator[mx.Question, mx.Answer, T]
    Terms = Callable[[T], tuple[int, int | None]]

# One SMTP session asks for the same domain at several stages and for each recipient: a TTL of 0 must not ask each time.
MIN_TTL = 5
# An MX that moved has to be noticed the next day, a domain that came to life within the hour; unbound's own defaults.
MAX_TTL = 86400
MAX_NEGATIVE_TTL = 3600
# Long enough that the second recipient of a session does not wait for the same dead server, shorter than any retry
# of a deferred mail (RFC 9520 section 3.2: between one second and five minutes).
FAILURE_TTL = 5

# A plan weighs 1 and 1 for each host; a host of the longest name takes some 400 bytes, so the cache ends at 8 MB even
# where every domain in it is hostile. Of ordinary domains it holds 7000. The same again for what is no plan.
MAX_WEIGHT = 20_000

# A reply of 64 KiB holds four thousand addresses. Nobody who means well has more.
MAX_RECORDS = 100

NO_TIME = "defer 4.4.3 Host or domain name not found, try again"
FOR_ALL = float("inf")  # a failure that more time would not have changed

# What is asked for in the background may take this long: nobody waits, and nobody else asks meanwhile.
REFRESH_SECONDS = 10.0

# What this process did: answers from memory, answers that somebody had to wait for, asked for anew after they had
# expired, and before; resolutions that failed; waits for another process that was asking.
counts = dict.fromkeys(("hits", "misses", "refreshed", "prefetched", "failures", "in_flight_waits"), 0)

_shared: Shared | None = None


def share(shared: Shared | None) -> None:
    """From now on a Resolver has its memory in common with those of the same settings, here and in other processes.

    For the resident, before it forks; None: each its own again.
    """
    global _shared
    _shared = shared
    counts.update(dict.fromkeys(counts, 0))


def common(key: Hashable, make: Callable[[], T]) -> T:
    """What resolvers have in common under this key, where they share; else a new one."""
    return make() if _shared is None else _shared.common(key, make)


class Asker:
    """Asks the servers, and keeps what they said. In the resident all resolvers of the same settings have one."""

    def __init__(
        self, servers: tuple[str, ...], port: int, timeout: float, resolv_conf: str, clock: Callable[[], float]
    ) -> None:
        self.servers = Servers(servers, port, timeout, resolv_conf)
        self._timeout = timeout
        self._clock = clock
        if _shared is None:
            self.plans, self.answers = Memory(MAX_WEIGHT), Memory(MAX_WEIGHT)
            self._turns = Turns()
        else:
            name = repr((servers, port, timeout, resolv_conf))
            self.plans = _shared.plans(name, MAX_WEIGHT, self._want_plan)
            self.answers = _shared.answers(name, MAX_WEIGHT, self._want_answer)
            self._turns = _shared.turns(name, _waited)

    def plan(self, domain: str, deadline: Deadline) -> mx.Plan:
        key = domain.lower()
        known: mx.Plan | None = self.plans.known(key, self._clock(), deadline.remaining())
        if known is not None:
            counts["hits"] += 1
            return known
        counts["misses"] += 1
        late = mx.Plan(key, "error", (), 0, "no time left to wait for who is asking already", NO_TIME)
        return self._once(self.plans, key, mx.resolution(domain), deadline, _plan_terms, late)

    def answer(self, question: mx.Question, deadline: Deadline) -> mx.Answer:
        late = mx.Answer(mx.TIMEOUT, text="no time left to wait for who is asking already")
        return self._once(self.answers, question, _machine(question), deadline, _answer_terms, late)

    def run(self, machine: Machine[T], deadline: Deadline) -> tuple[T, int]:
        """Drive a machine to its end; its value, and how many questions that took."""
        questions = 0
        try:
            question = next(machine)
            while True:
                questions += 1
                question = machine.send(self.servers.ask(question, deadline))
        except StopIteration as end:
            return end.value, questions

    def renew(self) -> None:
        """In a process just forked."""
        self.plans.renew()
        self.answers.renew()
        self._turns.renew()

    def _once(
        self, memory: Memory, key: Hashable, machine: Machine[T], deadline: Deadline, terms: Terms[T], late: T
    ) -> T:
        """What the memory knows by when it is our turn to ask; else ask. `late`: our turn never came."""
        while True:
            if self._turns.take(key, deadline.remaining()):
                try:
                    known: T | None = memory.known(key, self._clock(), deadline.remaining())
                    return self._find(memory, key, machine, deadline, terms) if known is None else known
                finally:
                    self._turns.done(key)
            known = memory.known(key, self._clock(), deadline.remaining())
            if known is not None:
                return known
            if deadline.expired:
                return late

    def _find(self, memory: Memory, key: Hashable, machine: Machine[T], deadline: Deadline, terms: Terms[T]) -> T:
        """Drive the machine, and keep what it ends with on these terms: weight, and seconds or None for a failure."""
        start, seconds = self._clock(), deadline.remaining()
        value, questions = self.run(machine, deadline)
        weight, hold = terms(value)
        if questions and hold is None:
            counts["failures"] += 1
            now = self._clock()
            cut_short = deadline.expired and now - start < self._timeout  # not one full try: it proves little
            memory.fail(key, value, seconds if cut_short else FOR_ALL, now, FAILURE_TTL)
        elif questions and hold is not None:
            memory.keep(key, value, weight, start, hold)
        return value

    def _want_plan(self, key: str, why: str) -> None:
        self._again(self.plans, key, lambda: mx.resolution(key), _plan_terms, why)

    def _want_answer(self, key: mx.Question, why: str) -> None:
        self._again(self.answers, key, lambda: _machine(key), _answer_terms, why)

    def _again(
        self, memory: Memory, key: Hashable, machine: Callable[[], Machine[T]], terms: Terms[T], why: str
    ) -> None:
        """Ask in the background, unless somebody is asking or has just asked."""

        def work() -> None:
            if not self._turns.take(key, 0.0):
                return
            try:
                if memory.due(key, self._clock()):
                    self._find(memory, key, machine(), Deadline(REFRESH_SECONDS), terms)
                    counts[why] += 1
            finally:
                self._turns.done(key)

        if _shared is not None:
            _shared.refresher.want((id(self), key), work)


def _machine(question: mx.Question) -> Machine[mx.Answer]:
    name, kind = question
    return _bounded(dnsname.name_servers(name) if kind == "NS" else mx.chase(name, kind))


def _waited() -> None:
    counts["in_flight_waits"] += 1


def _plan_terms(plan: mx.Plan) -> tuple[int, int | None]:
    most = MAX_NEGATIVE_TTL if plan.state == "none" else MAX_TTL
    return 1 + len(plan.hosts), None if plan.state == "error" else min(max(plan.ttl, MIN_TTL), most)


def _answer_terms(answer: mx.Answer) -> tuple[int, int | None]:
    if answer.kind != mx.RECORDS and mx.VERDICTS[answer.kind][0] == "error":
        return 1, None
    most = MAX_TTL if answer.records else MAX_NEGATIVE_TTL
    return 1 + len(answer.records), min(max(answer.ttl, MIN_TTL), most)


def _bounded(machine: Machine[mx.Answer]) -> Machine[mx.Answer]:
    found = yield from machine
    return mx.Answer(found.kind, found.records[:MAX_RECORDS], found.ttl, found.text)
