"""postfwd's rbl and rhsbl items, `name/reply/seconds`, as postscreen_dnsbl_sites writes them: `name=127.0.0.[2..11]`.

The reply is a regular expression. It is put to the replies that there are, and those that fit are written as ranges.
"""

from __future__ import annotations

import re

from postroom.convert.items import Untranslated
from postroom.rules import dnsbl
from postroom.rules.problems import Refused

KEYS = {
    "rbl": "dnsbl",
    "rhsbl": "client_rhsbl",
    "rhsbl_client": "client_rhsbl",
    "rhsbl_sender": "rhsbl",
    "rhsbl_helo": "helo_rhsbl",
}


def value(zones: list[str], count: str) -> str | list[str] | dict[str, object]:
    """What dnsbl and its like take. Raises Untranslated."""
    if not (count.isascii() and count.isdigit() and int(count[:6]) > 0):
        raise Untranslated(f"it counts {count} hits for later rules, which cannot ask for them here")
    found = [_zone(zone) for zone in dict.fromkeys(zones)]
    if int(count) > 1:
        return {"zones": found, "at_least": int(count)}
    return found[0] if len(found) == 1 else found


def _zone(text: str) -> str:
    name, _, rest = text.partition("/")
    reply = rest.partition("/")[0]
    zone = f"{name}{_filter(reply)}" if reply else name
    try:
        dnsbl.parse_zone(zone)
    except Refused as refused:
        raise Untranslated(f"{text} {refused}") from None
    return zone


def _filter(reply: str) -> str:
    """`=127.0.0.[2..4;8]` for a pattern; empty where it fits all of 127.0.0.0/8."""
    try:
        pattern = re.compile(reply)
    except (re.error, OverflowError, RecursionError) as error:
        raise Untranslated(f"the reply {reply} is no pattern of Python's: {error}") from None
    rows: dict[frozenset[int], list[int]] = {}
    for third in range(256):
        fits = frozenset(last for last in range(256) if pattern.search(f"127.0.{third}.{last}"))
        if fits:
            rows.setdefault(fits, []).append(third)
    elsewhere = [pattern.search(f"127.{second}.{n}.{n}") is not None for second in (1, 9, 77, 255) for n in (1, 2, 99)]
    if len(rows) != 1 or (any(elsewhere) and not all(elsewhere)):
        raise Untranslated(f"the replies that {reply} fits are no ranges")
    ((last, thirds),) = rows.items()
    if all(elsewhere):
        if len(last) == 256 and len(thirds) == 256:
            return ""
        raise Untranslated(f"the replies that {reply} fits are no ranges")
    return f"=127.0.{_ranges(thirds)}.{_ranges(sorted(last))}"


def _ranges(numbers: list[int]) -> str:
    """As postconf(5) writes them for an octet: 2, or [2..11;20]."""
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][-1] + 1:
            found[-1].append(number)
        else:
            found.append([number])
    parts = [str(one[0]) if len(one) == 1 else f"{one[0]}..{one[-1]}" for one in found]
    return parts[0] if len(numbers) == 1 else f"[{';'.join(parts)}]"
