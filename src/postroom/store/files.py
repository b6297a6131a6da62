"""The files of the SQLite store: made so that those who share them can.

An administrator's `postroom suppress list`, run as root, may be the first to open the store. Files that then
belonged to root would defer all mail from there on. So they are given to the owner of the state directory; SQLite
makes its -wal and -shm files in the likeness of the database, owner and mode included (os_unix.c, findCreateFileMode).
"""

from __future__ import annotations

import os
import stat
from _thread import get_ident

DATABASE = "state.db"
LOCK = "state.lock"
# SQLite's write-ahead log. Without its database it is poison for the next one, into which SQLite would replay it.
LOG = "state.db-wal"


def provide(directory: str, name: str) -> str:
    """The path of `name` in `directory`, which is made, empty, where it is missing. Raises OSError."""
    path = f"{directory}/{name}"
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        _make(directory, path)
        found = os.lstat(path)
    if not stat.S_ISREG(found.st_mode):
        # Root, who follows no link that the service user could have put here, needs this as much as SQLite does.
        raise OSError(f"{path}: not a regular file")
    return path


def exists(directory: str, name: str) -> bool:
    """Whether there is anything of this name, were it a link to nowhere."""
    try:
        os.lstat(f"{directory}/{name}")
    except FileNotFoundError:
        return False
    return True


def inode(path: str) -> tuple[int, int]:
    """Which file this is; (0, 0) for none."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return (0, 0)
    return (found.st_dev, found.st_ino)


def _make(directory: str, path: str) -> None:
    """Made under another name and linked: nobody, and no crash, ever finds it half made."""
    owner = os.stat(directory)
    new = f"{path}.{os.getpid()}.{get_ident()}.new"
    fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        # A directory that its group may write in is shared by its group; so are the files then.
        os.fchmod(fd, 0o660 if owner.st_mode & stat.S_IWGRP else 0o600)
        if os.geteuid() == 0:
            os.fchown(fd, owner.st_uid, owner.st_gid)
        os.link(new, path)
    except FileExistsError:
        pass  # another process was faster; its file is as good
    finally:
        os.close(fd)
        os.unlink(new)
