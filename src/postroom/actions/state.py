"""The state for one mail after the other: opened by whoever needs it first, and then the same for all."""

from __future__ import annotations

from postroom import store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from postroom.config import Configuration
    from postroom.deadline import Deadline
    from postroom.store import Store


class State:
    def __init__(self, configuration: Configuration, deadline: Deadline) -> None:
        self._directory = configuration.state
        self._deadline = deadline
        self._store: Store | None = None

    def renew(self, deadline: Deadline) -> None:
        """For the next mail."""
        self._deadline = deadline
        if self._store is not None:
            self._store.deadline = deadline

    def open(self) -> Store:
        if self._store is None:
            self._store = store.open(self._directory, self._deadline)
        return self._store
