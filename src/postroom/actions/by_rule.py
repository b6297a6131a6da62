"""The handler behind rule-deliver: ask the rules of stage "deliver", then do what they say, once."""

from __future__ import annotations

from postroom import store
from postroom.actions.once import once
from postroom.sources import Sources, delivery_attributes
from postroom.status import ConfigurationFault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from postroom.config import Configuration, Dns
    from postroom.deadline import Deadline
    from postroom.delivery import Mail
    from postroom.dns import Resolver
    from postroom.mx import Plan
    from postroom.rules import Decision
    from postroom.status import Outcome
    from postroom.store import Store


def deliver(mail: Mail) -> Outcome:
    """The outcome of the first rule that matches. Raises a Fault where there is none: the mail waits for one."""
    state = State(mail.configuration, mail.deadline)
    decision = _decided(mail, state)
    if decision.shadow:
        mail.log["shadow"] = "; ".join(f"{rule}: {action}" for rule, action in decision.shadow)
    if decision.rule is None:
        raise ConfigurationFault(f"no rule for {mail.recipient}")
    mail.log["rule"] = decision.rule
    mail.log["action"] = decision.action
    mail.log["on_error"] = decision.reason if decision.on_error else None
    return once(decision.words, mail, state.open)


def _decided(mail: Mail, state: State) -> Decision:
    configuration = mail.configuration
    sources = Sources(configuration, LateResolver(configuration.dns), state.open, mail.message, mail.deadline)
    return sources.decide("deliver", delivery_attributes(mail))


class State:
    """The store, opened when it is first needed, and then for both: the rules that ask it and the action."""

    def __init__(self, configuration: Configuration, deadline: Deadline) -> None:
        self._directory = configuration.state
        self._deadline = deadline
        self._store: Store | None = None

    def open(self) -> Store:
        if self._store is None:
            self._store = store.open(self._directory, self._deadline)
        return self._store


class LateResolver:
    """The resolver, imported with the first question: most rules about deliveries ask none."""

    def __init__(self, dns: Dns) -> None:
        self._dns = dns
        self._resolver: Resolver | None = None

    def plan(self, domain: str, deadline: Deadline) -> Plan:
        if self._resolver is None:
            from postroom.dns import Resolver

            self._resolver = Resolver(self._dns.servers, self._dns.port, self._dns.timeout)
        return self._resolver.plan(domain, deadline)
