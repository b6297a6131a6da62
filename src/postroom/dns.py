"""The resolver: a blocking loop over the machines of mx.py and dnsname.py, with what they found kept for its TTL.

What is asked, what at the same time, and how long an answer is believed. dnsservers.py says whom.
"""

from __future__ import annotations

import time
from _thread import allocate_lock, start_new_thread

from postroom import dnsname, mx
from postroom.deadline import Deadline
from postroom.dnscache import Memory, Turns
from postroom.dnsservers import RESOLV_CONF, ROUNDS, TRY_SECONDS, Servers, load
from postroom.rules import Unknown
from postroom.rules.dnsbl import ZONES_LIMIT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _thread import LockType
    from collections.abc import Callable, Generator
    from typing import TypeVar

    from postroom.dnsquery import Server

    T = TypeVar("T")
    Texts = tuple[str, ...] | Unknown

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

# A hosting company's machine may have a name for each customer; one that proves anything has few (smtpd(8) and
# getnameinfo(3) look at one).
MAX_NAMES = 10

NO_TIME = "defer 4.4.3 Host or domain name not found, try again"
FOR_ALL = float("inf")  # a failure that more time would not have changed

# For a thread to come back that has met its deadline.
GRACE = 0.2


class Resolver:
    """Answers of `servers` ("192.0.2.1", "127.0.0.1:5353", "[::1]:5353"; none: resolv.conf's).

    ValueError for a server that is no address; nothing else is ever raised. What goes wrong is a plan of state "error",
    or Unknown; its reason names server and code. `timeout` is for one try; the caller's deadline stands above all of
    them. What is no plan has as long as one server has for its tries, however many servers and questions there are.
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
        self.timeout = timeout
        self._servers = Servers(servers, port, timeout, resolv_conf)
        self._clock = clock
        self._plans = Memory(MAX_WEIGHT)
        self._answers = Memory(MAX_WEIGHT)
        self._turns = Turns()

    def plan(self, domain: str, deadline: Deadline, stale: float = 0.0) -> mx.Plan:
        """Where mail for `domain` goes, from the cache or by asking; threads that want the same ask once.

        Where DNS does not tell, a plan that expired less than `stale` seconds ago is given as it was, marked stale.
        """
        plan = self._plan(domain, domain.lower(), deadline)
        if plan.state != "error" or stale <= 0:
            return plan
        old: mx.Plan | None = self._plans.answers.get(domain.lower(), self._clock(), stale)
        return plan if old is None else _aged(old, plan)

    def _plan(self, domain: str, key: str, deadline: Deadline) -> mx.Plan:
        while True:
            known: mx.Plan | None = self._plans.known(key, self._clock(), deadline.remaining())
            if known is not None:
                return known
            if self._turns.take(key, deadline.remaining()):
                try:
                    return self._find(self._plans, key, mx.resolution(domain), deadline, _plan_terms)
                finally:
                    self._turns.done(key)
            if deadline.expired:
                return mx.Plan(key, "error", (), 0, "no time left to wait for who is asking already", NO_TIME)

    def addresses(self, host: str, deadline: Deadline) -> Texts:
        """The A and AAAA records of a host. Unknown where one of the two is: who has no AAAA says so."""
        octets = dnsname.packed(host)
        if octets is not None:
            return (dnsname.unpacked(octets),)
        name = _dns_name(host.removeprefix("*."))  # smtp(8) asks for an MX target with a star as for any other
        if not name or isinstance(name, Unknown):
            return name or ()
        full = f"*.{name}" if host.startswith("*.") else name
        found: tuple[str, ...] = ()
        for answer in self._at_once(((full, "A"), (full, "AAAA")), deadline).values():
            texts = _texts(answer)
            if isinstance(texts, Unknown):
                return texts
            found += texts
        return found

    def name_servers(self, domain: str, deadline: Deadline) -> Texts:
        """The names of the name servers of a domain, or of the nearest domain above it that has any."""
        name = "" if dnsname.packed(domain) else _dns_name(domain)
        if not name or isinstance(name, Unknown):
            return name or ()
        return _texts(self._at_once(((name, "NS"),), deadline)[name, "NS"])

    def dnsbl(self, name: str, zones: tuple[str, ...], deadline: Deadline) -> dict[str, Texts]:
        """What each of the lists says of an address or a domain: the addresses it answers with, none where not listed.

        All are asked at the same time, so that a slow one costs its own answer and no other's.
        """
        prefix = _dns_name(name)
        if not prefix or isinstance(prefix, Unknown):
            return dict.fromkeys(zones, prefix or ())
        full = {zone: f"{prefix}.{zone}" for zone in zones[:ZONES_LIMIT]}
        wanted = {zone: (full[zone], "A") for zone in full if mx.valid_hostname(full[zone])}
        answers = self._at_once(tuple(wanted.values()), deadline)
        found: dict[str, Texts] = dict.fromkeys(zones, Unknown(f"more than {ZONES_LIMIT} zones"))
        for zone in full:  # a name too long for DNS is in no list
            found[zone] = _texts(answers[wanted[zone]]) if zone in wanted else ()
        return found

    def fcrdns(self, address: str, deadline: Deadline) -> bool | Unknown:
        """Whether a name of the address has the address (RFC 8601 section 3). The first MAX_NAMES by alphabet count."""
        octets = dnsname.packed(address)
        if octets is None:
            return Unknown(f"not an address: {address[:60]!a}")
        reverse = (dnsname.reverse_name(octets), "PTR")
        names = _texts(self._at_once((reverse,), deadline)[reverse])
        if isinstance(names, Unknown):
            return names
        kind = "A" if len(octets) == 4 else "AAAA"
        good = sorted(filter(mx.valid_hostname, names))[:MAX_NAMES]
        found = [_texts(answer) for answer in self._at_once(tuple((name, kind) for name in good), deadline).values()]
        known = (text for texts in found if not isinstance(texts, Unknown) for text in texts)
        if any(dnsname.packed(text) == octets for text in known):
            return True
        return next((texts for texts in found if isinstance(texts, Unknown)), False)

    def reach(self, plan: mx.Plan, deadline: Deadline) -> tuple[tuple[mx.Host, ...], str]:
        """The addresses of the plan's hosts, and what smtp(8) would do with them."""
        return self._run(mx.addresses(plan), deadline)[0]

    def servers(self) -> tuple[Server, ...]:
        """Whom it asks, the last one that answered first."""
        return self._servers.all()

    def _at_once(self, questions: tuple[mx.Question, ...], deadline: Deadline) -> dict[mx.Question, mx.Answer]:
        """An Answer for each. Of several, each that is not in the cache is asked in a thread of its own."""
        limit = Deadline(deadline.remaining(self.timeout * ROUNDS))
        now = self._clock()
        found = {question: self._answers.known(question, now, limit.remaining()) for question in questions}
        missing = [question for question, answer in found.items() if answer is None]
        if len(missing) > 1:
            load()  # once and here: modules that import each other are not for many threads to load
        gates = [self._begin(found, question, limit) for question in missing[1:]]
        for question in missing[:1]:
            self._look_up(found, question, limit)
        for gate in gates:
            gate.acquire(True, limit.remaining() + GRACE)
        late = mx.Answer(mx.TIMEOUT, text="no answer in time")
        return {question: found[question] or late for question in questions}

    def _begin(self, found: dict[mx.Question, mx.Answer | None], question: mx.Question, limit: Deadline) -> LockType:
        """Look up in another thread, which releases the lock when it is done; here, where no thread is to be had."""
        gate = allocate_lock()
        gate.acquire()

        def work() -> None:
            try:
                self._look_up(found, question, limit)
            finally:
                gate.release()

        try:
            start_new_thread(work, ())
        except RuntimeError:
            work()
        return gate

    def _look_up(self, found: dict[mx.Question, mx.Answer | None], question: mx.Question, limit: Deadline) -> None:
        name, kind = question
        machine = dnsname.name_servers(name) if kind == "NS" else mx.chase(name, kind)
        found[question] = self._find(self._answers, question, _bounded(machine), limit, _answer_terms)

    def _find(
        self,
        memory: Memory,
        key: object,
        machine: Generator[mx.Question, mx.Answer, T],
        deadline: Deadline,
        terms: Callable[[T], tuple[int, int | None]],
    ) -> T:
        """Drive the machine, and keep what it ends with on these terms: weight, and seconds or None for a failure."""
        start, seconds = self._clock(), deadline.remaining()
        value, questions = self._run(machine, deadline)
        weight, hold = terms(value)
        if questions and hold is None:
            cut_short = deadline.expired and self._clock() - start < self.timeout  # not one full try: it proves little
            memory.fail(key, value, seconds if cut_short else FOR_ALL, self._clock() + FAILURE_TTL)
        elif questions and hold is not None:
            memory.answers.put(key, value, weight, start + hold)
        return value

    def _run(self, machine: Generator[mx.Question, mx.Answer, T], deadline: Deadline) -> tuple[T, int]:
        """Drive a machine to its end; its value, and how many questions that took."""
        questions = 0
        try:
            question = next(machine)
            while True:
                questions += 1
                question = machine.send(self._servers.ask(question, deadline))
        except StopIteration as end:
            return end.value, questions


def _dns_name(name: str) -> str | Unknown:
    try:
        return dnsname.listed_as(name)
    except ImportError:  # our installation, not their name
        return Unknown("the Python package idna is missing")


def _plan_terms(plan: mx.Plan) -> tuple[int, int | None]:
    most = MAX_NEGATIVE_TTL if plan.state == "none" else MAX_TTL
    return 1 + len(plan.hosts), None if plan.state == "error" else min(max(plan.ttl, MIN_TTL), most)


def _answer_terms(answer: mx.Answer) -> tuple[int, int | None]:
    if answer.kind != mx.RECORDS and mx.VERDICTS[answer.kind][0] == "error":
        return 1, None
    most = MAX_TTL if answer.records else MAX_NEGATIVE_TTL
    return 1 + len(answer.records), min(max(answer.ttl, MIN_TTL), most)


def _bounded(machine: Generator[mx.Question, mx.Answer, mx.Answer]) -> Generator[mx.Question, mx.Answer, mx.Answer]:
    found = yield from machine
    return mx.Answer(found.kind, found.records[:MAX_RECORDS], found.ttl, found.text)


def _texts(answer: mx.Answer) -> Texts:
    """The names or addresses of an Answer; none where there is no such name, or none that can be followed."""
    if answer.kind != mx.RECORDS and mx.VERDICTS[answer.kind][0] == "error":
        return Unknown(answer.text or answer.kind)
    return tuple(dict.fromkeys(record[4] for record in answer.records))


def _aged(plan: mx.Plan, failure: mx.Plan) -> mx.Plan:
    """A copy of the plan that says of itself that it has expired, and why there is no other."""
    notes = (*plan.notes, f"an earlier answer, since now: {failure.reason}")
    old = mx.Plan(plan.domain, plan.state, plan.hosts, plan.ttl, plan.reason, plan.outcome, notes)
    old.stale = True
    return old
