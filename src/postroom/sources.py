"""Where rules get their answers: list files, the message, the store and the DNS. All the I/O of a decision is here.

    sources = Sources(configuration, resolver, open_store, message, deadline)
    decision = sources.decide("deliver", delivery_attributes(mail))

Whatever cannot be answered is answered Unknown, with the reason: a list file that has vanished is not an empty list.
"""

from __future__ import annotations

import os

from postroom.deadline import WouldWait
from postroom.rules import Unknown
from postroom.rules.evaluate import decide
from postroom.rules.facts import Facts
from postroom.rules.lookup import fold
from postroom.status import Fault
from postroom.tables import in_memory, table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, Protocol

    from postroom.config import Configuration
    from postroom.deadline import Deadline
    from postroom.delivery import Mail
    from postroom.message import Message
    from postroom.mx import Plan
    from postroom.record import Record
    from postroom.rules import Decision, Question
    from postroom.rules.evaluate import Trace
    from postroom.store import Store

    class Resolver(Protocol):
        def plan(self, domain: str, deadline: Deadline) -> Plan: ...
        def peek(self, domain: str) -> Plan | None: ...
        def addresses(self, host: str, deadline: Deadline) -> tuple[str, ...] | Unknown: ...
        def name_servers(self, domain: str, deadline: Deadline) -> tuple[str, ...] | Unknown: ...
        def dnsbl(
            self, name: str, zones: tuple[str, ...], deadline: Deadline
        ) -> dict[str, tuple[str, ...] | Unknown]: ...
        def fcrdns(self, address: str, deadline: Deadline) -> bool | Unknown: ...


class Sources:
    """Answers questions for one configuration.

    Keep it for the life of a connection: the store stays open, and lists are read again only when they have changed.
    `message` and `deadline` may be replaced from one decision to the next. `quick`: what is not in memory raises
    WouldWait, with nothing counted or recorded yet.
    """

    def __init__(
        self,
        configuration: Configuration,
        resolver: Resolver | None,
        open_store: Callable[[], Store] | None,
        message: Message | None = None,
        deadline: Deadline | None = None,
        observe: bool = False,
    ) -> None:
        """`observe`: somebody only looks. Nothing is recorded, and nothing counted."""
        self.configuration = configuration
        self.observe = observe
        self.quick = False
        self._record = None if observe or not configuration.record else _record(configuration)
        self.message = message
        self.deadline = deadline
        self._resolver = resolver
        self._open_store = open_store
        self._store: Store | None = None
        self._answers: dict[str, Callable[[Any], Any]] = {
            "list": self._list,
            "header": self._header,
            "suppressed": self._suppressed,
            "mx": self._mx,
            "addresses": self._addresses,
            "ns": self._ns,
            "dnsbl": self._dnsbl,
            "fcrdns": self._fcrdns,
            "country": self._country,
            "now": self._now,
            "attachments": self._attachments,
            "seen": self._seen,
            "greylist": self._greylist,
            "rate": self._rate,
        }

    def decide(
        self, stage: str, attributes: Mapping[str, str], trace: Trace | None = None, again: bool = False
    ) -> Decision:
        """Run the rules of a stage to their decision; `again`: it was made, and recorded, before."""
        if self._record is not None and not again:
            if self.quick:
                raise WouldWait
            return self._recorded(self._record, stage, attributes, trace)
        rules = self.configuration.rules
        if "seen" in rules and trace is None:
            seen = rules["seen"][stage]
            if seen.passes(attributes):
                nothing: Decision = seen.nothing
                return nothing
        steps = decide(rules, stage, attributes, trace)
        try:
            question = next(steps)
            while True:
                question = steps.send(self.answer(question))
        except StopIteration as end:
            decision: Decision = end.value
            return decision

    def _recorded(self, record: Record, stage: str, attributes: Mapping[str, str], trace: Trace | None) -> Decision:
        """The same, with an eye on the clock, and written down."""
        from time import perf_counter

        asked: list[tuple[Question, Any, float]] = []
        steps = decide(self.configuration.rules, stage, attributes, trace)
        try:
            question = next(steps)
            while True:
                start = perf_counter()
                answer = self.answer(question)
                asked.append((question, answer, perf_counter() - start))
                question = steps.send(answer)
        except StopIteration as end:
            record.write(stage, attributes, asked, end.value)
            decision: Decision = end.value
            return decision

    def answer(self, question: Question) -> Any:
        """The answer in the form that Question says, or Unknown."""
        if self.quick and question.kind not in _AT_ONCE:
            raise WouldWait
        try:
            return self._answers[question.kind](question.argument)
        except Fault as fault:
            return Unknown(str(fault))
        except OSError as error:
            return Unknown(f"{error.filename or question.kind}: {os.strerror(error.errno or 0)}")

    def _list(self, argument: tuple[str, str, str]) -> bool | str | Unknown:
        name, value, kind = argument
        definition = self.configuration.lists.get(name)
        if definition is None:
            return Unknown(f"list {name}: not in the configuration")
        try:
            known = in_memory(*definition) if self.quick else table(*definition, self.configuration.state)
            if known is None:
                raise WouldWait
            return known.find(kind, value, self.configuration.rules["delimiter"], self._patience())
        except Fault as fault:
            return Unknown(f"list {name}: {fault}")

    def _header(self, name: str) -> list[str] | Unknown:
        return Unknown("there is no message") if self.message is None else self.message.headers(name)

    def _attachments(self, argument: None) -> list[str] | Unknown:
        if self.message is None:
            return Unknown("there is no message")
        from postroom.attachments import names  # and the email package with it

        return names(self.message)

    def _now(self, zone: str) -> tuple[int, int]:
        from time import localtime

        if not zone:
            moment = localtime()
            return moment.tm_wday, moment.tm_hour * 60 + moment.tm_min
        from datetime import datetime
        from zoneinfo import ZoneInfo

        there = datetime.now(ZoneInfo(zone))
        return there.weekday(), there.hour * 60 + there.minute

    def _country(self, address: str) -> str | Unknown:
        if not self.configuration.country:
            return Unknown("there is no [country] database in the configuration")
        from postroom.country import country

        return country(self.configuration.country, address)

    def _suppressed(self, address: str) -> Any:
        return self._state().suppression(address)

    def _seen(self, argument: tuple[str, tuple[str, ...], float, str]) -> bool:
        return self._state().seen(*argument)

    def _greylist(self, argument: tuple[str, tuple[str, ...], float, float, float, int]) -> int:
        return self._state().greylist(*argument)

    def _rate(self, argument: tuple[str, tuple[str, ...], tuple[tuple[int, float], ...], int, str]) -> int:
        return self._state().rate(*argument)

    def _state(self) -> Store:
        if self._store is None:
            if self._open_store is None:
                raise Fault("there is no store")
            self._store = self._open_store()
            self._store.dry = self.observe
        if self.deadline is not None:
            self._store.deadline = self.deadline
        return self._store

    def _mx(self, domain: str) -> Plan | Unknown:
        plan = self._dns().peek(domain) if self.quick else self._dns().plan(domain, self._patience())
        if plan is None:
            raise WouldWait
        return plan

    def _addresses(self, host: str) -> tuple[str, ...] | Unknown:
        return self._dns().addresses(host, self._patience())

    def _ns(self, domain: str) -> tuple[str, ...] | Unknown:
        return self._dns().name_servers(domain, self._patience())

    def _dnsbl(self, argument: tuple[str, tuple[str, ...]]) -> dict[str, tuple[str, ...] | Unknown]:
        return self._dns().dnsbl(*argument, self._patience())

    def _fcrdns(self, address: str) -> bool | Unknown:
        return self._dns().fcrdns(address, self._patience())

    def _dns(self) -> Resolver:
        if self._resolver is None:
            raise Fault("there is no resolver")
        return self._resolver

    def _patience(self) -> Deadline:
        if self.deadline is not None:
            return self.deadline
        from postroom.deadline import Deadline

        return Deadline(self.configuration.deadline)


# What `quick` sources may have in memory.
_AT_ONCE = frozenset(("list", "now", "mx"))

# What is said in a test that does not say it: an answer, or the name under which it could have said it.
_UNSAID: dict[str, bool | int | str] = {
    "seen": False,
    "greylist": "greylist",
    "rate": 0,
    "now": "now",
    "addresses": "mx_address",
    "ns": "ns",
    "dnsbl": "dnsbl",
    "fcrdns": "fcrdns",
    "country": "country",
    "attachments": "attachment",
}


def _record(configuration: Configuration) -> Record:
    """One for each file and process, however often the configuration is read again."""
    from postroom.record import Record  # only who records pays for it

    place = configuration.record, configuration.record_hashed, configuration.rules["delimiter"]
    return _records.get(place) or _records.setdefault(place, Record(*place))


_records: dict[tuple[str, bool, str], Record] = {}


def _domain(sources: Sources, attributes: Mapping[str, str], source: str) -> str:
    """The domain that is asked about, of an address as a person gives it, who may give it as a client types it."""
    return fold("domain", Facts(attributes, "", "", sources.configuration.rules["local"]).text(source, "domain"))


class Given(Sources):
    """Answers that a person gives: a [[test]] of the file, words on the command line. The rest as without them.

    `mx` and `sender_mx`: (preference, host) pairs, or the state null, none or error. `answers`: to other questions, by
    their kind. Without a resolver and a store the base is hermetic: then nothing was seen, counted or greylisted yet.
    """

    def __init__(
        self,
        base: Sources,
        attributes: Mapping[str, str],
        mx: tuple[tuple[int, str], ...] | str | None = None,
        sender_mx: tuple[tuple[int, str], ...] | str | None = None,
        suppressed: bool | None = None,
        headers: Mapping[str, tuple[str, ...]] | None = None,
        answers: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(
            base.configuration, base._resolver, base._open_store, base.message, base.deadline, observe=True
        )
        self._plans: dict[str, tuple[tuple[int, str], ...] | str] = {}
        for name, given in (("sender", sender_mx), ("recipient", mx)):
            if given is not None:
                self._plans[_domain(base, attributes, name)] = given
        self._recipient_domain = _domain(base, attributes, "recipient")
        self._suppression = suppressed
        self._headers = headers
        self._given: Mapping[str, Any] = answers or {}

    def answer(self, question: Question) -> Any:
        kind = question.kind
        if kind not in self._given:
            return self._unsaid(question) if self._resolver is None and kind in _UNSAID else super().answer(question)
        given = self._given[kind]
        return {zone: given.get(zone.lower(), ()) for zone in question.argument[1]} if kind == "dnsbl" else given

    def _unsaid(self, question: Question) -> Any:
        if question.kind == "greylist":
            return int(question.argument[2])  # the delay: this client is seen for the first time
        name = _UNSAID[question.kind]
        return name if isinstance(name, bool | int) else Unknown(f"the test does not say {name}")

    def _mx(self, domain: str) -> Plan | Unknown:
        given = self._plans.get(domain)
        if given is None and self._resolver is None:
            return Unknown(f"the test does not say {'mx' if domain == self._recipient_domain else 'sender_mx'}")
        if given is None:
            return super()._mx(domain)
        from postroom.mx import Plan

        if isinstance(given, str):
            return Plan(domain, given, reason="as given")
        return Plan(domain, "mx", given)

    def _suppressed(self, address: str) -> Any:
        if self._suppression is None:
            return super()._suppressed(address)
        from postroom.store import Suppression

        return Suppression(address, 0, why="as given") if self._suppression else None

    def _header(self, name: str) -> list[str] | Unknown:
        return super()._header(name) if self._headers is None else list(self._headers.get(name, ()))


def delivery_attributes(mail: Mail) -> dict[str, str]:
    """The attributes of a delivery, by the names that the rules of every stage use."""
    envelope = mail.envelope
    return {
        "sender": envelope.sender,
        "recipient": mail.recipient,
        "original_recipient": mail.original_recipient,
        "nexthop": envelope.nexthop,
        "queue_id": envelope.queue_id,
        "size": str(envelope.size or mail.message.size),
        "client_address": envelope.client_address,
        "client_name": envelope.client_hostname,
        "client_port": envelope.client_port,
        "helo_name": envelope.client_helo,
        "protocol_name": envelope.client_protocol,
        "sasl_method": envelope.sasl_method,
        "sasl_username": envelope.sasl_username,
        "sasl_sender": envelope.sasl_sender,
    }
