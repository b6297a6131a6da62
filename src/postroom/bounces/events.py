"""What is recorded of a report, and which addresses get no more mail for it."""

from __future__ import annotations

from _blake2 import blake2b

from postroom.bounces import verp
from postroom.bounces.values import FAILED
from postroom.envelope import split_address
from postroom.store.address import fold
from postroom.store.values import Event, Reported, Suppression

TYPE_CHECKING = False
if TYPE_CHECKING:
    from postroom.bounces.values import Recipient, Report
    from postroom.bounces.verp import Verdict

# More candidates than this in one report are not the answer to one mail of ours, which went to one recipient.
CANDIDATES_LIMIT = 100

# Recipients of a report that are recorded, and decided about by rules. Postfix reports on 50 recipients at a time
# (default_destination_recipient_limit); a stranger's report on ten thousand would put 8 MB into the state.
RECORDED_LIMIT = 50

# What one report is enough for. A domain that cannot be found is not among them: it may be a slip in a transport table
# of ours, or a name server's bad hour, and would take every recipient behind it.
AT_ONCE = frozenset(("bad-mailbox", "inactive-mailbox", "moved-mailbox", "no-mail-domain"))


def candidates(report: Report) -> list[str]:
    """The recipients that a tag may have been made for: as they were sent to first."""
    found: list[str] = []
    for recipient in report.recipients[:CANDIDATES_LIMIT]:
        found += [address for address in (recipient.original, recipient.address) if address and address not in found]
    return found


def kept(report: Report, verdict: Verdict | None) -> list[Recipient]:
    """The recipients that are recorded: the first ones, and first of all the one that the tag proves."""
    proven = fold(verdict.recipient) if verdict and verdict.recipient else None
    considered = report.recipients[:CANDIDATES_LIMIT]
    about = [one for one in considered if proven in (fold(one.address), fold(one.original))] if proven else []
    return (about + [one for one in considered if one not in about])[:RECORDED_LIMIT]


def event(report: Report, verdict: Verdict | None, content: bytes, to: str, queue_id: str, now: float) -> Event:
    """The event of `report`, which came to address `to`; `content` is the message's digest."""
    authentic = verdict.authentic if verdict else verp.UNVERIFIED
    fields = {
        "to": to,
        "why": verdict.why if verdict else "",
        "proven": verdict.recipient if verdict else "",
        "reader": report.reader,
        "subject": report.subject,
        "message_id": report.message_id,
        "reporting_mta": report.reporting_mta,
        "reported_queue_id": report.queue_id,
        "reported_sender": report.sender,
        "envelope_id": report.envelope_id,
        "arrival_date": report.arrival_date,
        "will_retry_until": report.will_retry_until,
        **report.fields,
    }
    recipients = [_reported(recipient) for recipient in kept(report, verdict)]
    fields["more_recipients"] = str(len(report.recipients) - len(recipients) or "")
    known = {name: value for name, value in fields.items() if value}
    key = _key(report, authentic, content, to)
    return Event(key, int(now), report.kind, authentic, queue_id, recipients, known)


def suppressed(report: Report, verdict: Verdict, queue_id: str, now: float) -> list[Suppression]:
    """What follows from a report: nothing, or the one recipient that the tag proves.

    Only a failure of the address itself counts, and only of the very mailbox: mail to a list or an alias whose one
    member is gone still reaches the others.
    """
    if verdict.authentic != verp.VERIFIED or report.kind != FAILED:
        return []
    about = [one for one in report.recipients if fold(one.original or one.address) == fold(verdict.recipient)]
    about = about or [one for one in report.recipients if fold(one.address) == fold(verdict.recipient)]
    if not about or not all(_gone(one, verdict.recipient) for one in about):
        return []
    said = about[0]
    why = said.diagnostic or said.status
    source = " ".join(word for word in ("bounce", queue_id, report.message_id) if word)
    return [Suppression(verdict.recipient, int(now), said.reason, said.status, why, source)]


def _gone(one: Recipient, sent_to: str) -> bool:
    return one.hard and one.reason in AT_ONCE and _same_mailbox(one.address, sent_to)


def _same_mailbox(final: str, sent_to: str) -> bool:
    """bob@mail.example.com is where bob@example.com lives; bob@example.net may be one of several places behind it."""
    (local, domain), (local_sent, domain_sent) = split_address(fold(final)), split_address(fold(sent_to))
    related = domain == domain_sent or domain.endswith("." + domain_sent) or domain_sent.endswith("." + domain)
    return local == local_sent and related


def _reported(one: Recipient) -> Reported:
    return Reported(
        one.address,
        one.original,
        one.outcome,
        one.status,
        one.category,
        one.reason,
        one.hard,
        one.diagnostic,
        one.remote_mta,
    )


def _key(report: Report, authentic: str, content: bytes, to: str) -> bytes:
    """What tells this report from any other.

    Postfix may deliver one twice, and `postsuper -r` adds a Received line to it: so what it says counts, not its
    bytes, where it has a Message-ID. The verdict is part of it: a forgery with the id of a true report does not
    take its place.
    """
    digest = blake2b(digest_size=20)
    texts = [authentic, to, report.kind, report.message_id or content.hex(), report.arrival_date]
    for one in report.recipients:
        texts += [one.address, one.outcome, one.status]
    for text in texts:
        digest.update(text.encode("utf-8", "surrogateescape") + b"\0")
    return digest.digest()
