"""Whether a key may pass a greylist: the judgement alone, over what is known.

    never seen                     wait: the delay begins
    seen, before the delay is over wait for what is left of it
    after it, within `retry`       passes, and is remembered
    after that                     wait: the delay begins anew
    remembered                     passes, for as long as it is used once in a lifetime
    the client's pool is allowed   passes, key or no key

No I/O; times in whole microseconds.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    # first seen, last used, whether it has passed
    Entry = tuple[int, int, int]
    # how many of its keys passed, or BY_HAND; last used
    Pool = tuple[int, int]

# What follows from the judgement, and has to be written.
NOTHING, START, PASS, USE, USE_POOL = range(5)

# An administrator let this pool pass, whatever auto_allow says.
BY_HAND = -1
# A use is noted only when this part of the lifetime has gone by since the last: most mail of known senders then costs
# no write. So a lifetime may end that much early, which is under an hour for the usual 35 days.
NOTED = 1000


class Terms:
    """What the rule says, in microseconds; `auto_allow` keys."""

    __slots__ = ("auto_allow", "delay", "lifetime", "retry")

    def __init__(self, delay: int, retry: int, lifetime: int, auto_allow: int) -> None:
        self.delay = delay
        self.retry = retry
        self.lifetime = lifetime
        self.auto_allow = auto_allow


def judge(entry: Entry | None, pool: Pool | None, now: int, terms: Terms) -> tuple[int, int]:
    """How long to wait still, and what is to be written."""
    if pool is not None and _allowed(pool, now, terms):
        return 0, USE_POOL if _notable(pool[1], now, terms) else NOTHING
    if entry is None:
        return _start(terms)
    first, last, passed = entry
    if passed:
        if now - last > terms.lifetime:
            return _start(terms)
        return 0, USE if _notable(last, now, terms) else NOTHING
    if now - first < terms.delay:
        return terms.delay - (now - first), NOTHING
    return (0, PASS) if now - first <= terms.retry else _start(terms)


def _start(terms: Terms) -> tuple[int, int]:
    return (terms.delay, START) if terms.delay > 0 else (0, PASS)


def _allowed(pool: Pool, now: int, terms: Terms) -> bool:
    passes, last = pool
    return now - last <= terms.lifetime and (passes == BY_HAND or 0 < terms.auto_allow <= passes)


def _notable(last: int, now: int, terms: Terms) -> bool:
    return now - last > terms.lifetime // NOTED
