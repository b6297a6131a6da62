"""Deciding: compiled rules and the attributes of one request in, questions out, a Decision at the end. No I/O.

    steps = decide(ruleset, "rcpt", attributes)
    question = next(steps)              # StopIteration: its value is the Decision
    question = steps.send(answer)

A condition is true, false or unknown. The tables (T true, F false, U unknown):

    AND | T F U      OR | T F U      NOT |
    ----+------      ---+------      ----+--
     T  | T F U       T | T T T       T  | F
     F  | F F F       F | T F U       F  | T
     U  | U F U       U | T U U       U  | U

    a list of values, `any`                            OR
    the keys of `match`, of `unless`, of an `any` table    AND
    a rule                                             match AND any AND NOT unless

A missing attribute, one that Postfix does not send or does not know at that moment, is no fourth value. It never
helps a rule to match: read in `match` and `any` the condition is false; read in `unless` it is true, so that the
negation is not. With one key in each,

    attribute      match         any           unless
    equals         T             T             F
    differs        F             F             T
    missing        F             F             F
    cannot be said U             U             U

True: the rule decides. False: the next rule. Unknown: the rule's on_error decides ("skip" means the next rule), since a
failure of ours must never read as "no".

Conditions are judged cheapest first, and no more of them than it takes. A fact that has to be fetched is asked for, and
the rule is judged again from its start: that is cheaper, and far simpler, than to stop in the middle of it.
"""

from __future__ import annotations

from postroom.rules import SMTP, Decision, Question, Unknown
from postroom.rules.compare import clock, ip, literal, null, number, string, texts, yes
from postroom.rules.facts import Facts
from postroom.rules.index import candidates
from postroom.rules.network import country, dnsbl, fcrdns, mx, mx_address, mx_state, ns
from postroom.rules.remembered import COUNTERS, flag, greylist, rate, seen
from postroom.rules.render import render

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping
    from typing import Any, Protocol

    from postroom.rules import Ruleset

    Truth = bool | Unknown | Question
    Steps = Generator[Question, Any, Decision]

    class Trace(Protocol):
        """Who wants to see how a decision came about (explain.py)."""

        def judged(self, condition: tuple[Any, ...], truth: Truth, facts: Facts) -> None: ...
        def ended(self, rule: str, truth: Truth, words: tuple[str, ...] | None, unfilled: str) -> None: ...


def decide(ruleset: Ruleset, stage: str, attributes: Mapping[str, str], trace: Trace | None = None) -> Steps:
    """The decision of the first rule of the stage that matches, or what stands for "no rule"."""
    facts = Facts(attributes, ruleset["delimiter"], ruleset["zone"], ruleset["local"] if stage in SMTP else None)
    shadow: tuple[tuple[str, str], ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    rules, index = ruleset["stages"].get(stage, ()), ruleset["index"].get(stage)
    if index is not None and trace is None:  # who wants to see how it came about sees every rule
        seen = ruleset.get("seen")
        rules = candidates(index, rules, facts, None if seen is None else seen.get(stage))
    for identity, mode, action, on_error, terms in rules:
        truth: Any = _judge(terms, facts, trace)
        while truth.__class__ is Question:
            facts.answers[truth.kind, truth.argument] = yield truth
            truth = _judge(terms, facts, trace)
        words = None
        if truth is not False:
            words, truth = yield from _words(action, on_error, truth, facts, ruleset["undecided"][stage])
        if trace is not None:
            trace.ended(identity, truth, words, facts.unfilled)
            facts.unfilled = ""
        if words is None:
            if truth is not False:
                skipped = (*skipped, (identity, truth.reason))
            continue
        if mode == "shadow":
            shadow = (*shadow, (identity, " ".join(words)))
            continue
        failed = truth is not True
        return Decision(" ".join(words), words, identity, failed, truth.reason if failed else "", shadow, skipped)
    words = ruleset["otherwise"][stage]
    return Decision(" ".join(words), words, reason="no rule matched", shadow=shadow, skipped=skipped)


def _words(
    action: tuple[Any, ...], on_error: tuple[Any, ...] | None, truth: Any, facts: Facts, undecided: tuple[str, ...]
) -> Generator[Question, Any, tuple[tuple[str, ...] | None, Any]]:
    """The words that a rule has come to, None where it passes; and whether it was decided after all."""
    if truth is True:
        words = yield from _rendered(action, facts)
        if words.__class__ is tuple:
            return words, True
        truth = words
    if on_error is None:
        return None, truth
    words = yield from _rendered(on_error, facts)
    return (words if words.__class__ is tuple else undecided), truth


def _rendered(words: tuple[Any, ...], facts: Facts) -> Generator[Question, Any, Any]:
    done: Any = render(words, facts)
    while done.__class__ is Question:
        facts.answers[done.kind, done.argument] = yield done
        done = render(words, facts)
    return done


def _judge(terms: tuple[Any, ...], facts: Facts, trace: Trace | None) -> Truth:
    """The AND of a rule's terms, which stand in the order of their cost."""
    if facts.listed or facts.waits:
        facts.listed, facts.waits = {}, {}
    doubt: Truth = True
    for form, body in terms:
        if doubt is not True and _counts(form, body):
            return doubt  # whether the rule is for this mail cannot be said: it must not count for it
        if form == "is":
            truth = _condition(body, facts, False, trace)
        elif form == "not":
            truth = _negated(_all(body, facts, True, trace))
        else:
            truth = _any(body, facts, trace)
        if truth is False or truth.__class__ is Question:
            return truth
        if truth is not True:
            doubt = truth
    return doubt


def _counts(form: str, body: Any) -> bool:
    """Whether a term asks `seen`, `greylist` or `rate`. These stand last."""
    if form == "is":
        return body[0] in COUNTERS
    blocks = body if form == "any" else (body,)
    return any(condition[0] in COUNTERS for block in blocks for condition in block)


def _all(conditions: tuple[Any, ...], facts: Facts, missing: bool, trace: Trace | None) -> Truth:
    doubt: Truth = True
    for condition in conditions:
        truth = _condition(condition, facts, missing, trace)
        if truth is False or truth.__class__ is Question:
            return truth
        if truth is not True:
            doubt = truth
    return doubt


def _any(blocks: tuple[Any, ...], facts: Facts, trace: Trace | None) -> Truth:
    doubt: Truth = False
    for conditions in blocks:
        truth = _all(conditions, facts, False, trace)
        if truth is True or truth.__class__ is Question:
            return truth
        if truth is not False:
            doubt = truth
    return doubt


def _negated(truth: Truth) -> Truth:
    return not truth if truth is True or truth is False else truth


def _condition(condition: tuple[Any, ...], facts: Facts, missing: bool, trace: Trace | None) -> Truth:
    truth = _KINDS[condition[0]](condition, facts)
    if truth is None:
        truth = missing
    if trace is not None:
        trace.judged(condition, truth, facts)
    return truth


_KINDS: dict[str, Callable[[tuple[Any, ...], Facts], Truth | None]] = {
    "text": string,
    "fold": string,
    "domain": string,
    "address": string,
    "number": number,
    "ip": ip,
    "flag": flag,
    "mx_state": mx_state,
    "mx": mx,
    "header": texts,
    "attachment": texts,
    "mx_address": mx_address,
    "ns": ns,
    "dnsbl": dnsbl,
    "fcrdns": fcrdns,
    "country": country,
    "null": null,
    "literal": literal,
    "yes": yes,
    "time": clock,
    "weekday": clock,
    "seen": seen,
    "greylist": greylist,
    "rate": rate,
}
