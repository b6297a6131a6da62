"""What is legal in a file but not what was meant: warnings for `postroom check`."""

from __future__ import annotations

from collections.abc import Iterator

from postroom.rules.compile import compile_rules
from postroom.rules.model import Condition, Model, Rule
from postroom.rules.problems import Report

_WHOLE_MESSAGE = ("HOLD", "DISCARD", "FILTER", "REDIRECT")
_SEVERAL_RECIPIENTS = ("data", "end-of-message")


def lint(model: Model, report: Report) -> None:
    _unreached(model.rules, report)
    for rule in model.rules:
        for place, condition in _conditions(rule):
            _attribute(rule, place, condition, report)
            _one_address(place, condition, report)
        if rule.action.form in _WHOLE_MESSAGE and rule.stage == "rcpt":
            text = f"{rule.action.form} is for the whole message and all its recipients, though the rule looks at one"
            report.warning(("rule", rule.number, "action"), text)
    _unused(model, report)


def _unreached(rules: tuple[Rule, ...], report: Report) -> None:
    """A rule whose conditions include all those of an earlier one is never the first to match."""
    before: dict[str, list[tuple[Rule, frozenset[object]]]] = {}
    for rule in rules:
        terms = _terms(rule)
        earlier = next((other for other, needed in before.get(rule.stage, []) if needed <= terms), None)
        if earlier:
            line = report.document.line(("rule", earlier.number))
            what = f'rule "{earlier.identity}" on line {line} matches whenever this one does'
            report.warning(("rule", rule.number), f"is never reached: {what}")
        elif rule.mode == "enforce":
            before.setdefault(rule.stage, []).append((rule, terms))


def _terms(rule: Rule) -> frozenset[object]:
    """The compiled terms, without how the file put them."""
    compiled = compile_rules([rule])["stages"][rule.stage][0][4]
    return frozenset((form, _bare(body)) for form, body in compiled)


def _bare(body: object) -> object:
    if isinstance(body, tuple) and len(body) == 7 and isinstance(body[0], str):
        return body[:6]
    return tuple(_bare(one) for one in body) if isinstance(body, tuple) else body


def _conditions(rule: Rule) -> Iterator[tuple[tuple[str | int, ...], Condition]]:
    for name, conditions in (("match", rule.match), ("unless", rule.unless)):
        for condition in conditions:
            yield ("rule", rule.number, name, condition.key.name), condition
    for index, block in enumerate(rule.any):
        for condition in block:
            yield ("rule", rule.number, "any", index, condition.key.name), condition


def _attribute(rule: Rule, place: tuple[str | int, ...], condition: Condition, report: Report) -> None:
    """Facts about what Postfix sends when (SMTPD_POLICY_README; src/smtpd/smtpd_check.c)."""
    key = condition.key
    if key.source == "recipient" and rule.stage in _SEVERAL_RECIPIENTS:
        text = f"is known at {rule.stage} only for a message with one recipient; with several this never matches"
        report.warning(place, text)
    if key.name == "size" and rule.stage in ("mail", "rcpt", "data"):
        text = f"is what the client announces, or missing, at {rule.stage}; the real size is known at end-of-message"
        report.warning(place, text)


def _one_address(place: tuple[str | int, ...], condition: Condition, report: Report) -> None:
    """The mailbox "a b"@example.com is legal (RFC 5321 section 4.1.2), and hardly ever what was meant."""
    for text in condition.match.shown if condition.key.kind == "address" else ():
        local, at, domain = text.rpartition("@")
        if at and " " in local and not text.startswith("re:"):
            report.warning(place, f'is the one address "{local}"@{domain}; several values are a list: ["...", "..."]')


def _unused(model: Model, report: Report) -> None:
    texts = {text for rule in model.rules for _, condition in _conditions(rule) for text in condition.match.shown}
    for kind in ("list", "provider"):
        for name in report.document.data.get(kind, {}):
            if f"{kind}:{name}" not in texts:
                report.warning((kind, name), f"no rule uses this {kind}")
