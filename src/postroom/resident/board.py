"""Where the processes of the resident say how they are: memory that all of them share.

    board = Board(workers)                   # by the supervisor, before it forks
    board.write(slot, data)                  # by the worker in that slot, once a second
    board.read(slot)                         # by anybody: what was written last, whole, or None

A region for each worker; after them one for the supervisor (`board.supervisor`) and one for the health process
(`board.health`). A region has one writer at a time and needs no lock, which a killed process could leave taken. It has
two cells, and what was written last is never written over: a writer that is killed in the middle leaves the last but
one. Each cell ends up whole or is not believed (its checksum), so that nobody reads half of a text.
"""

from __future__ import annotations

import mmap
from struct import Struct
from zlib import crc32

# A thousand combinations of labels are some 30 KB, with the longest labels ten times that. Memory that nobody has
# written to costs nothing.
SNAPSHOT_LIMIT = 512 * 1024

# A cell: checksum of what follows; number of the write; length of the data; the data.
_CHECKSUM = Struct("<I")
_HEAD = Struct("<QI")
_CELL = _CHECKSUM.size + _HEAD.size + SNAPSHOT_LIMIT
_REGION = 2 * _CELL

# A writer comes once a second and takes microseconds: to be met by it twice in a row is chance, five times a cell that
# is broken.
_READS = 5


class TooBig(ValueError):
    """More than a region holds. Nothing was written; what was there before is still there."""


class Board:
    """Regions for `slots` workers, the supervisor and the health process."""

    __slots__ = ("_memory", "health", "slots", "supervisor")

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.supervisor = slots
        self.health = slots + 1
        self._memory = mmap.mmap(
            -1, (slots + 2) * _REGION
        )  # shared with every child, and no file that could stay behind

    def write(self, slot: int, data: bytes) -> None:
        """Let `data` be what is read there from now on. Raises TooBig past SNAPSHOT_LIMIT."""
        if len(data) > SNAPSHOT_LIMIT:
            raise TooBig(f"{len(data)} bytes, of at most {SNAPSHOT_LIMIT}")
        first, second = self._cell(slot, 0), self._cell(slot, 1)
        number = 1 + max(cell[0] if cell else 0 for cell in (first, second))
        older = 0 if first is None or (second is not None and first[0] < second[0]) else 1
        head = _HEAD.pack(number, len(data))
        at = self._place(slot, older)
        body = at + _CHECKSUM.size
        self._memory[body : body + len(head) + len(data)] = head + data
        self._memory[at:body] = _CHECKSUM.pack(crc32(head + data))

    def read(self, slot: int) -> bytes | None:
        """What was written last. None: nothing yet, or nothing that is whole."""
        found = self.both(slot)
        return found[-1][1] if found else None

    def both(self, slot: int) -> list[tuple[int, bytes]]:
        """The last two that were written, or as many as there are, each with its number, the older one first.

        The older may be the last word of a worker that has died, where its successor has written once.
        """
        found: list[tuple[int, bytes]] = []
        for _ in range(_READS):
            cells = (self._cell(slot, 0), self._cell(slot, 1))
            found = sorted(cell for cell in cells if cell is not None)
            if len(found) == 2:
                break
        return found

    def _cell(self, slot: int, half: int) -> tuple[int, bytes] | None:
        """Number and data of a cell; None where it is empty, or not whole."""
        at = self._place(slot, half)
        checksum = _CHECKSUM.unpack_from(self._memory, at)[0]
        number, length = _HEAD.unpack_from(self._memory, at + _CHECKSUM.size)
        if not number or length > SNAPSHOT_LIMIT:
            return None
        body = self._memory[at + _CHECKSUM.size : at + _CHECKSUM.size + _HEAD.size + length]
        return (number, body[_HEAD.size :]) if crc32(body) == checksum else None

    def _place(self, slot: int, half: int) -> int:
        if not 0 <= slot < self.slots + 2:
            raise IndexError(f"slot {slot} of {self.slots} workers")
        return slot * _REGION + half * _CELL
