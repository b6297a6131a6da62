"""State that outlives a process: suppressed addresses, events, deliveries that were made.

    store = open("/var/lib/postroom", deadline)
    store.suppression("bob@example.com")

One narrow interface, `Store`; one file per engine. Whatever goes wrong in it, a lock held too long, a full disk, a file
that is no database, is our own fault and raises status.Fault: the mail is deferred, and tried again by Postfix.
"""

from __future__ import annotations

from postroom.store.values import Event, Reported, Suppression

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Protocol

    from postroom.deadline import Deadline

    class Store(Protocol):
        """Every method raises status.Fault, and waits no longer than `deadline`, which may be replaced by another.

        A Store belongs to the thread that opened it.
        """

        deadline: Deadline

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

        def done(self, key: bytes, text: str) -> None:
            """The delivery `key` was made; `text` is its outcome (`str(outcome)`)."""

        def close(self) -> None: ...


__all__ = ["Event", "Reported", "Suppression", "open"]


def open(state_directory: str, deadline: Deadline) -> Store:
    """The store in `state_directory`, which must exist; its files are made with the directory's owner."""
    from postroom.store.sqlite import SqliteStore  # sqlite3: two thirds of a bare start-up; only who needs it pays

    return SqliteStore(state_directory, deadline)
