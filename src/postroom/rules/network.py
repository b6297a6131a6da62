"""Conditions over what the DNS says of a domain, a host or a client, and over the country of a client.

Functions as in compare.py.
"""

from __future__ import annotations

from postroom.rules import Question, Unknown
from postroom.rules.compare import address_in, matches, some
from postroom.rules.lookup import fold, parse_ip

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from postroom.rules.facts import Facts

    Truth = bool | Unknown | Question | None

# RFC 5321 leaves the number of MX hosts open; smtp(8) tries five addresses (smtp_mx_address_limit). Of a domain with
# more hosts than this only the first are looked at, since each one costs a question.
MX_HOSTS_LIMIT = 10


def mx_state(condition: tuple[Any, ...], facts: Facts) -> Truth:
    _, _, source, _, _, (entries, _, _, _, _), _ = condition
    plan = facts.plan(source)
    if plan is None or plan.__class__ is Question:
        return plan
    failed = plan.__class__ is Unknown or plan.state == "error"
    if failed and "error" not in entries:
        return plan if plan.__class__ is Unknown else _no_plan(plan)
    return failed or plan.state in entries


def mx(condition: tuple[Any, ...], facts: Facts) -> Truth:
    _, _, source, part, _, test, _ = condition
    plan = facts.plan(source)
    if plan is None or plan.__class__ is Question or plan.__class__ is Unknown:
        return plan
    if plan.state == "error":
        return _no_plan(plan)
    hosts = plan.primary if part == "primary_mx" else plan.every
    if part == "every_mx":
        # Of no host at all nothing is said: a null MX is not "all at this provider".
        return _every(hosts, test, facts) if hosts else False
    return some("domain", hosts, test, facts)


def mx_address(condition: tuple[Any, ...], facts: Facts) -> Truth:
    """Whether any address of any of the hosts is meant. A host whose addresses cannot be told is a doubt."""
    _, _, source, _, _, test, _ = condition
    plan = facts.plan(source)
    if plan is None or plan.__class__ is Question or plan.__class__ is Unknown:
        return plan
    if plan.state == "error":
        return _no_plan(plan)
    doubt: Truth = False
    for host in plan.every[:MX_HOSTS_LIMIT]:
        found: Any = (host,) if plan.state == "literal" else facts.ask("addresses", host)
        truth: Truth = _some_address(found, test, facts) if found.__class__ is tuple else found
        if truth is True or truth.__class__ is Question:
            return truth
        if truth is not False:
            doubt = truth
    return doubt


def ns(condition: tuple[Any, ...], facts: Facts) -> Truth:
    _, _, source, _, _, test, _ = condition
    domain = fold("domain", facts.text(source, "domain"))
    found = facts.ask("ns", domain) if domain else None
    return some("domain", found, test, facts) if found.__class__ is tuple else found


def dnsbl(condition: tuple[Any, ...], facts: Facts) -> Truth:
    _, _, source, part, _, (zones, at_least), _ = condition
    name = fold("domain", facts.text(source, part))
    if not (parse_ip(name) is not None if source == "client_address" else _listable(name)):
        return None
    from postroom.rules.dnsbl import judge, zone_names  # who asks none of them does not load it

    found = facts.ask("dnsbl", (name, zone_names(zones)))
    return judge(zones, at_least, found) if found.__class__ is dict else found


def _listable(domain: str) -> bool:
    """As smtpd(8) has it (src/smtpd/smtpd_check.c, reject_rbl_domain): lists of domains answer whoever asks about an
    address, or a name that ends in a number like one, with a record that means "not here" and reads as a listing.
    """
    return bool(domain) and domain[0] != "[" and domain != "unknown" and not domain.rpartition(".")[2].isdigit()


def fcrdns(condition: tuple[Any, ...], facts: Facts) -> Truth:
    """client_name is there where Postfix has found the name and its address; "unknown" also where DNS did not tell."""
    _, _, source, _, _, wanted, _ = condition
    address = facts.text(source)
    if parse_ip(address) is None:
        return None
    name = facts.text("client_name")
    found = True if name and name.lower() != "unknown" else facts.ask("fcrdns", address)
    return found is wanted if found.__class__ is bool else found


def country(condition: tuple[Any, ...], facts: Facts) -> Truth:
    _, _, source, _, _, (entries, _, _, _, _), _ = condition
    address = facts.text(source)
    if parse_ip(address) is None:
        return None
    found = facts.ask("country", address)
    return found in entries if found.__class__ is str else found


def _every(hosts: Any, test: tuple[Any, ...], facts: Facts) -> Truth:
    doubt: Truth = True
    for host in hosts:
        truth = matches("domain", host, test, facts)
        if truth is False or truth.__class__ is Question:
            return truth
        if truth is not True:
            doubt = truth
    return doubt


def _some_address(addresses: tuple[str, ...], test: tuple[Any, ...], facts: Facts) -> Truth:
    doubt: Truth = False
    for address in addresses:
        truth = address_in(address, test, facts)
        if truth is True or truth.__class__ is Question:
            return truth
        doubt = truth or doubt
    return doubt


def _no_plan(plan: Any) -> Unknown:
    return Unknown(f"MX of {plan.domain}: {plan.reason}")
