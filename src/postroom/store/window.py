"""A sliding window in a few numbers: what was counted, by the sixtieth of the window that it fell into.

A sixtieth counts until its last microsecond is older than the window. So never more than the limit passes within any
stretch of time as long as the window; in exchange it may be a sixtieth of the window late until something fits again.
No I/O; times are whole microseconds, so that no rounding lets one more through.
"""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    # (number of the sixtieth since the beginning of time, what was counted in it), oldest first
    Buckets = list[tuple[int, int]]

BUCKETS = 60
# What SQLite and struct can hold, with room to add two of them.
LARGEST = 1 << 61


def width(window: int) -> int:
    return max(1, window // BUCKETS)


def live(buckets: Buckets, window: int, now: int) -> Buckets:
    """Those that still count."""
    each = width(window)
    return [(number, amount) for number, amount in buckets if (number + 1) * each > now - window]


def used(buckets: Buckets) -> int:
    return sum(amount for _, amount in buckets)


def add(buckets: Buckets, window: int, now: int, amount: int) -> Buckets:
    """With `amount` counted now. (A number that is later than now's: the same process of another, a second ahead.)"""
    number = now // width(window)
    if buckets and buckets[-1][0] >= number:
        number, before = buckets[-1]
        return [*buckets[:-1], (number, before + amount)]
    return [*buckets, (number, amount)]


def wait(buckets: Buckets, limit: int, window: int, now: int, amount: int) -> int:
    """Until `amount` fits, if nothing else comes: 0 where it does; the whole window where it never will."""
    if amount > limit:
        return window
    excess = used(buckets) + amount - limit
    if excess <= 0:
        return 0
    position = 0
    while (excess := excess - buckets[position][1]) > 0:
        position += 1
    return max(1, (buckets[position][0] + 1) * width(window) + window - now)


def pack(buckets: Buckets) -> bytes:
    return struct.pack(f"<{2 * len(buckets)}q", *(value for bucket in buckets for value in bucket))


def unpack(data: bytes) -> Buckets:
    values: Sequence[int] = struct.unpack(f"<{len(data) // 8}q", data)
    return list(zip(values[::2], values[1::2], strict=True))
