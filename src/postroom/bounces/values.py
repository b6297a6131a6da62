"""What a report says, as values."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# Kinds of a message.
FAILED = "failed"
DELAYED = "delayed"
DELIVERED = "delivered"
NOTICE = "notice"
NOT_A_BOUNCE = "not-a-bounce"
# Not a kind a reader gives: its place where a reader broke down over a message.
UNREADABLE = "unreadable"


class Recipient:
    """One recipient of a report.

    `address` is the final recipient, `original` the address as it was sent to where the report knows it (both in
    Postfix's internal, unquoted form). `outcome` is the Action (RFC 3464 section 2.3.3). `status` is the enhanced code,
    or "" where the message has none; `smtp` the reply code. `hard`: the address itself is bad, for good; `permanent`:
    the failure is, whatever its cause. `evidence` names what it was read from.
    """

    __slots__ = (
        "address", "category", "diagnostic", "evidence", "hard", "original", "outcome", "permanent", "reason",
        "remote_mta", "smtp", "status",
    )  # fmt: skip

    def __init__(self, address: str, original: str, outcome: str, status: str = "", evidence: str = "") -> None:
        self.address = address
        self.original = original
        self.outcome = outcome
        self.status = status
        self.evidence = evidence
        self.smtp = ""
        self.diagnostic = ""
        self.remote_mta = ""
        self.category = "undetermined"
        self.reason = "undetermined"
        self.hard = False
        self.permanent = False


class Report:
    """One message. Texts that it does not have are empty; `fields` holds what only its kind has, such as a notice's
    class, and what the returned message says of itself."""

    __slots__ = (
        "arrival_date", "envelope_id", "fields", "kind", "message_id", "queue_id", "reader", "recipients",
        "reporting_mta", "sender", "subject", "will_retry_until",
    )  # fmt: skip

    def __init__(self, kind: str, reader: str = "", recipients: Sequence[Recipient] = ()) -> None:
        self.kind = kind
        self.reader = reader
        self.recipients = tuple(recipients)
        self.reporting_mta = ""
        self.queue_id = ""
        self.envelope_id = ""
        self.sender = ""
        self.arrival_date = ""
        self.will_retry_until = ""
        self.subject = ""
        self.message_id = ""
        self.fields: dict[str, str] = {}
