"""Conditions over what was before: suppressions, and what `seen`, `greylist` and `rate` keep count of.

Functions as in compare.py. The counters are asked last of a rule's conditions, so that only what the others hold for is
counted, and once for a request, however often Postfix asks it.
"""

from __future__ import annotations

from postroom.rules import Question, Unknown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from postroom.rules.facts import Facts

    Truth = bool | Unknown | Question | None


# The kinds of conditions that count, or remember, what they are asked.
COUNTERS = ("seen", "greylist", "rate")


def flag(condition: tuple[Any, ...], facts: Facts) -> Truth:
    _, _, source, _, _, wanted, _ = condition
    if not facts.text(source):
        return None
    found = facts.suppression(source)
    if found.__class__ is Question or found.__class__ is Unknown:
        return found
    return bool((found is not None) is wanted)


def seen(condition: tuple[Any, ...], facts: Facts) -> Truth:
    missing = False
    for name, parts, (within,) in condition[5]:
        key = facts.counted(parts)
        if key is None:
            missing = True
            continue
        found: Truth = facts.ask("seen", (name, key, within, _once("messages", facts)))
        if found is not False:
            return found
    return None if missing else False


def greylist(condition: tuple[Any, ...], facts: Facts) -> Truth:
    """True as long as the client has to wait. Known by its network, or by the names of its kind (clientpool.py)."""
    address, name = facts.text("client_address"), facts.text("client_name")
    for identity, parts, (delay, retry, lifetime, auto_allow, mask) in condition[5]:
        key = facts.counted(parts)
        if key is None or not address:
            return None
        from postroom.rules.clientpool import pool

        client = f"{identity} {pool(address, facts.text('reverse_client_name'), name, mask)}"
        found = facts.ask("greylist", (client, key, delay, retry, lifetime, auto_allow))
        truth = _waits("greylist", found, facts)
        if truth is not False:
            return truth
    return False


def rate(condition: tuple[Any, ...], facts: Facts) -> Truth:
    """True where this one would be more than a limit allows; it is not counted then."""
    missing = False
    for name, parts, (limits, unit) in condition[5]:
        key = facts.counted(parts)
        amount = _amount(unit, facts)
        if key is None or amount is None:
            missing = True
            continue
        found = facts.ask("rate", (name, key, limits, amount, _once(unit, facts)))
        truth = _waits("rate", found, facts)
        if truth is not False:
            return truth
    return None if missing else False


def _waits(kind: str, found: Any, facts: Facts) -> Truth:
    """Seconds to wait as a truth; kept for the templates {greylist.wait} and {rate.wait}."""
    if found.__class__ is not int:
        return found  # type: ignore[no-any-return]  # a Question or an Unknown
    if found:
        facts.waits[kind] = found
    return bool(found > 0)


def _amount(unit: str, facts: Facts) -> int | None:
    """What this request adds. At RCPT recipient_count is 0, and the recipient is the one at hand."""
    if unit == "messages":
        return 1
    text = facts.text("recipient_count" if unit == "recipients" else "size")
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0
    return (number or 1) if unit == "recipients" else (number or None)


def _once(unit: str, facts: Facts) -> str:
    """What Postfix asks again, as for each list that names the service, or for a mail that it tries again."""
    message = facts.text("instance") or facts.text("queue_id")
    return f"{message} {facts.text('recipient')}" if message and unit == "recipients" else message
