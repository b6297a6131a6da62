"""What the supervisor says of itself on the board; the names are those that `report` reads."""

from __future__ import annotations

import marshal
import os
import time

from postroom import __version__
from postroom.config import Configuration
from postroom.resident.board import Board
from postroom.resident.generation import Generation

# What is in force after a reload that was refused. Workers follow the file by themselves in all but these two tables.
WHOLE = "the one before stays in force"
PART = "[serve] and [listen] stay as before, all else of the new one is in force"


class Facts:
    """Times are those of the clock, since people read them."""

    __slots__ = ("_board", "_loaded", "_pid", "_reloaded", "_since", "bad", "good", "restarts")

    def __init__(self, board: Board) -> None:
        self._board = board
        self._pid = os.getpid()
        self._since = self._loaded = time.time()
        self._reloaded: list[object] | None = None
        self.restarts = self.good = self.bad = 0

    def accepted(self) -> None:
        self.good += 1
        self._loaded = time.time()
        self._reloaded = [self._loaded, ""]

    def refused(self, reason: str) -> None:
        self.bad += 1
        self._reloaded = [time.time(), reason]

    def about(self, present: Generation) -> dict[str, object]:
        configuration: Configuration = present.configuration
        found: dict[str, object] = {
            "version": __version__,
            "pid": self._pid,
            "since": self._since,
            "configuration": configuration.path,
            "loaded": self._loaded,
            "workers": present.workers,
            "listeners": [
                {"name": one.listen.name, "protocol": one.listen.protocol, "at": one.listen.at}
                for one in present.listeners
            ],
            "restarts": self.restarts,
            "reloads": [self.good, self.bad],
        }
        return found if self._reloaded is None else {**found, "reloaded": self._reloaded}

    def tell(self, present: Generation) -> None:
        self._board.write(self._board.supervisor, marshal.dumps(self.about(present)))
