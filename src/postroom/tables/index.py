"""A large list, sorted, in the state directory: a program that is started for each mail need not read all of it.

    magic, length of the head, digest of the head
    head        (stamp, identity of the list's file, entries, networks, size of this file) by marshal
    hashes      of the keys, sorted, 8 bytes each
    places      of the records, in the same order, 8 bytes each
    records     length of the key, length of the text (NO_TEXT where there is none), key, text

The copy is a convenience: whatever is wrong with it, the list is read instead. It is used only if the user who runs
this made it, and nobody else can write it; it is written beside its place, synced, and renamed, so that it is whole.
"""

from __future__ import annotations

import marshal
import os
import sys
from _blake2 import blake2b
from stat import S_ISREG

from postroom import __version__
from postroom.tables.entries import Entries, in_networks
from postroom.tables.keys import coded, table_keys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mmap import mmap
    from typing import Any

    from postroom.deadline import Deadline
    from postroom.tables import Table
    from postroom.tables.entries import Nets

# Below this a list is read in less than five milliseconds.
LEAST_SIZE = 128 * 1024

_MAGIC = b"postroom list 1\n"
_START = len(_MAGIC) + 8 + 16
_HEAD_LIMIT = 64 * 1024 * 1024
_NO_TEXT = 0xFFFFFFFF


class Index:
    """The entries of a list, by a search in a mapped file."""

    __slots__ = ("_hashes", "_map", "_nets", "_places", "count", "identity")

    def __init__(self, mapped: mmap, head: tuple[Any, ...], start: int) -> None:
        self.identity: tuple[int, ...] = head[1]
        self.count: int = head[2]
        self._nets: Nets = head[3]
        self._map = mapped
        view = memoryview(mapped)
        self._hashes = view[start : start + 8 * self.count].cast("Q")
        self._places = view[start + 8 * self.count : start + 16 * self.count].cast("Q")

    def __len__(self) -> int:
        return self.count

    def find(self, kind: str, value: str, delimiter: str, deadline: Deadline | None = None) -> bool | str:
        for key in table_keys(kind, value, delimiter):
            found = self._entry(coded(key))
            if found is not False:
                return found
        return kind == "ip" and in_networks(value, self._nets)

    def _entry(self, key: bytes) -> bool | str:
        from _bisect import bisect_left

        wanted = _hash(key)
        position = bisect_left(self._hashes, wanted)
        while position < self.count and self._hashes[position] == wanted:
            place = self._places[position]
            length = int.from_bytes(self._map[place : place + 4], sys.byteorder)
            if self._map[place + 8 : place + 8 + length] == key:
                return self._text(place, length)
            position += 1
        return False

    def _text(self, place: int, length: int) -> bool | str:
        size = int.from_bytes(self._map[place + 4 : place + 8], sys.byteorder)
        if size == _NO_TEXT:
            return True
        start = place + 8 + length
        return self._map[start : start + size].decode("utf-8", "surrogateescape")


def place(state: str, kind: str, path: str) -> str:
    name = blake2b(os.fsencode(f"{kind}:{path}"), digest_size=16).hexdigest()
    return os.path.join(state, "cache", f"list-{name}")


def open_copy(place: str, kind: str, path: str) -> Index | None:
    """The copy, of whatever state of the list; None for anything that is not one."""
    try:
        if not _ours(os.stat(os.path.dirname(place))):
            return None
        fd = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):
        return None
    try:
        status = os.fstat(fd)
        if not (_ours(status) and S_ISREG(status.st_mode)):
            return None
        head, start = _head(fd, status.st_size)
        if head is None or head[0] != _stamp(kind, path):
            return None
        from mmap import ACCESS_READ, mmap

        return Index(mmap(fd, status.st_size, access=ACCESS_READ), head, start)
    except (OSError, ValueError):
        return None
    finally:
        os.close(fd)


def _head(fd: int, size: int) -> tuple[Any, int]:
    first = os.read(fd, _START)
    if len(first) < _START or not first.startswith(_MAGIC):
        return None, 0
    length = int.from_bytes(first[len(_MAGIC) : len(_MAGIC) + 8], sys.byteorder)
    data = os.read(fd, length) if length <= min(size, _HEAD_LIMIT) else b""
    # marshal is told only what is whole: over a torn file it may do worse than raise.
    if blake2b(data, digest_size=16).digest() != first[-16:]:
        return None, 0
    head = marshal.loads(data)  # noqa: S302 - our own file, and whole: see above
    return (head, _START + length) if head[4] == size - _START - length else (None, 0)


def keep(place: str, kind: str, path: str, identity: tuple[int, ...], table: Table) -> None:
    """Write the copy for the next program; where that cannot be, nothing is lost but time.

    root keeps nothing: programs do not run as root, and could neither use nor replace what it leaves.
    """
    import time

    from postroom.config import SETTLED

    if os.geteuid() == 0 or not isinstance(table, Entries) or abs(time.time() - max(identity[2:4]) / 1e9) < SETTLED:
        return
    folder, draft = os.path.dirname(place), f"{place}.{os.getpid()}"
    try:
        if not os.path.isdir(folder):
            os.mkdir(folder, 0o700)
        elif not _ours(os.stat(folder)):
            os.chmod(folder, 0o700)  # or what is kept there would never be used
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except (OSError, ValueError):
        return
    try:
        with open(fd, "wb") as file:
            _write(file, kind, path, identity, table)
            file.flush()
            os.fsync(fd)
        os.rename(draft, place)
    except OSError:
        os.unlink(draft)


def _write(file: Any, kind: str, path: str, identity: tuple[int, ...], table: Entries) -> None:
    from array import array

    records, offsets, offset = [], [], 0
    for key, text in table.entries.items():
        name = coded(key)
        beside = None if text is True else coded(str(text))
        size = _NO_TEXT if beside is None else len(beside)
        record = len(name).to_bytes(4, sys.byteorder) + size.to_bytes(4, sys.byteorder) + name + (beside or b"")
        offsets.append((_hash(name), offset))
        records.append(record)
        offset += len(record)
    offsets.sort()
    size = 16 * len(offsets) + offset
    head = marshal.dumps((_stamp(kind, path), identity, len(offsets), table.nets, size))
    start = _START + len(head) + 16 * len(offsets)
    file.write(_MAGIC + len(head).to_bytes(8, sys.byteorder) + blake2b(head, digest_size=16).digest() + head)
    file.write(array("Q", [found for found, _ in offsets]))
    file.write(array("Q", [start + place for _, place in offsets]))
    file.writelines(records)


def _stamp(kind: str, path: str) -> tuple[Any, ...]:
    """What must be the same for a copy to be used: our version, Python's (marshal, case folding), the byte order."""
    return (__version__, sys.hexversion, sys.byteorder, kind, path)


def _ours(status: os.stat_result) -> bool:
    """Whether nobody but the user who runs this could have written it."""
    return status.st_uid == os.geteuid() and not status.st_mode & 0o077


def _hash(key: bytes) -> int:
    return int.from_bytes(blake2b(key, digest_size=8).digest(), sys.byteorder)
