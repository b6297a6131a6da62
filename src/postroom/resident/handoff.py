"""The listener's side of the hand-off (postroom.handoff has the other, and says what is spoken).

A program is told "alone", before it has given anything away, wherever the result could be another than its own: it is
another version, has other options or surroundings, is run by another user, is a file that is not loaded. Nothing that
it names is opened here but its descriptors; of its options, files are only compared with ours.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import socket
import struct
import time
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from postroom import log
from postroom.config import Listen
from postroom.resident.handed import Delivery
from postroom.resident.offered import Offer, Unclear, objection, read
from postroom.resident.pool import Late
from postroom.runners.verdicts import failed, line
from postroom.status import Outcome

if TYPE_CHECKING:
    from postroom.resident.worker import Worker

# For a program to say what it is, and after that to send its descriptor: it has nothing else to do.
REQUEST_TIME = 5.0

# What `users` names is looked up again after this: an account may be made, or taken away, while we run.
USERS_TIME = 60.0

# Reasons for "alone" that the log has; what is told after that many others is logged again.
REASONS_LIMIT = 200

# One read of a request, which is some 700 bytes.
_CHUNK = 8192

_ONE_DESCRIPTOR = socket.CMSG_SPACE(struct.calcsize("i"))
_CREDENTIALS = struct.Struct("iII")

NEVER = float("inf")

_told: set[str] = set()


class HandoffProtocol(asyncio.BufferedProtocol):
    """One program, from its offer to its answer. `idle_since`: NEVER from when it has given its descriptor away."""

    __slots__ = (
        "_answered", "_begun", "_buffer", "_data", "_delivery", "_listen", "_offer", "_passed", "_timer", "_transport",
        "_worker", "idle_since",
    )  # fmt: skip

    def __init__(self, worker: Worker, listen: Listen) -> None:
        self._worker = worker
        self._listen = listen
        self._buffer = bytearray(_CHUNK)
        self._data = b""
        self._begun = 0.0
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._passed: socket.socket | None = None  # the connection, while a descriptor may come over it
        self._offer: Offer | None = None
        self._delivery: Delivery | None = None
        self._answered = False  # the delivery; its thread may be at it still
        self.idle_since = time.monotonic()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # of a connection, which is a Transport
        self._timer = self._worker.loop.call_later(REQUEST_TIME, self._too_slow)
        self._worker.connections.add(self)
        self._worker.metrics.opened("handoff")
        if reason := self._stranger():  # told nothing of us, and not listened to
            self._alone(reason)

    def connection_lost(self, error: Exception | None) -> None:
        self._at_rest()
        self._worker.connections.discard(self)
        self._worker.metrics.closed("handoff")

    def drain(self) -> None:
        """A delivery in hand is finished; who has not given anything away yet, runs alone."""
        if self._delivery is None:
            self.close_now()

    def close_now(self) -> None:
        if self._delivery is not None:
            self._delivery.over = True
        self._at_rest()
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> bool:
        """Close without what the program has not read. False: it is closed already, or a delivery is in hand."""
        transport = self._transport
        if transport is None:
            return False
        if not transport.get_write_buffer_size() and (self._delivery is not None or transport.is_closing()):
            return False
        self._at_rest()
        transport.abort()
        return True

    def _too_slow(self) -> None:
        self._worker.metrics.fault("handoff", "protocol")
        self.close_now()

    def _at_rest(self) -> None:
        """Wait for nothing more of the program."""
        if self._timer is not None:
            self._timer.cancel()
        if self._passed is not None:
            self._worker.loop.remove_reader(self._passed.fileno())
            self._passed.close()
            self._passed = None

    # What it is

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._buffer

    def buffer_updated(self, number: int) -> None:
        self._data += self._buffer[:number]
        try:
            offer = read(self._data)
        except Unclear as error:
            self._alone(str(error))
            return
        if offer is None or self._offer is not None:
            return
        self._offer = offer
        if reason := objection(offer, self._worker):
            self._alone(reason)
        else:
            self._take(offer)

    def _stranger(self) -> str:
        """Whose mail we take: that of our own user and group, so that files are theirs all the same, or as listed."""
        connection = self._transport.get_extra_info("socket")  # type: ignore[union-attr]  # it is connected
        packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        _, user, group = _CREDENTIALS.unpack(packed)
        if self._listen.users:
            return "" if user in allowed(self._listen.users) else f"user {user} may not hand off"
        ours = (user, group) == (os.geteuid(), os.getegid())
        return "" if ours else f"user {user}, group {group}, is not who the service runs as"

    def _alone(self, reason: str) -> None:
        """Said in the log once for each reason: it costs nothing but time, and may be so on purpose."""
        if reason not in _told:
            if len(_told) >= REASONS_LIMIT:
                _told.clear()
            _told.add(reason)
            log.info("", handoff="alone", text=reason)
        self._say(b"alone " + reason.encode("utf-8", "replace")[:200].replace(b"\n", b" "))
        self.close_now()

    def _say(self, words: bytes) -> None:
        if self._transport is not None:
            self._transport.write(words + b"\n")

    def _take(self, offer: Offer) -> None:
        """From here on a descriptor comes with the next byte, which the transport would throw away."""
        assert self._transport is not None  # noqa: S101 - for mypy; it is connected
        self.idle_since = time.monotonic()  # its descriptor is on the way: the last to close where room is needed
        self._transport.pause_reading()
        descriptor = os.dup(self._transport.get_extra_info("socket").fileno())
        self._passed = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, descriptor)
        self._worker.loop.add_reader(descriptor, self._receive)
        self._say(b"pipe %g" % offer.most if offer.program.kind == "pipe" else b"spawn")

    # What it gives away

    def _receive(self) -> None:
        assert self._passed is not None  # noqa: S101 - for mypy; that is what is readable
        try:
            flags = socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
            data, ancillary, _, _ = self._passed.recvmsg(1, _ONE_DESCRIPTOR, flags)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data, ancillary = b"", []
        given = [number for _, _, packed in ancillary for number in struct.unpack(f"{len(packed) // 4}i", packed)]
        if len(given) == 1:
            self._given(given[0])
            return
        for one in given:
            os.close(one)
        if data:
            self._worker.metrics.fault("handoff", "protocol")
        self.close_now()

    def _given(self, descriptor: int) -> None:
        assert self._offer is not None and self._passed is not None  # noqa: S101 - for mypy
        self._begun, self.idle_since = time.monotonic(), NEVER
        if self._offer.program.kind != "pipe":
            self._adopt(self._offer, descriptor)
            return
        # The connection is the delivery's now, and so closed by its thread: here it would be under its feet.
        self._worker.loop.remove_reader(self._passed.fileno())
        connection, self._passed = self._passed, None
        self._at_rest()
        try:
            delivery = self._delivery = Delivery(
                self._offer, descriptor, connection, self._worker.service, self._limited
            )
        except OSError:  # a folder
            os.close(descriptor)
            connection.close()
            self._alone("descriptor 0 is no file")
            return
        if not self._worker.pool.submit(delivery.work, self._done, self._begun + self._offer.most):
            delivery.drop()
            self._worker.metrics.fault("handoff", "busy")
            self._alone("too many requests wait already")
            return
        self._limit(self._offer.seconds)

    def _limited(self, seconds: float) -> None:
        """Called in the delivery's thread: the configuration has been read, which says so many."""
        with suppress(RuntimeError):  # the loop is closed
            self._worker.loop.call_soon_threadsafe(self._limit, seconds)

    def _limit(self, seconds: float) -> None:
        assert self._offer is not None and self._delivery is not None  # noqa: S101 - for mypy
        if self._answered or self._delivery.over:
            return
        if self._timer is not None:
            self._timer.cancel()
        if seconds < self._offer.most:  # at which the pool calls by itself
            self._timer = self._worker.loop.call_at(self._begun + seconds, self._too_late)

    def _too_late(self) -> None:
        assert self._delivery is not None  # noqa: S101 - for mypy
        self._done(Late(self._delivery.thread))

    def _adopt(self, offer: Offer, descriptor: int) -> None:
        """The connection of a program of spawn(8), from now on one like those that are accepted here."""
        program = offer.program
        try:
            client = socket.socket(fileno=descriptor)
        except OSError:
            os.close(descriptor)
            self._alone("descriptor 0 is no socket")
            return
        if client.type != socket.SOCK_STREAM:
            client.close()
            self._alone("descriptor 0 is no connection")
            return
        self._worker.adopt(client, program.protocol, program.name, offer.options.table or "")
        self._say(b"taken")
        self._worker.metrics.request("handoff", program.name, "", "taken", time.monotonic() - self._begun)
        self.close_now()

    # What becomes of it

    def _done(self, result: Any) -> None:
        """Called by the pool, and before that where the deadline is sooner than the pool knows."""
        assert self._offer is not None and self._delivery is not None  # noqa: S101 - for mypy
        if self._answered:
            return
        self._answered = True
        offer, metrics = self._offer, self._worker.metrics
        if result is None:  # the program has gone, or Postfix has: the delivery has said so
            self.close_now()
            return
        if isinstance(result, Late):
            self._delivery.over = True
            if not result.thread:
                self._delivery.drop()
            result = self._delivery.overdue()
            metrics.fault("handoff", "deadline")
        elif result is self._delivery.late:
            metrics.fault("handoff", "deadline")
        elif isinstance(result, BaseException):
            result = failed(result, "runner", offer.envelope.queue_id)
            metrics.fault("handoff", "handler")
        metrics.request("handoff", offer.program.name, self._delivery.rule, result.kind, time.monotonic() - self._begun)
        self._answer(result)

    def _answer(self, outcome: Outcome) -> None:
        if self._transport is not None:
            self._transport.write(b"%d " % outcome.exit_status + line(outcome))
        self.close_now()


def allowed(names: tuple[str, ...]) -> frozenset[int]:
    """The ids of these users; one that does not exist is nobody's."""
    return _looked_up(names, int(time.monotonic() // USERS_TIME))


@lru_cache(maxsize=16)
def _looked_up(names: tuple[str, ...], period: int) -> frozenset[int]:
    found = set()
    for name in names:
        try:
            found.add(pwd.getpwnam(name).pw_uid)
        except KeyError:
            text = f"[listen] users: there is no user {name}"
            if text not in _told:
                _told.add(text)
                log.error("", fault="configuration", text=text)
    return frozenset(found)
