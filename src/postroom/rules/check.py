"""The check of a configuration file: document in, typed Model out, and everything that is wrong with it on the way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from postroom.rules import actions, counted, keys, section, settings, values
from postroom.rules.actions import Action
from postroom.rules.dnsbl import ZONES_LIMIT
from postroom.rules.keys import Key
from postroom.rules.model import Condition, Model, Rule
from postroom.rules.problems import Refused, Report, unknown
from postroom.rules.read import Document, Place
from postroom.rules.section import Section
from postroom.rules.testcase import test
from postroom.rules.values import Match, Names, show

RULE_KEYS = ("id", "at", "match", "unless", "any", "action", "on_error", "mode", "allow_ok")
MODES = ("enforce", "shadow")

_ID = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
_ID_LIMIT = 64


def check(document: Document, folder: str) -> tuple[Model | None, Report]:
    """The Model, or None where the report has errors. Relative paths in the file start at `folder`."""
    report = Report(document)
    top = Section(report, (), document.data, settings.TOP)
    general = settings.settings(top, folder)
    lists = settings.lists(top, folder)
    names = Names(frozenset(_names(top, "list")), settings.providers(top))
    found = [_rule(report, ("rule", number), table, names) for number, table in _tables(top, "rule")]
    rules = tuple(rule for rule in found if rule)
    _unique(report, rules)
    _shared(report, rules)
    tests = tuple(test(report, ("test", number), table, top.table) for number, table in _tables(top, "test"))
    if report.errors:
        return None, report
    return Model(general, lists, rules, tuple(case for case in tests if case)), report


def _names(top: Section, kind: str) -> list[str]:
    table = top.table.get(kind)
    return list(table) if isinstance(table, dict) else []


def _tables(top: Section, kind: str) -> list[tuple[int, Any]]:
    found = top.table.get(kind, [])
    if not isinstance(found, list):
        top.report.error((kind,), f"expected [[{kind}]] with two brackets, found {show(found)}")
        return []
    return list(enumerate(found))


def _unique(report: Report, rules: tuple[Rule, ...]) -> None:
    seen: dict[str, int] = {}
    for rule in rules:
        if rule.identity in seen:
            line = report.document.line(("rule", seen[rule.identity]))
            report.error(("rule", rule.number, "id"), f"is the id of the rule on line {line} too, expected another")
        seen.setdefault(rule.identity, rule.number)


def _shared(report: Report, rules: tuple[Rule, ...]) -> None:
    """Rates under one name are one count. What has been counted for a mail is not judged again by other limits, so
    that those of the second rule would never be kept.
    """
    first: dict[str, tuple[Rule, Any]] = {}
    for rule in rules:
        for condition in (*rule.match, *rule.unless, *(one for block in rule.any for one in block)):
            for name, _, found in condition.match.counted if condition.key.kind == "rate" else ():
                other, limits = first.setdefault(name, (rule, found))
                if limits != found:
                    where = f'rule "{other.identity}" on line {report.document.line(("rule", other.number))}'
                    text = f'counts as "{name}" by another limit or unit than {where}; expected another name'
                    report.error(("rule", rule.number), text)


def _rule(report: Report, path: Place, table: object, names: Names) -> Rule | None:
    before = len(report.errors)
    given = Section(report, path, table, RULE_KEYS)
    identity = given.require("id", "", _identity, "a name for the log")
    stage = given.require("at", "", _stage, f"one of {', '.join(keys.STAGES)}")
    if not stage:
        return None
    conditions = _Conditions(report, stage, names, identity)
    match = conditions.table((*path, "match"), given.table.get("match", {}))
    unless = conditions.table((*path, "unless"), given.table.get("unless", {}))
    blocks = _blocks(conditions, (*path, "any"), given)
    if "unless" in given.table and not given.table["unless"]:
        report.error((*path, "unless"), "is empty, and would keep the rule from ever matching")
    action, on_error = _actions(given, stage, identity)
    mode = given.take("mode", "enforce", lambda value: section.choice(value, MODES))
    if action is None or len(report.errors) > before:
        return None
    number = path[1] if isinstance(path[1], int) else 0
    return Rule(identity, number, stage, match, unless, blocks, action, on_error, mode)


def _identity(value: object) -> str:
    identity = section.text(value)
    if not set(identity) <= _ID or len(identity) > _ID_LIMIT:
        raise Refused(f"expected up to {_ID_LIMIT} letters, digits, dots, - and _, found {show(value)}")
    return identity


def _stage(value: object) -> str:
    if section.text(value) not in keys.STAGES:
        raise Refused(unknown(section.text(value), keys.STAGES, "stage"))
    return section.text(value)


def _actions(given: Section, stage: str, identity: str) -> tuple[Action | None, Action | None]:
    """The action, and what on_error comes to."""
    allow_ok = given.take("allow_ok", False, section.boolean)
    undecided: Action | None = actions.default(stage, identity or "?")

    def read(value: object) -> Action | None:
        return actions.parse(stage, value, allow_ok)

    def read_on_error(value: object) -> Action | None:
        if value == "skip":
            return None
        if value == "defer":
            return undecided
        try:
            return read(value)
        except Refused as refused:
            raise Refused(f'expected "defer", "skip" or an action; {refused}') from None

    action: Action | None = given.require("action", None, read, actions.expected(stage))
    on_error = given.take("on_error", undecided, read_on_error)
    if action:
        _needs(given, action)
    return action, on_error


def _needs(given: Section, action: Action) -> None:
    """What a condition has found is only there to be told where the rule asks for it: else it would be empty."""
    asked = _asked(given)
    needed = [("suppressed...", "suppressed = true")] if action.uses("suppressed") else []
    needed += [(f"{kind}.wait", f"{kind} = {{ ... }}") for _, kind, _ in action.uses("waits")]
    for _, _, name in action.uses("listed"):
        needed.append((f"list.{name}", '"list:..."' if name == "reason" else f'"list:{name}"'))
    for template, condition in needed:
        if not any(text.startswith(condition.partition("...")[0].partition("{")[0]) for text in asked):
            text = f"uses {{{template}}}, which needs {condition} among the rule's conditions"
            given.report.error((*given.path, "action"), text)


def _asked(given: Section) -> list[str]:
    """The conditions of `match` and `any`, as they could be written."""
    tables = [given.table.get("match"), *_list_of(given.table.get("any"))]
    pairs = [pair for table in tables if isinstance(table, dict) for pair in table.items()]
    texts = [f'"{one}"' for _, value in pairs for one in (value if isinstance(value, list) else [value])]
    return [*texts, *(f"{name} = {show(value)}" for name, value in pairs)]


def _list_of(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _blocks(conditions: _Conditions, path: Place, given: Section) -> tuple[tuple[Condition, ...], ...]:
    if "any" not in given.table:
        return ()
    blocks = given.table["any"]
    if not isinstance(blocks, list) or not blocks:
        given.report.error(path, f"expected a list of tables, [ {{ ... }}, {{ ... }} ], found {show(blocks)}")
        return ()
    for index, block in enumerate(blocks):
        if block == {}:
            given.report.error((*path, index), "is empty, and would make the rule match without any other condition")
    return tuple(conditions.table((*path, index), block) for index, block in enumerate(blocks))


class _Conditions:
    """Reads the tables of conditions of one rule."""

    def __init__(self, report: Report, stage: str, names: Names, identity: str) -> None:
        self._report = report
        self._stage = stage
        self._names = replace(names, attributes={n: k for n, k in keys.KEYS.items() if stage in k.stages})
        self._identity = identity
        self._counters = 0

    def table(self, path: Place, table: object) -> tuple[Condition, ...]:
        if not isinstance(table, dict):
            self._report.error(path, f'expected a table, {{ recipient = "..." }}, found {show(table)}')
            return ()
        found = [self._condition(place, name, value) for name, place, value in _flat(path, table)]
        return tuple(condition for condition in found if condition)

    def _condition(self, path: Place, name: str, value: object) -> Condition | None:
        key = keys.find(name)
        if key is None:
            here = keys.at(self._stage)
            self._report.unknown(path, name, here, "key")
            return None
        if self._stage not in key.stages:
            self._report.error(path, f"cannot be known at {self._stage}, only at {keys.where(key)}")
            return None
        match = self._values(path, key, value)
        return None if match is None else Condition(key, match, self._stage in key.known)

    def _values(self, path: Place, key: Key, value: object) -> Match | None:
        """One value, or a list of them that are all possible."""
        several = value if isinstance(value, list) and key.kind not in values.FLAGS else None
        if several == []:
            self._report.error(path, "an empty list matches nothing, expected a value")
        parts: list[Match] = []
        wrong = False
        for index, one in enumerate([value] if several is None else several):
            place = path if several is None else (*path, index)
            try:
                found = self._value(key, one)
                self._possible(key, found)
                parts.append(found)
            except Refused as refused:
                self._report.error(place, str(refused))
                wrong = True
        if wrong:
            return None
        match = values.united(parts)
        if len(match.zones) > ZONES_LIMIT:
            self._report.error(path, f"expected up to {ZONES_LIMIT} zones, found {len(match.zones)}")
            return None
        return match if match.shown else None

    def _value(self, key: Key, value: object) -> Match:
        if key.cost != keys.COUNTER:
            return values.parse(key.kind, value, self._names)
        # The counter of a rule goes by the rule's id; a second one in the same rule is another.
        self._counters += 1
        name = self._identity if self._counters == 1 else f"{self._identity}:{self._counters}"
        found = counted.parse(key.kind, value, self._stage, name)
        return Match(shown=(values.show_table(value),), counted=(tuple(found),))

    def _possible(self, key: Key, match: Match) -> None:
        known = self._stage in key.known or key.part in ("localpart", "user", "extension", "domain")
        if "" in match.entries and not known:
            raise Refused(f"can never match: an empty {key.name} means unknown at {self._stage}")
        if ("=", 0) in match.numbers and not known:
            raise Refused(f"can never match: {key.name} 0 means unknown at {self._stage}")


# Keys whose value is a table of settings.
_TABLES = ("dnsbl", "seen", "greylist", "rate")


def _flat(path: Place, table: dict[str, Any]) -> list[tuple[str, Place, Any]]:
    """(name, place, value); header.subject and its like may be written with quotes around them or without."""
    found = []
    for name, value in table.items():
        key = keys.find(name)
        if isinstance(value, dict) and (key is None or key.kind not in _TABLES):
            found += [(f"{name}.{inner}", (*path, name, inner), item) for inner, item in value.items()]
        else:
            found.append((name, (*path, name), value))
    return found
