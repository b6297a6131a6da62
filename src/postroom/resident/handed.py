"""A mail that was handed off: read, made sure of, and delivered; all in one thread."""

from __future__ import annotations

import os
import select
import socket
from typing import TYPE_CHECKING

from postroom import log
from postroom.config import Configuration
from postroom.deadline import Deadline
from postroom.delivery import Mail
from postroom.envelope import Recipient
from postroom.message import Message
from postroom.resident.deliveries import handled
from postroom.resident.offered import Offer
from postroom.runners.stdio import HANDLER_SHARE
from postroom.runners.verdicts import combined, cut_short, failed
from postroom.status import Fault, Outcome

if TYPE_CHECKING:
    from postroom.delivery import Service as Lender

# For the program to look whether pipe(8) lives, which takes it a millisecond.
GO_TIME = 10.0


class Lent:
    """What a mail's handler is lent: the resident's configuration, and the program's environment."""

    __slots__ = ("_service", "environment")

    def __init__(self, service: Lender, environment: dict[str, str]) -> None:
        self._service = service
        self.environment = environment

    @property
    def configuration(self) -> Configuration:
        return self._service.configuration


class Delivery:
    """One mail. Descriptor and connection are its own: whoever drops it, they are closed."""

    __slots__ = ("_connection", "_deadline", "_message", "_offer", "_service", "rule")

    def __init__(self, offer: Offer, descriptor: int, connection: socket.socket, service: Lender) -> None:
        self._offer = offer
        self._message = open(descriptor, "rb", 0)  # noqa: SIM115 - closed by drop(); a bare number nobody would close
        self._connection = connection
        self._service = Lent(service, offer.environment)
        # Done in the last moment and told too late, it would be done again.
        self._deadline = Deadline(offer.seconds * HANDLER_SHARE)
        self.rule = ""

    def drop(self) -> None:
        self._message.close()
        self._connection.close()

    def work(self) -> Outcome | None:
        """What the program is to say to pipe(8); None where it has gone, or pipe(8) has: nothing is delivered then."""
        offer = self._offer
        before = log.speaking_as(offer.program.name)
        try:
            message = self._read()
            if not self._confirmed():
                log.warning(offer.envelope.queue_id, text=f"{cut_short()}, or its program was ended: not delivered")
                return None
        except Fault as error:
            return failed(error, "runner", offer.envelope.queue_id)
        finally:
            self.drop()
            log.speaking_as(before)
        return combined([self._deliver(recipient, message) for recipient in offer.envelope.recipients])

    def _read(self) -> Message:
        try:
            return Message.read(self._message.fileno())
        except OSError as error:
            raise Fault(f"cannot take the message: {os.strerror(error.errno or 0)}") from error

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

    def _deliver(self, recipient: Recipient, message: Message) -> Outcome:
        mail = Mail(self._offer.envelope, recipient, message, self._deadline, self._service)
        outcome = handled(self._offer.program, mail)
        self.rule = str(mail.log.get("rule") or "")
        return outcome
