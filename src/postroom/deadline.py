"""A point in time that every wait of one delivery has to stay below."""

from __future__ import annotations

from time import monotonic


class WouldWait(BaseException):
    """Raised where there is no time at all, by who would have to wait. It passes through every `except Exception`."""


class Deadline:
    """`seconds` from now. Waits ask it how long they may take; it raises nothing itself.

    `seconds` may be changed: it counts from the beginning, so that what has passed is not given twice.
    """

    __slots__ = ("_begin", "seconds")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._begin = monotonic()

    def remaining(self, at_most: float | None = None) -> float:
        """Seconds left, never below 0, and never above `at_most` where it is given."""
        left = max(0.0, self._begin + self.seconds - monotonic())
        return left if at_most is None else min(left, at_most)

    @property
    def expired(self) -> bool:
        return self.remaining() <= 0.0
