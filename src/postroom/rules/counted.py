"""`seen`, `greylist` and `rate`: the conditions that remember, read from their tables of settings.

    seen     = { key = ["sender", "recipient"], within = "30d" }
    greylist = { delay = "5m", retry = "2d", lifetime = "35d", mask = [24, 64], auto_allow = 10, key = ["sender"] }
    rate     = { key = "sasl_username", limit = ["100/1h", "1000/1d"], count = "recipients", name = "submission" }

Each part of a key is (kind, attribute, part of it). Two rules count together where they give the same `name`; without
one it is the rule's id, so that they do not.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from postroom.rules import keys, section
from postroom.rules.problems import Refused, unknown
from postroom.rules.values import show

UNITS = ("messages", "recipients", "bytes")

# What the store keeps for a key is a few dozen counters a limit; nobody thinks in more limits than these.
LIMITS_LIMIT = 8
KEY_PARTS_LIMIT = 8
LONGEST = 366 * 86400.0

# postscreen_greylist and its peers: a sending host tries again within minutes, a mailing list within days.
_GREYLIST = {"delay": 300.0, "retry": 2 * 86400.0, "lifetime": 35 * 86400.0}
_MASK = (24, 64)


class Counted(NamedTuple):
    """What a condition of this kind compiles to."""

    name: str
    key: tuple[tuple[str, str, str], ...]
    settings: tuple[Any, ...]


def parse(kind: str, value: object, stage: str, name: str) -> Counted:
    """The settings of one condition; `name` stands in where it has none. Raises Refused."""
    known = {
        "seen": ("key", "within"),
        "greylist": ("key", *_GREYLIST, "mask", "auto_allow"),
        "rate": ("key", "limit", "count"),
    }[kind]
    if not isinstance(value, dict):
        raise Refused(f"expected a table such as {_EXAMPLES[kind]}, found {show(value)}")
    for given in value:
        if given not in (*known, "name"):
            raise Refused(unknown(given, (*known, "name"), "setting"))
    name = _name(value["name"]) if "name" in value else name
    return _READERS[kind](value, stage, name)


_EXAMPLES = {
    "seen": '{ key = ["sender", "recipient"], within = "30d" }',
    "greylist": '{ delay = "5m" }',
    "rate": '{ key = "sasl_username", limit = "100/1h" }',
}


def _name(value: object) -> str:
    if not isinstance(value, str) or not value or not value.replace("-", "a").replace("_", "a").isalnum():
        raise Refused(f"name: expected letters, digits, - and _, found {show(value)}")
    return value


def _seen(table: dict[str, Any], stage: str, name: str) -> Counted:
    return Counted(name, _key(table, stage), (_seconds(table, "within", 30 * 86400.0),))


def _greylist(table: dict[str, Any], stage: str, name: str) -> Counted:
    delay, retry, lifetime = (_seconds(table, setting, default) for setting, default in _GREYLIST.items())
    if retry <= delay:
        raise Refused("retry: expected more than delay, or nobody would ever pass")
    mask = table.get("mask", list(_MASK))
    if not isinstance(mask, list) or len(mask) != 2 or not all(isinstance(bits, int) for bits in mask):
        raise Refused(f"mask: expected prefix lengths for IPv4 and IPv6, [24, 64], found {show(mask)}")
    if not (0 < mask[0] <= 32 and 0 < mask[1] <= 128):
        raise Refused(f"mask: expected 1 to 32 for IPv4 and 1 to 128 for IPv6, found {mask}")
    allow = table.get("auto_allow", 0)
    if isinstance(allow, bool) or not isinstance(allow, int) or not 0 <= allow <= 10**6:
        raise Refused(
            f"auto_allow: expected how many keys of a client pass until all do, 0 for never, found {show(allow)}"
        )
    missing = {"client_address"} - {name for name in keys.KEYS if stage in keys.KEYS[name].stages}
    if missing:
        raise Refused(f"cannot be known at {stage}, which has no client")
    key = _key(table, stage) if "key" in table else _parts([n for n in ("sender", "recipient") if _at(n, stage)], stage)
    return Counted(name, key, (delay, retry, lifetime, allow, tuple(mask)))


def _at(name: str, stage: str) -> bool:
    # At data and later the recipient is known for a message with one recipient only: the key would come and go.
    return stage in keys.KEYS[name].stages and not (name == "recipient" and stage in ("data", "end-of-message"))


def _rate(table: dict[str, Any], stage: str, name: str) -> Counted:
    unit = table.get("count", "messages")
    if unit not in UNITS:
        raise Refused("count: " + (unknown(unit, UNITS, "value") if isinstance(unit, str) else f"found {show(unit)}"))
    if unit == "bytes" and stage not in ("end-of-message", "deliver", "bounce"):
        raise Refused(f"count: the size is not known at {stage}, only at end-of-message, deliver, bounce")
    if unit == "recipients" and stage not in ("rcpt", "data", "end-of-message", "deliver", "bounce"):
        raise Refused(
            f"count: recipients are not known at {stage}, only at rcpt, data, end-of-message, deliver, bounce"
        )
    if "limit" not in table:
        raise Refused('"limit" is missing; expected one such as limit = "100/1h"')
    limits = table["limit"] if isinstance(table["limit"], list) else [table["limit"]]
    if not 0 < len(limits) <= LIMITS_LIMIT:
        raise Refused(f"limit: expected 1 to {LIMITS_LIMIT} limits, found {len(limits)}")
    return Counted(name, _key(table, stage), (tuple(_limit(one) for one in limits), unit))


def _limit(value: object) -> tuple[int, float]:
    number, slash, window = value.partition("/") if isinstance(value, str) else ("", "", "")
    number = number.strip()
    if not (slash and number.isascii() and number.isdigit() and 0 < len(number) < 16):
        raise Refused(f'limit: expected a number and a time, "100/1h", found {show(value)}')
    if int(number) == 0:
        raise Refused('limit: 0 is no limit but a ban; leave "rate" out')
    try:
        return int(number), section.seconds(window.strip(), LONGEST)
    except Refused as refused:
        raise Refused(f"limit: {refused}") from None


def _seconds(table: dict[str, Any], name: str, default: float) -> float:
    if name not in table:
        return default
    try:
        return section.seconds(table[name], LONGEST)
    except Refused as refused:
        raise Refused(f"{name}: {refused}") from None


def _key(table: dict[str, Any], stage: str) -> tuple[tuple[str, str, str], ...]:
    if "key" not in table:
        raise Refused('"key" is missing; expected what is counted by, such as key = "sasl_username"')
    names = table["key"] if isinstance(table["key"], list) else [table["key"]]
    return _parts(names, stage)


def _parts(names: list[Any], stage: str) -> tuple[tuple[str, str, str], ...]:
    if not 0 < len(names) <= KEY_PARTS_LIMIT:
        raise Refused(f"key: expected 1 to {KEY_PARTS_LIMIT} attributes, found {len(names)}")
    return tuple(_part(name, stage) for name in names)


def _part(name: object, stage: str) -> tuple[str, str, str]:
    if not isinstance(name, str):
        raise Refused(f"key: expected names of attributes, found {show(name)}")
    known = [
        key.name for key in keys.KEYS.values() if key.cost == keys.ATTRIBUTE and key.kind in (*keys.TEXTS, "number")
    ]
    if name not in known:
        raise Refused("key: " + unknown(name, known, "attribute"))
    key = keys.KEYS[name]
    if stage not in key.stages:
        raise Refused(f"key: {name} cannot be known at {stage}, only at {keys.where(key)}")
    return key.kind, key.source, key.part


_READERS = {"seen": _seen, "greylist": _greylist, "rate": _rate}
