"""The handler behind rule-deliver: ask the rules of stage "deliver", then do what they say, once."""

from __future__ import annotations

from _thread import _local

from postroom.actions.once import once
from postroom.actions.state import State
from postroom.sources import Sources, delivery_attributes
from postroom.status import ConfigurationFault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from postroom.config import Configuration, Dns
    from postroom.deadline import Deadline
    from postroom.delivery import Mail
    from postroom.dns import Resolver
    from postroom.mx import Plan
    from postroom.rules import Decision, Unknown
    from postroom.status import Outcome

_own = _local()  # .desk, of each thread


def deliver(mail: Mail) -> Outcome:
    """The outcome of the first rule that matches. Raises a Fault where there is none: the mail waits for one."""
    desk = _desk(mail)
    decision = desk.decide(mail)
    if decision.shadow or decision.skipped:
        mail.log.update(decision.notes())
    if decision.rule is None:
        raise ConfigurationFault(f"no rule for {mail.recipient}")
    mail.log["rule"] = decision.rule
    mail.log["action"] = decision.action
    mail.log["on_error"] = decision.reason if decision.on_error else None
    return once(decision.words, mail, desk.state.open)


class _Desk:
    """What a thread keeps from one mail to the next: the state stays open, lists are read when they have changed."""

    __slots__ = ("configuration", "sources", "state")

    def __init__(self, configuration: Configuration, deadline: Deadline) -> None:
        self.configuration = configuration
        self.state = State(configuration, deadline)
        self.sources = Sources(configuration, LateResolver(configuration.dns), self.state.open)

    def decide(self, mail: Mail) -> Decision:
        self.state.renew(mail.deadline)
        self.sources.message, self.sources.deadline = mail.message, mail.deadline
        try:
            return self.sources.decide("deliver", delivery_attributes(mail))
        finally:
            self.sources.message = None


def _desk(mail: Mail) -> _Desk:
    desk: _Desk | None = getattr(_own, "desk", None)
    if desk is None or desk.configuration is not mail.configuration:
        desk = _own.desk = _Desk(mail.configuration, mail.deadline)
    return desk


def asked(stage: str, attributes: Mapping[str, str], mail: Mail, state: State) -> Decision:
    """What the rules of a stage decide about the mail."""
    configuration = mail.configuration
    sources = Sources(configuration, LateResolver(configuration.dns), state.open, mail.message, mail.deadline)
    return sources.decide(stage, attributes)


class LateResolver:
    """The resolver, imported with the first question: most rules about deliveries ask none."""

    def __init__(self, dns: Dns) -> None:
        self._dns = dns
        self._resolver: Resolver | None = None

    def plan(self, domain: str, deadline: Deadline) -> Plan:
        return self._loaded().plan(domain, deadline)

    def peek(self, domain: str) -> Plan | None:
        return self._loaded().peek(domain)

    def addresses(self, host: str, deadline: Deadline) -> tuple[str, ...] | Unknown:
        return self._loaded().addresses(host, deadline)

    def name_servers(self, domain: str, deadline: Deadline) -> tuple[str, ...] | Unknown:
        return self._loaded().name_servers(domain, deadline)

    def dnsbl(self, name: str, zones: tuple[str, ...], deadline: Deadline) -> dict[str, tuple[str, ...] | Unknown]:
        return self._loaded().dnsbl(name, zones, deadline)

    def fcrdns(self, address: str, deadline: Deadline) -> bool | Unknown:
        return self._loaded().fcrdns(address, deadline)

    def _loaded(self) -> Resolver:
        if self._resolver is None:
            from postroom.dns import Resolver

            self._resolver = Resolver(self._dns.servers, self._dns.port, self._dns.timeout)
        return self._resolver
