"""The lock of a delivery: one byte of one file stands for each, so that none is ever left behind, whoever dies.

The lock belongs to the open file (fcntl(2), open file description locks), and goes with it. A thread keeps one open
from one mail to the next. The program of a `command` inherits one of its own: where we are killed and it works on, the
next try finds the lock taken, and does not start a second program beside it.
"""

from __future__ import annotations

import fcntl
import os
from _struct import pack
from _thread import _local

from postroom.status import Fault
from postroom.store.files import provide

NAME = "deliveries.lock"

_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC


class Held:
    """A delivery that is locked."""

    __slots__ = ("_file", "_place", "_shared")

    def __init__(self, file: _File, place: int, shared: bool) -> None:
        self._file = file
        self._place = place
        self._shared = shared

    def release(self) -> None:
        """Not by close(2) alone: what a program left running in the background has the file open, too."""
        try:
            fcntl.fcntl(self._file.fd, fcntl.F_OFD_SETLK, _one_byte(fcntl.F_UNLCK, self._place))
        finally:
            if self._shared:
                self._file.close()


class _File:
    """The open file; closed with the thread that has it."""

    __slots__ = ("fd", "inode", "path")

    def __init__(self, directory: str) -> None:
        self.fd = -1
        self.path = provide(directory, NAME)
        self.fd = os.open(self.path, _FLAGS)
        found = os.fstat(self.fd)
        self.inode = (found.st_dev, found.st_ino)

    def there(self, directory: str) -> bool:
        """Whether it is what others would open: another may have been put in its place."""
        if self.path != f"{directory}/{NAME}":
            return False
        try:
            found = os.lstat(self.path)
        except FileNotFoundError:
            return False
        return (found.st_dev, found.st_ino) == self.inode

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    __del__ = close


_kept = _local()  # .file


def take(directory: str, key: bytes, share: bool) -> Held | None:
    """Lock the delivery; None: another process, or thread, is at it. `share`: with the programs that are started."""
    place = int.from_bytes(key[:7], "big")
    file = None
    try:
        file = _File(directory) if share else _own(directory)
        fcntl.fcntl(file.fd, fcntl.F_OFD_SETLK, _one_byte(fcntl.F_WRLCK, place))
        if share:
            os.set_inheritable(file.fd, True)
    except BlockingIOError:
        return None
    except OSError as error:
        raise Fault(f"the state cannot be {'opened' if file is None else 'locked'}") from error
    return Held(file, place, share)


def _own(directory: str) -> _File:
    """The calling thread's."""
    file: _File | None = getattr(_kept, "file", None)
    if file is None or not file.there(directory):
        file = _kept.file = _File(directory)
    return file


def _one_byte(kind: int, place: int) -> bytes:
    """struct flock of fcntl(2)."""
    return pack("hhqqi4x", kind, os.SEEK_SET, place, 1, 0)
