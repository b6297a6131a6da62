"""Accepting connections, with the other workers, and with as many descriptors as there are.

A connection that says nothing costs a descriptor and some kilobytes, and may stay as long as its client likes. Where
there is no room for another, the one that has been silent for longest goes: what says nothing must not shut out who has
something to say. Postfix opens a new connection where its own was closed.
"""

from __future__ import annotations

import asyncio
import errno
import heapq
import os
import resource
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from postroom import log

if TYPE_CHECKING:
    from postroom.config import Listen
    from postroom.resident.listeners import Listener
    from postroom.resident.worker import Worker

# Open connections of a worker. Some 6 KB each; a Postfix of a thousand processes has three at most to each service.
MAX_CONNECTIONS = 10_000

# Descriptors that are no connection's: threads' stores (two each), lists, DNS, messages, what handlers open.
RESERVED = 512

# Without a descriptor to accept by. Other workers may have one; so may we, when what was closed is closed.
PAUSE = 0.1

# Of the connections that have been silent for longest, as many are asked to go until one does.
CANDIDATES = 20

# Of what goes on for long, a line each so many seconds.
TOLD_INTERVAL = 60.0

_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

NEVER = float("inf")


class Doors:
    """The listening sockets of a worker. `enter` is given each connection and what it is to speak."""

    def __init__(
        self, worker: Worker, listeners: list[Listener], enter: Callable[[socket.socket, Listen], None]
    ) -> None:
        self._worker = worker
        self._listeners = listeners
        self._enter = enter
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self.most = MAX_CONNECTIONS if soft < 0 else min(MAX_CONNECTIONS, max(soft - RESERVED, soft // 2))
        self._reserve = -1
        self._keep_one()
        self._told = -NEVER
        self._pause: asyncio.TimerHandle | None = None

    def open(self) -> None:
        self._pause = None
        self._keep_one()
        for one in self._listeners:
            one.socket.setblocking(False)
            self._worker.loop.add_reader(one.socket.fileno(), self._accept, one)

    def close(self) -> None:
        """Accept no more. The sockets are the supervisor's, too: they stay open there."""
        self._shut()
        for one in self._listeners:
            one.socket.close()
        self._listeners = []

    def _shut(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        for one in self._listeners:
            self._worker.loop.remove_reader(one.socket.fileno())

    def _accept(self, listener: Listener) -> None:
        """One of them: the loop comes back for the next, and meanwhile other workers may."""
        if self._worker.open_connections >= self.most and not self._make_room():
            self._rest(f"{self.most} connections are open, each with a request in hand")
            return
        try:
            connection, _ = listener.socket.accept()
        except (BlockingIOError, ConnectionError, InterruptedError):
            return  # another worker was faster, or the client has gone again
        except OSError as error:
            if error.errno in _NO_ROOM:
                self._make_room()
            self._rest(os.strerror(error.errno or 0))
            return
        self._enter(connection, listener.listen)

    def _make_room(self) -> bool:
        """Close the connection that has been silent for longest. False: all have a request in hand, or on its way.

        Whoever does not read what he was told is not waited for: his connection would stay, and be the oldest for ever.
        """
        for one in heapq.nsmallest(CANDIDATES, self._worker.connections, key=_since):
            if _since(one) == NEVER:
                break
            if one.abort():
                return True
        return False

    def _rest(self, why: str) -> None:
        self._shut()
        self._pause = self._worker.loop.call_later(PAUSE, self.open)
        now = self._worker.loop.time()
        if now - self._told >= TOLD_INTERVAL:
            self._told = now
            if self._reserve >= 0:
                os.close(self._reserve)  # the log may need a descriptor to say so
                self._reserve = -1
            log.error("", fault="busy", text=f"no connection can be accepted now: {why}")
            self._keep_one()

    def _keep_one(self) -> None:
        """Have a descriptor in reserve; where a thread was faster, another time."""
        if self._reserve < 0:
            with suppress(OSError):
                self._reserve = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)


def _since(connection: Any) -> float:
    since: float = getattr(connection, "idle_since", NEVER)
    return since
