"""Conditions over what a request or a message says itself: texts, numbers, addresses, flags, and the clock.

One function per kind of key. Each is given the compiled condition (compile.py) and what is known, and returns true,
false, Unknown, the Question to ask first, or None: the attribute is missing.
"""

from __future__ import annotations

from postroom.rules import Question, Unknown
from postroom.rules.lookup import fold, glob_matches, in_nets, parse_ip

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from postroom.rules.facts import Facts

    Truth = bool | Unknown | Question | None


def string(condition: tuple[Any, ...], facts: Facts) -> Truth:
    kind, _, source, part, known, test, _ = condition
    value = facts.value(source, part, kind, known)
    if value is None:
        return None
    if value:
        return matches(kind, value, test, facts)
    # What is known to be empty equals the empty text only, and no pattern; a list may hold the null sender.
    entries, _, _, lists, others = test
    if "" in entries:
        return True
    if kind == "address" and lists:
        return matches(kind, value, ((), (), (), lists, others), facts)
    return _equals(kind, value, others, facts)


def null(condition: tuple[Any, ...], facts: Facts) -> Truth:
    _, _, source, _, known, wanted, _ = condition
    value = facts.value(source, "", "address", known)
    return None if value is None else (value == "") is wanted


def literal(condition: tuple[Any, ...], facts: Facts) -> Truth:
    """An address literal (RFC 5321 section 4.1.3) in place of a name."""
    _, _, source, _, known, wanted, _ = condition
    value = facts.value(source, "", "domain", known)
    return None if value is None else value.startswith("[") is wanted


def yes(condition: tuple[Any, ...], facts: Facts) -> Truth:
    _, _, source, _, _, wanted, _ = condition
    value = facts.text(source)
    return (value == "true") is wanted if value else None


def number(condition: tuple[Any, ...], facts: Facts) -> Truth:
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


def ip(condition: tuple[Any, ...], facts: Facts) -> Truth:
    kind, _, source, part, known, test, _ = condition
    value = facts.value(source, part, kind, known)
    return address_in(value, test, facts) if value else None


def clock(condition: tuple[Any, ...], facts: Facts) -> Truth:
    kind, _, _, _, _, test, _ = condition
    moment: Any = facts.ask("now", facts.zone)
    if moment.__class__ is Question or moment.__class__ is Unknown:
        return moment
    weekday, minute = moment
    if kind == "weekday":
        return bool(weekday in test)
    # A span that ends before it begins goes over midnight.
    return any(begin <= minute < end if begin < end else minute >= begin or minute < end for begin, end in test)


def texts(condition: tuple[Any, ...], facts: Facts) -> Truth:
    """Of a message: the headers of one name, or the names of what is attached."""
    kind, _, source, _, _, test, _ = condition
    found = facts.ask("header", source) if kind == "header" else facts.ask("attachments", None)
    if found.__class__ is Question or found.__class__ is Unknown:
        return found
    if not found:
        return None
    return some(kind, [fold(kind, value) for value in found], test, facts)


def some(kind: str, values: Any, test: tuple[Any, ...], facts: Facts) -> Truth:
    doubt: Truth = False
    for value in values:
        truth = matches(kind, value, test, facts)
        if truth is True or truth.__class__ is Question:
            return truth
        if truth is not False:
            doubt = truth
    return doubt


def matches(kind: str, value: str, test: tuple[Any, ...], facts: Facts) -> Truth:
    entries, globs, patterns, lists, others = test
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
            if answer is not True:
                facts.listed.setdefault("reason", answer)
                facts.listed[name] = answer
            return True
    equal = _equals(kind, value, others, facts) if others else False
    return equal if equal or doubt is False else doubt


def _equals(kind: str, value: str, others: tuple[tuple[str, str], ...], facts: Facts) -> bool | None:
    """Whether another attribute is the same; None where one of them is missing and none that is there equals."""
    missing = False
    for source, part in others:
        other = fold(kind, facts.text(source, part))
        if other and other == value:
            return True
        missing = missing or not other
    return None if missing else False


def _pattern(pattern: str, limit: int, value: str) -> bool | Unknown:
    if len(value) > abs(limit):
        return Unknown(
            f"a value of {len(value)} characters is too long for the pattern {pattern}, which takes {abs(limit)}"
        )
    if limit < 0:  # it could run away in Python's engine
        from postroom.rules.patterns import linear

        return linear(pattern, value)
    import re  # 8 ms: only who has a pattern in his rules pays for it

    return re.search(pattern, value, re.IGNORECASE) is not None


def address_in(value: str, test: tuple[Any, ...], facts: Facts) -> Truth:
    nets, lists, others = test
    address = parse_ip(value)
    if address is None:
        return None
    return True if in_nets(address, nets) else matches("ip", value, ((), (), (), lists, others), facts)
