"""Policy requests and lookups in the loop: one client's connection, whatever the protocol.

The same Speech, the same answers and the same log lines as under spawn(8) (runners/stdio.py). What differs:
* A request whose handler goes through `service.sources` for all that it may wait for is tried in the loop first, by
  sources that raise WouldWait. Nothing was counted or recorded by then, and the request begins anew in a thread.
* One request of a connection is in hand at a time. What the client sends meanwhile waits, one read of it here, the rest
  in the kernel; so does all that a client sends who does not read its answers.
* A connection outlives a request that was too slow.
"""

from __future__ import annotations

import asyncio
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

from postroom.status import Fault
from postroom.wire.events import CLOSED, NEED_DATA, Malformed

if TYPE_CHECKING:
    from postroom.resident.line import Line, Told
    from postroom.runners.stdio import Reader

# From the first byte of a request to its last; Postfix writes one at once. It gives up on us after as long
# (smtpd_policy_service_timeout, 100 s), and asks again.
REQUEST_SECONDS = 100.0

NEVER = float("inf")


class Conversation(asyncio.BufferedProtocol):
    """One client. `idle_since`: of the last answer, or the beginning; NEVER while a request is in hand."""

    __slots__ = (
        "_begun", "_buffer", "_choked", "_closing", "_held", "_line", "_reader", "_request", "_timer", "_transport",
        "idle_since",
    )  # fmt: skip

    _transport: asyncio.Transport

    def __init__(self, line: Line) -> None:
        self._line = line
        self._buffer = line.worker.buffer
        self._reader: Reader = line.speech.reader()
        self._request: Any = None  # the one that a thread has in hand
        self._begun = 0.0  # when that was
        self._choked = False  # the client does not read
        self._held = False  # reading is paused
        self._closing = False
        self._timer: asyncio.TimerHandle | None = None  # while there is a part of a request
        self.idle_since = monotonic()

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # of a socket
        self._line.worker.connections.add(self)
        self._line.worker.metrics.opened(self._line.protocol)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        free = self._request is None and not self._choked
        if free and self._line.recent is not None and not self._reader.partial and not self._closing:
            self._asked(bytes(self._buffer[:nbytes]))
            return
        self._reader.receive_data(self._buffer[:nbytes])
        if free:
            self._advance()
        elif not self._held:
            self._held = True
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        """Keep it open: the answer to a request in hand is still wanted where only one direction was closed."""
        self._reader.receive_data(b"")
        if self._request is None and not self._choked:
            self._advance()
        return True

    def pause_writing(self) -> None:
        self._choked = True

    def resume_writing(self) -> None:
        self._choked = False
        if self._request is None and not self._closing:
            self._advance()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        worker = self._line.worker
        worker.connections.discard(self)
        worker.metrics.closed(self._line.protocol)
        lost, self._closing = not self._closing, True
        if lost and self._request is None:
            self._reader.receive_data(b"")
            event = self._reader.next_event()
            if event.__class__ is Malformed:
                self._line.malformed(event)

    # What the worker calls.

    def drain(self) -> None:
        """Answer what is in hand, and close; what has come already and was not read yet is in hand, too."""
        self._line.worker.loop.call_later(0, self._close_idle)  # a timer's turn is after that of what can be read

    def _close_idle(self) -> None:
        if self._request is None:
            self._close()

    def abort(self) -> bool:
        """Close without what the client has not read. False: it is closed already, or a request is in hand."""
        if not self._transport.get_write_buffer_size() and (self._request is not None or self._transport.is_closing()):
            return False
        self._close()
        self._transport.abort()
        return True

    def close_now(self) -> None:
        """Say "later" to what is in hand, and close."""
        if self._request is not None and not self._closing:
            self._transport.write(self._line.speech.failure(self._request, Fault.status))
        self._close()

    # Requests.

    def _asked(self, question: bytes) -> None:
        """A read that begins a request, and as a rule is one."""
        now = monotonic()
        answer = self._line.again(question, now)
        if answer is not None:
            self.idle_since = now
            self._transport.write(answer)
            return
        self._reader.receive_data(question)
        self._advance(question)

    def _advance(self, question: bytes = b"") -> None:
        """Answer what is there, in one write, until more is needed or a request takes a thread.

        `question` is all that is there, where it may be asked again.
        """
        line, next_event = self._line, self._reader.next_event
        now = monotonic()
        answers, end = b"", None
        told: list[Told] = []
        while not self._choked and not self._closing:
            event = next_event()
            if event is NEED_DATA:
                break
            if event is CLOSED or event.__class__ is Malformed:
                end = event
                break
            request = line.request(event, now)
            answer = line.at_once(request, now, told)
            if answer is None:
                question = b""  # what is kept is an answer to all of it
                if self._handed_over(request, now):
                    break
                answer = line.busy(request, now)
            answers, question = (answers + answer, b"") if answers else (answer, question)
        if answers:
            self.idle_since = now
            self._transport.write(answers)
            for one in told:
                line.tell(*one)
                question = question if one[2] is None else b""
            if question and end is None and not self._reader.partial:
                line.keep(question, now, answers)
        if end is not None or self._request is not None or self._held or self._timer or self._reader.partial:
            self._rest(end)

    def _rest(self, end: Any) -> None:
        """What remains to do when the requests are answered that could be."""
        if self._request is not None:
            self.idle_since = NEVER
            self._stop_timer()
        elif end is not None:
            self._end(end)
        elif self._reader.partial:
            if self._timer is None:
                self._timer = self._line.worker.loop.call_later(REQUEST_SECONDS, self._too_slow)
        elif self._timer is not None:
            self._stop_timer()
        if self._held and self._request is None and not self._choked and not self._closing:
            self._held = False
            self._transport.resume_reading()

    def _handed_over(self, request: Any, now: float) -> bool:
        """Have it answered in a thread, as if nothing had been done about it yet. False: there is no room."""
        line = self._line
        request.service = line.lent
        if request.logged:
            request.log.clear()
        if not line.worker.pool.submit(partial(line.in_thread, request), self._done, now + line.lent.limit):
            return False
        self._request = request
        self._begun = now
        return True

    def _done(self, result: bytes | BaseException) -> None:
        line, request = self._line, self._request
        self._request = None
        fault = None if isinstance(result, bytes) else result
        answer = result if isinstance(result, bytes) else line.failed(request, result)
        line.count(request.log, answer, self._begun)
        heard = not (self._closing or self._transport.is_closing())
        if heard:
            self._transport.write(answer)
        self.idle_since = monotonic()
        line.tell(request, answer, fault, heard)
        if line.worker.draining:
            self._close()
        elif heard:
            self._advance()

    def _end(self, event: Any) -> None:
        if event is not CLOSED:
            self._transport.write(self._line.speech.malformed())
            self._line.malformed(event)
        self._close()

    def _too_slow(self) -> None:
        self._timer = None
        self._line.malformed(Malformed(f"a request that was not whole after {REQUEST_SECONDS:g} seconds"))
        self._close()

    def _close(self) -> None:
        self._stop_timer()
        self._closing = True
        self._transport.close()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
