"""The handler behind rule-deliver: ask the rules of stage "deliver", then do what they say, once."""

from __future__ import annotations

from postroom.actions.once import once
from postroom.actions.state import State
from postroom.sources import Sources, delivery_attributes
from postroom.status import ConfigurationFault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from postroom.config import Dns
    from postroom.deadline import Deadline
    from postroom.delivery import Mail
    from postroom.dns import Resolver
    from postroom.mx import Plan
    from postroom.rules import Decision, Unknown
    from postroom.status import Outcome


def deliver(mail: Mail) -> Outcome:
    """The outcome of the first rule that matches. Raises a Fault where there is none: the mail waits for one."""
    state = State(mail.configuration, mail.deadline)
    decision = asked("deliver", delivery_attributes(mail), mail, state)
    if decision.shadow or decision.skipped:
        mail.log.update(decision.notes())
    if decision.rule is None:
        raise ConfigurationFault(f"no rule for {mail.recipient}")
    mail.log["rule"] = decision.rule
    mail.log["action"] = decision.action
    mail.log["on_error"] = decision.reason if decision.on_error else None
    return once(decision.words, mail, state.open)


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
