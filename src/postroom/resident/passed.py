"""Sockets that systemd has bound for the service (sd_listen_fds(3), systemd.socket(5))."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, MutableMapping

from postroom.config import Listen
from postroom.status import ConfigurationFault

# SD_LISTEN_FDS_START
_FIRST = 3


class Passed:
    """Sockets that systemd has bound; they stay open as long as the service lives, since it could not bind them."""

    def __init__(self, sockets: Iterable[tuple[str, socket.socket]] = ()) -> None:
        self.sockets = list(sockets)

    def take(self, listen: Listen) -> list[socket.socket]:
        """Those for a table: by its name; else by its address."""
        named = [sock for name, sock in self.sockets if name == listen.name]
        return named or [sock for _, sock in self.sockets if address(sock) == listen.at]

    def __contains__(self, sock: object) -> bool:
        return any(one is sock for _, one in self.sockets)

    def unclaimed(self, listens: Iterable[Listen]) -> list[str]:
        """Addresses of those that no table is for."""
        taken = {id(sock) for listen in listens for sock in self.take(listen)}
        return [address(sock) for _, sock in self.sockets if id(sock) not in taken]


def passed(environ: MutableMapping[str, str] | None = None) -> Passed:
    """The sockets that systemd passed; the variables are removed: they are for this process alone."""
    environ = os.environ if environ is None else environ
    pid, count, names = (environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"))
    if pid != str(os.getpid()) or not count.isascii() or not count.isdigit():
        return Passed()
    named = names.split(":") if names else []
    named += [""] * (int(count) - len(named))
    return Passed((named[number], _received(_FIRST + number)) for number in range(int(count)))


def _received(fd: int) -> socket.socket:
    try:
        sock = socket.socket(fileno=fd)
        listening = sock.type == socket.SOCK_STREAM and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise ConfigurationFault(f"LISTEN_FDS: descriptor {fd} is no socket: {error.strerror}") from None
    if not listening:
        raise ConfigurationFault(
            f"LISTEN_FDS: descriptor {fd} is not a listening stream socket: ListenStream=, Accept=no"
        )
    sock.set_inheritable(False)
    sock.setblocking(False)
    return sock


def address(sock: socket.socket) -> str:
    """Where a socket listens, as the configuration writes it."""
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return f"unix:{os.fsdecode(name)}"
    return f"[{name[0]}]:{name[1]}" if sock.family == socket.AF_INET6 else f"{name[0]}:{name[1]}"
