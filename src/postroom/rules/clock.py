"""`time` and `weekday`: what the file says, as numbers: minutes of the day, and days of the week from 0 for Monday.

A span of time includes its first minute and not its last; one that ends before it begins goes over midnight.
"""

from __future__ import annotations

from postroom.rules.problems import Refused, unknown

WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_MINUTES = 24 * 60


def span(text: str) -> tuple[int, int]:
    """Minutes of the day of "08:00-18:00". Raises Refused."""
    first, hyphen, last = text.partition("-")
    if not hyphen:
        raise Refused(f'expected "HH:MM-HH:MM", found "{text}"')
    begin, end = _minute(first.strip()), _minute(last.strip())
    if begin == end:
        raise Refused(f'"{text}" is no time at all; expected an end after the beginning, as in "00:00-24:00"')
    return begin, end


def _minute(text: str) -> int:
    hour, colon, minute = text.partition(":")
    numbers = [part for part in (hour, minute) if part.isascii() and part.isdigit() and len(part) <= 2]
    if not colon or len(numbers) < 2 or len(minute) != 2 or int(minute) > 59 or int(hour) * 60 + int(minute) > _MINUTES:
        raise Refused(f'expected a time from 00:00 to 24:00, found "{text}"')
    return int(hour) * 60 + int(minute)


def days(text: str) -> frozenset[int]:
    """The weekdays of "sat" or "mon-fri"; "fri-mon" goes over the week's end. Raises Refused."""
    first, hyphen, last = (part.strip().lower() for part in text.partition("-"))
    begin = _day(first)
    end = _day(last) if hyphen else begin
    return frozenset((begin + offset) % 7 for offset in range((end - begin) % 7 + 1))


def _day(text: str) -> int:
    if text not in WEEKDAYS:
        raise Refused(unknown(text, WEEKDAYS, "weekday", ", ".join(WEEKDAYS)))
    return WEEKDAYS.index(text)
