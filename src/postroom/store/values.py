"""What the store keeps, as values."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Suppression:
    """An address that gets no mail: since when and until when (Unix time; None: for good), and why.

    `reason` is one of postroom.bounces.reasons, or "manual"; `status` the enhanced code or ""; `why` the words of
    the server that refused, or of the person who added it; `source` the message or person it came from.
    """

    __slots__ = ("address", "reason", "since", "source", "status", "until", "why")

    def __init__(
        self,
        address: str,
        since: int,
        reason: str = "manual",
        status: str = "",
        why: str = "",
        source: str = "",
        until: int | None = None,
    ) -> None:
        self.address = address
        self.since = since
        self.reason = reason
        self.status = status
        self.why = why
        self.source = source
        self.until = until

    def in_force(self, now: float) -> bool:
        return self.until is None or self.until > now


class Reported:
    """One recipient as a report tells of it. `original` is the address as it was sent to, where known."""

    __slots__ = (
        "address", "category", "diagnostic", "hard", "original", "outcome", "reason", "remote_mta", "status",
    )  # fmt: skip

    def __init__(
        self,
        address: str,
        original: str = "",
        outcome: str = "",
        status: str = "",
        category: str = "",
        reason: str = "",
        hard: bool = False,
        diagnostic: str = "",
        remote_mta: str = "",
    ) -> None:
        self.address = address
        self.original = original
        self.outcome = outcome
        self.status = status
        self.category = category
        self.reason = reason
        self.hard = bool(hard)
        self.diagnostic = diagnostic
        self.remote_mta = remote_mta


class Event:
    """Something that a message told us at `at`, by our own clock. `key` names the message: told twice, it counts once.

    `kind` is failed, delayed, delivered, notice, not-a-bounce or unreadable; `authentic` verified, unverified or
    forged; `fields` is what else there is to know, by name. `id` is 0 until it is read back from the store.
    """

    __slots__ = ("at", "authentic", "fields", "id", "key", "kind", "queue_id", "recipients")

    def __init__(
        self,
        key: bytes,
        at: int,
        kind: str,
        authentic: str = "unverified",
        queue_id: str = "",
        recipients: Sequence[Reported] = (),
        fields: Mapping[str, str] | None = None,
        id: int = 0,
    ) -> None:
        self.key = key
        self.at = at
        self.kind = kind
        self.authentic = authentic
        self.queue_id = queue_id
        self.recipients = tuple(recipients)
        self.fields = dict(fields or {})
        self.id = id
