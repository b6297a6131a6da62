"""Rules run again over what was recorded: DNS, state, message and clock say what they said then.

    replay = Replay(configuration)
    decision = replay.decide_line(line)
    replay.missing               # kinds of questions that nobody had asked when the line was recorded

Lists are the exception: they are read from the files that the configuration names now, since a change of them is what
one wants to try. So is a database of countries, where the record has no answer. The network is never asked.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from postroom.rules import Unknown
from postroom.sources import Sources

if TYPE_CHECKING:
    from postroom.config import Configuration
    from postroom.record.read import Line
    from postroom.rules import Decision, Question
    from postroom.rules.evaluate import Trace

NOT_RECORDED = "not in the record"


class Replay(Sources):
    """Answers from one line after the other."""

    def __init__(self, configuration: Configuration) -> None:
        super().__init__(configuration, None, None, observe=True)
        self.line: Line | None = None
        self.missing: list[str] = []

    def decide_line(self, line: Line, trace: Trace | None = None) -> Decision:
        self.load(line)
        return self.decide(line.stage, line.attributes, trace)

    def load(self, line: Line) -> None:
        self.line = line
        self.missing = []

    def answer(self, question: Question) -> Any:
        line = self.line
        assert line is not None  # noqa: S101 - for mypy: load() comes before
        kind, about = question.kind, question.argument
        if kind == "list":
            return self._listed(line, question)
        found = line.answers.get((kind, about), self)
        if found is not self:
            return found
        if kind == "dnsbl":
            found = _zones(line, *about)
        elif kind == "now":
            found = moment(line.time, about)
        elif kind == "country":
            found = super().answer(question)
        if found is not self and found is not None:
            return found
        self.missing.append(kind)
        return Unknown(NOT_RECORDED)

    def _listed(self, line: Line, question: Question) -> Any:
        """A file holds addresses, not their hashes: where those were recorded, what the list said then counts."""
        found = super().answer(question)
        if line.hashed and found is False:
            return line.answers.get(("list", question.argument), found)
        return found


def _zones(line: Line, name: str, zones: tuple[str, ...]) -> dict[str, Any] | None:
    """Of zones that were asked about the name together with others, or apart; None where one of them was not."""
    known: dict[str, Any] = {}
    for kind, about, answer, _ in line.asked:
        if kind == "dnsbl" and about[0] == name and isinstance(answer, dict):
            known.update(answer)
    return {zone: known[zone] for zone in zones} if known.keys() >= set(zones) else None


def moment(at: float, zone: str) -> tuple[int, int] | Unknown:
    """What the clock of a time zone showed, "" for the one of this system: weekday and minute of the day."""
    try:
        if not zone:
            local = time.localtime(at)
            return local.tm_wday, local.tm_hour * 60 + local.tm_min
        from datetime import datetime
        from zoneinfo import ZoneInfo

        there = datetime.fromtimestamp(at, ZoneInfo(zone))
    except (OSError, ValueError, OverflowError, KeyError) as error:  # ZoneInfoNotFoundError is a KeyError
        return Unknown(f"the time in {zone or 'the zone of this system'}: {error}")
    return there.weekday(), there.hour * 60 + there.minute
