"""From the checked Model to what runs: tuples, dicts, frozensets, texts and numbers, which marshal can keep.

The shape, which evaluate.py takes apart:

    ruleset     {"delimiter", "zone", "local": (mydestination, myorigin),
                 "stages": {stage: (rule, ...)}, "index": {stage: index.py's, or None},
                 "undecided": {stage: words}, "otherwise": {stage: words}}
    rule        (id, mode, action words, on_error words or None, terms)
    words       (text | (slot, template), ...)
    term        ("is", condition) | ("not", conditions) | ("any", (conditions, ...))
    condition   (kind, key, source, part, known, test, shown)
    test        number           ((operator, N), ...)
                ip, mx_address   (nets, lists, others)
                flags            true or false
                time, weekday    spans or days
                dnsbl            (zones, at least)
                seen, greylist, rate    ((name, key, settings), ...)
                otherwise        (entries, globs, patterns, lists, others)
    others      ((attribute, part), ...) that the value may be equal to

Terms, blocks and conditions stand in the order of their cost, so that the cheap ones are judged first. A change to this
shape raises config.FORMAT.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple
from typing import Any

from postroom.rules import index, keys
from postroom.rules.actions import Action, Word, default
from postroom.rules.lookup import parse_ip
from postroom.rules.model import Condition, Model, Rule, Settings
from postroom.rules.values import FLAGS, Match

Local = tuple[frozenset[str | tuple[int, int]], str]


def compile_model(model: Model) -> dict[str, Any]:
    """Everything that a program needs of the file."""
    general = model.settings
    bounces = general.bounces
    return {
        "state": general.state,
        "log": general.log,
        "deadline": general.deadline,
        "dns": (general.servers, general.port, general.timeout),
        # Who has read them from a file puts in what it includes (config.py).
        "include": (),
        "included": (),
        "country": general.country,
        "route": (general.route.overrides, general.route.deadline, general.route.temp),
        "record": (general.record, general.record_hashed),
        "bounces": (bounces.key, bounces.prefix, bounces.domain, bounces.lifetime) if bounces else None,
        "log_format": general.log_format,
        "serve": astuple(general.serve),
        "listen": tuple(astuple(listen) for listen in general.listen),
        "lists": {source.name: (source.kind, source.values or source.path) for source in model.lists},
        "rules": compile_rules(model.rules, general.recipient_delimiter, general.time_zone, _local(general)),
    }


def compile_rules(
    rules: Sequence[Rule], delimiter: str = "+", zone: str = "", local: Local = (frozenset(), "")
) -> dict[str, Any]:
    stages = {stage: _stage(rules, stage) for stage in keys.STAGES}
    return {
        "delimiter": delimiter,
        "zone": zone,
        "local": local,
        "stages": stages,
        "index": {stage: index.build(compiled) for stage, compiled in stages.items()},
        "undecided": {stage: _words(default(stage, "?")) for stage in keys.STAGES},
        "otherwise": {stage: _otherwise(stage) for stage in keys.STAGES},
    }


def _local(general: Settings) -> Local:
    """mydestination and myorigin, for rewrite.py; with the addresses that every host has."""
    names = {*general.mydestination, "[127.0.0.1]", "[::1]"} if general.mydestination else set()
    found = [parse_ip(name[1:-1]) if name.startswith("[") else name for name in names]
    return frozenset(one for one in found if one is not None), general.myorigin


def _stage(rules: Sequence[Rule], stage: str) -> tuple[Any, ...]:
    return tuple(_rule(rule) for rule in rules if rule.stage == stage)


def _otherwise(stage: str) -> tuple[str, ...]:
    """What is said where no rule matches. No rule for a delivery is a mistake of ours: the mail must wait."""
    if stage in keys.POLICY_STAGES:
        return ("DUNNO",)
    return ("4.3.5", "no delivery rule applies to this recipient") if stage == "deliver" else ()


def _rule(rule: Rule) -> tuple[Any, ...]:
    terms: list[tuple[int, str, Any]] = [(_cost(one), "is", _condition(one)) for one in rule.match]
    if rule.any:
        blocks = sorted(rule.any, key=lambda block: max(map(_cost, block)))
        cost = max(_cost(one) for block in blocks for one in block)
        terms.append((cost, "any", tuple(_all(block) for block in blocks)))
    if rule.unless:
        terms.append((max(map(_cost, rule.unless)), "not", _all(rule.unless)))
    terms.sort(key=lambda term: term[0])
    on_error = None if rule.on_error is None else _words(rule.on_error)
    return rule.identity, rule.mode, _words(rule.action), on_error, tuple(term[1:] for term in terms)


def _words(action: Action) -> tuple[Any, ...]:
    return tuple((word.slot, word.template) if isinstance(word, Word) else word for word in action.words)


def _all(conditions: Sequence[Condition]) -> tuple[Any, ...]:
    return tuple(_condition(one) for one in sorted(conditions, key=_cost))


def _cost(condition: Condition) -> int:
    match = condition.match
    cost = keys.LIST if match.lists else keys.PATTERN if match.patterns else keys.ATTRIBUTE
    return max(cost, condition.key.cost)


def _condition(condition: Condition) -> tuple[Any, ...]:
    key, match = condition.key, condition.match
    make = _TESTS.get(key.kind)
    test = make(match) if make else (match.entries, match.globs, match.patterns, match.lists, match.others)
    return key.kind, key.name, key.source, key.part, condition.known, test, match.shown


def _nets(match: Match) -> tuple[Any, ...]:
    return match.nets, match.lists, match.others


_TESTS: dict[str, Callable[[Match], Any]] = {
    "number": lambda match: match.numbers,
    "ip": _nets,
    "mx_address": _nets,
    **dict.fromkeys(FLAGS, lambda match: match.flag),
    "time": lambda match: match.spans,
    "weekday": lambda match: match.days,
    "dnsbl": lambda match: (match.zones, match.at_least),
    **dict.fromkeys(("seen", "greylist", "rate"), lambda match: match.counted),
}
