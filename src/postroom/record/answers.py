"""The answers to questions (rules.Question) as what JSON can hold, and back.

    kind                          as JSON
    "list"                        false, true, or the text beside the entry
    "mx"                          {"domain", "state", "hosts": [[preference, name]], "ttl", "reason", ...}: a Plan
    "addresses" "ns" "header" "attachments"    list of texts
    "dnsbl"                       {zone: list of texts, or {"unknown": reason}}
    "fcrdns" "seen"               true, false
    "suppressed"                  null or {"address", "since", "reason", "status", "why", "source", "until"}
    "greylist" "rate"             seconds
    "now"                         [weekday, minute]
    "country"                     text

Unknown is none of these: who writes an answer down says it beside (`"unknown"` in place of `"answer"`).
Writing happens for mail and imports nothing; what is read was written by anybody, and is checked to the last item.
"""

from __future__ import annotations

from postroom.rules import Unknown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from postroom.mx import Plan
    from postroom.store import Suppression

_MX_STATES = ("mx", "implicit", "null", "none", "literal", "error")
_SUPPRESSION = ("address", "since", "reason", "status", "why", "source", "until")


def encode(kind: str, answer: Any) -> Any:
    """What stands for the answer, of dicts, lists, tuples, texts, numbers and None."""
    if kind == "mx":
        return {
            "domain": answer.domain,
            "state": answer.state,
            "hosts": answer.hosts,
            "ttl": answer.ttl,
            "reason": answer.reason,
            "outcome": answer.outcome,
            "notes": answer.notes,
            "stale": answer.stale,
        }
    if kind == "suppressed":
        return None if answer is None else {name: getattr(answer, name) for name in _SUPPRESSION}
    if kind == "dnsbl":
        return {zone: _zone(found) for zone, found in answer.items()}
    return answer


def _zone(found: Any) -> Any:
    return {"unknown": found.reason} if found.__class__ is Unknown else found


def decode(kind: str, data: Any) -> Any:
    """The answer. Raises ValueError, which says what was expected."""
    if kind not in _READERS:
        raise ValueError(f"there are no questions of kind {str(kind)[:40]!r}")
    return _READERS[kind](data)


def argument(data: Any) -> Any:
    """The argument of a question: JSON's lists are the tuples that were."""
    return tuple(map(argument, data)) if isinstance(data, list) else data


def _expect(held: bool, what: str) -> None:
    if not held:
        raise ValueError(f"expected {what}")


def _list(data: Any) -> bool | str:
    _expect(isinstance(data, bool | str), "true, false or a text")
    found: bool | str = data
    return found


def _text(data: Any) -> str:
    _expect(isinstance(data, str), "a text")
    return str(data)


def _flag(data: Any) -> bool:
    _expect(isinstance(data, bool), "true or false")
    return bool(data)


def _whole(data: Any) -> int:
    _expect(isinstance(data, int) and not isinstance(data, bool) and data >= 0, "a whole number")
    return int(data)


def _texts(data: Any) -> list[str]:
    _expect(isinstance(data, list), "a list of texts")
    return [_text(item) for item in data]


def _names(data: Any) -> tuple[str, ...]:
    return tuple(_texts(data))


def _now(data: Any) -> tuple[int, int]:
    _expect(isinstance(data, list) and len(data) == 2, "[weekday, minute]")
    weekday, minute = _whole(data[0]), _whole(data[1])
    _expect(weekday < 7 and minute < 24 * 60, "a weekday below 7 and a minute of the day")
    return weekday, minute


def _dnsbl(data: Any) -> dict[str, tuple[str, ...] | Unknown]:
    _expect(isinstance(data, dict), "an object of zones")
    return {zone: Unknown(_text(found.get("unknown"))) if isinstance(found, dict) else _names(found)
            for zone, found in data.items()}  # fmt: skip


def _mx(data: Any) -> Plan:
    _expect(isinstance(data, dict), "an object with the plan of a domain")
    hosts = data.get("hosts")
    _expect(data.get("state") in _MX_STATES, f"one of {', '.join(_MX_STATES)} as state")
    _expect(isinstance(hosts, list), "a list of hosts")
    pairs = []
    for host in hosts:
        _expect(isinstance(host, list) and len(host) == 2, "hosts as [preference, name]")
        pairs.append((_whole(host[0]), _text(host[1])))
    from postroom.mx import Plan

    domain, reason, outcome = (_text(data.get(name)) for name in ("domain", "reason", "outcome"))
    ttl, notes = _whole(data.get("ttl")), _names(data.get("notes"))
    plan = Plan(domain, data["state"], tuple(pairs), ttl, reason, outcome, notes)
    plan.stale = _flag(data.get("stale"))
    return plan


def _suppressed(data: Any) -> Suppression | None:
    if data is None:
        return None
    _expect(isinstance(data, dict), "null or an object with a suppression")
    from postroom.store import Suppression

    texts = {name: _text(data.get(name)) for name in _SUPPRESSION if name not in ("since", "until")}
    until = data.get("until")
    return Suppression(since=_whole(data.get("since")), until=None if until is None else _whole(until), **texts)


_READERS: dict[str, Callable[[Any], Any]] = {
    "list": _list,
    "mx": _mx,
    "addresses": _names,
    "ns": _names,
    "dnsbl": _dnsbl,
    "fcrdns": _flag,
    "suppressed": _suppressed,
    "seen": _flag,
    "greylist": _whole,
    "rate": _whole,
    "now": _now,
    "country": _text,
    "header": _texts,
    "attachments": _texts,
}
