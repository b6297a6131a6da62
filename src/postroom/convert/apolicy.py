"""apolicy's ACL files: three kinds of lines, and a [[rule]] of each of the third.

    object NAME TYPE VALUE[, VALUE...]        what a thing is; NAME and TYPE may stand the other way round
    action NAME ANSWER                        what Postfix is told
    access ACTION [!]OBJECT [[!]OBJECT...]    all of the objects fit, those with a ! do not: the first such line decides

No release of apolicy could be had to compare with; what is not of this form is listed, and nothing is made of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from postroom.convert import LOST, Conversion, Rule
from postroom.convert.deeds import braces, checked
from postroom.convert.items import Untranslated
from postroom.convert.source import is_utf8
from postroom.rules import actions, keys, values
from postroom.rules.problems import Refused

# What a type may be called, and our key.
TYPES = {
    **{name: name for name in ("sender", "recipient", "sender_domain", "recipient_domain", "client_name", "size")},
    **{name: name for name in ("sasl_username", "helo_name", "client_address", "country", "dnsbl", "rhsbl", "time")},
    "helo": "helo_name",
    "ip": "client_address",
    "network": "client_address",
    "client": "client_name",
    "geoip": "country",
    "rbl": "dnsbl",
    "weekday": "weekday",
}

_TITLE = "Made from {name}, ACLs of apolicy, by postroom import; the comments name its lines."


@dataclass(frozen=True)
class Object:
    key: str
    values: tuple[str, ...]


def convert(text: str, name: str, stage: str) -> Conversion:
    """All of a file, for one stage."""
    conversion = Conversion(_TITLE.format(name=name), {"recipient_delimiter": ""})
    objects: dict[str, Object] = {}
    answers: dict[str, str] = {}
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.rstrip("\r")
        word, *rest = line.split(None, 1) or [""]
        if not word or word.startswith("#"):
            continue
        try:
            if not is_utf8(line):
                raise Untranslated("it holds bytes that are not UTF-8")
            if word == "object":
                _object("".join(rest), stage, objects)
            elif word == "action":
                _answer("".join(rest), stage, answers)
            elif word == "access":
                conversion.entries.append(_access("".join(rest).split(), number, stage, objects, answers))
            else:
                raise Untranslated("it is neither object, action nor access")
        except Untranslated as reason:
            conversion.found(number, LOST, f"not carried over: {reason}", line)
    return conversion


def _object(text: str, stage: str, objects: dict[str, Object]) -> None:
    words = text.split(None, 2)
    if len(words) < 3:
        raise Untranslated("expected object NAME TYPE VALUE")
    name, kind, rest = words
    if kind.lower() not in TYPES and name.lower() in TYPES:
        name, kind = kind, name
    if kind.lower() not in TYPES:
        raise Untranslated(f"no type of objects is called {kind}")
    key = keys.find(TYPES[kind.lower()])
    if key is None or stage not in key.stages:
        raise Untranslated(f"{kind} cannot be known at {stage}")
    entries = tuple(entry for part in rest.split(",") if (entry := part.strip().strip("\"'")))
    for entry in entries:
        try:
            values.parse(key.kind, entry, values.Names())
        except Refused as refused:
            raise Untranslated(f"{entry}: {refused}") from None
    if not entries:
        raise Untranslated("it has no value")
    objects[name] = Object(key.name, entries)


def _answer(text: str, stage: str, answers: dict[str, str]) -> None:
    name, _, answer = text.strip().partition(" ")
    answers[name] = checked(braces(answer.strip().strip("\"'")), stage)


def _access(words: list[str], number: int, stage: str, objects: dict[str, Object], answers: dict[str, str]) -> Rule:
    if not words:
        raise Untranslated("expected access ACTION OBJECT")
    if words[0] not in answers and words[0].upper() not in actions.POLICY:
        raise Untranslated(f"no action {words[0]} was carried over")
    action = answers.get(words[0]) or checked(words[0], stage)
    rule = Rule(number, f"access-{number}", stage, action)
    rule.remarks = [f"Line {number}."]
    for word in words[1:]:
        negated, name = word.startswith("!"), word.lstrip("!")
        if name not in objects:
            raise Untranslated(f"no object {name} was carried over")
        found = objects[name]
        table = rule.unless if negated else rule.match
        if found.key in table and not negated:
            raise Untranslated(f"two objects are about {found.key}, and both would have to fit")
        if negated and table and found.key not in table:
            raise Untranslated("a rule has one unless here, and this one needs two")
        table[found.key] = [*table.get(found.key, ()), *found.values]
    for table in (rule.match, rule.unless):
        table.update({name: its[0] for name, its in table.items() if len(its) == 1})
    if {"dnsbl", "rhsbl"} & {*rule.match, *rule.unless}:
        rule.on_error = "skip"
    return rule
