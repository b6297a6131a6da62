"""The tables that Postroom serves, whatever the protocol: what each of them answers for a key.

    route             the rules of at = "route": a transport(5) result for a recipient
    suppressed        "550 5.1.1 ..." for a suppressed recipient: an access(5) result
    verdict           the rules of at = "rcpt", with the recipient alone known: an access(5) result
    sender-verdict    the rules of at = "mail", with the sender alone known: an access(5) result
    list.NAME         the text beside the entry of a list

Rules for this file
* Postfix asks for whole keys only (socketmap_table(5), tcp_table(5)): no domain after the address, no address without
  its extension. It asks `route` for addresses, and for `*` when it starts. A key without "@" is answered with "not
  found" there: were it decided by the rules too, they would speak twice for one recipient, and not to the same end.
* Addresses come in RFC 5321's form first, and then in Postfix's own where that is another one: `"a b"@example.com`,
  then `a b@example.com`. Both are the same recipient.
* `route` holds up every mail while it waits. So it is quick, prefers what it knew to waiting for DNS, and says "not
  found" where it cannot tell; "later" only where temp = true in [route] asks for it.
"""

from __future__ import annotations

import os

from postroom.deadline import Deadline
from postroom.lookup import Answer, ConfigurationFault, Table, found, notfound, permanent, temporary
from postroom.plans import LastingResolver
from postroom.rules import Question, Unknown
from postroom.rules.lookup import fold, parse_ip
from postroom.sources import Sources
from postroom.status import clean, cut, is_status
from postroom.store import open as open_store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from postroom.rules import Decision
    from postroom.store import Suppression

# How old a plan may be that is better than none: mail routed as it was yesterday arrives as a rule.
STALE_SECONDS = 86400.0

# Of the words of the server that refused; Postfix's reply has room for 510 bytes, address and all.
WHY_LIMIT = 200

# What an entry without a text of its own comes to. In an access(5) table it must not let anybody in.
BARE = "DUNNO"


def lookup(table: Table, key: str) -> Answer:
    """The answer of the table of that name; `permanent` where there is none."""
    if table == "route":
        return _route(table, internal(key))
    if table == "suppressed":
        return _suppressed(table, internal(key))
    if table in ("verdict", "sender-verdict"):
        return _verdict(table, internal(key))
    # By a dot, since in Postfix's own socketmap:inet:host:port:name no name can hold a colon.
    if table.startswith(("list.", "list:")):
        return _list(table, table[5:], key)
    table.log["text"] = "no such table; there are route, suppressed, verdict, sender-verdict and list.NAME"
    return permanent(f"no table {table}")


def _route(table: Table, address: str) -> Answer:
    table.fallback = notfound()
    if not _is_address(address):
        return notfound()
    desk = _desk(table)
    settings = desk.configuration.route
    if settings.temp:
        table.fallback = None
    desk.hurry(min(settings.deadline, table.deadline.remaining()), STALE_SECONDS)
    if settings.overrides:
        text = desk.ask("list", (settings.overrides, fold("address", address), "address"))
        if isinstance(text, Unknown):
            return _undecided(table, text.reason)
        if text is not False:
            return _override(table, settings.overrides, text)
    decision = desk.decide("route", {"recipient": address})
    if decision.on_error and not decision.action:
        _log(table, decision)
        return _undecided(table, decision.reason)
    return _decided(table, decision)


def _override(table: Table, name: str, text: str | bool) -> Answer:
    """What stands beside the entry; an entry alone exempts the recipient from the rules."""
    table.log["override"] = name
    if isinstance(text, bool):
        return notfound()
    if ":" not in text:
        raise ConfigurationFault(f"list {name}: {text!r}, expected transport:nexthop, as in transport(5)")
    return found(text)


def _undecided(table: Table, reason: str) -> Answer:
    """By what [route] says of it: the fallback."""
    table.log["on_error"] = reason
    return table.fallback or temporary(reason)


def _verdict(table: Table, address: str) -> Answer:
    if not (address == "" and table == "sender-verdict") and not _is_address(address):
        return notfound()
    desk = _desk(table)
    desk.hurry(table.deadline.remaining())
    stage, name = ("rcpt", "recipient") if table == "verdict" else ("mail", "sender")
    return _decided(table, desk.decide(stage, {"protocol_state": stage.upper(), name: address}), access=True)


def _decided(table: Table, decision: Decision, access: bool = False) -> Answer:
    _log(table, decision)
    if decision.rule is None or not decision.action:
        return notfound()
    if not access:
        return found(decision.action)
    from postroom.wire.policy import reply  # the checks of a policy service's actions, which are access(5)'s

    return found(reply(decision.action).decode().removeprefix("action=").rstrip("\n"))


def _log(table: Table, decision: Decision) -> None:
    if decision.shadow or decision.skipped:
        table.log.update(decision.notes())
    if decision.rule is not None:
        table.log["rule"] = decision.rule
        table.log["on_error"] = decision.reason if decision.on_error else None


def _suppressed(table: Table, address: str) -> Answer:
    if not _is_address(address):
        return notfound()
    desk = _desk(table)
    desk.hurry(table.deadline.remaining())
    suppression = desk.ask("suppressed", address)
    if isinstance(suppression, Unknown):
        table.log["on_error"] = suppression.reason
        return temporary(suppression.reason)
    if suppression is None:
        return notfound()
    text = refusal(suppression)
    table.log["suppressed"] = suppression.reason
    return found(text)


def refusal(suppression: Suppression) -> str:
    """What Postfix tells a client that writes to a suppressed address."""
    from time import gmtime, strftime

    status = suppression.status if is_status(suppression.status) and suppression.status[0] == "5" else "5.1.1"
    since = strftime("%Y-%m-%d", gmtime(suppression.since))
    why = cut(clean(suppression.why) or clean(suppression.reason), WHY_LIMIT).decode()
    return f"550 {status} not sent to since {since}: {why}"


def _list(table: Table, name: str, key: str) -> Answer:
    """Looked up as a rule looks up a value of that shape: address, host address, or else a name and its parents."""
    address = internal(key)
    kind = "address" if not address or _is_address(address) else "ip" if parse_ip(key) else "domain"
    desk = _desk(table)
    desk.hurry(table.deadline.remaining())
    if name not in desk.configuration.lists:
        table.log["text"] = f"no list {name} in the configuration"
        return permanent(f"no list {name}")
    text = desk.ask("list", (name, fold(kind, address if kind == "address" else key), kind))
    if isinstance(text, Unknown):
        table.log["on_error"] = text.reason
        return temporary(text.reason)
    return notfound() if text is False else found(BARE if text is True else text)


def internal(key: str) -> str:
    """An address in Postfix's own form: without the quotes of RFC 5321, the null one empty."""
    if key in ("<>", '"<>"', '""'):
        return ""
    local, at, domain = key.rpartition("@")
    if not (at and len(local) >= 2 and local[0] == '"' and local[-1] == '"'):
        return key
    plain, escaped = "", False
    for character in local[1:-1]:
        if escaped or character != "\\":
            plain += character
        escaped = character == "\\" and not escaped
    return f"{plain}@{domain}"


def _is_address(address: str) -> bool:
    local, at, domain = address.rpartition("@")
    return bool(local and at and domain)


class _Desk(Sources):
    """Sources for one configuration, kept for the connection."""

    def __init__(self, configuration: Any) -> None:
        dns = configuration.dns
        place = os.path.join(configuration.state, "cache", "plans")
        self._memory = LastingResolver(dns.servers, dns.port, dns.timeout, place)
        # The deadline of the lookup that opens it: hurry() has been called by then.
        super().__init__(configuration, self._memory, lambda: open_store(configuration.state, self.left))

    @property
    def left(self) -> Deadline:
        return self.deadline or Deadline(0.0)

    def hurry(self, seconds: float, stale: float = 0.0) -> None:
        """What the next decision may take, and how old an answer of DNS may be where there is no new one."""
        self.deadline = Deadline(seconds)
        self._memory.stale = stale

    def ask(self, kind: str, argument: object) -> Any:
        return self.answer(Question(kind, argument))


def _desk(table: Table) -> _Desk:
    """Made anew with each configuration: other servers to ask, another state."""
    service = table.service
    assert service is not None  # noqa: S101 - for mypy; the runner lends one to every lookup
    configuration = service.configuration
    if service.sources is None or service.sources.configuration is not configuration:
        import dns.message  # noqa: F401  # half a second on a slow machine: not out of the first lookup's deadline

        service.sources = _Desk(configuration)
    desk: _Desk = service.sources
    return desk
