"""What comes out of a replay: decisions that differ, in groups, and how often each rule spoke. Bounded, however long
the record is.

    comparison = Comparison(examples=3)
    comparison.add(number, line, old, new, missing)
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from postroom.record import TEXT_LIMIT

if TYPE_CHECKING:
    from postroom.record.read import Line
    from postroom.rules import Decision

# A group is a pair of rules, so that there are as many as the files have pairs that meet. A record that names a new
# rule in each line was not written by Postroom; what is beyond this is counted as one.
GROUPS_LIMIT = 1000

OTHERS = "(others)"


class Said(NamedTuple):
    """A decision, as far as two are compared."""

    rule: str | None
    action: str
    on_error: bool
    reason: str
    shadow: tuple[tuple[str, str], ...]


class Change(NamedTuple):
    """What a group has in common. A verb is an action without its text."""

    stage: str
    old_rule: str | None
    old_verb: str
    new_rule: str | None
    new_verb: str


@dataclass
class Example:
    """One line of a group."""

    number: int
    line: Line
    old: Said
    new: Said


@dataclass
class Group:
    count: int = 0
    examples: list[Example] = field(default_factory=list)


@dataclass
class Tally:
    """How often a rule decided, in the old rules and in the new, for lack of an answer (on_error), and as a shadow."""

    old: int = 0
    new: int = 0
    on_error: int = 0
    old_shadow: int = 0
    shadow: int = 0


class Comparison:
    """Counts. `renamed`: the action is the same, another rule said it. `cut`: a line of which too little was kept."""

    def __init__(self, examples: int) -> None:
        self._examples = examples
        self.groups: dict[Change, Group] = {}
        self.tallies: dict[tuple[str, str | None], Tally] = {}
        self.missing: Counter[tuple[str, str]] = Counter()
        self.compared = self.differ = self.renamed = self.cut = self.not_recorded = self.hashed = 0

    def add(self, number: int, line: Line, old: Said, new: Said, missing: list[str]) -> None:
        self.hashed += line.hashed
        self._count(line.stage, old, new)
        same = alike(line, old.action, new.action)
        if "*" in line.cut or (line.cut and (missing or not same)):
            self.cut += 1
        elif missing:
            self.not_recorded += 1
            self.missing.update((line.stage, kind) for kind in set(missing))
        else:
            self.compared += 1
            if same:
                self.renamed += old.rule != new.rule
            else:
                self._differs(Example(number, line, old, new))

    def count(self, line: Line, old: Said) -> None:
        """A line that is only counted by its rule, not run again."""
        self.hashed += line.hashed
        self._tally(line.stage, old.rule).old += 1
        for rule, _ in old.shadow:
            self._tally(line.stage, rule).old_shadow += 1

    def _differs(self, example: Example) -> None:
        self.differ += 1
        stage, old, new = example.line.stage, example.old, example.new
        change = Change(stage, old.rule, verb(stage, old.action), new.rule, verb(stage, new.action))
        if change not in self.groups and len(self.groups) >= GROUPS_LIMIT:
            change = Change(stage, OTHERS, "", OTHERS, "")
        group = self.groups.setdefault(change, Group())
        group.count += 1
        if len(group.examples) < self._examples:
            group.examples.append(example)

    def _count(self, stage: str, old: Said, new: Said) -> None:
        self._tally(stage, old.rule).old += 1
        tally = self._tally(stage, new.rule)
        tally.new += 1
        tally.on_error += new.on_error
        for rule, _ in old.shadow:
            self._tally(stage, rule).old_shadow += 1
        for rule, _ in new.shadow:
            self._tally(stage, rule).shadow += 1

    def _tally(self, stage: str, rule: str | None) -> Tally:
        place = stage, rule
        if place not in self.tallies and len(self.tallies) >= GROUPS_LIMIT:
            place = stage, OTHERS
        return self.tallies.setdefault(place, Tally())


def recorded(line: Line) -> Said:
    return Said(line.rule, line.action, line.on_error, line.reason, line.shadow)


def decided(decision: Decision) -> Said:
    return Said(decision.rule, decision.action, decision.on_error, decision.reason, decision.shadow)


def alike(line: Line, old: str, new: str) -> bool:
    """Whether Postfix is told the same. A recorded action may be cut, or hold hashes: then its verb counts."""
    if old == new or (len(old) >= TEXT_LIMIT and new.startswith(old)):
        return True
    return line.hashed and verb(line.stage, old) == verb(line.stage, new)


def verb(stage: str, action: str) -> str:
    """`550`, `maildir`; of a route the transport."""
    if stage == "route":
        transport, colon, _ = action.partition(":")
        return transport + colon
    return action.partition(" ")[0]
