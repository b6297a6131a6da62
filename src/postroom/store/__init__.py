"""State that outlives a process: suppressed addresses, events, deliveries that were made, what rules count.

    store = open("/var/lib/postroom", deadline)
    store.suppression("bob@example.com")

One narrow interface, `Store`; one file per engine. Whatever goes wrong in it, a lock held too long, a full disk, a file
that is no database, is our own fault and raises status.Fault: the mail is deferred, and tried again by Postfix.
"""

from __future__ import annotations

from postroom.store.values import Event, Reported, Suppression

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Protocol

    from postroom.deadline import Deadline
    from postroom.store.rows import Greylisted, Met, Pool, Rate

    class Store(Protocol):
        """Every method raises status.Fault, and waits no longer than `deadline`, which may be replaced by another.

        A Store belongs to the thread that opened it. Keys are texts of any kind, strangers' too. Where `dry` is set,
        everything is answered as ever, and nothing is kept. Setting `clock` (Unix time in seconds) has it believed:
        without one, the store keeps a time of its own, which a host's clock that jumps does not move (clock.py).
        """

        deadline: Deadline
        dry: bool

        @property
        def clock(self) -> Callable[[], float]: ...

        @clock.setter
        def clock(self, clock: Callable[[], float]) -> None: ...

        def suppression(self, address: str) -> Suppression | None:
            """What suppresses `address` now, if anything does."""

        def suppress(self, suppression: Suppression) -> bool:
            """Add it. False where the address is suppressed already: the old entry stays, with the later end."""

        def unsuppress(self, address: str) -> bool:
            """Take it off the list. False where it was not on it."""

        def suppressions(self) -> Iterator[Suppression]:
            """All that are in force now, by address."""

        def record(self, event: Event, suppress: Sequence[Suppression] = ()) -> bool:
            """Record an event and what follows from it, both or neither. False, and nothing, where its key is known."""

        def events(self, kind: str | None = None, since: int = 0) -> Iterator[Event]:
            """Recorded events, oldest first."""

        def claim(self, key: bytes) -> str | None:
            """Ask to do the delivery `key`: the text of its outcome where it was done, else None: it is started now.

            The row is written before the effect, so that a state that cannot be written defers while nothing has
            happened yet. Started but never done means that a process died in between: None again, the effect is
            tried once more (at least once).
            """

        def outcome(self, key: bytes) -> str | None:
            """The text of the outcome of the delivery `key` where it was done. Nothing is written."""

        def done(self, key: bytes, text: str) -> None:
            """The delivery `key` was made; `text` is its outcome (`str(outcome)`)."""

        def seen(self, name: str, key: tuple[str, ...], within: float, once: str = "") -> bool:
            """Whether the key was met within so many seconds before. From now on it was, but for the same `once`."""

        def greylist(
            self, pool: str, key: tuple[str, ...], delay: float, retry: float, lifetime: float, auto_allow: int = 0
        ) -> int:
            """Seconds that this key of this pool of clients has to wait still; 0: it may pass."""

        def rate(
            self,
            name: str,
            key: tuple[str, ...],
            limits: Sequence[tuple[int, float]],
            amount: int = 1,
            once: str = "",
        ) -> int:
            """Count `amount` where that stays within every (number, seconds) of `limits`: 0. Never more than the number
            is counted in any stretch of so many seconds.

            Else it is not counted: seconds until it would fit; the whole window where it never will. What is asked
            with the same `once` counts once, and is answered the same; a refusal, until that wait is over.
            """

        def counts(self) -> dict[str, int]:
            """How many rows there are of seen, greylist, pools, rates and verdicts (answers by `once`)."""

        def rates(self) -> Iterator[Rate]:
            """What has been used of limits."""

        def greylisted(self) -> Iterator[Greylisted]:
            """The keys of the greylist."""

        def pools(self) -> Iterator[Pool]:
            """The pools of clients that pass the greylist."""

        def met(self) -> Iterator[Met]:
            """The keys of `seen`."""

        def forget(self, id: str) -> int:
            """Take away the rows that the four above show under this id: how many. Raises ValueError for no id."""

        def let_pass(self, id: str, pool: bool = False) -> str | None:
            """Let a key of the greylist pass, or all keys of its pool: that pool's name; None: there is no such key."""

        def close(self) -> None: ...


__all__ = ["Event", "Reported", "Suppression", "memory", "open", "share"]

_opener: Callable[[str, Deadline], Store] | None = None


def share(opener: Callable[[str, Deadline], Store] | None) -> None:
    """From now on `open` gives what `opener` does: a process of many threads has them share (grouped.open).

    None: each has its own again.
    """
    global _opener
    _opener = opener


def open(state_directory: str, deadline: Deadline, clock: Callable[[], float] | None = None) -> Store:
    """The store in `state_directory`, which must exist; its files are made with the directory's owner."""
    if _opener is not None:
        one = _opener(state_directory, deadline)
        if clock is not None:
            one.clock = clock
        return one
    from postroom.store.sqlite import SqliteStore  # sqlite3: two thirds of a bare start-up; only who needs it pays

    return SqliteStore(state_directory, deadline, clock)


def memory(clock: Callable[[], float] | None = None) -> Store:
    """A store that is empty at first and gone with the object, for what must touch no file."""
    from postroom.store.sqlite import Memory

    return Memory(clock)
