"""How an explanation looks: first the decision, why, and what Postfix gets; then the request, rules, and questions."""

from __future__ import annotations

import json
import shutil
import textwrap
from dataclasses import asdict, dataclass
from time import gmtime, strftime
from typing import TYPE_CHECKING

from postroom.cli.trace import Style, because, not_given, rule_lines
from postroom.status import clean

if TYPE_CHECKING:
    from collections.abc import Iterable

    from postroom.cli.replies import Reply
    from postroom.cli.requested import Requested
    from postroom.rules import Decision
    from postroom.rules.explain import RuleView


@dataclass(frozen=True)
class Asked:
    """A question, its answer, and how long it took."""

    kind: str
    of: str
    answer: str
    milliseconds: float


@dataclass(frozen=True)
class Explanation:
    """Everything there is to show.

    `overridden`: the list of exceptions of [route] spoke, no rule was asked; `late`: why Postfix is told otherwise;
    `read_as`: the recipient as rules see it, where a client typed another spelling of it.
    """

    what: Requested
    rules: tuple[RuleView, ...]
    asked: tuple[Asked, ...]
    decision: Decision
    replies: tuple[Reply, ...]
    effect: str
    overridden: bool = False
    late: str = ""
    read_as: str = ""


def to_json(explanation: Explanation) -> str:
    decision, what = explanation.decision, explanation.what
    fields = {
        "at": what.stage,
        "given": what.attributes,
        "read_as": explanation.read_as,
        "rules": [asdict(rule) for rule in explanation.rules],
        "asked": [asdict(asked) for asked in explanation.asked],
        "action": decision.action,
        "words": decision.words,
        "rule": decision.rule,
        "on_error": decision.on_error,
        "reason": decision.reason,
        "shadow": decision.shadow,
        "reply": explanation.replies[0].data if explanation.replies else "",
        "replies": [
            {"to": reply.to, "bytes": reply.data, "exit_status": reply.exit_status} for reply in explanation.replies
        ],
        "effect": explanation.effect,
        "recorded": _recorded(what),
    }
    return json.dumps(fields)


def _recorded(what: Requested) -> dict[str, object] | None:
    line = what.line
    if line is None:
        return None
    return {
        "line": what.number,
        "time": _time(line.time),
        "action": line.action,
        "rule": line.rule,
        "on_error": line.on_error,
        "reason": line.reason,
        "others": what.others,
    }


def _time(seconds: float) -> str:
    try:
        return strftime("%Y-%m-%dT%H:%M:%SZ", gmtime(seconds))
    except (OverflowError, ValueError, OSError):
        return "at no time"


def to_text(explanation: Explanation, style: Style) -> list[str]:
    what = explanation.what
    lines = [*_decision(explanation, style), "", style.strong(f"The request, at {what.stage}")]
    width = max((len(name) for name in what.attributes), default=0)
    for name, value in what.attributes.items():
        read_as = f", which is {clean(explanation.read_as)}" if name == "recipient" and explanation.read_as else ""
        lines.append(f"  {clean(name):<{width}}  {clean(value) or '(empty)'}{read_as}")
    lines += ["", style.strong("The rules, in their order; the first that matches decides")]
    lines += ["  " + line for line in _rules(explanation, style)]
    if not explanation.rules:
        lines.append("  are not asked" if explanation.overridden else f"  there are none at {what.stage}")
    if explanation.asked:
        heading = "Asked on the way, answered as recorded" if what.line else "Asked on the way"
        lines += ["", style.strong(heading), *_asked(explanation.asked)]
    return lines


# Past this many, the rules below the one that decided are only counted.
_UNREACHED_SHOWN = 5


def _rules(explanation: Explanation, style: Style) -> list[str]:
    reached = [rule for rule in explanation.rules if rule.verdict != "unreached"]
    rest = explanation.rules[len(reached) :]
    shown = reached if len(rest) > _UNREACHED_SHOWN else explanation.rules
    found = [line for rule in shown for line in rule_lines(rule, style, explanation.what.attributes)]
    if shown is reached:
        found.append(f"{len(rest)} more are not reached, a rule above has decided")
    return found


def _decision(explanation: Explanation, style: Style) -> list[str]:
    """What somebody who was woken up for it wants to know."""
    decision, what = explanation.decision, explanation.what
    colour = "unknown" if decision.on_error else "true" if decision.rule else ""
    rows = [("Decision:", style.strong(style.paint(clean(decision.action) or "none", colour)))]
    rows.append(("Why:", _why(explanation) + "."))
    if missing := not_given(list(explanation.rules), what.attributes, what.stage):
        rows.append(("Not given,", missing.removeprefix("Not given, ")))
    for rule, action in decision.shadow:
        rows.append(("Only logged:", f"rule {clean(rule)} (mode = shadow) would have said {clean(action)}"))
    for number, reply in enumerate(explanation.replies):
        to = f" ({reply.to})" if len(explanation.replies) > 1 else ""
        status = "" if reply.exit_status is None else f", and exit status {reply.exit_status}"
        rows.append(("and:" if number else "Postfix gets:", f"{visible(reply.data)}{status}{to}"))
    rows.append(("Postfix then", f"{explanation.effect}."))
    if explanation.late:
        rows.append(("Too late:", f"{explanation.late}."))
    return _rows([*rows, *_then(explanation, style)], style)


def _then(explanation: Explanation, style: Style) -> list[tuple[str, str]]:
    """What was decided when the request was recorded, and whether that was the same."""
    what = explanation.what
    if what.line is None:
        return []
    line, decision = what.line, explanation.decision
    same = (line.rule, line.action) == (decision.rule, decision.action)
    then = f"line {what.number}, {_time(line.time)}: "
    if same:
        then += style.paint("the same", "true")
    else:
        by = f" by rule {clean(line.rule)}" if line.rule else ""
        then += style.paint(f"{clean(line.action) or 'none'}{by}", "unknown")
    rows = [("Recorded:", then)]
    if what.line.cut:
        rows.append(("Cut:", f"too long to be kept whole: {clean(', '.join(what.line.cut))}"))
    if what.others:
        rows.append(("Same mail:", "lines " + ", ".join(map(str, what.others))))
    return rows


def _rows(rows: list[tuple[str, str]], style: Style) -> list[str]:
    """A word or two each, and beside it what it says; in columns and wrapped where a person reads it on a terminal."""
    if not style.colours:
        return [f"{name} {text}" for name, text in rows]
    width = max(len(name) for name, _ in rows) + 2
    found = []
    for name, text in rows:
        first, *more = _wrapped(text, width)
        found += [style.strong(f"{name:<{width}}") + first, *(" " * width + part for part in more)]
    return found


def _wrapped(text: str, indent: int) -> list[str]:
    if "\x1b" in text:
        return [text]
    width = max(40, min(shutil.get_terminal_size().columns, 120) - indent)
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]


def _why(explanation: Explanation) -> str:
    decision, stage = explanation.decision, explanation.what.stage
    if explanation.overridden:
        unknown = "whether the recipient is on the list of overrides cannot be told: " if decision.on_error else ""
        return unknown + clean(decision.reason)
    if decision.rule is None:
        return f"no rule at {stage} matches"
    if decision.on_error:
        return f"rule {decision.rule} cannot be decided ({clean(decision.reason)}), and its on_error says what then"
    rule = next(rule for rule in explanation.rules if rule.identity == decision.rule)
    return f"rule {decision.rule} matches, since {because(rule)}" + (f"; but {rule.reason}" if rule.reason else "")


_QUESTIONS = {
    "list": "list",
    "mx": "MX of",
    "addresses": "addresses of",
    "ns": "name servers of",
    "dnsbl": "block lists,",
    "fcrdns": "reverse name of",
    "suppressed": "store, suppression of",
    "seen": "store, seen before by",
    "greylist": "store, greylist of",
    "rate": "store, rate of",
    "now": "clock",
    "country": "country of",
    "header": "header",
    "attachments": "attachments",
}


def _asked(asked: Iterable[Asked]) -> list[str]:
    rows = [
        (f"{_QUESTIONS[one.kind]} {one.of}".rstrip() + ":", one.answer, f"{one.milliseconds:g} ms") for one in asked
    ]
    return [f"  {question} {answer} ({spent})" for question, answer, spent in rows]


def visible(text: str) -> str:
    """The bytes of a reply in one line, its line ends as \\n."""
    return clean(text.replace("\n", "\\n"))
