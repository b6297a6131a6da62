"""Run a handler for mail that comes by LMTP: under spawn(8), one client on descriptor 0; the resident uses parts of it.

The handler is one for pipe(8), and never learns the difference: it is called once for each recipient, one after the
other in the order of RCPT, and each result is a reply of its own. What it is given is what pipe(8) would hand over,
but for sasl_*, nexthop and client's attributes that XFORWARD does not tell.

The connection, its deadlines and what a handler prints are seen to by stdio.py. A deadline is one for all recipients of
a mail; when it passes, those that have a result get it, the others are put off.
"""

from __future__ import annotations

import os
from time import monotonic

from postroom.deadline import Deadline
from postroom.delivery import Mail
from postroom.envelope import Envelope, Recipient
from postroom.runners import dsn
from postroom.runners.captive import hand_over
from postroom.runners.incoming import Incoming
from postroom.runners.stdio import IDLE_LIMIT, LIFETIME, converse
from postroom.runners.verdicts import outcome, tell
from postroom.status import BOUNCED, DEFERRED, SENT, ConfigurationFault, Fault, Outcome, deferred
from postroom.wire.content import ABORTED, Content
from postroom.wire.lmtp import Session, line_of
from postroom.wire.transaction import Transaction

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from postroom.runners.options import Options
    from postroom.runners.service import Service
    from postroom.wire.events import Signal

    Deliver = Callable[[Mail], Outcome]

# For all recipients of a mail. lmtp(8) waits 600 s for the replies (lmtp_data_done_timeout), then sends the mail again.
DEFAULT_DEADLINE = 250.0

# Said to all recipients of a mail that cannot be kept, such as on a full disk.
NO_ROOM = "452 4.3.1 no room to take the message"

_KINDS = {b"2": SENT, b"4": DEFERRED, b"5": BOUNCED}

# XFORWARD's names, and pipe(8)'s.
_FORWARDED = {
    "ADDR": "client_address",
    "NAME": "client_hostname",
    "PORT": "client_port",
    "PROTO": "client_protocol",
    "HELO": "client_helo",
    "IDENT": "queue_id",
}


def run(deliver: Deliver, idle: float = IDLE_LIMIT, lifetime: float = LIFETIME) -> NoReturn:
    """Take the mail of one client, have `deliver` deliver it, and leave."""
    hand_over("lmtp", deliver)
    converse(lambda: Deliveries(deliver), idle, lifetime)


def envelope_of(mail: Transaction) -> Envelope:
    """As pipe(8)'s macros would tell it."""
    forwarded = {name: mail.forwarded.get(attribute, "") for attribute, name in _FORWARDED.items()}
    recipients = [Recipient(rcpt.address, rcpt.original) for rcpt in mail.recipients]
    size = str(mail.size) if mail.size else ""
    return Envelope(recipients, sender=mail.sender, size=size, envid=mail.envid, **forwarded)


def is_relay(mail: Mail) -> bool:
    """Whether the rule handed the mail on."""
    return str(mail.log.get("action", "")).startswith("relay ")


class Said:
    """What the protocol has to say without a handler."""

    __slots__ = ("data",)

    logged = False

    def __init__(self, data: bytes) -> None:
        self.data = data


class InHand:
    """A mail that has come as a whole, and the results so far."""

    __slots__ = ("deadline", "incoming", "mail", "replies", "results", "service")

    logged = False

    def __init__(self, mail: Transaction, incoming: Incoming) -> None:
        self.mail = mail
        self.incoming = incoming
        self.results: list[dsn.Result] = []
        self.replies: list[str] = []
        self.service: Service | None = None
        self.deadline = Deadline(DEFAULT_DEADLINE)


class Reader:
    """A session as stdio.py reads it: its events are what is to be said, and mails."""

    __slots__ = ("_answered", "_incoming", "_kept", "session")

    def __init__(self) -> None:
        self.session = Session(os.uname().nodename)
        self._incoming = Incoming()
        self._kept: InHand | None = None
        self._answered: InHand | None = None  # when the next event is asked for

    @property
    def partial(self) -> bool:
        """Whether a mail, or a command, has begun to come."""
        return not self.session.idle

    def receive_data(self, data: bytes | memoryview) -> None:
        self.session.receive_data(data)

    def next_event(self) -> Said | InHand | Signal:
        if self._kept is not None:
            kept, self._kept = self._kept, None
            return kept
        if self._answered is not None:
            self.session.finish(self._answered.replies)
            self.session.take()  # sent
            self._answered = None
        event = self._read_on()
        output = self.session.take()
        if isinstance(event, InHand):
            self._answered = event
            self._kept = event if output else None
        return Said(output) if output else event

    def _read_on(self) -> InHand | Signal:
        while isinstance(event := self.session.next_event(), Content) or event is ABORTED:
            if isinstance(event, Content):
                keep(event.data, self._incoming, self.session)
            else:
                self._incoming.close()
        if isinstance(event, Transaction):
            incoming, self._incoming = self._incoming, Incoming()
            return InHand(event, incoming)
        return event


def keep(data: bytes, incoming: Incoming, session: Session) -> None:
    """Put a piece of a message by, or have the session refuse the mail."""
    try:
        incoming.add(data)
    except OSError:
        incoming.close()
        session.spoil(NO_ROOM)


class Deliveries:
    """A handler that delivers, and the protocol round it.

    The watching thread of stdio.py may ask for a failure while the answer is being made: neither touches the session,
    which is the reader's alone.
    """

    __slots__ = ("_deliver", "limit")

    options: tuple[str, ...] = ()

    def __init__(self, deliver: Deliver) -> None:
        self._deliver = deliver
        self.limit = DEFAULT_DEADLINE

    def configure(self, options: Options) -> None:
        """There is nothing of its own on the command line."""

    def refuse(self, reason: str) -> None:
        def deliver(mail: Mail) -> Outcome:
            raise ConfigurationFault(reason)

        self._deliver = deliver

    def reader(self) -> Reader:
        return Reader()

    def request(self, event: Said | InHand, service: Service, until: float) -> Said | InHand:
        if isinstance(event, InHand):
            event.service = service
            event.deadline = Deadline(until - monotonic())
        return event

    def answer(self, request: Said | InHand) -> bytes:
        if isinstance(request, Said):
            return request.data
        service, message, envelope = request.service, request.incoming.message(), envelope_of(request.mail)
        assert service is not None  # noqa: S101 - for mypy; `request` has set it
        try:
            for rcpt, recipient in zip(request.mail.recipients, envelope.recipients, strict=True):
                mail = Mail(envelope, recipient, message, request.deadline, service)
                said = outcome(self._deliver, mail)
                tell(mail, said)
                request.results.append(dsn.Result(rcpt, said, is_relay(mail)))
            dsn.report(request.mail, request.results, message, envelope.queue_id)
        finally:
            request.incoming.close()
        return self._replies(request, Fault.status)

    def _replies(self, request: InHand, status: str) -> bytes:
        """Of those that have a result, and of the others, which have failed."""
        outcomes = [one.outcome for one in request.results[:]]
        missing = deferred("not finished, see the mail log", status)
        outcomes += [missing] * (len(request.mail.recipients) - len(outcomes))
        request.replies = [one.reply() for one in outcomes]
        return b"".join(map(line_of, request.replies))

    def failure(self, request: Said | InHand, status: str) -> bytes:
        """Our fault, for those recipients that have no result."""
        if isinstance(request, Said):
            return b""
        return self._replies(request, status)

    def malformed(self) -> bytes:
        """Never asked for: the session answers what it does not understand."""
        return b""

    def outcome(self, answer: bytes) -> str:
        """What the first recipient is told: sent, deferred or bounced."""
        return _KINDS.get(answer[:1], "")

    def queue_id(self, request: Said | InHand) -> str:
        return request.mail.forwarded.get("IDENT", "") if isinstance(request, InHand) else ""

    def log(self, request: Said | InHand, answer: bytes) -> None:
        """Each recipient has had its line."""
