"""Leaving the terminal, by python-daemon, for hosts without systemd; and the pid file, with or without that.

python-daemon's parent leaves as soon as it has forked: a start script would say "done" of a service that then finds
its address taken. So there is one more process in front, which waits at a pipe for what becomes of it.

Its pid lock files are made with O_EXCL and stay behind after a kill. Here the file is locked (flock(2)) for as long as
the service lives: whoever finds it without the lock may have it.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress

import daemon  # type: ignore[import-untyped]  # python-daemon ships without annotations

from postroom.resident.account import Account, become
from postroom.status import ConfigurationFault, Fault, clean

# As pipe(8) runs programs: what a handler writes is nobody else's business, unless it says so.
UMASK = 0o077

# The first byte that the waiting parent reads.
_UP, _DOWN = b"+", b"-"


class PidFile:
    """A context manager, for DaemonContext: the number of the process is in the file while it is entered."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.fd = -1

    def take(self) -> None:
        """Lock it. Raises Fault where another process has it, ConfigurationFault where it cannot be made."""
        try:
            # Whoever ends removes the file: a lock on one that is no longer at the path is worth nothing.
            while not self._locked():
                os.close(self.fd)
        except OSError as error:
            raise ConfigurationFault(f"{self.path}: {error.strerror}") from None

    def _locked(self) -> bool:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        self.fd = os.open(self.path, flags, 0o644)
        if not stat.S_ISREG(os.fstat(self.fd).st_mode):
            raise ConfigurationFault(f"{self.path}: is not a regular file")
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(self.fd, 20, 0).decode("ascii", "replace").strip()
            os.close(self.fd)
            raise Fault(
                f"runs already as pid {pid} ({self.path})" if pid else f"starts already ({self.path})"
            ) from None
        return self._in_place()

    def _in_place(self) -> bool:
        try:
            found = os.lstat(self.path)
        except FileNotFoundError:
            return False
        return os.path.samestat(found, os.fstat(self.fd))

    def release(self) -> None:
        """Take it away again; in root's directory an empty file stays, where we are root no more."""
        if self.fd < 0:
            return  # done already: DaemonContext leaves once more as the interpreter ends
        os.ftruncate(self.fd, 0)
        if self._in_place():
            with suppress(OSError):
                os.unlink(self.path)
        os.close(self.fd)
        self.fd = -1

    def __enter__(self) -> PidFile:
        os.ftruncate(self.fd, 0)
        os.pwrite(self.fd, b"%d\n" % os.getpid(), 0)
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def detach(account: Account, preserve: Iterable[int], pid_file: PidFile) -> tuple[int, Callable[[str], None]]:
    """Go on in a daemon, as that account; who was called waits, says what became of it, and ends with that status.

    Returns, in the daemon, the descriptor and the function by which it says so: "" for well, or what is wrong.
    """
    reader, writer = os.pipe()
    if os.fork():
        os.close(writer)
        _wait(reader)
    os.close(reader)
    context = daemon.DaemonContext(
        umask=UMASK,
        working_directory="/",
        # Those that it will have by then: what it takes by itself are those of now, root's.
        uid=account.uid,
        gid=account.gid,
        detach_process=True,
        files_preserve=[writer, pid_file.fd, *preserve],
        pidfile=pid_file,
        signal_map={},  # the supervisor has its own
    )
    try:
        become(account)  # not by DaemonContext: told to initgroups it leaves the group root's (seen in 3.1.2)
        context.open()
    except (Fault, OSError, daemon.daemon.DaemonError) as error:
        pid_file.release()
        _say(writer, str(error))
        os._exit(os.EX_OSERR)
    return writer, lambda said: _say(writer, said)


def _say(writer: int, said: str) -> None:
    with suppress(OSError):  # who waited may have been interrupted
        os.write(writer, _DOWN + clean(said).encode("utf-8", "replace") if said else _UP + b"%d" % os.getpid())
        os.close(writer)


def _wait(reader: int) -> None:
    """The end of the process that was called."""
    said = b""
    with suppress(KeyboardInterrupt):  # ^C while waiting: the daemon goes on
        while part := os.read(reader, 4096):
            said += part
    if said[:1] == _UP:
        os.write(1, b"postroom: serving as pid %b\n" % said[1:])
        os._exit(os.EX_OK)
    os.write(2, b"postroom: %b\n" % (said[1:] or b"it ended before it was ready: the log says why"))
    os._exit(os.EX_TEMPFAIL)
