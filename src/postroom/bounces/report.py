"""Read a report: from the bytes of a message to what it says about whom.

Memory is bounded (scan.READ_LIMIT), nothing behind the start of the returned message is believed, and what no reader
knows is not-a-bounce.
"""

from __future__ import annotations

from postroom.bounces.dialects import READERS
from postroom.bounces.scan import field, scan
from postroom.bounces.values import NOT_A_BOUNCE, Recipient, Report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from postroom.message import Message

__all__ = ["Recipient", "Report", "read"]

TEXT_LIMIT = 500
ENCODED_LIMIT = 4000

# What the returned message says of itself that helps to find it; never an address to act upon.
_RETURNED = (
    ("original_message_id", b"message-id"),
    ("original_from", b"from"),
    ("original_to", b"to"),
    ("original_subject", b"subject"),
    ("original_list_id", b"list-id"),
)


def read(message: Message) -> Report:
    """What `message` reports. `not-a-bounce` where no reader knows it."""
    mail = scan(message)
    report = None
    for reader in READERS:
        report = reader(mail)
        if report is not None:
            break
    report = report or Report(NOT_A_BOUNCE)
    report.subject = _subject(mail.header(b"subject"), message)
    report.message_id = _text(mail.header(b"message-id"))
    returned = mail.returned_head
    for name, header in _RETURNED:
        if value := field(returned, header):
            report.fields[name] = _text(value)
    return report


def _subject(raw: bytes, message: Message) -> str:
    # Only encoded words (RFC 2047) are worth what decoding them costs, and only a line of them is.
    encoded = b"=?" in raw and len(raw) <= ENCODED_LIMIT
    return (message.header("subject") or "")[:TEXT_LIMIT] if encoded else _text(raw)


def _text(value: bytes) -> str:
    return value[:TEXT_LIMIT].decode("utf-8", "replace")
