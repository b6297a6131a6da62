"""What is legal in a file but not what was meant: warnings for `postroom check`.

Rules for this file
* A warning says what is so and what was expected. Where a file may well mean what it says, there is none.
* Each finding is a function of a rule and a report, or of the whole model; LINTS lists them in the order of the output.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from postroom.rules import keys, values
from postroom.rules.cover import Context
from postroom.rules.model import Condition, Model, Rule
from postroom.rules.problems import Refused, Report
from postroom.rules.reach import context, contradictions, unreached
from postroom.rules.read import Place
from postroom.rules.suspect import about_list, about_numbers, about_stage, about_value
from postroom.rules.values import Match, Names

_WHOLE_MESSAGE = ("HOLD", "DISCARD", "FILTER", "REDIRECT")
_COUNTED = ("seen", "greylist", "rate")

# What proves who the client is. A name that it gives itself, the sender for one, proves nothing.
_CLIENT = ("client_address", "client_name", "sasl_username", "sasl_method", "ccert_subject", "ccert_fingerprint",
           "ccert_pubkey_fingerprint")  # fmt: skip
_RECIPIENT = ("recipient", "recipient_domain")


def lint(model: Model, report: Report) -> None:
    _unreached(model, report)
    _contradictions(model, report)
    about = context(model)
    kinds = {source.name: (source.kind, about.inline.get(source.name)) for source in model.lists}
    for rule in model.rules:
        for place, condition in _conditions(rule):
            _condition(rule, place, condition, about, report)
            for name in condition.match.lists:
                if text := about_list(condition, name, *kinds[name]):
                    report.warning(place, text)
        _action(rule, report)
    _twice(model, report)
    _unused(model, report)


def _condition(rule: Rule, place: Place, condition: Condition, about: Context, report: Report) -> None:
    for text in about_stage(rule.stage, condition):
        report.warning(place, text)
    for index, shown in enumerate(condition.match.shown):
        if text := about_value(rule.stage, condition, shown, about.delimiter):
            report.warning((*place, index), text)
    if text := about_numbers(condition):
        report.warning(place, text)
    _counted(rule, place, condition, report)
    _repeated(place, condition, report)


def _conditions(rule: Rule) -> Iterator[tuple[Place, Condition]]:
    for name, conditions in (("match", rule.match), ("unless", rule.unless)):
        for condition in conditions:
            yield _place(rule, (name,), condition), condition
    for index, block in enumerate(rule.any):
        for condition in block:
            yield _place(rule, ("any", index), condition), condition


def _place(rule: Rule, table: Place, condition: Condition) -> Place:
    """Where the condition stands, however it is written: header.subject, or "header.subject"."""
    return ("rule", rule.number, *table, condition.key.name)


# Rules


def _unreached(model: Model, report: Report) -> None:
    for rule, earlier, same in unreached(model):
        line = report.document.line(("rule", earlier.number))
        does = "matches whenever this one does"
        if same:
            does = "has the same conditions" + (" and action" * (earlier.action.text == rule.action.text))
        where = f'rule "{earlier.identity}" on line {line}'
        if report.document.file(("rule", earlier.number)) != report.document.file(("rule", rule.number)):
            where += f" of {report.document.file(('rule', earlier.number))}"
        report.warning(("rule", rule.number), f"is never reached: {where} {does}")


def _contradictions(model: Model, report: Report) -> None:
    for rule, where, index, one, other in contradictions(model):
        place: Place = ("rule", rule.number, where)
        if where == "match" and other:
            report.warning(place, f"never holds: {one.name} and {other.name} exclude each other")
        elif where == "any" and other:
            found = f"never holds: {one.name} and {other.name} exclude each other"
            report.warning((*place, index) if rule.any else ("rule", rule.number, "match"), found)
        elif where == "unless" and other:
            found = f"never holds where the rule matches, for {other.name} excludes {one.name}: it changes nothing"
            report.warning(place, found)
        else:
            found = "always holds where the conditions of the rule do: it never matches"
            report.warning(("rule", rule.number, "unless"), found)


def _action(rule: Rule, report: Report) -> None:
    place: Place = ("rule", rule.number, "action")
    forms = rule.action.form.split()
    for form in sorted(set(forms) & set(_WHOLE_MESSAGE)) if rule.stage == "rcpt" else ():
        text = f"{form} is for the whole message and all its recipients, though the rule looks at one"
        report.warning(place, text)
    if _permits(rule) and rule.stage == "rcpt" and not _bound(rule):
        text = f"{rule.action.text} can make an open relay: anybody can match this; expected a condition on "
        report.warning(place, text + "client_address, client_name, sasl_username, a certificate, or on the recipient")
    several = rule.stage in keys.POLICY_STAGES and len(forms) > 1
    for condition_place, condition in _conditions(rule) if several else ():
        if condition.key.name == "policy_context":
            text = "never lets several actions happen: Postfix asks for each of them in a policy_context of its own"
            report.warning(condition_place, text)


def _permits(rule: Rule) -> bool:
    words = [word for word in rule.action.words if isinstance(word, str)]
    return "OK" in words or (rule.action.form == "restrict" and "permit" in words[0].split(", "))


def _bound(rule: Rule) -> bool:
    """Whether a client that is known, or a recipient, is asked for in every case."""
    blocks = [(*rule.match, *block) for block in rule.any] or [rule.match]
    known = any(one.key.name == "sasl_username" and "" in one.match.entries for one in rule.unless)
    return known or all(any(map(_binds, block)) for block in blocks)


def _binds(condition: Condition) -> bool:
    match = condition.match
    proof = condition.key.name in _CLIENT and "" not in match.entries
    return (proof or condition.key.name in _RECIPIENT) and ("", "") not in match.globs


def _counted(rule: Rule, place: Place, condition: Condition, report: Report) -> None:
    kind = condition.key.kind
    if kind in _COUNTED and rule.mode == "shadow":
        report.warning(place, 'is counted all the same, although the rule decides nothing (mode = "shadow")')
    elif kind in ("greylist", "rate") and place[2] == "unless":
        holds = "a client that may pass" if kind == "greylist" else "what is within the limit"
        report.warning(place, f"counts what the rule is for, and lets it match {holds}; expected in match")


# What is said twice


def _repeated(place: Place, condition: Condition, report: Report) -> None:
    shown = condition.match.shown
    if len(shown) < 2:
        return
    seen: dict[object, str] = {}
    for index, text in enumerate(shown):
        same = _same(condition.key.kind, text)
        if same in seen:
            before = "" if seen[same] == text else f', as "{seen[same]}"'
            report.warning((*place, index), f'"{text}" stands in the list already{before}')
        seen.setdefault(same, text)


def _same(kind: str, text: str) -> object:
    """What is equal for values that mean the same."""
    try:
        return replace(values.parse(kind, text, Names()), shown=()) if kind not in _TABLES else Match((text,))
    except Refused:  # it refers to a list, a provider or an attribute
        return text


_TABLES = ("dnsbl", *_COUNTED)


def _twice(model: Model, report: Report) -> None:
    for rule in model.rules:
        blocks: set[object] = set()
        for index, block in enumerate(rule.any):
            same = frozenset((one.key.name, replace(one.match, shown=())) for one in block)
            if same in blocks:
                report.warning(("rule", rule.number, "any", index), "is the same as a table before it")
            blocks.add(same)
    for source in model.lists:
        entries: set[object] = set()
        given = report.document.data["list"][source.name].get("values", ()) if source.kind == "values" else ()
        for index, text in enumerate(given):
            entry = frozenset(values.list_entry(text))
            if entry in entries:
                report.warning(("list", source.name, "values", index), f'"{text}" stands in the list already')
            entries.add(entry)


def _unused(model: Model, report: Report) -> None:
    texts = {text for rule in model.rules for _, condition in _conditions(rule) for text in condition.match.shown}
    texts.add(f"list:{model.settings.route.overrides}")
    for kind in ("list", "provider"):
        for name in report.document.data.get(kind, {}):
            if f"{kind}:{name}" not in texts:
                report.warning((kind, name), f"no rule uses this {kind}")
