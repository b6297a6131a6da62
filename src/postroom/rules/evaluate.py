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

from postroom.rules import Decision, Question, Unknown
from postroom.rules.facts import Facts
from postroom.rules.lookup import fold, glob_matches, in_nets, parse_ip
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
    facts = Facts(attributes, ruleset["delimiter"])
    shadow: tuple[tuple[str, str], ...] = ()
    for identity, mode, action, on_error, terms in ruleset["stages"].get(stage, ()):
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
            continue
        if mode == "shadow":
            shadow = (*shadow, (identity, " ".join(words)))
            continue
        failed = truth is not True
        return Decision(" ".join(words), words, identity, failed, truth.reason if failed else "", shadow)
    words = ruleset["otherwise"][stage]
    return Decision(" ".join(words), words, reason="no rule matched", shadow=shadow)


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
    doubt: Truth = True
    for form, body in terms:
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


# One function per kind of key. None: the attribute is missing.


def _string(condition: tuple[Any, ...], facts: Facts) -> Truth | None:
    kind, _, source, part, known, test, _ = condition
    value = facts.value(source, part, kind, known)
    if value is None:
        return None
    if value:
        return _matches(kind, value, test, facts)
    # What is known to be empty equals the empty text only, and no pattern; a list may hold the null sender.
    entries, _, _, lists = test
    if "" in entries:
        return True
    return _matches(kind, value, ((), (), (), lists), facts) if kind == "address" and lists else False


def _matches(kind: str, value: str, test: tuple[Any, ...], facts: Facts) -> Truth:
    entries, globs, patterns, lists = test
    if entries:
        for key in facts.keys(kind, value):
            if key in entries:
                return True
    for pieces in globs:
        if glob_matches(pieces, value):
            return True
    doubt: Truth = False
    for pattern, limit in patterns:
        truth = _pattern(pattern, limit, value)
        if truth is True:
            return True
        doubt = truth or doubt
    for name in lists:
        answer = facts.ask("list", (name, value, kind))
        if answer.__class__ is Question:
            return answer
        if answer.__class__ is Unknown:
            doubt = answer
        elif answer is not False:
            return True
    return doubt


def _pattern(pattern: str, limit: int, value: str) -> bool | Unknown:
    if len(value) > limit:
        return Unknown(f"a value of {len(value)} characters is too long for the pattern {pattern}, which takes {limit}")
    import re  # 8 ms: only who has a pattern in his rules pays for it

    return re.search(pattern, value, re.IGNORECASE) is not None


def _number(condition: tuple[Any, ...], facts: Facts) -> Truth | None:
    _, key, source, _, known, test, _ = condition
    text = facts.text(source)
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        return Unknown(f"{key} is no number")
    number = int(text)
    if number == 0 and (not known or facts.nothing_known):
        return None
    return any(
        number > limit if operator == ">" else number < limit if operator == "<" else number == limit
        for operator, limit in test
    )


def _ip(condition: tuple[Any, ...], facts: Facts) -> Truth | None:
    kind, _, source, part, known, (nets, lists), _ = condition
    value = facts.value(source, part, kind, known)
    address = parse_ip(value) if value else None
    if value is None or address is None:
        return None
    return True if in_nets(address, nets) else _matches(kind, value, ((), (), (), lists), facts)


def _flag(condition: tuple[Any, ...], facts: Facts) -> Truth | None:
    _, _, source, _, _, wanted, _ = condition
    if not facts.text(source):
        return None
    found = facts.suppression(source)
    if found.__class__ is Question or found.__class__ is Unknown:
        return found
    return (found is not None) is wanted


def _mx_state(condition: tuple[Any, ...], facts: Facts) -> Truth | None:
    _, _, source, _, _, (entries, _, _, _), _ = condition
    plan = facts.plan(source)
    if plan is None or plan.__class__ is Question:
        return plan
    failed = plan.__class__ is Unknown or plan.state == "error"
    if failed and "error" not in entries:
        return plan if plan.__class__ is Unknown else _no_plan(plan)
    return failed or plan.state in entries


def _no_plan(plan: Any) -> Unknown:
    return Unknown(f"MX of {plan.domain}: {plan.reason}")


def _mx(condition: tuple[Any, ...], facts: Facts) -> Truth | None:
    _, _, source, part, _, test, _ = condition
    plan = facts.plan(source)
    if plan is None or plan.__class__ is Question or plan.__class__ is Unknown:
        return plan
    if plan.state == "error":
        return _no_plan(plan)
    hosts = plan.primary if part == "primary_mx" else plan.every
    if part == "every_mx":
        # Of no host at all nothing is said: a null MX is not "all at this provider".
        return _every(hosts, test, facts) if hosts else False
    return _some("domain", hosts, test, facts)


def _some(kind: str, values: Any, test: tuple[Any, ...], facts: Facts) -> Truth:
    doubt: Truth = False
    for value in values:
        truth = _matches(kind, value, test, facts)
        if truth is True or truth.__class__ is Question:
            return truth
        if truth is not False:
            doubt = truth
    return doubt


def _every(hosts: Any, test: tuple[Any, ...], facts: Facts) -> Truth:
    doubt: Truth = True
    for host in hosts:
        truth = _matches("domain", host, test, facts)
        if truth is False or truth.__class__ is Question:
            return truth
        if truth is not True:
            doubt = truth
    return doubt


def _header(condition: tuple[Any, ...], facts: Facts) -> Truth | None:
    kind, _, source, _, _, test, _ = condition
    found = facts.ask("header", source)
    if found.__class__ is Question or found.__class__ is Unknown:
        return found
    if not found:
        return None
    return _some(kind, [fold(kind, value) for value in found], test, facts)


_KINDS: dict[str, Callable[[tuple[Any, ...], Facts], Truth | None]] = {
    "text": _string,
    "fold": _string,
    "domain": _string,
    "address": _string,
    "number": _number,
    "ip": _ip,
    "flag": _flag,
    "mx_state": _mx_state,
    "mx": _mx,
    "header": _header,
}
