"""Tables of access(5) as rules. What is most specific wins there, whatever its line; here the first rule does.

So entries are ranked as smtpd(8) looks them up (src/smtpd/smtpd_check.c: check_mail_access, check_domain_access,
check_namadr_access), and entries with the same result share a rule, as long as none of another result that is more
specific, and fits the same mail, would come after it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_network

from postroom.convert import LOST, NOTE, Conversion, Rule
from postroom.convert.deeds import braces, checked
from postroom.convert.items import Untranslated
from postroom.convert.patterned import patterned
from postroom.convert.source import is_utf8
from postroom.convert.subject import SUBJECTS, Subject
from postroom.rules import values
from postroom.rules.lookup import address_keys
from postroom.rules.problems import Refused

__all__ = ["SUBJECTS", "TYPES", "Subject", "convert"]

TYPES = ("texthash", "cidr", "regexp", "pcre")

# So many entries stand in a rule; more are a list of their own.
_ENTRIES = 12

_TITLE = "Made from {name}, an access(5) table for the {what}, by postroom import; the comments name its lines."


@dataclass(frozen=True)
class Entry:
    """A line of a table. `wanted` is how our values say its key; `kind` is address, name or network."""

    line: int
    key: str
    action: str
    kind: str
    wanted: tuple[str, ...]


def convert(text: str, name: str, kind: str, subject: Subject) -> Conversion:
    """All of a table of this type."""
    conversion = Conversion(_TITLE.format(name=name, what=subject.what))
    if "recipient" in subject.keys or "sender" in subject.keys:
        conversion.settings["recipient_delimiter"] = subject.delimiter
    if kind == "texthash":
        _indexed(text, subject, conversion)
    else:
        patterned(list(logical_lines(text)), kind, subject, conversion)
    _name(conversion, re.sub(r"\W+", "-", name.partition(".")[0]).strip("-") or "access")
    return conversion


def logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines of a Postfix table: a line that begins with a blank goes on with the one before."""
    number, held = 0, ""
    for count, line in enumerate(text.split("\n"), 1):
        line = line.rstrip("\r")
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if line[0] in " \t" and held:
            held += line
            continue
        if held:
            yield number, held
        number, held = count, line
    if held:
        yield number, held


def result(text: str, stage: str) -> tuple[str, str]:
    """(action, remark) of the right-hand side of a table."""
    if re.fullmatch(r"\d+", text):
        return "OK", f"{text} alone means OK to Postfix."
    return checked(braces(text), stage), ""


def _indexed(text: str, subject: Subject, conversion: Conversion) -> None:
    entries: dict[str, Entry] = {}
    for number, line in logical_lines(text):
        entry = _entry(number, line, subject, conversion)
        if entry and entry.key in entries:
            words = f"is not used by Postfix, since line {entries[entry.key].line} has the same key"
            conversion.found(number, NOTE, words, line)
        elif entry:
            entries[entry.key] = entry
    for kind, field in subject.fields:
        chosen = [entry for entry in entries.values() if entry.kind in kind]
        _rules(chosen, field, subject, conversion)


def _entry(number: int, line: str, subject: Subject, conversion: Conversion) -> Entry | None:
    key, *rest = line.split(None, 1)
    if not rest:
        conversion.found(number, NOTE, "is not used by Postfix: it has no result", line)
        return None
    try:
        if not is_utf8(line):
            raise Untranslated("it holds bytes that are not UTF-8")
        action, remark = result(rest[0].strip(), subject.stage)
        kind, wanted = _wanted(key.lower(), subject)
    except Untranslated as reason:
        conversion.found(number, LOST, f"not carried over: {reason}", line)
        return None
    if not wanted:
        conversion.found(number, NOTE, f"is never looked up by Postfix: {kind}", line)
        return None
    if remark:
        conversion.found(number, NOTE, remark)
    return Entry(number, key.lower(), action, kind, wanted)


def _wanted(key: str, subject: Subject) -> tuple[str, tuple[str, ...]]:
    """(kind, our values); no values where Postfix never asks for such a key, and then why."""
    if subject.addresses:
        if key == "<>":
            return ("address", ("<>",)) if subject.what == "sender" else ("no recipient is the null address", ())
        if key.endswith("@") and len(key) > 1:
            return "user", _held(key)
        if "@" in key:
            return "address", _held(key)
    elif subject.what == "client" and re.fullmatch(r"\d{1,3}(\.\d{1,3}){0,3}|[0-9a-f]{1,4}:[0-9a-f:]*", key):
        return "network", _held(_network(key))
    if "/" in key or (key.startswith(".") and not subject.dotted):
        return ("networks are for tables of type cidr" if "/" in key else _DOTS), ()
    if key.startswith("."):
        return "name", _held(key)
    return "name", _held(key) if subject.dotted else (*_held(key), *_held("." + key))


_DOTS = "example.com is what stands for subdomains too, unless parent_domain_matches_subdomains is changed (--dotted)"


def _held(text: str) -> tuple[str, ...]:
    try:
        values.list_entry(text)
    except Refused as refused:
        raise Untranslated(str(refused)) from None
    return (text,)


def _network(key: str) -> str:
    """192.0.2 and 2001:db8 are the beginnings of addresses."""
    parts = key.rstrip(":.").split(":" if ":" in key else ".")
    try:
        if ":" not in key:
            return str(ip_network(".".join(parts + ["0"] * (4 - len(parts))) + f"/{8 * len(parts)}")).removesuffix(
                "/32"
            )
        if len(parts) == 8 or "::" in key.removesuffix("::"):
            return str(ip_network(key)).removesuffix("/128")
        return str(ip_network(":".join(parts) + f"::/{16 * len(parts)}"))
    except ValueError as error:
        raise Untranslated(str(error)) from None


def _rules(entries: list[Entry], field: str, subject: Subject, conversion: Conversion) -> None:
    """The rules of entries that one attribute is compared with."""
    levels = _levels(entries, subject)
    groups: dict[tuple[int, str], list[Entry]] = {}
    for entry in entries:
        groups.setdefault((levels[entry.key], entry.action), []).append(entry)
    for (_, action), group in sorted(groups.items(), key=lambda item: (item[0][0], item[1][0].line)):
        rule = Rule(group[0].line, "", subject.stage, action)
        rule.remarks = [_lines([entry.line for entry in group])]
        wanted = list(dict.fromkeys(one for entry in group for one in entry.wanted))
        if len(wanted) > _ENTRIES:
            name = f"{field.replace('_', '-')}-{len(conversion.lists) + 1}"
            conversion.lists[name] = {"values": wanted}
            rule.match = {field: f"list:{name}"}
        else:
            shown = ["" if one == "<>" else one for one in wanted]
            rule.match = {field: shown[0] if len(shown) == 1 else shown}
        conversion.entries.append(rule)


def _levels(entries: list[Entry], subject: Subject) -> dict[str, int]:
    """How many rules have to come before an entry's: one more than before any that it must not take mail from."""
    by_key = {entry.key: entry for entry in entries}
    levels = dict.fromkeys(by_key, 0)
    after: dict[str, list[str]] = {}
    deepest: dict[str, int] = {}  # of what has been seen, by result: user@ fits mail of every domain
    for entry in sorted(entries, key=_rank):
        if entry.kind == "user":
            others = [level for action, level in deepest.items() if action != entry.action]
            levels[entry.key] = max([levels[entry.key], *(level + 1 for level in others)])
        for key in _less(entry, subject):
            other = by_key.get(key)
            if other and other.action != entry.action:
                after.setdefault(entry.key, []).append(key)
                levels[key] = max(levels[key], levels[entry.key] + 1)
        deepest[entry.action] = max(deepest.get(entry.action, 0), levels[entry.key])
    return _joined(entries, levels, after)


def _joined(entries: list[Entry], levels: dict[str, int], after: dict[str, list[str]]) -> dict[str, int]:
    """Entries moved to a later rule of the same result, where nothing comes between that they are in the way of."""
    taken: dict[str, set[int]] = {}
    for entry in entries:
        taken.setdefault(entry.action, set()).add(levels[entry.key])
    users = [entry for entry in entries if entry.kind == "user"]
    moved = {}
    for entry in entries:
        bounds = [levels[key] for key in after.get(entry.key, ())]
        if entry.kind != "user":
            bounds += [levels[user.key] for user in users if user.action != entry.action]
        last = min(bounds, default=len(entries) + 1) - 1
        moved[entry.key] = max(level for level in taken[entry.action] if level <= max(last, levels[entry.key]))
    return moved


def _rank(entry: Entry) -> tuple[int, int]:
    """The order in which smtpd(8) looks keys up; with an extension before without."""
    order = ("address", "name", "user", "network").index(entry.kind)
    parts = entry.key.strip(".:").count(":" if ":" in entry.key else ".")
    return order, -len(entry.key) if entry.kind in ("address", "user") else -2 * parts + entry.key.startswith(".")


def _less(entry: Entry, subject: Subject) -> Iterator[str]:
    """The keys that are tried after this one for mail that it fits."""
    if entry.kind == "network":
        text = entry.key
        while (cut := max(text.rfind("."), text.rfind(":"))) > 0:
            text = text[:cut]
            yield text
            yield text + ":"
        return
    if entry.kind == "user":
        yield from (key for key in address_keys(entry.key + "x", subject.delimiter) if key.endswith("@"))
        return
    domain = entry.key.rpartition("@")[2].strip(".") if entry.key != "<>" else ""
    if entry.kind == "address" and domain:
        yield from (key for key in address_keys(entry.key, subject.delimiter)[1:] if "@" in key)
        yield from (domain, "." + domain)
    while domain:
        domain = domain.partition(".")[2]
        yield from (domain, "." + domain)


def _lines(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:20])) + (f" and {len(numbers) - 20} more" if len(numbers) > 20 else "")
    return f"Line {shown}." if len(numbers) == 1 else f"Lines {shown}."


def _name(conversion: Conversion, stem: str) -> None:
    for number, rule in enumerate(conversion.rules, 1):
        word = re.sub(r"[^A-Za-z0-9]+", "-", rule.action.partition(" ")[0]).lower()
        rule.identity = f"{stem[:40]}-{number}-{word}"
