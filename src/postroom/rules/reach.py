"""Rules that are never the first to match, and rules that never match at all.

A rule is never reached where an earlier one of its stage, which decides, matches whenever it does: each of the earlier
rule's conditions is covered by one of its own (cover.py). To compare each with each would take minutes for ten thousand
rules, so an earlier rule is looked up by the values of its rarest condition; what cannot be looked up, such as globs,
is compared as long as COMPARISONS_LIMIT lasts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from postroom.rules.actions import Word
from postroom.rules.compile import compile_rules
from postroom.rules.cover import PAIRS_LIMIT, TEXTS, Context, Wish, apart, compared, covers, keys, networks, never, wish
from postroom.rules.model import Condition, Model, Rule

# Some ten microseconds each: a few seconds at most, for a file of ten thousand rules that are all of globs.
COMPARISONS_LIMIT = 200_000

# Conditions that are true or false where the attribute is there: nothing has to be asked for them.
_SURE = ("text", "fold", "domain", "address", "null", "literal", "yes", "ip")
_CHOICES = ("mx_state", "country")


@dataclass(frozen=True)
class Shape:
    """A rule's conditions; `blocks` has one empty block where the rule has no `any`."""

    rule: Rule
    match: tuple[Wish, ...]
    blocks: tuple[tuple[Wish, ...], ...]
    unless: tuple[Wish, ...]

    @property
    def cases(self) -> Iterator[tuple[Wish, ...]]:
        return (self.match + block for block in self.blocks)


def shape(rule: Rule) -> Shape:
    blocks = tuple(tuple(map(wish, block)) for block in rule.any) or ((),)
    return Shape(rule, tuple(map(wish, rule.match)), blocks, tuple(map(wish, rule.unless)))


def context(model: Model) -> Context:
    inline = {source.name: frozenset(source.values) for source in model.lists if source.kind == "values"}
    return Context(model.settings.recipient_delimiter, inline)


def unreached(model: Model) -> list[tuple[Rule, Rule, bool]]:
    """Each rule that is never reached, the first that stands before it, and whether their conditions are the same."""
    found: dict[int, tuple[Rule, bool]] = {}
    about, stages = context(model), compile_rules(model.rules)["stages"]
    for stage, compiled in stages.items():
        rules = [rule for rule in model.rules if rule.stage == stage]
        terms = [frozenset((form, _bare(body)) for form, body in one[4]) for one in compiled]
        pairs = [*_with_all_of(rules, terms), *_wider([shape(rule) for rule in rules], about)]
        for later, earlier in pairs:
            rule, before = rules[later], rules[earlier]
            if _decides(before, rule) and (rule.number not in found or before.number < found[rule.number][0].number):
                found[rule.number] = before, terms[later] == terms[earlier]
    numbers = {rule.number: rule for rule in model.rules}
    return [(numbers[number], *found[number]) for number in sorted(found)]


def _decides(before: Rule, rule: Rule) -> bool:
    """Whether the earlier rule ends it wherever the later one would.

    With on_error = "skip" it passes where it cannot be decided, or its words cannot be filled in.
    """
    if before.on_error is not None:
        return True
    sure = all(_sure(one) for block in (before.match, before.unless, *before.any) for one in block)
    return (sure or rule.on_error is None) and not any(isinstance(word, Word) for word in before.action.words)


def _sure(condition: Condition) -> bool:
    return condition.key.kind in _SURE and not condition.match.lists and not condition.match.patterns


def _bare(body: Any) -> Any:
    """A compiled term without how the file put it."""
    if isinstance(body, tuple) and len(body) == 7 and isinstance(body[0], str):
        return body[:6]
    return tuple(_bare(one) for one in body) if isinstance(body, tuple) else body


def _with_all_of(rules: Sequence[Rule], terms: Sequence[frozenset[object]]) -> Iterator[tuple[int, int]]:
    """Rules that have all the terms of an earlier one, and the first such one.

    Each rule is kept under its rarest term, where any that it covers must look.
    """
    common = Counter(term for needed in terms for term in needed)
    kept: dict[object, list[int]] = {}
    for number, (rule, needed) in enumerate(zip(rules, terms, strict=True)):
        # None: rules without any term
        candidates = (other for term in (None, *needed) for other in kept.get(term, ()))
        earlier = [other for other in candidates if terms[other] <= needed and _decides(rules[other], rule)]
        if earlier:
            yield number, min(earlier)
        elif rule.mode == "enforce":
            kept.setdefault(min(needed, key=common.__getitem__, default=None), []).append(number)


def _wider(shapes: Sequence[Shape], about: Context) -> Iterator[tuple[int, int]]:
    """Rules with an earlier one whose values include theirs, and the first such one."""
    options = [[places for one in shape.match if (places := _places(one))] for shape in shapes]
    common = Counter(place for option in options for places in option for place in places)
    lists = _holding(shapes, about)
    kept: dict[Any, list[int]] = {}
    others: dict[str, list[int]] = {}
    left = COMPARISONS_LIMIT
    for number, (one, option) in enumerate(zip(shapes, options, strict=True)):
        case = next(iter(one.cases))
        candidates = {other for w in case for place in _looked_up(w, lists, about) for other in kept.get(place, ())}
        if left > COMPARISONS_LIMIT // 2:  # the rest is for those that were looked up
            candidates |= {other for source in {"", *(w.source for w in case)} for other in others.get(source, ())}
        for other in sorted(candidates)[: max(left, 0)]:
            left -= 1
            if _decides(shapes[other].rule, one.rule) and _rule_covers(shapes[other], one, about):
                yield number, other
                break
        else:
            if one.rule.mode == "enforce":
                places = min(option, key=lambda p: max(common[place] for place in p), default=frozenset())
                for place in places:
                    kept.setdefault(place, []).append(number)
                if not places:
                    others.setdefault(one.match[0].source if one.match else "", []).append(number)


def _places(one: Wish) -> frozenset[Any]:
    """Under what a condition can be looked up: its entries, networks and lists. Empty where it has other values too."""
    match = one.match
    if match.globs or match.patterns or match.others:
        return frozenset()
    if one.kind not in (*TEXTS, *_CHOICES, "ip", "mx_address"):
        return frozenset()
    return frozenset(
        (
            *((one.source, entry) for entry in match.entries),
            *((one.source, *net) for net in networks(match)),
            *((one.source, "list", name) for name in match.lists),
        )
    )


def _looked_up(one: Wish, lists: Mapping[str, list[str]], about: Context) -> Iterator[Any]:
    """The places where a condition would stand that covers this one; it would have to cover its first value."""
    match, source = one.match, one.source
    if match.entries:
        entry = min(match.entries)
        found = keys(compared(one.kind), entry, about) if one.kind in TEXTS else (entry,)
        if one.kind == "address" and "@" in entry:
            found = (*found, *keys("domain", entry.rpartition("@")[2], about))
        yield from ((source, key) for key in found)
        yield from ((source, "list", name) for key in found for name in lists.get(key or "<>", ()))
    elif match.nets:
        version, host_bits, number = next(networks(match))
        bits = 32 if version == 4 else 128
        yield from ((source, version, wider, number >> (wider - host_bits)) for wider in range(host_bits, bits + 1))
    elif match.lists:
        yield source, "list", match.lists[0]
        inner = about.inline.get(match.lists[0], frozenset())
        for key in keys(compared(one.kind), min(inner), about) if inner and one.kind in TEXTS else ():
            yield from ((source, "list", name) for name in lists.get(key, ()))
    elif match.globs:
        domain = match.globs[0][-1].rpartition("@")[2]
        yield from ((source, key) for key in keys("domain", domain, about))


def _holding(shapes: Sequence[Shape], about: Context) -> dict[str, list[str]]:
    """The names of the lists that hold an entry, of those that are asked about."""
    asked = {name for shape in shapes for one in shape.match for name in one.match.lists}
    found: dict[str, list[str]] = {}
    for name in sorted(asked & set(about.inline)):
        for entry in about.inline[name]:
            found.setdefault(entry, []).append(name)
    return found


def _rule_covers(wide: Shape, narrow: Shape, about: Context) -> bool:
    if len(wide.blocks) * len(narrow.blocks) > PAIRS_LIMIT:
        return False
    return all(_case_covered(wide, case, narrow.unless, about) for case in narrow.cases)


def _case_covered(wide: Shape, case: Sequence[Wish], unless: Sequence[Wish], about: Context) -> bool:
    """Whether the wide rule matches where all of the case and not all of `unless` hold."""

    def holds(wanted: Sequence[Wish]) -> bool:
        return all(any(covers(one, own, about) for own in case) for one in wanted)

    if not holds(wide.match) or not any(map(holds, wide.blocks)):
        return False
    if not wide.unless or any(apart(own, one, about) for own in case for one in wide.unless if one.kind != "mx_state"):
        return True
    # The wide rule's exceptions have to lie within the narrow one's.
    return bool(unless) and all(
        any(covers(one, own, about) and not (one.match.others or own.match.others) for own in wide.unless)
        for one in unless
    )


def contradictions(model: Model) -> Iterator[tuple[Rule, str, int, Wish, Wish | None]]:
    """(rule, where, which, condition, the other one) of rules, blocks and exceptions that cannot hold.

    `where` is "match" (two conditions exclude each other: the rule never matches), "any" (a block that never holds with
    the rest), "unless" (an exception that never holds where the rule does) or "always" (one that always does).
    """
    about = context(model)
    for rule in model.rules:
        one = shape(rule)
        if pair := never(one.match, about):
            yield rule, "match", 0, *pair
            continue
        for index, block in enumerate(one.blocks):
            if pair := _never_with(block, one.match, about):
                yield rule, "any", index, *pair
        # What holds in every case: with several blocks only what stands in match.
        certain = one.match + (one.blocks[0] if len(one.blocks) == 1 else ())
        pair = next(((u, own) for u in one.unless for own in certain if apart(u, own, about)), None)
        if pair:
            yield rule, "unless", 0, *pair
        elif one.unless and all(any(covers(u, own, about) for own in certain) for u in one.unless):
            yield rule, "always", 0, one.unless[0], None


def _never_with(block: tuple[Wish, ...], match: tuple[Wish, ...], about: Context) -> tuple[Wish, Wish] | None:
    pairs = ((own, other) for own in block for other in match if apart(own, other, about))
    return next(pairs, None) or never(block, about)
