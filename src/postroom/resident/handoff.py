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
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from postroom import log
from postroom.config import Listen
from postroom.resident.handed import Delivery
from postroom.resident.offered import Offer, Unclear, objection, read
from postroom.resident.pool import Late
from postroom.runners.verdicts import failed, line, overdue
from postroom.status import Outcome

if TYPE_CHECKING:
    from postroom.resident.worker import Worker

# For a program to say what it is, and after that to send its descriptor: it has nothing else to do.
REQUEST_TIME = 5.0

# Reasons for "alone" that the log has; what is told after that many others is logged again.
REASONS_LIMIT = 200

# One read of a request, which is some 700 bytes.
_CHUNK = 8192

_ONE_DESCRIPTOR = socket.CMSG_SPACE(struct.calcsize("i"))
_CREDENTIALS = struct.Struct("iII")

_told: set[str] = set()


class HandoffProtocol(asyncio.BufferedProtocol):
    """One program, from its offer to its answer."""

    __slots__ = (
        "_begun", "_buffer", "_data", "_delivery", "_listen", "_offer", "_passed", "_timer", "_transport", "_worker",
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

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # of a connection, which is a Transport
        self._timer = self._worker.loop.call_later(REQUEST_TIME, self._too_slow)
        self._worker.connections.add(self)
        self._worker.metrics.opened("handoff")

    def connection_lost(self, error: Exception | None) -> None:
        self._at_rest()
        self._worker.connections.discard(self)
        self._worker.metrics.closed("handoff")

    def drain(self) -> None:
        """A delivery in hand is finished; who has not given anything away yet, runs alone."""
        if self._delivery is None:
            self.close_now()

    def close_now(self) -> None:
        self._at_rest()
        if self._transport is not None:
            self._transport.close()

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
        reason = objection(offer, self._worker) or self._stranger()
        if reason:
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
        self._transport.pause_reading()
        descriptor = os.dup(self._transport.get_extra_info("socket").fileno())
        self._passed = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, descriptor)
        self._worker.loop.add_reader(descriptor, self._receive)
        self._say(b"pipe %g" % offer.seconds if offer.program.kind == "pipe" else b"spawn")

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
        self._begun = time.monotonic()
        if self._offer.program.kind != "pipe":
            self._adopt(self._offer, descriptor)
            return
        # The connection is the delivery's now, and so closed by its thread: here it would be under its feet.
        self._worker.loop.remove_reader(self._passed.fileno())
        connection, self._passed = self._passed, None
        self._at_rest()
        try:
            delivery = self._delivery = Delivery(self._offer, descriptor, connection, self._worker.service)
        except OSError:  # a folder
            os.close(descriptor)
            connection.close()
            self._alone("descriptor 0 is no file")
            return
        if not self._worker.pool.submit(delivery.work, self._done, self._begun + self._offer.seconds):
            delivery.drop()
            self._worker.metrics.fault("handoff", "busy")
            self._alone("too many requests wait already")

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
        assert self._offer is not None and self._delivery is not None  # noqa: S101 - for mypy
        offer, metrics = self._offer, self._worker.metrics
        if result is None:  # the program has gone, or Postfix has: the delivery has said so
            self.close_now()
            return
        if isinstance(result, Late):
            if not result.thread:
                self._delivery.drop()
            result = self._overdue(offer)
            metrics.fault("handoff", "deadline")
        elif isinstance(result, BaseException):
            result = failed(result, "runner", offer.envelope.queue_id)
            metrics.fault("handoff", "handler")
        metrics.request("handoff", offer.program.name, self._delivery.rule, result.kind, time.monotonic() - self._begun)
        self._answer(result)

    def _overdue(self, offer: Offer) -> Outcome:
        outcome = overdue(offer.seconds)
        before = log.speaking_as(offer.program.name)
        log.error(offer.envelope.queue_id, fault="deadline", text=outcome.text)
        log.speaking_as(before)
        return outcome

    def _answer(self, outcome: Outcome) -> None:
        if self._transport is not None:
            self._transport.write(b"%d " % outcome.exit_status + line(outcome))
        self.close_now()


@lru_cache(maxsize=16)
def allowed(names: tuple[str, ...]) -> frozenset[int]:
    """The ids of these users; one that does not exist is nobody's."""
    found = set()
    for name in names:
        try:
            found.add(pwd.getpwnam(name).pw_uid)
        except KeyError:
            log.error("", fault="configuration", text=f"[listen] users: there is no user {name}")
    return frozenset(found)
