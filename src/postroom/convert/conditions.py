"""The items of a postfwd rule as `match` and `unless`: items of one key are an OR, different keys an AND.

Each item may be negated by itself. We have one `unless` for a rule; so one negated key goes there, and others become
patterns that look ahead, `re:^(?!...)`, which say the same about a text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network, IPv6Address, ip_network
from typing import Any

from postroom.convert import zones
from postroom.convert.files import FILE, Lists
from postroom.convert.items import Item, Never, Test, Untranslated, number_test, text_test
from postroom.convert.moments import days_value, time_value
from postroom.rules import keys, values
from postroom.rules.problems import Refused

__all__ = ["Conditions", "Lists", "Never", "Untranslated", "conditions"]

# So many entries stand in a rule; more are a list of their own.
_ENTRIES = 12

_RENAMED = {
    "sender_mx_names": "sender_any_mx",
    "sender_mx_addrs": "sender_mx_address",
    "sender_ns_names": "sender_ns",
}
_NOTHING_LIKE = {
    "helo_address": "no condition here looks up the address of the HELO name",
    "sender_ns_addrs": "no condition here looks up the addresses of name servers",
    "rhsbl_reverse_client": "no blocklist is asked for the unverified client name here",
    "date": "no condition here knows dates",
    "months": "no condition here knows months",
    "request_score": "there are no scores here",
    "version": "it asks for the version of postfwd",
}
_OTHER = re.compile(r"^\$\$\s*(?:(\w+)|\((\w+)\))$")
_SEARCHED = "postfwd looks for {other} anywhere in {key}; here they have to be equal"
_IMPLICIT = "a domain without MX records is its own mail host here; to postfwd it has none"
_UNNUMBERED = "a {key} that Postfix does not know yet is 0 to postfwd, and matches; here it is missing, and does not"
_LOOSE = "to postfwd {text} is a pattern for the text of IPv6 addresses; here it is the one address"
_NO_NETWORK = "to postfwd {text} is neither an address nor a network and never matches, so it was left out"


@dataclass
class Conditions:
    """`changed` are remarks on what decides otherwise now."""

    match: dict[str, Any] = field(default_factory=dict)
    unless: dict[str, Any] = field(default_factory=dict)
    changed: list[str] = field(default_factory=list)
    dns: bool = False


def conditions(items: Sequence[Item], single: dict[str, str], stage: str, lists: Lists) -> Conditions:
    """Raises Untranslated, or Never."""
    found = Conditions()
    negated: dict[str, list[Test]] = {}
    by_key: dict[str, list[Item]] = {}
    for item in items:
        if item.key != "protocol_state":
            by_key.setdefault(item.key, []).append(item)
    if "score" in single:
        raise Untranslated("there are no scores here")
    for name, asked in by_key.items():
        if name in _NOTHING_LIKE:
            raise Untranslated(f"{name}: {_NOTHING_LIKE[name]}")
        if name in _SPECIAL:
            _SPECIAL[name](name, asked, single, found)
        else:
            _attribute(_RENAMED.get(name, name), asked, stage, lists, found, negated)
    _negations(negated, stage, found)
    return found


def _attribute(
    name: str, asked: list[Item], stage: str, lists: Lists, found: Conditions, negated: dict[str, list[Test]]
) -> None:
    key = keys.find(name)
    if key is None or "." in name:
        raise Untranslated(f"{name} is no attribute of Postfix's, and nothing here sets others")
    tests = [test for item in asked for test in _tests(item, key, stage, lists)]
    found.changed += dict.fromkeys(test.remark for test in tests if test.remark)
    found.dns = found.dns or key.cost == keys.DNS
    if stage not in key.stages:
        if not any(test.on_empty for test in tests):
            raise Never(f"{name} is not known at {stage}")
        return
    if any(_always(test) for test in tests):
        return
    if all(not test.negated for test in tests):
        _positive(key, tests, stage, found)
    elif len(tests) == 1:
        negated[name] = tests
    else:
        merged = _several(key, tests, stage)
        if merged is not None:
            (negated.__setitem__(name, [merged]) if merged.negated else _positive(key, [merged], stage, found))


def _always(test: Test) -> bool:
    """True of whatever may come: NOT of nothing, or a number above -1."""
    return (test.negated and not test.wanted) or (not test.negated and ">-1" in test.wanted)


def _positive(key: keys.Key, tests: list[Test], stage: str, found: Conditions) -> None:
    wanted = list(dict.fromkeys(one for test in tests for one in test.wanted if one != "<0"))
    on_empty = any(test.on_empty for test in tests)
    if key.kind == "number" and on_empty and not _empty_known(key, stage):
        found.changed.append(_UNNUMBERED.format(key=key.name))
    if key.kind != "number" and on_empty and _empty_known(key, stage) and "" not in wanted:
        wanted.append("")
    if not wanted:
        raise Never(f"nothing that {key.name} can be is asked for")
    wanted = _alternatives(wanted) if key.kind == "text" else wanted
    found.match[key.name] = wanted[0] if len(wanted) == 1 else wanted


def _alternatives(wanted: list[Any]) -> list[Any]:
    """Several whole texts are one pattern: re:^(alice|bob)$."""
    whole = [one for one in wanted if isinstance(one, str) and re.fullmatch(r"re:\^[\w@+-]*(?:\\.[\w@+-]*)*\$", one)]
    if len(whole) < 2:
        return wanted
    merged = [f"re:^({'|'.join(one[4:-1] for one in whole[i : i + 100])})$" for i in range(0, len(whole), 100)]
    return merged + [one for one in wanted if one not in whole]


def _empty_known(key: keys.Key, stage: str) -> bool:
    return stage in key.known or key.part in ("localpart", "user", "extension", "domain")


def _several(key: keys.Key, tests: list[Test], stage: str) -> Test | None:
    """Several items of a key, of which at least one is negated: an OR of them. None where it is always true."""
    if key.kind == "ip":
        return _networks(tests)
    if any(test.pattern is None for test in tests):
        raise Untranslated(f"{key.name}: negations of several lists at once cannot be said here")
    positive = [test for test in tests if not test.negated]
    ahead = [replace(test, wanted=(_ahead(key, test.pattern or ""),), negated=False) for test in tests if test.negated]
    merged = [*positive, *ahead]
    wanted = tuple(one for test in merged for one in test.wanted)
    return Test(wanted, False, any(test.on_empty for test in merged))


def _networks(tests: list[Test]) -> Test | None:
    """NOT a OR NOT b is NOT (a AND b), and of two networks one holds the other, or they have nothing in common."""
    common = {net for net in _nets(tests, True) if all(_overlap(net, test) for test in tests if test.negated)}
    common = {net for net in common if not any(_within(other, net) and other != net for other in common)}
    for plus in _nets(tests, False):
        common = {net for net in common if not _within(net, plus)}
        if any(_within(plus, net) for net in common):
            raise Untranslated("client_address: a network without a part of it cannot be said here")
    shown = tuple(str(net.network_address) if net.prefixlen == net.max_prefixlen else str(net) for net in common)
    return Test(tuple(sorted(shown)), True, False) if shown else None


def _nets(tests: list[Test], negated: bool) -> set[Any]:
    return {ip_network(str(one)) for test in tests if test.negated is negated for one in test.wanted}


def _overlap(net: Any, test: Test) -> bool:
    return any(_within(net, other) or _within(other, net) for other in map(ip_network, map(str, test.wanted)))


def _within(a: Any, b: Any) -> bool:
    return a.version == b.version and bool(a.subnet_of(b))


def _ahead(key: keys.Key, pattern: str) -> str:
    """A pattern that is found in a text in which this one is not."""
    body = pattern[1:] if pattern.startswith("^") and "|" not in pattern else f".*({pattern})"
    value = f"re:^(?!{body})"
    try:
        values.parse(key.kind, value, values.Names())
    except Refused as refused:
        raise Untranslated(f"{key.name}: two negations in a rule need a pattern, and {value} {refused}") from None
    return value


def _negations(negated: dict[str, list[Test]], stage: str, found: Conditions) -> None:
    """One key goes into `unless`: the one that no pattern can say, else the first."""
    if not negated:
        return
    hard = [name for name, (test,) in negated.items() if test.pattern is None]
    if len(hard) > 1 or (hard and found.unless):
        raise Untranslated(f"a rule has one unless here, and this one needs one each for {', '.join(hard)}")
    chosen = "" if found.unless else (hard or list(negated))[0]
    for name, (test,) in negated.items():
        key = keys.KEYS[name]
        if name == chosen:
            wanted = [*test.wanted, *([""] if not test.on_empty and _says_empty(key, test, stage) else [])]
            found.unless[name] = wanted[0] if len(wanted) == 1 else wanted
        else:
            ahead = Test((_ahead(key, test.pattern or ""),), False, test.on_empty)
            _positive(key, [ahead], stage, found)


def _says_empty(key: keys.Key, test: Test, stage: str) -> bool:
    return key.kind not in ("number", "ip") and "" not in test.wanted and _empty_known(key, stage)


# The kinds of keys.


def _tests(item: Item, key: keys.Key, stage: str, lists: Lists) -> list[Test]:
    """An item as a Test; one that names a file as those of its entries."""
    file = FILE.match(item.value)
    if file:
        return _file(item, key, stage, lists, file[1], file[2])
    other = _OTHER.match(item.bare)
    if other:
        return [_other(item, key, other[1] or other[2], stage)]
    if "$$" in item.bare:
        raise Untranslated(f"{item.key}: {item.bare} is made of other attributes")
    if key.kind in ("ip", "mx_address"):
        return [replace(_address(item), remark=_address(item).remark or (_IMPLICIT if key.cost == keys.DNS else ""))]
    if key.kind == "number":
        return [number_test(item)]
    if key.kind in ("mx", "ns"):
        test = text_test(item, replace(key, kind="domain"))
        return [replace(test, pattern=None, remark=_IMPLICIT if key.kind == "mx" else "")]
    if key.kind not in keys.TEXTS:
        raise Untranslated(f"{item.key} is no attribute of Postfix's")
    return [text_test(item, key)]


def _other(item: Item, key: keys.Key, other: str, stage: str) -> Test:
    named = keys.KEYS.get(other)
    if named is None or named.kind not in keys.TEXTS or key.kind not in keys.TEXTS or stage not in named.stages:
        raise Untranslated(f"{item.key} cannot be compared with {other} here")
    negated = item.negated is not (item.operator in ("!=", "!~"))
    remark = "" if item.operator in ("==", "!=") else _SEARCHED.format(other=other, key=item.key)
    return Test((f"attr:{other}",), negated, negated and item.operator != "!=", remark=remark)


def _address(item: Item) -> Test:
    """An IPv4 address or network; postfwd takes anything else for text."""
    text = item.bare
    negated = item.negated is not (item.operator == "!=")
    if text == "0.0.0.0/0":
        return Test((), not negated, not negated)  # to postfwd that is any address, IPv6 too
    if re.fullmatch(r"\d+(\.\d+){3}(/\d{1,2})?", text):
        try:
            net = IPv4Network(text, strict=False)
        except ValueError:
            return Test((), negated, negated, remark=_NO_NETWORK.format(text=text))
        return Test((str(net.network_address) if net.prefixlen == 32 else str(net),), negated, negated)
    try:
        address = str(IPv6Address(text))
    except ValueError:
        return Test((), negated, negated, remark=_NO_NETWORK.format(text=text))
    remark = "" if item.operator in ("==", "!=") else _LOOSE.format(text=text)
    return Test((address,), negated, negated, remark=remark)


def _file(item: Item, key: keys.Key, stage: str, lists: Lists, kind: str, path: str) -> list[Test]:
    entries = lists.entries(kind, path)
    inner = [Item(item.key, item.operator, entry) for entry in entries]
    tests = [test for one in inner for test in _tests(one, key, stage, lists)]
    listed = key.kind in ("ip", "domain", "address", "fold") and item.operator in ("=", "==")
    # As a list, too, each entry is what it was as a value of a rule: nothing but itself.
    same = all(test.wanted == (entry,) and not test.negated for test, entry in zip(tests, entries, strict=False))
    long = len(entries) > _ENTRIES or kind.lower().startswith("l")
    if listed and same and long and len(tests) == len(entries) and path.startswith("/") and all(map(_entry, entries)):
        return [Test((f"list:{lists.name(kind, path)}",), False, False)]
    remark = f"what {path} holds now was written here; a later change of it is not seen"
    return [replace(test, remark=test.remark or remark) for test in tests]


def _entry(text: str) -> bool:
    try:
        values.list_entry(text)
    except Refused:
        return False
    return True


# Items that are no attribute.


def _time(name: str, asked: list[Item], single: dict[str, str], found: Conditions) -> None:
    wanted = time_value(asked)
    if wanted is not None:
        found.match["time"] = wanted


def _days(name: str, asked: list[Item], single: dict[str, str], found: Conditions) -> None:
    wanted = days_value(asked)
    if wanted is not None:
        found.match["weekday"] = wanted


def _blocklists(name: str, asked: list[Item], single: dict[str, str], found: Conditions) -> None:
    ours = zones.KEYS[name]
    count = single.get("rblcount" if name == "rbl" else "rhsblcount", "1")
    negated = [item.negated is not (item.operator == "!=") for item in asked]
    wanted = zones.value([item.bare for item in asked], count)
    found.dns = True
    if not any(negated):
        if ours in found.match:
            raise Untranslated(f"{name} and another item both become {ours}")
        found.match[ours] = wanted
    elif len(asked) > 1 or found.unless:
        raise Untranslated(f"{name}: negations of several blocklists cannot be said here")
    else:
        found.unless[ours] = wanted


_SPECIAL: dict[str, Callable[[str, list[Item], dict[str, str], Conditions], None]] = {
    "time": _time,
    "days": _days,
    **dict.fromkeys(zones.KEYS, _blocklists),
}
