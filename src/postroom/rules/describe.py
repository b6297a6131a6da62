"""What a condition looked at, and what was answered to a question, in words for a person."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from postroom.rules import Question, Unknown
from postroom.rules.clock import WEEKDAYS
from postroom.rules.lookup import fold
from postroom.status import clean

if TYPE_CHECKING:
    from collections.abc import Callable

    from postroom.rules.facts import Facts

MISSING = "missing"
_SHOWN_LIMIT = 200
_ITEMS_SHOWN = 5
_HOSTS_SHOWN = 10


def describe(kind: str, answer: Any) -> str:
    """The answer to a question."""
    if isinstance(answer, Unknown):
        return short(f"unknown: {answer.reason}")
    return "not asked" if isinstance(answer, Question) else _ANSWERS[kind](answer)


def about(kind: str, argument: Any) -> str:
    """What a question is about, in one line."""
    if kind == "list":
        return f"{argument[0]}: {clean(argument[1])}"
    if kind == "dnsbl":
        return f"{clean(argument[0])} in {', '.join(argument[1])}"
    if kind in ("seen", "greylist", "rate"):
        return f"{clean(argument[0])}: {short(', '.join(argument[1]))}"
    return clean(str(argument or ""))


def seen(condition: tuple[Any, ...], facts: Facts) -> str:
    """The value that the condition looked at; MISSING where there is none."""
    kind, _, source, part, known = condition[:5]
    if kind in _SEEN:
        return _SEEN[kind](condition, facts)
    if kind == "number":
        text = facts.text(source)
        return short(text) if text and (text != "0" or known) else MISSING
    if facts.value(source, part, kind, known) is None:
        return MISSING
    return short(facts.text(source, part)) or "(empty)"


def short(text: str) -> str:
    text = clean(text)
    return text if len(text) <= _SHOWN_LIMIT else f"{text[:_SHOWN_LIMIT]}... ({len(text)} characters)"


def seconds(number: float) -> str:
    """As a person says it: 45 s, 5 min, 3 h, 2 d."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if number >= 2 * size or (number >= size and number % size == 0):
            return f"{number / size:.3g} {unit}"
    return f"{number:.3g} s"


def _items(values: Any) -> str:
    shown = ", ".join(short(value) for value in values[:_ITEMS_SHOWN])
    more = len(values) - _ITEMS_SHOWN
    return (f"{shown} and {more} more" if more > 0 else shown) or "none"


def _plan(plan: Any) -> str:
    stale = " (of before: DNS does not tell now)" if getattr(plan, "stale", False) else ""
    if plan.state in ("mx", "implicit", "literal"):
        hosts = ", ".join(f"{clean(name)} ({preference})" for preference, name in plan.hosts[:_HOSTS_SHOWN])
        more = len(plan.hosts) - _HOSTS_SHOWN
        return hosts + (f" and {more} more" if more > 0 else "") + stale
    words = {"null": "null MX: takes no mail", "none": "no mail host", "error": "DNS did not tell"}[plan.state]
    return (f"{words}: {clean(plan.reason)}" if plan.reason else words) + stale


def _listed(found: bool | str) -> str:
    return "not in it" if found is False else "found" + (f": {short(found)}" if isinstance(found, str) else "")


def _zones(found: dict[str, Any]) -> str:
    parts = []
    for zone, addresses in found.items():
        if isinstance(addresses, Unknown):
            parts.append(f"{zone} cannot be told ({short(addresses.reason)})")
        elif addresses:
            parts.append(f"listed by {zone} ({_items(addresses)})")
    return ", ".join(parts) or "not listed"


def _moment(found: tuple[int, int]) -> str:
    weekday, minute = found
    return f"{WEEKDAYS[weekday].capitalize()} {minute // 60:02}:{minute % 60:02}"


def _waits(passes: str, waits: str) -> Callable[[int], str]:
    return lambda found: f"{waits} {seconds(found)}" if found else passes


_ANSWERS: dict[str, Callable[[Any], str]] = {
    "list": _listed,
    "mx": _plan,
    "addresses": _items,
    "ns": _items,
    "dnsbl": _zones,
    "fcrdns": lambda found: "confirmed" if found else "not confirmed",
    "suppressed": lambda found: "not suppressed" if found is None else f"suppressed: {short(found.why)}",
    "seen": lambda found: "seen before" if found else "not seen before",
    "greylist": _waits("may pass", "has to wait"),
    "rate": _waits("within the limit", "over the limit for"),
    "now": _moment,
    "country": lambda found: found or "in no country",
    "header": _items,
    "attachments": _items,
}


def _of_plan(condition: tuple[Any, ...], facts: Facts) -> str:
    plan = facts.plan(condition[2])
    return MISSING if plan is None else describe("mx", plan)


def _of_addresses(condition: tuple[Any, ...], facts: Facts) -> str:
    """The hosts with as much of their addresses as was asked for."""
    plan = facts.plan(condition[2])
    if plan is None or isinstance(plan, Question | Unknown) or plan.state not in ("mx", "implicit"):
        return MISSING if plan is None else describe("mx", plan)
    known = [(host, facts.ask("addresses", host)) for host in plan.every[:_HOSTS_SHOWN]]
    return ", ".join(f"{clean(host)} ({describe('addresses', found)})" for host, found in known)


def _of_domain(condition: tuple[Any, ...], facts: Facts) -> str:
    domain = fold("domain", facts.text(condition[2], "domain"))
    return describe("ns", facts.ask("ns", domain)) if domain else MISSING


def _of_zones(condition: tuple[Any, ...], facts: Facts) -> str:
    """From what was asked: the name as it was asked about, and the zones."""
    name = fold("domain", facts.text(condition[2], condition[3]))
    found = [answer for (kind, argument), answer in facts.answers.items() if kind == "dnsbl" and _named(argument, name)]
    return describe("dnsbl", found[-1]) if found else MISSING


def _named(argument: Any, name: str) -> bool:
    return isinstance(argument, tuple) and argument[0] == name


def _of_reverse(condition: tuple[Any, ...], facts: Facts) -> str:
    name = facts.text("client_name")
    if name and name.lower() != "unknown":
        return f"confirmed: {short(name)}"
    address = facts.text(condition[2])
    return describe("fcrdns", facts.ask("fcrdns", address)) if address else MISSING


def _of_country(condition: tuple[Any, ...], facts: Facts) -> str:
    address = facts.text(condition[2])
    return describe("country", facts.ask("country", address)) if address else MISSING


def _of_clock(condition: tuple[Any, ...], facts: Facts) -> str:
    return describe("now", facts.ask("now", facts.zone))


def _of_suppression(condition: tuple[Any, ...], facts: Facts) -> str:
    source = condition[2]
    return describe("suppressed", facts.suppression(source)) if facts.text(source) else MISSING


def _of_header(condition: tuple[Any, ...], facts: Facts) -> str:
    found = facts.ask("header", condition[2])
    return MISSING if found == [] else describe("header", found)


def _of_attachments(condition: tuple[Any, ...], facts: Facts) -> str:
    found = facts.ask("attachments", None)
    return MISSING if found == [] else describe("attachments", found)


def _of_flag(kind: str) -> Callable[[tuple[Any, ...], Facts], str]:
    def of_flag(condition: tuple[Any, ...], facts: Facts) -> str:
        value = facts.value(condition[2], "", kind, condition[4])
        return MISSING if value is None else short(value) or "the null sender"

    return of_flag


def _of_count(condition: tuple[Any, ...], facts: Facts) -> str:
    """Of each of its tables, the key and what was said of it."""
    kind, names = condition[0], {counted[0] for counted in condition[5]}
    parts = []
    for (asked, argument), answer in facts.answers.items():
        if asked == kind and isinstance(argument, tuple) and str(argument[0]).partition(" ")[0] in names:
            parts.append(f"{short(', '.join(argument[1]))}: {describe(kind, answer)}")
    return "; ".join(parts) or MISSING


_SEEN: dict[str, Callable[[tuple[Any, ...], Facts], str]] = {
    "mx": _of_plan,
    "mx_state": _of_plan,
    "mx_address": _of_addresses,
    "ns": _of_domain,
    "dnsbl": _of_zones,
    "fcrdns": _of_reverse,
    "country": _of_country,
    "time": _of_clock,
    "weekday": _of_clock,
    "flag": _of_suppression,
    "header": _of_header,
    "attachment": _of_attachments,
    "null": _of_flag("address"),
    "literal": _of_flag("domain"),
    "seen": _of_count,
    "greylist": _of_count,
    "rate": _of_count,
}
