"""The sockets of the service: bound here, or by systemd for us (passed.py).

A unix socket is bound under a umask of 0777, so that nobody can connect before owner and mode are those that were
asked for. (Binding under another name and renaming it would do as well, but the name then stands in /proc/net/unix for
good, and a rename replaces whatever lies at the path, a file of somebody's too.) Owner and mode are set through a
descriptor of the very socket: in a directory of another user the path may be something else a moment later.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from postroom.config import Listen
from postroom.resident.account import Account, group_id, user_id
from postroom.resident.passed import Passed
from postroom.status import ConfigurationFault, Fault

# The kernel cuts it to net.core.somaxconn (4096 since Linux 5.4). Connections wait here while workers are
# replaced; Postfix's processes may all come at once after a pause.
BACKLOG = 4096

# Seconds for which a socket is waited for whose supervisor is gone: its workers end with it, but not in no time.
PATIENCE = 3.0


class Listener:
    """A listening socket, non-blocking. `inode` is that of its path, None where it is not ours to remove."""

    __slots__ = ("inode", "listen", "socket")

    def __init__(self, listen: Listen, sock: socket.socket, inode: tuple[int, int] | None = None) -> None:
        self.listen = listen
        self.socket = sock
        self.inode = inode

    @property
    def in_place(self) -> bool:
        """Whether who connects to the path still comes to this socket."""
        return self.inode is None or _inode(_path(self.listen)) == self.inode

    def own(self) -> None:
        """Have SO_PEERCRED name us to who connects: it tells process and user of the last listen(2)."""
        self.socket.listen(BACKLOG)

    def close(self) -> None:
        """Stop listening, and take the path away, unless it is another's by now."""
        self.socket.close()
        if self.inode is not None and self.in_place:
            with suppress(OSError):  # root's directory, and we are root no more: the next start finds nobody there
                os.unlink(_path(self.listen))

    def __repr__(self) -> str:
        return f"Listener({self.listen.name!r}, {self.listen.at!r})"


def open_all(
    listens: Iterable[Listen], account: Account, given: Passed, present: Iterable[Listener] = ()
) -> list[Listener]:
    """A listener for each table: systemd's, one of those that are `present` already, or a new one. All, or none.

    Raises Fault and ConfigurationFault; then nothing new is left open, and what is present is as it was.
    """
    kept = {one.listen.at: one for one in present if one.inode is not None or not _is_unix(one.listen)}
    found: list[Listener] = []
    fresh: list[Listener] = []
    try:
        for listen in listens:
            sockets = given.take(listen)
            found += [Listener(listen, sock) for sock in sockets]
            if sockets:
                continue
            old = kept.get(listen.at)
            if old is not None and old.in_place:
                found.append(Listener(listen, old.socket, old.inode))
            else:
                fresh.append(bind(listen, account))
                found.append(fresh[-1])
        _permit_anew([one for one in found if one.inode is not None and one not in fresh], kept, account)
    except BaseException:
        for one in fresh:
            one.close()
        raise
    return found


def permit(listeners: Iterable[Listener], account: Account) -> None:
    """Owner and mode again as they were, as far as we may."""
    for one in listeners:
        if one.inode is not None:
            with suppress(Fault):
                _permit_in(one, account)


def _permit_anew(listeners: list[Listener], before: dict[str, Listener], account: Account) -> None:
    """Owner and mode, where the configuration has others now: all of them, or none."""
    done: list[Listener] = []
    try:
        for one in listeners:
            done.append(before[one.listen.at])
            _permit_in(one, account)
    except Fault:
        permit(done, account)
        raise


def _permit_in(one: Listener, account: Account) -> None:
    with _explained(one.listen):
        _permit(one.listen, account, one.inode or (0, 0))


def bind(listen: Listen, account: Account) -> Listener:
    """Bind and listen. Raises ConfigurationFault for what has to be set right, Fault for what is in use."""
    with _explained(listen):
        return _unix(listen, account) if _is_unix(listen) else Listener(listen, _inet(listen))


def check(listen: Listen, account: Account) -> None:
    """The faults that can be told without binding."""
    with _explained(listen):
        if _is_unix(listen):
            _owner(listen, account)
            _look(_path(listen))


@contextmanager
def _explained(listen: Listen) -> Iterator[None]:
    """Whatever goes wrong, as a Fault that names the table."""
    where = f"[listen.{listen.name}] {listen.at}"
    try:
        yield
    except Fault as fault:
        raise type(fault)(f"{where}: {fault}") from None
    except PermissionError as error:
        raise ConfigurationFault(f"{where}: {error.strerror} for {_who()}") from None
    except OSError as error:
        raise Fault(f"{where}: {error.strerror or error}") from None


def _who() -> str:
    return "root" if os.geteuid() == 0 else f"user id {os.geteuid()}"


def _is_unix(listen: Listen) -> bool:
    return listen.at.startswith("unix:")


def _path(listen: Listen) -> str:
    return listen.at.removeprefix("unix:")


def _unix(listen: Listen, account: Account) -> Listener:
    path = _path(listen)
    owners = _owner(listen, account)
    _make_room(path, {owners[0], account.uid, os.geteuid()})
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        before = os.umask(0o777)
        try:
            sock.bind(path)
        finally:
            os.umask(before)
        inode = _inode(path)
    except BaseException:
        sock.close()
        raise
    made = Listener(listen, sock, inode or (0, 0))
    try:
        sock.listen(BACKLOG)
        sock.setblocking(False)
        _permit(listen, account, made.inode or (0, 0))
    except BaseException:
        made.close()
        raise
    return made


def _owner(listen: Listen, account: Account) -> tuple[int, int]:
    uid = user_id(listen.owner) if listen.owner else account.uid
    return uid, group_id(listen.group) if listen.group else account.gid


def _permit(listen: Listen, account: Account, inode: tuple[int, int]) -> None:
    """Owner first, then the mode: never wider than asked for, for nobody else than asked for."""
    uid, gid = _owner(listen, account)
    fd = os.open(_path(listen), os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if (status.st_dev, status.st_ino) != inode:
            raise Fault("was replaced by somebody as it was made")
        place = f"/proc/self/fd/{fd}"
        if (status.st_uid, status.st_gid) != (uid, gid):
            try:
                os.chown(place, uid, gid)
            except PermissionError:
                raise ConfigurationFault("only root can give it to that owner and group: start as root") from None
        if stat.S_IMODE(status.st_mode) != listen.mode:
            os.chmod(place, listen.mode)
    finally:
        os.close(fd)


def _inode(path: str) -> tuple[int, int] | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _look(path: str) -> os.stat_result | None:
    """The socket that is at the path, if there is one; for anything else a ConfigurationFault."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        if not os.path.isdir(os.path.dirname(path)):
            raise ConfigurationFault(f"directory {os.path.dirname(path)} is not there") from None
        return None
    if not stat.S_ISSOCK(status.st_mode):
        raise ConfigurationFault("is there, and no socket: remove it, or name another path")
    return status


def _make_room(path: str, owners: set[int]) -> None:
    """Remove a socket that nobody listens on any more. Whatever else is at the path stays."""
    end = time.monotonic() + PATIENCE
    while True:
        status = _look(path)
        if status is None:
            return
        pid = _answering(path)
        if pid is None:
            break
        if not _gone(pid) or time.monotonic() > end:
            raise Fault(f"process {pid} listens there already" if pid > 0 else "somebody listens there already")
        time.sleep(0.05)
    if status.st_uid not in owners:  # another service's, that is stopped for the moment
        raise ConfigurationFault(f"is a socket of user id {status.st_uid}, not ours: remove it, or name another path")
    os.unlink(path)


def _gone(pid: int) -> bool:
    """Whether the process that once called listen(2) has ended; who answers now are workers that end with it."""
    if pid <= 0:
        return False
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            # proc(5): after the name, which is in brackets and may hold anything, the state. Z: ended, not fetched yet.
            return file.read().rpartition(")")[2].split()[0] in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return True


def _answering(path: str) -> int | None:
    """The process that listens there (0: not known), or None if there is nobody."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return None
        except (BlockingIOError, TimeoutError):
            return 0  # its queue is full: it is there, and busy
        credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        pid: int = struct.unpack("3i", credentials)[0]
        return pid


def _inet(listen: Listen) -> socket.socket:
    host, _, port = listen.at.rpartition(":")
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Connections of before that are still being wound up (TIME_WAIT) must not keep the next start out.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        _bind_patiently(sock, (host.strip("[]"), int(port)))
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def _bind_patiently(sock: socket.socket, place: tuple[str, int]) -> None:
    """Nobody says who has a port: workers whose supervisor is gone are given the time to end."""
    end = time.monotonic() + PATIENCE / 3
    while True:
        try:
            return sock.bind(place)
        except OSError as error:
            if not _in_use(error) or time.monotonic() > end:
                raise
        time.sleep(0.05)


def _in_use(error: OSError) -> bool:
    return error.errno == errno.EADDRINUSE
