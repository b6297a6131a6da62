"""The index of a stage: which of its rules may match a request at all, found by looking up, not by trying.

    index = build(rules)                                # when a file is compiled; None where trying them is as fast
    for rule in candidates(index, rules, facts): ...    # in the order of the file

A rule is looked up by one of its conditions, its anchor: one that only exact values, suffixes or networks can fulfil,
on an attribute or on the hosts of an MX plan. Where the value at hand is not among them, the rule is false. The rest of
the rules, those with patterns, globs, lists, or nothing but `unless`, is tried in order as ever.

What must hold: the rules left out are false, and would have asked nothing. So an anchor is a condition that is judged
before any that may ask. A rule that comes out and does not match after all costs time and nothing else.

The shape, which marshal can keep (numbers are places in the stage's rules, ascending; an entry is what a value's keys
are compared with):

    index   (rest, texts, nets, hosts)
    rest    numbers of the rules that have no anchor
    texts   ((kind, source, part, known, whether whole values only, {entry: numbers}), ...)
    nets    ((source, part, known, ((version, host bits, {network: numbers}), ...)), ...)
    hosts   ((source, numbers of all of them, {entry: numbers}), ...)
"""

from __future__ import annotations

from postroom.rules import Question, Unknown
from postroom.rules.lookup import parse_ip, whole_keys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any

    from postroom.rules.facts import Facts
    from postroom.rules.seen import Seen

    Rule = tuple[Any, ...]
    Index = tuple[Any, ...]
    Numbers = Sequence[int]
    Anchor = tuple[Rule, ...]  # conditions, one of which holds where the rule does

# So few rules are tried as fast as their index is asked (benchmarks/rules.py).
WORTH = 8

# So many candidates are sorted at once; more of them one by one, since the first may be the one that matches.
_AT_ONCE = 1000

_TEXTS = frozenset(("text", "fold", "domain", "address"))

# Beside those and "ip": kinds of keys that are judged by the attributes alone. Of any other a rule may have to ask.
_SILENT = frozenset(("number", "null", "literal", "yes"))


# When a file is compiled.


def build(rules: Sequence[Rule], worth: int = WORTH) -> Index | None:
    """The index of a stage's compiled rules. None where it would not be worth its while, or hold no rule."""
    if len(rules) < worth:
        return None
    choices = [_anchors(rule[4]) for rule in rules]
    common: dict[Any, int] = {}
    for choice in choices:
        for place in {place for anchor in choice for condition in anchor for place in _places(condition)}:
            common[place] = common.get(place, 0) + 1
    rest: list[int] = []
    found: dict[Any, list[int]] = {}
    for number, choice in enumerate(choices):
        places = _rarest(choice, common)
        for place in places:
            found.setdefault(place, []).append(number)
        if not places:
            rest.append(number)
    return (tuple(rest), *_tables(found)) if found else None


def _rarest(choice: list[Anchor], common: dict[Any, int]) -> set[Any]:
    """The places under which a rule stands: those of the anchor that it shares with the fewest others.

    Of ten thousand rules for senders that all name the same recipient domain, the sender must be the anchor.
    """
    sets = [{place for condition in anchor for place in _places(condition)} for anchor in choice]
    return min(sets, key=lambda places: (max(common[place] for place in places), len(places)), default=set())


def _anchors(terms: Sequence[Any]) -> list[Anchor]:
    """What a rule may be looked up by. MX hosts only where nothing else is: their plan has to be asked for first."""
    found: list[Anchor] = []
    for form, body in terms:
        if form == "is" and _flat(body) and not (body[0] == "mx" and found):
            found.append((body,))
        elif form == "any":
            anchor = tuple(condition for block in body if (condition := _first(block)) is not None)
            if len(anchor) == len(body):
                found.append(anchor)
        if not _silent(form, body):
            break
    return found


def _first(block: Anchor) -> Rule | None:
    """The anchor of one table of an `any`."""
    for condition in block:
        if _flat(condition) and condition[0] != "mx":
            return condition
        if _asks(condition):
            break
    return None


def _flat(condition: Rule) -> bool:
    """Whether only exact values, suffixes or networks fulfil it."""
    kind, test = condition[0], condition[5]
    return (kind in _TEXTS or kind in ("ip", "mx")) and bool(test[0]) and not any(test[1:])


def _silent(form: str, body: Any) -> bool:
    """Whether a term is judged by the attributes alone."""
    if form == "is":
        return not _asks(body)
    blocks = body if form == "any" else (body,)
    return not any(_asks(condition) for block in blocks for condition in block)


def _asks(condition: Rule) -> bool:
    """Whether it may ask."""
    kind, test = condition[0], condition[5]
    if kind in _TEXTS:
        return bool(test[3])
    if kind == "ip":
        return bool(test[1])
    return kind not in _SILENT


def _places(condition: Rule) -> Iterator[Any]:
    """Where an anchor stands: (table, entry) pairs."""
    kind, _, source, part, known, test, _ = condition
    if kind == "ip":
        for version, host_bits, networks in test[0]:
            for network in networks:
                yield ("ip", source, part, known, version, host_bits), network
    elif kind == "mx":
        for entry in test[0]:
            yield ("mx", source), entry
    else:
        for entry in test[0]:
            yield (kind, source, part, known), entry


def _tables(found: dict[Any, list[int]]) -> tuple[Any, ...]:
    tables: dict[Any, dict[Any, tuple[int, ...]]] = {}
    for (table, entry), numbers in found.items():
        tables.setdefault(table, {})[entry] = tuple(numbers)
    texts = tuple((*table, _whole(table[0], found), found) for table, found in tables.items() if table[0] in _TEXTS)
    hosts = []
    nets: dict[Any, list[Any]] = {}
    for table, entries in tables.items():
        if table[0] == "mx":
            hosts.append((table[1], tuple(sorted({one for numbers in entries.values() for one in numbers})), entries))
        elif table[0] == "ip":
            nets.setdefault(table[1:4], []).append((*table[4:], entries))
    return texts, tuple((*table, tuple(lengths)) for table, lengths in nets.items()), tuple(hosts)


def _whole(kind: str, entries: Iterable[str]) -> bool:
    """Whether all of them are looked up as what they are, none by its parents or a part of it."""
    if kind == "address":
        return all(not entry or ("@" in entry and not entry.endswith("@")) for entry in entries)
    return kind != "domain" or not any(entry.startswith(".") for entry in entries)


# While a request is decided.


def candidates(index: Index, rules: Sequence[Rule], facts: Facts, seen: Seen | None = None) -> Iterable[Rule]:
    """The rules that may match. `facts` is looked at again as answers come in, while this is iterated."""
    rest, texts, nets, hosts = index
    found: list[Iterable[int]] = [rest] if rest else []
    if seen is None:
        found += _looked_up(texts, nets, facts)
    else:
        seen.find(facts.attributes, facts, found, _looked_up)
    if hosts:
        return map(rules.__getitem__, _merged([*found, *(_by_hosts(table, facts) for table in hosts)]))
    if len(found) < 2:
        return map(rules.__getitem__, found[0]) if found else ()
    return map(rules.__getitem__, _ordered(found))


def _looked_up(texts: Iterable[Any], nets: Iterable[Any], facts: Facts) -> list[Iterable[int]]:
    """What the attributes of these tables stand for. Nothing else may be looked at, since seen.py keeps it."""
    found: list[Iterable[int]] = []
    for kind, source, part, known, whole, entries in texts:
        value = facts.value(source, part, kind, known)
        if value is None:
            continue
        keys: Iterable[str]
        if not value:
            keys = ("",)
        elif not value.isascii():
            keys = facts.keys(kind, value)  # the name has other spellings, which facts knows
        elif kind == "address" or not whole:
            keys = whole_keys(kind, value, facts.delimiter) if whole else facts.keys(kind, value)
        else:
            keys = (value,)
        for key in keys:
            if numbers := entries.get(key):
                found.append(numbers)  # noqa: PERF401 - a comprehension is one more call, here for each request
    for source, part, known, lengths in nets:
        value = facts.value(source, part, "ip", known)
        address = parse_ip(value) if value else None
        if address is not None:
            _networks(address, lengths, found)
    return found


def _networks(address: tuple[int, int], lengths: Any, found: list[Any]) -> None:
    version, number = address
    for its_version, host_bits, networks in lengths:
        if version == its_version and number >> host_bits in networks:
            found.append(networks[number >> host_bits])


def _ordered(found: list[Any]) -> Iterable[int]:
    if sum(map(len, found)) > _AT_ONCE:
        return _merged(found)
    return sorted({number for numbers in found for number in numbers})


def _merged(found: list[Any]) -> Iterator[int]:
    """All of them in ascending order, each once, and none fetched before it is its turn."""
    from heapq import merge

    last = -1
    for number in merge(*found):
        if number != last:
            last = number
            yield number


def _by_hosts(table: Any, facts: Facts) -> Iterator[int]:
    """One after the other until the plan is known, since one of them has to ask for it; from then on by its hosts."""
    source, numbers, entries = table
    last = -1
    for number in numbers:
        plan = facts.plan(source)
        if plan.__class__ is not Question:
            yield from (number for number in _of_plan(plan, numbers, entries, facts) if number > last)
            return
        yield number
        last = number


def _of_plan(plan: Any, numbers: Numbers, entries: dict[str, Numbers], facts: Facts) -> Numbers:
    if plan is None:
        return ()
    if plan.__class__ is Unknown or plan.state == "error":
        return numbers  # none of them can be decided, so all of them have their say
    return sorted(
        {number for host in plan.every for key in facts.keys("domain", host) for number in entries.get(key, ())}
    )
