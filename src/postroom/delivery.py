"""The handler API of programs that take mail.

    from postroom.delivery import Mail, Outcome, bounced, deferred, sent

    def deliver(mail: Mail) -> Outcome:
        ...

A handler is called once per recipient. It returns an Outcome; it never learns how it was started. Whatever it
raises defers the mail and is logged: a Fault with its own words, anything else as a bug with its place.
"""

from __future__ import annotations

from postroom.envelope import Envelope, Recipient
from postroom.status import ConfigurationFault, Fault, Outcome, bounced, deferred, sent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from postroom.config import Configuration
    from postroom.deadline import Deadline
    from postroom.message import Message

    class Service(Protocol):
        """What the runner lends to every mail."""

        @property
        def configuration(self) -> Configuration: ...


__all__ = [
    "ConfigurationFault",
    "Envelope",
    "Fault",
    "Mail",
    "Outcome",
    "Recipient",
    "bounced",
    "deferred",
    "sent",
]


class Mail:
    """One message for one recipient.

    `log` holds what the handler wants to see in the log line beside the outcome, such as the rule.
    """

    __slots__ = ("_key", "deadline", "envelope", "log", "message", "original_recipient", "recipient", "service")

    def __init__(
        self, envelope: Envelope, recipient: Recipient, message: Message, deadline: Deadline, service: Service
    ) -> None:
        self.envelope = envelope
        self.recipient = recipient.address
        self.original_recipient = recipient.original
        self.message = message
        self.deadline = deadline
        self.service = service
        self.log: dict[str, object] = {}
        self._key = b""

    @property
    def sender(self) -> str:
        """The envelope sender; empty for the null sender."""
        return self.envelope.sender

    @property
    def queue_id(self) -> str:
        return self.envelope.queue_id

    @property
    def configuration(self) -> Configuration:
        """The configuration file, read on first use. Raises ConfigurationFault."""
        return self.service.configuration

    def key(self) -> bytes:
        """What tells this delivery from any other, for doing it only once.

        Postfix repeats a delivery that it did not see end. Its queue ids alone do not identify one: short ids are
        used again (postconf(5) enable_long_queue_ids), and a new mail taken for an old one would be lost. The content's
        digest, which holds the Received line with id and time, makes that impossible.
        """
        if not self._key:
            from _blake2 import blake2b

            digest = blake2b(self.message.digest(), digest_size=20)
            for part in (self.queue_id, self.sender, self.recipient, self.original_recipient):
                digest.update(b"\0" + part.encode("utf-8", "surrogateescape"))
            self._key = digest.digest()
        return self._key
