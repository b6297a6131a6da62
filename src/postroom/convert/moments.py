"""postfwd's `time` and `days`: found out by trying, since its ranges have corners that its manual does not tell."""

from __future__ import annotations

import re

from postroom.convert.items import Item, Never, Untranslated

_DAYS = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat")  # localtime(3)'s order, which is postfwd's
_OURS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY = 86400


def days_value(items: list[Item]) -> str | list[str] | None:
    """The weekdays of which any of the items is true; None for all of them."""
    found = {day for day in range(7) if any(_day_truth(item, day) for item in items)}
    if not found:
        raise Never("a range of days does not go over the end of the week, Saturday; sat and sun are two")
    if len(found) == 7:
        return None
    ranges = _runs([(day - 1) % 7 for day in found])
    shown = [_OURS[first] if first == last else f"{_OURS[first]}-{_OURS[last]}" for first, last in ranges]
    return shown[0] if len(shown) == 1 else shown


def _runs(days: list[int]) -> list[tuple[int, int]]:
    """Neighbouring days as (first, last), Monday being 0."""
    runs: list[tuple[int, int]] = []
    for day in sorted(days):
        if runs and runs[-1][1] == day - 1:
            runs[-1] = (runs[-1][0], day)
        else:
            runs.append((day, day))
    return runs


def _day_truth(item: Item, day: int) -> bool:
    """The function `days` of postfwd's compare table. A 0 or nothing is "today"."""
    bounds = re.split(r"\s*-\s*", item.bare)
    first = _day(bounds[0], day)
    last = _day(bounds[1], day) if len(bounds) > 1 and bounds[1] else day if "-" in item.bare else first
    inside = first <= day <= last
    return inside ^ (item.operator == "!=") ^ item.negated


def _day(text: str, today: int) -> int:
    if text in ("", "0"):
        return today
    if re.fullmatch(r"\d", text):
        return int(text)
    names = {form(name): number for number, name in enumerate(_DAYS) for form in (str, str.lower, str.upper)}
    if text not in names:
        raise Untranslated(f"{text} is no day to postfwd")
    return names[text]


def time_value(items: list[Item]) -> str | list[str] | None:
    """The spans of time in which any of the items is true; None for all day. Seconds are rounded to the minute."""
    spans: list[tuple[int, int]] = []
    for item in items:
        spans += _spans(item)
    merged: list[tuple[int, int]] = []
    for begin, end in sorted(span for span in spans if span[0] < span[1]):
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    if not merged:
        raise Never("a range of time does not go over midnight; before and after it are two")
    if merged == [(0, 1440)]:
        return None
    if len(merged) > 1 and merged[0][0] == 0 and merged[-1][1] == 1440:
        merged = [*merged[1:-1], (merged[-1][0], merged[0][1])]
    shown = [f"{_clock(begin)}-{_clock(end)}" for begin, end in merged]
    return shown[0] if len(shown) == 1 else shown


def _spans(item: Item) -> list[tuple[int, int]]:
    """In minutes, the end not included. postfwd's own end is included, to the second: 17:00:00 is 17:00 here."""
    first, hyphen, last = (part.strip() for part in item.bare.partition("-"))
    if not hyphen:
        raise Untranslated(f"{item.bare} is one second of the day")
    begin = _seconds(first) if first else 0
    end = _seconds(last) if last else _DAY
    span = ((begin + 59) // 60, (end + 1) // 60 if end % 60 == 59 else end // 60)
    if (begin % 60, end % 60) not in ((0, 0), (0, 59)):
        raise Untranslated(f"{item.bare} begins or ends within a minute")
    if item.negated is not (item.operator == "!="):
        return [(0, 1440)] if begin > end else [(0, span[0]), (span[1], 1440)]
    return [span] if begin <= end else []


def _seconds(text: str) -> int:
    found = re.fullmatch(r"(\d\d):(\d\d):(\d\d)", text)
    if not found or int(found[1]) > 24 or int(found[2]) > 59 or int(found[3]) > 59:
        raise Untranslated(f"{text} is no time, HH:MM:SS")
    return int(found[1]) * 3600 + int(found[2]) * 60 + int(found[3])


def _clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"
