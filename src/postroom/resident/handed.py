"""A mail that was handed off: read, made sure of, and delivered; all in one thread."""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from postroom import log
from postroom.config import Configuration
from postroom.deadline import Deadline
from postroom.delivery import Mail
from postroom.envelope import Recipient
from postroom.message import Message, give_back
from postroom.resident.deliveries import handled
from postroom.resident.offered import Offer
from postroom.runners.stdio import HANDLER_SHARE
from postroom.runners.verdicts import combined, cut_short, failed, overdue
from postroom.status import Fault, Outcome

if TYPE_CHECKING:
    from postroom.delivery import Service as Lender

# For the program to look whether pipe(8) lives, which takes it a millisecond.
GO_TIME = 10.0

# A message past this comes from no Postfix that is set up sensibly, but fills the disk: as much as LMTP takes.
MESSAGE_LIMIT = 1 << 30


class Lent:
    """What a mail's handler is lent: the resident's configuration, and the program's environment."""

    __slots__ = ("_configuration", "_read", "_service", "environment")

    def __init__(self, service: Lender, environment: dict[str, str], read: Callable[[Configuration], None]) -> None:
        """`read` is told of the configuration when the handler first asks for it."""
        self._service = service
        self._configuration: Configuration | None = None
        self._read = read
        self.environment = environment

    @property
    def configuration(self) -> Configuration:
        if self._configuration is None:
            self._configuration = self._service.configuration
            self._read(self._configuration)
        return self._configuration


class _Gone(Exception):
    """The program has ended: nobody would tell pipe(8)."""


class Delivery:
    """One mail. Descriptor and connection are its own: whoever drops it, they are closed.

    `limited` is told, in the thread, of the seconds that the configuration says, as it is read for the handler: alone
    the deadline is another from then on, too. `over` is set by the loop: nobody waits for the rest.
    """

    __slots__ = (
        "_connection", "_deadline", "_limited", "_message", "_offer", "_service", "late", "over", "rule", "seconds",
        "thread",
    )  # fmt: skip

    def __init__(
        self,
        offer: Offer,
        descriptor: int,
        connection: socket.socket,
        service: Lender,
        limited: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self._offer = offer
        self._message = open(descriptor, "rb", 0)  # noqa: SIM115 - closed by drop(); a bare number nobody would close
        self._connection = connection
        self._service = Lent(service, offer.environment, self._configured)
        self._limited = limited
        # Done in the last moment and told too late, it would be done again.
        self._deadline = Deadline(offer.seconds * HANDLER_SHARE)
        self.seconds = offer.seconds
        self.late: Outcome | None = None  # what work() has returned, where it was too late for the rest
        self.over = False
        self.rule = ""
        self.thread = 0  # set by the thread that takes it up, before it looks at `over`

    def drop(self) -> None:
        self._message.close()
        self._connection.close()

    def work(self) -> Outcome | None:
        """What the program is to say to pipe(8); None where it has gone, or pipe(8) has: nothing is delivered then."""
        self.thread = threading.get_ident()
        queue_id = self._offer.envelope.queue_id
        before = log.speaking_as(self._offer.program.name)
        message: Message | None = None
        try:
            if self.over:
                return None
            message = self._read()
            if not self._confirmed():
                raise _Gone
            return self._outcome(message)
        except TimeoutError:
            self.late = self.overdue()
            return self.late
        except _Gone:
            log.warning(queue_id, text=f"{cut_short()}, or its program was ended: not delivered")
            return None
        except Fault as error:
            return failed(error, "runner", queue_id)
        finally:
            self.drop()
            if message is not None:
                give_back(message)
            log.speaking_as(before)

    def overdue(self) -> Outcome:
        outcome = overdue(self.seconds)
        before = log.speaking_as(self._offer.program.name)
        log.error(self._offer.envelope.queue_id, fault="deadline", text=outcome.text)
        log.speaking_as(before)
        return outcome

    def _configured(self, configuration: Configuration) -> None:
        if self._offer.options.deadline is None:
            self.seconds = min(configuration.deadline, self._offer.most)
            self._deadline.seconds = self.seconds * HANDLER_SHARE
            self._limited(self.seconds)

    def _read(self) -> Message:
        try:
            return Message.read(self._message.fileno(), go_on=self._wait)
        except TimeoutError:
            raise
        except OSError as error:
            raise Fault(f"cannot take the message: {os.strerror(error.errno or 0)}") from error

    def _wait(self, size: int) -> None:
        """For more of the message, as long as somebody waits for its end, too."""
        if size > MESSAGE_LIMIT:
            raise Fault(f"more than {MESSAGE_LIMIT >> 20} MB: too big to be handed off, needs --handoff no")
        poll = select.poll()
        poll.register(self._message, select.POLLIN)
        poll.register(self._connection, 0)
        ready = dict(poll.poll(self._deadline.remaining() * 1000))
        if self._deadline.expired:
            raise TimeoutError
        if self._connection.fileno() in ready:
            raise _Gone

    def _confirmed(self) -> bool:
        """Whether the program still waits for the answer, and says that the message is all there is.

        Not before that, and not if nobody is told of it, is anything done that cannot be done twice.
        """
        try:
            self._connection.send(b"read\n")
            poll = select.poll()
            poll.register(self._connection, select.POLLIN)
            return bool(poll.poll(GO_TIME * 1000)) and self._connection.recv(16) == b"go\n"
        except OSError:
            return False

    def _outcome(self, message: Message) -> Outcome | None:
        """Of all recipients. What is put off as a whole is not gone on with: Postfix asks for all of them again."""
        outcomes: list[Outcome] = []
        recipients = self._offer.envelope.recipients
        for recipient in recipients:
            if self.over or self._left():
                text = f"nobody waits any more: {len(recipients) - len(outcomes)} of {len(recipients)} not delivered"
                log.warning(self._offer.envelope.queue_id, text=text)
                return None
            if self._deadline.expired:
                raise TimeoutError
            outcomes.append(self._deliver(recipient, message))
        return combined(outcomes)

    def _left(self) -> bool:
        """Whether the program has ended, which has nothing more to say and waits for us."""
        poll = select.poll()
        poll.register(self._connection, 0)
        return bool(poll.poll(0))

    def _deliver(self, recipient: Recipient, message: Message) -> Outcome:
        mail = Mail(self._offer.envelope, recipient, message, self._deadline, self._service)
        outcome = handled(self._offer.program, mail)
        self.rule = str(mail.log.get("rule") or "")
        return outcome
