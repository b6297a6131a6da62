"""`postroom explain`: what the rules decide about one request, and why, condition by condition.

With --json one object: `at`, `given`, `read_as`; `rules`, each with `identity`, `mode`, `verdict` (matches, differs,
unknown, unreached), `reason`, `action`, `conditions` (`place`, `key`, `expected`, `truth`, `seen`, `reason`); `asked`,
each with `kind`, `of`, `answer`, `milliseconds`; the decision: `action`, `words`, `rule`, `on_error`, `reason`,
`shadow`;
`reply`, the bytes that Postfix gets, `replies`, all of them with how each is asked for (`to`, `bytes`); `effect`, what
Postfix then does; `recorded` (with --record): `line`, `time`, `action`, `rule`, `on_error`, `reason`, `others`.
"""

from __future__ import annotations

import os
import shlex
from time import perf_counter
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from postroom import config, store
from postroom.cli.check import DEFAULT_CONFIG
from postroom.cli.explained import Asked, Explanation, to_json, to_text
from postroom.cli.replies import Reply, replies
from postroom.cli.requested import Requested, requested
from postroom.cli.trace import Style
from postroom.deadline import Deadline
from postroom.dns import Resolver
from postroom.message import Message
from postroom.record.replay import Replay
from postroom.rules import SMTP, Decision, Question, Unknown, actions, keys
from postroom.rules.describe import about, describe
from postroom.rules.explain import Recorder
from postroom.rules.lookup import fold
from postroom.rules.rewrite import resolved
from postroom.sources import Given as GivenSources
from postroom.sources import Sources
from postroom.status import ConfigurationFault, clean

if TYPE_CHECKING:
    from postroom.config import Configuration

# A person is waiting; DNS that takes longer than this is a finding in itself.
PATIENCE = 20.0


class Witness(GivenSources):
    """Answers as a person says, else from the record where there is one, else as for mail; and keeps account of each.

    Nothing is counted or recorded (Sources.observe).
    """

    asked: list[Asked]
    replay: Replay | None = None

    def answer(self, question: Question) -> Any:
        start = perf_counter()
        answer = (
            super().answer(question) if self.replay is None or self._said(question) else self.replay.answer(question)
        )
        spent = (perf_counter() - start) * 1000
        milliseconds = self._then(question) if self.replay is not None else round(spent, 1)
        kind = question.kind
        self.asked.append(Asked(kind, about(kind, question.argument), describe(kind, answer), milliseconds))
        return answer

    def _said(self, question: Question) -> bool:
        """Whether a person gave the answer, or the message that has it."""
        kind = question.kind
        if kind == "header":
            return self._headers is not None or self.message is not None
        return (
            kind in self._given
            or (kind == "mx" and question.argument in self._plans)
            or (kind == "suppressed" and self._suppression is not None)
            or (kind == "attachments" and self.message is not None)
        )

    def _then(self, question: Question) -> float:
        """How long it took when it was recorded."""
        line = self.replay and self.replay.line
        for kind, argument, _, milliseconds in line.asked if line else ():
            if (kind, argument) == (question.kind, question.argument):
                return milliseconds
        return 0.0


@click.command()
@click.option("--config", "file", metavar="FILE", default=DEFAULT_CONFIG, show_default=True, type=click.Path())
@click.option(
    "--at",
    "stage",
    default="rcpt",
    show_default="the request's, else rcpt",
    type=click.Choice(keys.STAGES),
    help="The stage.",
)
@click.option("--message", type=click.Path(exists=True, dir_okay=False), help="A message, for headers and attachments.")
@click.option("--request", metavar="FILE", help="A request as Postfix sends it, name=value lines; - is standard input.")
@click.option("--record", metavar="FILE[:LINE]", help="A recorded request with its answers; without LINE the last.")
@click.option("--queue-id", metavar="ID", help="With --record: the last line of this mail.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object; the fields are in postroom(1).")
@click.argument("words", metavar="NAME=VALUE...", nargs=-1)
@click.pass_context
def command(
    context: click.Context,
    file: str,
    stage: str,
    message: str | None,
    request: str | None,
    record: str | None,
    queue_id: str | None,
    as_json: bool,
    words: tuple[str, ...],
) -> None:
    """Show what the rules decide, and why.

    NAME is an attribute as Postfix sends it: recipient, sender, client_address ... What is not given is missing.
    Postfix sends an empty value for much of that: sasl_username= is a client that has not logged in.
    Lists, store and DNS are asked as for real mail, unless mx="10 HOST" (repeated; or null, none, error), sender_mx=,
    suppressed=true, header.NAME= and the like say what they answer. From a record they answer as they did then.
    Nothing is counted by rate, greylist or seen, and nothing recorded.

    Exit status: 0 decided, 75 a rule could not be decided and its on_error spoke, 78 bad configuration, 64 wrong usage.
    """
    at = stage if context.get_parameter_source("stage") is ParameterSource.COMMANDLINE else None
    what = requested(words, at, request, record, queue_id)
    try:
        configuration = config.load(file)
    except ConfigurationFault as fault:
        click.echo(f"{fault}\nThe programs put mail off (4.3.5) until this is right. See: {_check(file)}", err=True)
        raise SystemExit(os.EX_CONFIG) from None
    explanation = explain(configuration, what, _message(message))
    click.echo(to_json(explanation) if as_json else "\n".join(to_text(explanation, Style.for_stdout())))
    raise SystemExit(os.EX_TEMPFAIL if explanation.decision.on_error else 0)


def _check(file: str) -> str:
    return "postroom check" if file == DEFAULT_CONFIG else f"postroom check {shlex.quote(clean(file))}"


def _message(path: str | None) -> Message | None:
    if path is None:
        return None
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return Message.read(fd, "/tmp")  # noqa: S108 - opened with O_TMPFILE: no name, nothing to race for
    finally:
        os.close(fd)


def explain(configuration: Configuration, what: Requested, message: Message | None) -> Explanation:
    sources = _witness(configuration, what, message)
    recorder = Recorder()
    override = _override(configuration, what, sources)
    decision = override or sources.decide(what.stage, what.attributes, recorder)
    told: tuple[Reply, ...] = replies(configuration, what.stage, decision, what.attributes)
    return Explanation(
        what,
        () if override else tuple(recorder.rules(configuration.rules, what.stage)),
        tuple(sources.asked),
        decision,
        told,
        "; then it ".join(actions.effect(what.stage, action) for action in decision.actions),
        override is not None,
        _late(configuration, what, sources),
        _read_as(configuration, what),
    )


def _read_as(configuration: Configuration, what: Requested) -> str:
    """The recipient as the rules see it, where that is not as it was typed."""
    typed = what.attributes.get("recipient", "")
    read = resolved(typed, *configuration.rules["local"]) if what.stage in SMTP else typed
    return read if read != typed else ""


def _late(configuration: Configuration, what: Requested, sources: Witness) -> str:
    """A person waits longer for DNS than Postfix's resolver may be kept waiting."""
    seconds = sum(asked.milliseconds for asked in sources.asked) / 1000
    if what.stage != "route" or seconds <= configuration.route.deadline:
        return ""
    limit = f"the {configuration.route.deadline:g} s of [route]"
    return f"the answers took {seconds:.1f} s, more than {limit}: Postfix gets what was known before, or NOTFOUND"


def _witness(configuration: Configuration, what: Requested, message: Message | None) -> Witness:
    deadline = Deadline(PATIENCE)
    dns = configuration.dns
    base = Sources(
        configuration,
        Resolver(dns.servers, dns.port, dns.timeout),
        lambda: store.open(configuration.state, deadline),
        message,
        deadline,
        observe=True,
    )
    given = what.given
    headers = given.headers if given.headers or (message is None and what.line is None) else None
    witness = Witness(base, what.attributes, given.mx, given.sender_mx, given.suppressed, headers, given.answers)
    witness.asked = []
    if what.line is not None:
        witness.replay = Replay(configuration)
        witness.replay.load(what.line)
    return witness


def _override(configuration: Configuration, what: Requested, sources: Witness) -> Decision | None:
    """At route the list of exceptions goes before the rules, as socketmap-lookup(8) asks it."""
    name = configuration.route.overrides
    recipient = what.attributes.get("recipient", "")
    if what.stage != "route" or not name or not recipient:
        return None
    text = sources.answer(Question("list", (name, fold("address", recipient), "address")))
    if isinstance(text, Unknown):
        return Decision("", (), None, True, text.reason)
    if text is False:
        return None
    if text is not True and ":" not in text:
        return Decision("", (), None, True, f"list {name}: {clean(text)!r}, expected transport:nexthop")
    return Decision("" if text is True else text, (), reason=f"the recipient is on the list {name}, which goes first")
