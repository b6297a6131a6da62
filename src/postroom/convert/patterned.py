"""Tables of the types cidr, regexp and pcre as rules: the first line that fits decides, so they keep their order."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_network

from postroom.convert import CHANGED, LOST, Conversion, Rule
from postroom.convert.deeds import braces, checked
from postroom.convert.items import Untranslated, python_pattern, simple
from postroom.convert.source import is_utf8
from postroom.convert.subject import Subject
from postroom.rules.keys import KEYS

_IF = re.compile(r"(if|endif)(?![\w@])\s*(.*)$", re.IGNORECASE | re.DOTALL)

# One or more octets of an IPv4 address, as regexp tables for clients write them.
_OCTETS = re.compile(r"\^((?:\d{1,3}\\\.){1,3})(\d{1,3}\$)?$")

# A pattern that needs one of these is for names: no address has them.
_LETTER = re.compile(r"(?<!\\)[g-z]", re.IGNORECASE)


@dataclass(frozen=True)
class Term:
    """A pattern of a line, or of an `if` round it."""

    text: str
    negated: bool
    exact: bool = False  # upper and lower case told apart


@dataclass
class Entry:
    line: int
    source: str
    terms: tuple[Term, ...]
    action: str = ""
    values: dict[str, list[str]] = field(default_factory=dict)


def patterned(lines: list[tuple[int, str]], kind: str, subject: Subject, conversion: Conversion) -> None:
    """The rules of a table, added to the conversion."""
    if kind == "cidr" and subject.what != "client":
        if lines:
            words = f"not carried over: no {subject.what} is an address of a host; a cidr table is --for client"
            conversion.found(lines[0][0], LOST, words, lines[0][1])
        return
    entries = _entries(lines, kind, subject, conversion)
    # smtpd(8) puts the client's name to the whole table, and then its address.
    for name in ["client_address"] if kind == "cidr" else subject.keys:
        _rules(entries, name, _READERS[name == "client_address", kind == "cidr"], subject, conversion)


def _entries(lines: list[tuple[int, str]], kind: str, subject: Subject, conversion: Conversion) -> list[Entry]:
    found, around = list[Entry](), list[Term | None]()
    for number, line in lines:
        nesting = _IF.match(line)
        try:
            if not is_utf8(line):
                raise Untranslated("it holds bytes that are not UTF-8")
            if nesting and nesting[1].lower() == "endif":
                around.pop() if around else None
                continue
            term, right = _term(nesting[2] if nesting else line, kind)
            if nesting:
                around.append(term)
                continue
            if None in around:
                raise Untranslated("it stands between an if and an endif that were not carried over")
            terms = (*(one for one in around if one), term)
            found.append(Entry(number, line, terms, _action(right, kind, subject.stage)))
        except Untranslated as reason:
            conversion.found(number, LOST, f"not carried over: {reason}", line)
            if nesting:
                around.append(None)
    return found


def _action(text: str, kind: str, stage: str) -> str:
    if not text:
        raise Untranslated("it has no result")
    if kind != "cidr":
        if re.search(r"(?<!\$)(\$\$)*\$[\d({]", text):
            raise Untranslated(f"{text} takes words out of what was found; no action here does")
        text = text.replace("$$", "$")
    return "OK" if re.fullmatch(r"\d+", text) else checked(braces(text), stage)


def _term(text: str, kind: str) -> tuple[Term, str]:
    """The pattern that a line begins with, and the rest."""
    negated, text = text.startswith("!"), text.lstrip("! \t")
    if kind == "cidr":
        pattern, _, right = text.replace("\t", " ").partition(" ")
        return Term(pattern.strip("[]").replace("]/", "/"), negated), right.strip()
    sign = text[:1]
    found = re.match(
        rf"{re.escape(sign)}((?:\\.|[^\\{re.escape(sign)}])*){re.escape(sign)}(\w*)\s*(.*)$", text, re.DOTALL
    )
    if not sign or sign.isalnum() or not found:
        raise Untranslated("it begins with no pattern between two signs")
    if set(found[2]) - {"i"}:
        raise Untranslated(f"the flags {found[2]} have no counterpart")
    return Term(found[1].replace(f"\\{sign}", sign), negated, found[2].count("i") % 2 == 1), found[3].strip()


Reader = Callable[[Term, str, Rule, Conversion], str | None]


def _rules(entries: list[Entry], name: str, read: Reader, subject: Subject, conversion: Conversion) -> None:
    previous: Rule | None = None
    for entry in entries:
        rule = Rule(entry.line, "", subject.stage, entry.action)
        rule.remarks = [f"Line {entry.line}."]
        try:
            if not _conditions(entry, name, read, rule, conversion):
                continue
        except Untranslated as reason:
            conversion.found(entry.line, LOST, f"not carried over: {reason}", entry.source)
            previous = None
            continue
        if previous and _joins(previous, rule, name):
            before, now = (_listed(one.match[name]) for one in (previous, rule))
            previous.match[name] = before + [value for value in now if value not in before]
            previous.remarks += rule.remarks
        else:
            conversion.entries.append(rule)
            previous = rule


def _joins(one: Rule, other: Rule, name: str) -> bool:
    """Neighbours with one result are one rule with several values."""
    plain = all(set(rule.match) == {name} and not rule.unless and not rule.any for rule in (one, other))
    return plain and one.action == other.action


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def _conditions(entry: Entry, name: str, read: Reader, rule: Rule, conversion: Conversion) -> bool:
    """Fills in the rule; false where it can never match."""
    wanted, unless = list[list[str]](), list[str]()
    for term in entry.terms:
        value = read(term, name, rule, conversion)
        if value is None and not term.negated:
            return False
        # The null sender is looked up as <>.
        both = [] if value is None else [value] + ([""] if _null(term, name, value) else [])
        if term.negated:
            unless += both
            # A line about IPv4 is not for IPv6, negated or not (src/util/cidr_match.c).
            wanted += [["::/0" if ":" in term.text else "0.0.0.0/0"]] if read is _network else []
        else:
            wanted.append(both)
    if name == "client_address":
        wanted = _innermost(wanted)
    if wanted == [[]]:
        return False
    if len(wanted) > 2:
        raise Untranslated("it stands in more than one if")
    if wanted:
        rule.match = {name: wanted[0] if len(wanted[0]) > 1 else wanted[0][0]}
    if len(wanted) == 2:
        rule.any = [{name: wanted[1] if len(wanted[1]) > 1 else wanted[1][0]}]
    if unless:
        rule.unless = {name: unless if len(unless) > 1 else unless[0]}
    return True


def _null(term: Term, name: str, value: str) -> bool:
    return name == "sender" and value != "" and re.search(python_pattern(term.text), "<>", re.IGNORECASE) is not None


def _innermost(wanted: list[list[str]]) -> list[list[str]]:
    """Of networks that must all hold an address, the smallest; nothing where they have nothing in common."""
    if not wanted:
        return []
    nets = [ip_network(one[0]) for one in wanted]
    least = max(nets, key=lambda net: net.prefixlen)
    together = all(net.version == least.version and _within(least, net) for net in nets)
    return [[_shown(least)]] if together else [[]]


def _within(one: IPv4Network | IPv6Network, other: IPv4Network | IPv6Network) -> bool:
    return int(one.network_address) >> (one.max_prefixlen - other.prefixlen) == (
        int(other.network_address) >> (other.max_prefixlen - other.prefixlen)
    )


def _shown(net: IPv4Network | IPv6Network) -> str:
    return str(net.network_address) if net.prefixlen == net.max_prefixlen else str(net)


def _pattern(term: Term, name: str, rule: Rule, conversion: Conversion) -> str | None:
    pattern = python_pattern(term.text)
    return simple(f"(?-i:{pattern})" if term.exact else pattern, KEYS[name])


def _network(term: Term, name: str, rule: Rule, conversion: Conversion) -> str | None:
    try:
        return _shown(ip_network(term.text))
    except ValueError as error:
        raise Untranslated(str(error)) from None


def _octets(term: Term, name: str, rule: Rule, conversion: Conversion) -> str | None:
    """The network that a pattern is for; none where it is for names."""
    python_pattern(term.text)
    found = _OCTETS.match(term.text)
    if found:
        octets = re.findall(r"\d+", found[0])
        if not found[2] or len(octets) == 4:
            text = ".".join(octets + ["0"] * (4 - len(octets))) + f"/{8 * len(octets)}"
            return _network(Term(text, False), name, rule, conversion)
    if not _LETTER.search(term.text):
        words = f"Postfix puts {term.text} to the client's address too; here it is put to its name only"
        conversion.found(rule.line, CHANGED, words)
    return None


# (for addresses, of type cidr): how the pattern of a line is read.
_READERS: dict[tuple[bool, bool], Reader] = {
    (False, False): _pattern,
    (True, False): _octets,
    (True, True): _network,
}
