"""LMTP in the loop: one client's connection. The protocol is wire/lmtp.py's, the handler one for pipe(8).

* A mail takes one thread, which delivers to its recipients one after the other, in the order of RCPT: they share the
  store's connection, and a mail to fifty does not keep fifty threads from the other mails.
* The deadline is one for all recipients. When it passes, those that have a result get it, the others are put off; the
  thread ends after the recipient that it is at. So it does where the client has gone: it will ask again.
* Where no thread is free and the queue is full, all recipients are put off at once, and the connection is closed (421).
* The content is put by in the loop, past MEMORY_LIMIT in a file: write(2) into the page cache, which does not wait for
  the disk as long as there is memory.
"""

from __future__ import annotations

import asyncio
import os
import select
from time import monotonic
from typing import TYPE_CHECKING

from postroom import log
from postroom.deadline import Deadline
from postroom.delivery import Mail
from postroom.resident.deliveries import handled
from postroom.resident.pool import Late
from postroom.runners import dsn
from postroom.runners.incoming import Incoming
from postroom.runners.lmtp import envelope_of, is_relay, keep
from postroom.runners.stdio import HANDLER_SHARE
from postroom.runners.verdicts import failed, overdue
from postroom.status import Outcome, deferred
from postroom.wire.content import ABORTED, Content
from postroom.wire.events import CLOSED
from postroom.wire.lmtp import Session
from postroom.wire.transaction import Transaction

if TYPE_CHECKING:
    from postroom.config import Listen
    from postroom.resident.programs import Program
    from postroom.resident.service import Service
    from postroom.resident.worker import Worker

PROTOCOL = "lmtp"

# Of programs whose handlers deliver.
KINDS = ("pipe", "lmtp")

# A server waits five minutes for the next command (RFC 5321 section 4.5.3.2.7); lmtp(8) itself closes a connection that
# it has no use for after 2 s (lmtp_connection_cache_time_limit).
IDLE_LIMIT = 300.0

# Where connections have to be closed, one that is silent in the middle of a mail counts as idle after this; looked at
# so often.
STALL_LIMIT = 10.0
STALL_TICK = 1.0

NEVER = float("inf")


class Delivery:
    """A mail that has come as a whole. Everything in it but `over` is the thread's, until that is done."""

    __slots__ = ("begun", "decided", "incoming", "mail", "over", "queue_id", "results", "seconds")

    def __init__(self, mail: Transaction, incoming: Incoming, seconds: float) -> None:
        self.mail = mail
        self.incoming = incoming
        self.seconds = seconds
        self.begun = monotonic()
        self.queue_id = mail.forwarded.get("IDENT", "")
        self.results: list[dsn.Result] = []
        self.decided: list[str] = []  # the rule of each result
        self.over = False  # set by the loop: nobody waits for the rest

    def work(self, program: Program, service: Service) -> None:
        """Deliver to one recipient after the other."""
        try:
            message, envelope = self.incoming.message(), envelope_of(self.mail)
            deadline = Deadline(max(0.0, self.begun + self.seconds * HANDLER_SHARE - monotonic()))
            for rcpt, recipient in zip(self.mail.recipients, envelope.recipients, strict=True):
                if self.over:
                    return
                if deadline.expired and self.results:
                    break  # they are told, and so are those who wanted to know of it: the next try is for the others
                mail = Mail(envelope, recipient, message, deadline, service)
                outcome = handled(program, mail)
                self.decided.append(str(mail.log.get("rule") or ""))
                self.results.append(dsn.Result(rcpt, outcome, is_relay(mail)))
            before = log.speaking_as(program.name)
            dsn.report(self.mail, self.results, message, self.queue_id)
            log.speaking_as(before)
        finally:
            self.incoming.close()

    def outcomes(self, missing: Outcome) -> list[Outcome]:
        """One for each recipient; `missing` for those without a result."""
        found = [one.outcome for one in self.results[:]]
        return found + [missing] * (len(self.mail.recipients) - len(found))


class LmtpProtocol(asyncio.BufferedProtocol):
    """One client. `idle_since`: of the last thing it said; NEVER while a mail is in hand."""

    __slots__ = (
        "_choked", "_delivery", "_gone", "_held", "_incoming", "_program", "_session", "_timer", "_transport",
        "_worker", "idle_since",
    )  # fmt: skip

    _transport: asyncio.Transport

    def __init__(self, worker: Worker, listen: Listen) -> None:
        self._worker = worker
        self._program = listen.program
        self._session = Session(os.uname().nodename)
        self._incoming = Incoming()
        self._delivery: Delivery | None = None
        self._choked = False  # the client does not read
        self._held = False  # reading is paused
        self._gone = False
        self._timer: asyncio.TimerHandle | None = None
        self.idle_since = monotonic()

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # of a socket
        self._worker.connections.add(self)
        self._worker.metrics.opened(PROTOCOL)
        self._timer = self._worker.loop.call_later(IDLE_LIMIT, self._look)
        self._session.draining = self._worker.draining
        self._go_on()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._worker.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._session.receive_data(self._worker.buffer[:nbytes])
        if self._delivery is None and not self._choked:
            self.idle_since = monotonic()
            self._go_on()
        elif not self._held:
            self._held = True
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        """Keep it open: who has closed one direction may still want the replies."""
        self._session.receive_data(b"")
        if self._delivery is None:
            self._go_on()
        elif _hung_up(self._transport):
            self._delivery.over = True
        return True

    def pause_writing(self) -> None:
        self._choked = True

    def resume_writing(self) -> None:
        self._choked = False
        if self._delivery is None and not self._gone:
            self._go_on()

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone = True
        if self._timer is not None:
            self._timer.cancel()
        self._incoming.close()
        if self._delivery is not None:
            self._delivery.over = True
        if self._session.errors:
            self._worker.metrics.fault(PROTOCOL, "protocol")
        self._worker.connections.discard(self)
        self._worker.metrics.closed(PROTOCOL)

    # What the worker calls.

    def drain(self) -> None:
        """Finish the mail that is in hand, or on its way here, and close."""
        self._session.draining = True
        if self._timer is not None:
            self._timer.cancel()
        self._look_closely()

    def close_now(self) -> None:
        """Put off what is in hand, and close."""
        if self._delivery is not None and not self._gone:
            self._delivery.over = True
            self._answer(self._delivery, deferred("shutting down", "4.3.2"))
            self._transport.write(self._session.take())
        self._transport.close()

    def abort(self) -> bool:
        """Close without what the client has not read. False: it is closed already, or a mail is on its way here."""
        transport = self._transport
        idle = self._session.idle or monotonic() - self.idle_since > STALL_LIMIT
        if not transport.get_write_buffer_size() and (transport.is_closing() or not idle):
            return False
        transport.abort()
        return True

    # What the client says.

    def _go_on(self) -> None:
        """As far as what has come goes, in one write."""
        session = self._session
        event: object = None
        while not (self._gone or self._choked):
            event = session.next_event()
            if isinstance(event, Content):
                keep(event.data, self._incoming, session)
            elif event is ABORTED:
                self._incoming.close()
            elif not isinstance(event, Transaction):
                break
            elif not self._deliver(event):
                continue
            else:
                break
        output = session.take()
        if output and not self._gone:
            self._transport.write(output)
        if event is CLOSED:
            self._transport.close()
        self._read_on(event)

    def _read_on(self, event: object) -> None:
        if self._held and self._delivery is None and event is not CLOSED and not (self._choked or self._gone):
            self._held = False
            self._transport.resume_reading()

    def _look(self) -> None:
        """From time to time: whether the client has fallen silent. One timer for all of a connection's life."""
        rest = self.idle_since + IDLE_LIMIT - monotonic()
        if rest > 0:
            self._timer = self._worker.loop.call_later(min(rest, IDLE_LIMIT), self._look)
            return
        self._transport.write(b"421 4.4.2 nothing heard for too long\r\n")
        self._transport.close()

    def _look_closely(self) -> None:
        """The same, where the connection has to be closed."""
        stalled = monotonic() - self.idle_since > STALL_LIMIT
        if stalled and self._choked:
            self._transport.abort()  # what is written to it would be waited for
        elif stalled or self._session.idle:
            self._transport.close()
        if not self._gone:
            self._timer = self._worker.loop.call_later(STALL_TICK, self._look_closely)

    # Mail.

    def _deliver(self, mail: Transaction) -> bool:
        """Have it delivered. False: it has been answered already."""
        worker, limit = self._worker, self._worker.service.limit
        incoming, self._incoming = self._incoming, Incoming()
        delivery = Delivery(mail, incoming, limit)
        program = worker.programs.get(self._program)
        if program is None or program.kind not in KINDS:
            refusal, kind = deferred(f"{self._program} delivers no mail in this service", "4.3.5"), "configuration"
        elif worker.pool.submit(lambda: delivery.work(program, worker.service), self._done, delivery.begun + limit):
            self._delivery = delivery
            self.idle_since = NEVER
            return True
        else:
            refusal, kind = deferred("too many requests wait already", "4.3.2"), "busy"
        incoming.close()
        worker.metrics.fault(PROTOCOL, kind)
        self._say(kind, delivery, refusal)
        self._answer(delivery, refusal)
        return False

    def _done(self, result: object) -> None:
        delivery, metrics = self._delivery, self._worker.metrics
        assert delivery is not None  # noqa: S101 - for mypy; the pool calls once for each delivery
        missing = deferred("not delivered to yet", "4.3.0")
        if isinstance(result, Late):
            delivery.over = True
            if not result.thread:
                delivery.incoming.close()
            missing = overdue(delivery.seconds)
            metrics.fault(PROTOCOL, "deadline")
            self._say("deadline", delivery, missing)
        elif isinstance(result, BaseException):
            missing = failed(result, "runner", delivery.queue_id)
            metrics.fault(PROTOCOL, "handler")
        elif len(delivery.results) < len(delivery.mail.recipients):
            missing = overdue(delivery.seconds)
            metrics.fault(PROTOCOL, "deadline")
        self._delivery = None
        self.idle_since = monotonic()
        if isinstance(result, MemoryError):
            self._worker.retire("out of memory")
        if not self._gone and not self._transport.is_closing():
            self._answer(delivery, missing)
            self._go_on()

    def _answer(self, delivery: Delivery, missing: Outcome) -> None:
        """A reply for each recipient."""
        outcomes = delivery.outcomes(missing)
        seconds = monotonic() - delivery.begun
        rules = delivery.decided[: len(outcomes)] + [""] * len(outcomes)
        for outcome, rule in zip(outcomes, rules, strict=False):
            self._worker.metrics.request(PROTOCOL, self._program, rule, outcome.kind, seconds)
        self._session.draining = self._session.draining or self._worker.draining
        self._session.finish([outcome.reply() for outcome in outcomes])

    def _say(self, fault: str, delivery: Delivery, outcome: Outcome) -> None:
        before = log.speaking_as(self._program)
        log.error(delivery.queue_id, fault=fault, text=outcome.text)
        log.speaking_as(before)


def _hung_up(transport: asyncio.Transport) -> bool:
    """Whether the client of a unix socket has closed both directions; of TCP it shows when we write."""
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), 0)
    return bool(poll.poll(0))
