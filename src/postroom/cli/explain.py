"""`postroom explain`: what the rules decide about one request, and why, condition by condition.

With --json one object: `at`, `given`; `rules`, each with `identity`, `mode`, `verdict` (matches, differs, unknown,
unreached), `reason`, `action`, `conditions` (`place`, `key`, `expected`, `truth`, `seen`, `reason`); `asked`, each with
`kind`, `of`, `answer`, `milliseconds`; the decision: `action`, `words`, `rule`, `on_error`, `reason`, `shadow`;
`reply`, the bytes that Postfix gets at an SMTP stage; `effect`, what Postfix then does.
"""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

import click

from postroom import config, store
from postroom.cli.check import DEFAULT_CONFIG
from postroom.cli.trace import Style, because, not_given, rule_lines
from postroom.deadline import Deadline
from postroom.dns import Resolver
from postroom.message import Message
from postroom.policy import PolicyRequest
from postroom.rules import Decision, Question, actions, keys
from postroom.rules.explain import Recorder, RuleView, describe
from postroom.rules.problems import Refused
from postroom.rules.testcase import Given, no_header
from postroom.sources import Given as GivenSources
from postroom.sources import Sources
from postroom.status import ConfigurationFault, clean
from postroom.wire.policy import reply

if TYPE_CHECKING:
    from postroom.config import Configuration

# A person is waiting; DNS that takes longer than this is a finding in itself.
PATIENCE = 20.0

_STATES = {"connect": "CONNECT", "helo": "EHLO", "mail": "MAIL", "rcpt": "RCPT", "data": "DATA", "etrn": "ETRN"}


@dataclass(frozen=True)
class Asked:
    """A question, its answer, and how long it took."""

    kind: str
    of: str
    answer: str
    milliseconds: float


class Timed(GivenSources):
    """Answers, and keeps account of each."""

    asked: list[Asked]

    def answer(self, question: Question) -> Any:
        start = perf_counter()
        answer = super().answer(question)
        spent = (perf_counter() - start) * 1000
        self.asked.append(Asked(question.kind, _of(question), describe(question.kind, answer), round(spent, 1)))
        return answer


@dataclass(frozen=True)
class Explanation:
    """Everything there is to show."""

    stage: str
    given: dict[str, str]
    rules: list[RuleView]
    asked: list[Asked]
    decision: Decision
    reply: str
    effect: str


@click.command()
@click.option("--config", "file", metavar="FILE", default=DEFAULT_CONFIG, show_default=True, type=click.Path())
@click.option("--at", "stage", default="rcpt", show_default=True, type=click.Choice(keys.STAGES), help="The stage.")
@click.option("--message", type=click.Path(exists=True, dir_okay=False), help="A message, for header keys.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object; the fields are in postroom(1).")
@click.argument("words", metavar="NAME=VALUE...", nargs=-1)
def command(file: str, stage: str, message: str | None, as_json: bool, words: tuple[str, ...]) -> None:
    """Show what the rules decide, and why.

    NAME is an attribute as Postfix sends it: recipient, sender, client_address ... What is not given is missing.
    Postfix sends an empty value for much of that: sasl_username= is a client that has not logged in.
    Lists, store and DNS are asked as for real mail, unless mx="10 HOST" (repeated; or null, none, error), sender_mx=,
    suppressed=true or header.NAME= say what they answer.

    Exit status: 0 decided, 75 a rule could not be decided and its on_error spoke, 78 bad configuration, 64 wrong usage.
    """
    given = _given(words, stage)
    try:
        configuration = config.load(file)
    except ConfigurationFault as fault:
        click.echo(f"{fault}\nThe programs put mail off (4.3.5) until this is right. See: {_check(file)}", err=True)
        raise SystemExit(os.EX_CONFIG) from None
    explanation = explain(configuration, stage, given, _message(message))
    style = Style.for_stdout()
    click.echo(_json(explanation) if as_json else "\n".join(_text(explanation, style)))
    raise SystemExit(os.EX_TEMPFAIL if explanation.decision.on_error else 0)


def _check(file: str) -> str:
    return "postroom check" if file == DEFAULT_CONFIG else f"postroom check {shlex.quote(clean(file))}"


def _given(words: tuple[str, ...], stage: str) -> Given:
    """The words of the command line as facts."""
    if not words:
        raise click.UsageError("expected what is known of the mail, such as recipient=user@example.com")
    given = Given()
    records: dict[str, list[str]] = {}
    seen: set[str] = set()
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise click.UsageError(f"expected NAME=VALUE, found {clean(word)!r}")
        if name in ("mx", "sender_mx") and value[:1].isdigit():
            records.setdefault(name, []).append(value)
            continue
        if name.startswith(keys.HEADER_PREFIX):
            _header(given, name, value, stage)
            continue
        if name in seen:
            raise click.UsageError(f"{name}: is given twice")
        seen.add(name)
        _add(given, name, value == "true" if name == "suppressed" and value in ("true", "false") else value)
    for name, values in records.items():
        if name in seen:
            raise click.UsageError(f"{name}: is given twice")
        _add(given, name, values)
    return given


def _header(given: Given, name: str, value: str, stage: str) -> None:
    """A message may have several headers of one name."""
    if misplaced := no_header(stage):
        raise click.UsageError(f"{clean(name)}: {misplaced}")
    header = name.removeprefix(keys.HEADER_PREFIX).lower()
    before = given.headers.get(header, ())
    _add(given, name, value)
    given.headers[header] = before + given.headers[header]


def _add(given: Given, name: str, value: object) -> None:
    try:
        given.add(name, value)
    except Refused as refused:
        raise click.UsageError(f"{clean(name)}: {refused}") from None


def _message(path: str | None) -> Message | None:
    if path is None:
        return None
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return Message.read(fd, "/tmp")  # noqa: S108 - opened with O_TMPFILE: no name, nothing to race for
    finally:
        os.close(fd)


def explain(configuration: Configuration, stage: str, given: Given, message: Message | None) -> Explanation:
    deadline = Deadline(PATIENCE)
    attributes = dict(given.attributes)
    if stage in _STATES:
        attributes.setdefault("protocol_state", _STATES[stage])
    dns = configuration.dns
    resolver = Resolver(dns.servers, dns.port, dns.timeout)
    base = Sources(
        configuration, resolver, lambda: store.open(configuration.state, deadline), message=message, deadline=deadline
    )
    headers = given.headers if given.headers or message is None else None
    sources = Timed(base, attributes, given.mx, given.sender_mx, given.suppressed, headers)
    sources.asked = []
    recorder = Recorder()
    decision = sources.decide(stage, attributes, recorder)
    return Explanation(
        stage,
        attributes,
        recorder.rules(configuration.rules, stage),
        sources.asked,
        decision,
        _reply(stage, decision, attributes),
        actions.effect(stage, decision.action),
    )


def _reply(stage: str, decision: Decision, attributes: dict[str, str]) -> str:
    """The very bytes, cut as rule-policy cuts them; nothing at the other stages."""
    if stage not in keys.POLICY_STAGES:
        return ""
    return reply(decision.action, PolicyRequest.of(attributes).wire).decode("utf-8", "surrogateescape")


def _of(question: Question) -> str:
    if question.kind == "list":
        name, value, _ = question.argument
        return f"{name}: {clean(value)}"
    return clean(str(question.argument))


def _json(explanation: Explanation) -> str:
    decision = explanation.decision
    fields = {
        "at": explanation.stage,
        "given": explanation.given,
        "rules": [asdict(rule) for rule in explanation.rules],
        "asked": [asdict(asked) for asked in explanation.asked],
        "action": decision.action,
        "words": decision.words,
        "rule": decision.rule,
        "on_error": decision.on_error,
        "reason": decision.reason,
        "shadow": decision.shadow,
        "reply": explanation.reply,
        "effect": explanation.effect,
    }
    return json.dumps(fields)


def _text(explanation: Explanation, style: Style) -> list[str]:
    lines = [style.strong(f"At {explanation.stage}, given:")]
    width = max((len(name) for name in explanation.given), default=0)
    lines += [f"  {name:<{width}}  {clean(value) or '(empty)'}" for name, value in explanation.given.items()]
    lines += ["", style.strong("The rules, in their order; the first that matches decides:")]
    for rule in explanation.rules:
        lines += ["  " + line for line in rule_lines(rule, style, explanation.given)]
    if not explanation.rules:
        lines.append(f"  there are no rules at {explanation.stage}")
    if explanation.asked:
        lines += ["", style.strong("Asked on the way:")]
        lines += [_asked_line(asked) for asked in explanation.asked]
    missing = not_given(explanation.rules, explanation.given, explanation.stage)
    return [*lines, *(["", missing] if missing else []), "", *_decision(explanation, style)]


def _asked_line(asked: Asked) -> str:
    names = {"list": "list", "mx": "MX of", "suppressed": "store, suppression of", "header": "header"}
    return f"  {names[asked.kind]} {asked.of}: {asked.answer} ({asked.milliseconds:g} ms)"


def _decision(explanation: Explanation, style: Style) -> list[str]:
    decision = explanation.decision
    lines = [style.strong("Decision: ") + (decision.action or "none")]
    lines.append(style.strong("Why: ") + _why(explanation) + ".")
    for rule, action in decision.shadow:
        lines.append(f"Only logged: rule {rule} (mode = shadow) would have said {action}")
    if explanation.reply:
        lines.append(style.strong("Postfix gets: ") + clean_bytes(explanation.reply))
    lines.append(f"Postfix then {explanation.effect}.")
    return lines


def _why(explanation: Explanation) -> str:
    decision = explanation.decision
    if decision.rule is None:
        return f"no rule at {explanation.stage} matches"
    if decision.on_error:
        return f"rule {decision.rule} cannot be decided ({clean(decision.reason)}), and its on_error says what then"
    rule = next(rule for rule in explanation.rules if rule.identity == decision.rule)
    return f"rule {decision.rule} matches, since {because(rule)}" + (f"; but {rule.reason}" if rule.reason else "")


def clean_bytes(text: str) -> str:
    """The bytes of a reply in one line, its line ends as \\n."""
    return clean(text.replace("\n", "\\n"))
