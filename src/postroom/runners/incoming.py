"""A message that comes in pieces: in memory up to message.MEMORY_LIMIT, past that in a file without a name."""

from __future__ import annotations

import os

from postroom.message import MEMORY_LIMIT, Message, open_spool


class Incoming:
    """Holds what has come. Whoever is done with the message closes it: a resident has no end that would."""

    __slots__ = ("_fd", "_parts", "_size")

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self._fd: int | None = None

    def add(self, data: bytes) -> None:
        """Raises OSError where there is no room."""
        self._size += len(data)
        if self._fd is None and self._size <= MEMORY_LIMIT:
            self._parts.append(data)
            return
        if self._fd is None:
            self._fd = open_spool()
            _write_all(self._fd, b"".join(self._parts))
            self._parts.clear()
        _write_all(self._fd, data)

    def message(self) -> Message:
        """All of it, until `close`."""
        return Message(b"".join(self._parts), self._fd, self._size)

    def close(self) -> None:
        """Give it up; what comes next begins anew."""
        fd, self._fd = self._fd, None
        self._parts, self._size = [], 0
        if fd is not None:
            os.close(fd)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
