"""What one condition says of another: that it holds wherever the other does, or never together with it.

Rules for this file
* What is claimed must be so for every request. Where it cannot be told, nothing is claimed.
* Of three truth values: a condition covers another where it is never the falser of the two, false < unknown < true.
* One thing is left out of account: an address without a domain that has dots in it, such as the bare word example.com,
  which "example.com" matches as an address and otherwise as a domain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from postroom.rules.lookup import address_keys, glob_matches, parents, without_extension
from postroom.rules.model import Condition
from postroom.rules.values import FLAGS, Match

# Kinds with texts for values; of the last three there can be several at hand, any of which will do.
TEXTS = ("text", "fold", "domain", "address", "mx", "ns", "header", "attachment")
_SEVERAL = ("mx", "ns", "header", "attachment")
_PARTS = ("localpart", "user")
# Whoever matches every host matches one of the first, and who matches one of those matches one.
_HOSTS = ("every_mx", "primary_mx", "any_mx")
_MOST = 10**19

# A microsecond or two each. Of conditions with more pairs of values than this nothing is claimed.
PAIRS_LIMIT = 100_000


@dataclass(frozen=True)
class Context:
    """`inline`: the entries of those lists that stand in the file itself, by name."""

    delimiter: str
    inline: Mapping[str, frozenset[str]]


@dataclass(frozen=True)
class Wish:
    """A condition as it is compared here: the null sender is the address "", and any other one the glob "*"."""

    name: str
    kind: str
    source: str
    part: str
    match: Match


def wish(condition: Condition) -> Wish:
    key, match = condition.key, condition.match
    if key.kind != "null":
        return Wish(key.name, key.kind, key.source, key.part, match)
    plain = Match(match.shown, entries=frozenset({""})) if match.flag else Match(match.shown, globs=(("", ""),))
    return Wish(key.name, "address", key.source, "", plain)


def compared(kind: str) -> str:
    """The kind as which its values are compared."""
    return "domain" if kind in ("mx", "ns") else kind


# Covering.


def covers(wide: Wish, narrow: Wish, context: Context) -> bool:
    """Whether the one holds wherever the other does."""
    if wide.source != narrow.source:
        return False
    if wide.kind == narrow.kind == "mx":
        ordered = _HOSTS.index(narrow.part) <= _HOSTS.index(wide.part)
        return ordered and _texts(wide.match, narrow.match, "domain", context)
    if (wide.kind, wide.part) == (narrow.kind, narrow.part):
        return _COVERS.get(wide.kind, _equal)(wide.match, narrow.match, wide.kind, context)
    if (wide.part, narrow.kind, narrow.part) == ("domain", "address", ""):
        domains = domains_of(narrow.match)
        return domains is not None and _texts(wide.match, domains, "domain", context)
    if (wide.kind, wide.part, narrow.part) == ("address", "", "domain"):
        plain = _flat(narrow.match) and "" not in narrow.match.entries
        return plain and _texts(wide.match, narrow.match, "address", context)
    return False


def _equal(wide: Match, narrow: Match, kind: str, context: Context) -> bool:
    return (wide.zones, wide.at_least, wide.counted, wide.flag) == (
        narrow.zones,
        narrow.at_least,
        narrow.counted,
        narrow.flag,
    )


def _choices(wide: Match, narrow: Match, kind: str, context: Context) -> bool:
    return choices(kind, narrow) <= choices(kind, wide)


def choices(kind: str, match: Match) -> frozenset[Any]:
    """The values of a kind that has few of them."""
    if kind == "weekday":
        return match.days
    if kind == "time":
        spans = (range(a, b) if a < b else (*range(a, 1440), *range(b)) for a, b in match.spans)
        return frozenset(minute for span in spans for minute in span)
    return frozenset({match.flag}) if kind in FLAGS else match.entries


def ranges(match: Match) -> list[tuple[int, int]]:
    """The numbers that fulfil it, as first and last, in their order; those that touch are one."""
    found: list[tuple[int, int]] = []
    for operator, limit in match.numbers:
        first = limit + 1 if operator == ">" else 0 if operator == "<" else limit
        last = limit - 1 if operator == "<" else _MOST if operator == ">" else limit
        if first <= last:
            found.append((first, last))
    merged: list[tuple[int, int]] = []
    for first, last in sorted(found):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return merged


def _numbers(wide: Match, narrow: Match, kind: str, context: Context) -> bool:
    outer = ranges(wide)
    if len(outer) * len(narrow.numbers) > PAIRS_LIMIT:
        return False
    return all(any(a <= first and last <= b for a, b in outer) for first, last in ranges(narrow))


def _addresses(wide: Match, narrow: Match, kind: str, context: Context) -> bool:
    rest = set(narrow.lists) <= set(wide.lists) and set(narrow.others) <= set(wide.others)
    return rest and all(_in_nets(wide, net) for net in networks(narrow))


def networks(match: Match) -> Iterator[tuple[int, int, int]]:
    for version, host_bits, numbers in match.nets:
        for number in numbers:
            yield version, host_bits, number


def _in_nets(wide: Match, net: tuple[int, int, int]) -> bool:
    version, host_bits, number = net
    return any(v == version and bits >= host_bits and number >> (bits - host_bits) in n for v, bits, n in wide.nets)


def _texts(wide: Match, narrow: Match, kind: str, context: Context) -> bool:
    kind = compared(kind)
    listed = _listed(wide, kind, context)
    rest = set(narrow.patterns) <= set(wide.patterns) and set(narrow.others) <= set(wide.others)
    return (
        rest
        and len(wide.globs) * (len(narrow.globs) + len(narrow.entries)) <= PAIRS_LIMIT
        and all(_entry(wide, listed, kind, entry, context) for entry in narrow.entries)
        and all(any(_wider_glob(outer, glob) for outer in wide.globs) for glob in narrow.globs)
        and all(
            name in wide.lists or _in_lists(listed, context.inline.get(name), kind, context) for name in narrow.lists
        )
    )


def _listed(wide: Match, kind: str, context: Context) -> list[frozenset[str]]:
    """The entries of its lists, where they can be told and are looked up as values of the file are."""
    if kind not in ("address", "domain"):
        return []
    return [context.inline[name] for name in wide.lists if name in context.inline]


def _in_lists(listed: list[frozenset[str]], inner: frozenset[str] | None, kind: str, context: Context) -> bool:
    if inner is None or not listed:
        return False
    return all(any(key in one for one in listed for key in keys(kind, entry, context)) for entry in inner)


def _entry(wide: Match, listed: list[frozenset[str]], kind: str, entry: str, context: Context) -> bool:
    if not entry:
        return "" in wide.entries or (kind == "address" and any("<>" in one for one in listed))
    found = keys(kind, entry, context)
    if any(key in wide.entries or any(key in one for one in listed) for key in found):
        return True
    return any(_glob_covers(glob, kind, entry) for glob in wide.globs)


def keys(kind: str, entry: str, context: Context) -> tuple[str, ...]:
    """The entries under which everything is found that is found under this one."""
    if kind == "domain":
        return (entry, *parents(entry))
    if kind != "address":
        return (entry,)
    if entry[-1:] == "@":
        return entry, without_extension(entry[:-1], context.delimiter) + "@"
    return address_keys(entry, context.delimiter) if "@" in entry else (entry, *parents(entry))


def _glob_covers(glob: tuple[str, ...], kind: str, entry: str) -> bool:
    if glob == ("", ""):
        return True
    if kind == "address":
        # Whatever stands before it, the extension of the local part too; of "user@" nothing is known but that.
        _, at, domain = entry.rpartition("@")
        end = domain if entry[:1] == "." and not at else f"@{domain}"
        return len(glob) == 2 and not glob[0] and bool(domain) and end.endswith(glob[1])
    if kind == "domain" and entry[:1] == ".":
        return len(glob) == 2 and not glob[0] and entry.endswith(glob[1])
    return glob_matches(glob, entry)


def _wider_glob(wide: tuple[str, ...], narrow: tuple[str, ...]) -> bool:
    fits = len(wide) == 2 and narrow[0].startswith(wide[0]) and narrow[-1].endswith(wide[1])
    return wide == narrow or fits


def _flat(match: Match) -> bool:
    """Whether it has entries only."""
    return bool(match.entries) and not (match.globs or match.patterns or match.lists or match.others)


def domains_of(match: Match) -> Match | None:
    """What it says of the domain of an address; None where it leaves some of them open."""
    if match.patterns or match.lists or match.others:
        return None
    found = set()
    for text in (*match.entries, *(glob[-1] for glob in match.globs)):
        domain = text.rpartition("@")[2]
        if not domain or ("@" not in text and text not in match.entries):
            return None
        if "@" not in text and "." not in text:
            return None  # a bare word may be an address without a domain, as postmaster is
        found.add(domain)
    return Match(match.shown, entries=frozenset(found))


_COVERS: dict[str, Callable[[Match, Match, str, Context], bool]] = {
    **dict.fromkeys(TEXTS, _texts),
    **dict.fromkeys(("mx_state", "country", "time", "weekday"), _choices),
    **dict.fromkeys(("ip", "mx_address"), _addresses),
    "number": _numbers,
}


# Excluding each other.


def apart(one: Wish, other: Wish, context: Context) -> bool:
    """Whether no request can fulfil both."""
    if one.source != other.source or _size(one.match) * _size(other.match) > PAIRS_LIMIT:
        return False
    if one.kind == other.kind and one.part == other.part:
        return _same_apart(one, other, context)
    if other.kind in ("mx", "mx_address") and one.kind == "mx_state":
        one, other = other, one
    if one.kind in ("mx", "mx_address") and other.kind == "mx_state":
        return choices("mx_state", other.match) <= {"null", "none", "error"}  # no host at all, or none that is known
    if one.part and not other.part:
        one, other = other, one
    if one.kind != "address" or one.part or not (_flat(other.match) and _flat(one.match)):
        return False
    pairs = ((a, b) for a in one.match.entries for b in other.match.entries)
    if other.part == "domain":
        return all(_outside(a, b) for a, b in pairs)
    return other.part in _PARTS and all(_local_apart(a, b, context) for a, b in pairs)


def _size(match: Match) -> int:
    return len(match.entries) + len(match.numbers)


def _same_apart(one: Wish, other: Wish, context: Context) -> bool:
    kind, first, second = one.kind, one.match, other.match
    if kind in FLAGS or kind in ("mx_state", "country", "time", "weekday"):
        return not choices(kind, first) & choices(kind, second)
    if kind == "number":
        return not any(a <= d and c <= b for a, b in ranges(first) for c, d in ranges(second))
    if kind == "ip":
        plain = not (first.lists or first.others or second.lists or second.others)
        nets = [*networks(first)], [*networks(second)]
        return plain and not any(_in_nets(second, n) for n in nets[0]) and not any(_in_nets(first, n) for n in nets[1])
    if kind in _SEVERAL or kind not in TEXTS or not (_flat(first) and _flat(second)):
        return False
    pairs = ((a, b) for a in first.entries for b in second.entries)
    if kind == "address":
        return all(_addresses_apart(a, b, context) for a, b in pairs)
    return all(_domains_apart(a, b) if kind == "domain" else a != b for a, b in pairs)


def _domain(entry: str) -> str:
    """The domain part of an entry for addresses, "" where it is any."""
    return entry.rpartition("@")[2]


def _outside(entry: str, domain: str) -> bool:
    """Whether no address of the entry has this domain. A bare word may be an address without one."""
    if not entry:
        return bool(domain)
    if not _domain(entry) or (not domain and "@" not in entry):
        return False
    return _domains_apart(_domain(entry), domain)


def _domains_apart(one: str, other: str) -> bool:
    if not one or not other:
        return one != other
    return one not in (other, *parents(other)) and other not in (one, *parents(one))


def _addresses_apart(one: str, other: str, context: Context) -> bool:
    if not one or not other:
        return one != other
    domains = _domain(one), _domain(other)
    if all(domains) and _domains_apart(*domains):
        return True
    locals_ = one.rpartition("@")[0], other.rpartition("@")[0]
    return all(locals_) and not (_bases(locals_[0], context) & _bases(locals_[1], context))


def _bases(local: str, context: Context) -> set[str]:
    return {local, without_extension(local, context.delimiter)}


def _local_apart(entry: str, local: str, context: Context) -> bool:
    own = entry.rpartition("@")[0]
    return bool(own and local) and not (_bases(own, context) & _bases(local, context))


def never(one: Iterable[Wish], context: Context) -> tuple[Wish, Wish] | None:
    """Two of these that exclude each other."""
    wishes = list(one)
    for index, first in enumerate(wishes):
        for second in wishes[index + 1 :]:
            if apart(first, second, context):
                return first, second
    return None
