"""The resolver: the questions that rules have, put to the machines of mx.py and dnsname.py.

What is asked, and what at the same time. dnsasker.py asks, and says how long an answer is believed.
"""

from __future__ import annotations

import time
from _thread import allocate_lock, start_new_thread

from postroom import dnsname, mx
from postroom.deadline import Deadline
from postroom.dnsasker import FOR_ALL, Asker, common
from postroom.dnsasker import counts as counts
from postroom.dnsasker import share as share
from postroom.dnsservers import RESOLV_CONF, ROUNDS, TRY_SECONDS, load
from postroom.rules import Unknown
from postroom.rules.dnsbl import ZONES_LIMIT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _thread import LockType
    from collections.abc import Callable

    from postroom.dnsquery import Server

    Texts = tuple[str, ...] | Unknown

# A hosting company's machine may have a name for each customer; one that proves anything has few (smtpd(8) and
# getnameinfo(3) look at one).
MAX_NAMES = 10

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
        self._clock = clock
        settings = (servers, port, timeout, resolv_conf, clock)
        self._asker = common(settings, lambda: Asker(servers, port, timeout, resolv_conf, clock))

    def plan(self, domain: str, deadline: Deadline, stale: float = 0.0) -> mx.Plan:
        """Where mail for `domain` goes, from the cache or by asking; threads that want the same ask once.

        Where DNS does not tell, a plan that expired less than `stale` seconds ago is given as it was, marked stale.
        """
        plan = self._asker.plan(domain, deadline)
        if plan.state != "error" or stale <= 0:
            return plan
        old: mx.Plan | None = self._asker.plans.old(domain.lower(), self._clock(), stale)
        return plan if old is None else _aged(old, plan)

    def peek(self, domain: str) -> mx.Plan | None:
        """The plan, where it is known or needs no question; at once, and without any I/O."""
        known: mx.Plan | None = self._asker.plans.known(domain.lower(), self._clock(), FOR_ALL)
        if known is not None:
            counts["hits"] += 1
            return known
        return _unasked(domain)

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
        return self._asker.run(mx.addresses(plan), deadline)[0]

    def servers(self) -> tuple[Server, ...]:
        """Whom it asks, the last one that answered first."""
        return self._asker.servers.all()

    def _at_once(self, questions: tuple[mx.Question, ...], deadline: Deadline) -> dict[mx.Question, mx.Answer]:
        """An Answer for each. Of several, each that is not in the cache is asked in a thread of its own."""
        limit = Deadline(deadline.remaining(self.timeout * ROUNDS))
        now, memory = self._clock(), self._asker.answers
        found = {question: memory.known(question, now, limit.remaining()) for question in questions}
        missing = [question for question, answer in found.items() if answer is None]
        counts["hits"] += len(found) - len(missing)
        counts["misses"] += len(missing)
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
        found[question] = self._asker.answer(question, limit)


def _unasked(domain: str) -> mx.Plan | None:
    """The plan of what is no domain that DNS could be asked about."""
    if not domain.isascii():
        return None  # to find out would load a module
    try:
        next(mx.resolution(domain))
    except StopIteration as end:
        plan: mx.Plan = end.value
        return plan
    return None


def _dns_name(name: str) -> str | Unknown:
    try:
        return dnsname.listed_as(name)
    except ImportError:  # our installation, not their name
        return Unknown("the Python package idna is missing")


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
