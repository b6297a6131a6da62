"""The very bytes that Postfix gets for a decision, made by the code that the programs send them with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from postroom.policy import PART_CONTEXT, PolicyRequest, one_action
from postroom.rules import Decision, keys
from postroom.status import MAX_LINE, SENT, Outcome, cut, is_status, parse, sent
from postroom.wire import socketmap, tcp_table
from postroom.wire.policy import reply

if TYPE_CHECKING:
    from postroom.config import Configuration


@dataclass(frozen=True)
class Reply:
    """`to`: who asks. `exit_status` of a program that pipe(8) has started."""

    to: str
    data: str
    exit_status: int | None = None


def replies(
    configuration: Configuration, stage: str, decision: Decision, attributes: dict[str, str]
) -> tuple[Reply, ...]:
    """In the order in which Postfix asks; none where an action has to be done first to know."""
    if stage in keys.POLICY_STAGES:
        return _policy(decision, attributes)
    if stage == "route":
        return _route(configuration, decision)
    outcome = _outcome(decision)
    if outcome is None:
        return ()
    # As runners/pipe.py gives it: of what was sent the words alone, which Postfix logs.
    data = cut(outcome.text, MAX_LINE - 1) + b"\n" if outcome.kind == SENT else outcome.line()
    return (Reply("pipe(8)", data.decode("utf-8", "replace"), outcome.exit_status),)


def _policy(decision: Decision, attributes: dict[str, str]) -> tuple[Reply, ...]:
    request = PolicyRequest.of(attributes)
    parts = [None, *range(len(decision.actions))] if len(decision.actions) > 1 else [None]
    found = []
    for part in parts:
        data = reply(one_action(decision, part), request.wire).decode("utf-8", "surrogateescape")
        found.append(Reply("asked first" if part is None else f"policy_context={PART_CONTEXT}{part + 1}", data))
    return tuple(found)


def _route(configuration: Configuration, decision: Decision) -> tuple[Reply, ...]:
    """As answers.py has it: what cannot be decided is "not found", unless temp = true in [route]."""
    kind, text = "found", decision.action
    if not text:
        late = decision.on_error and configuration.route.temp
        kind, text = ("temporary", decision.reason) if late else ("notfound", "")
    found = []
    for name, wire in (("socketmap", socketmap), ("tcp_table", tcp_table)):
        found.append(Reply(name, wire.reply(kind, text).decode("utf-8", "replace")))
    return tuple(found)


def _outcome(decision: Decision) -> Outcome | None:
    """What rule-deliver(8) says without doing anything."""
    if decision.words and decision.words[0] == "discard":
        return sent(" ".join(decision.words[1:]).strip() or "discarded by rule")
    return parse(decision.action) if decision.words and is_status(decision.words[0]) else None
