"""Rows of the counters, as a person is shown them (listing.py). All times are whole seconds, from now."""

from __future__ import annotations


class Rate:
    """What one key has used up of one limit. `window`, `wait` (until one more fits), `refused` (ago) in seconds."""

    __slots__ = ("id", "key", "limit", "name", "refused", "used", "wait", "window")

    def __init__(
        self, id: str, name: str, key: str, limit: int, window: float, used: int, wait: int, refused: int | None
    ) -> None:
        self.id = id
        self.name = name
        self.key = key
        self.limit = limit
        self.window = window
        self.used = used
        self.wait = wait
        self.refused = refused


class Greylisted:
    """One key of a greylist: `state` is waiting (for `wait` seconds), due (may pass, has not come back) or passed.

    `client` is the pool it came from, `first` and `last` how many seconds ago it was seen, `ends` when it is forgotten.
    """

    __slots__ = ("client", "ends", "first", "id", "key", "last", "state", "wait")

    def __init__(self, id: str, client: str, key: str, state: str, wait: int, first: int, last: int, ends: int) -> None:
        self.id = id
        self.client = client
        self.key = key
        self.state = state
        self.wait = wait
        self.first = first
        self.last = last
        self.ends = ends


class Pool:
    """A pool of clients that passes the greylist whole: after `passes` keys of it did, or (None) let by hand."""

    __slots__ = ("client", "ends", "id", "last", "passes")

    def __init__(self, id: str, client: str, passes: int | None, last: int, ends: int) -> None:
        self.id = id
        self.client = client
        self.passes = passes
        self.last = last
        self.ends = ends


class Met:
    """A key of `seen`: met `last` seconds ago, forgotten in `ends`."""

    __slots__ = ("ends", "id", "key", "last", "name")

    def __init__(self, id: str, name: str, key: str, last: int, ends: int) -> None:
        self.id = id
        self.name = name
        self.key = key
        self.last = last
        self.ends = ends
