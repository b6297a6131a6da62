"""Delivery status notifications: RFC 3464, and RFC 6533 for addresses in UTF-8.

The Action field decides what happened, never the status code: mail that Postfix gave up on after days comes as
`Action: failed` with `Status: 4.x.x`, a warning as `Action: delayed` with the same code.
"""

from __future__ import annotations

from postroom.bounces import reasons
from postroom.bounces.address import recipient as read_address
from postroom.bounces.scan import Scanned, fields
from postroom.bounces.values import DELAYED, DELIVERED, FAILED, NOTICE, Recipient, Report

TYPE_CHECKING = False
if TYPE_CHECKING:
    Group = dict[bytes, bytes]

TYPES = (b"message/delivery-status", b"message/global-delivery-status")

# No mail system puts more into one report; each costs a row in the store.
RECIPIENTS_LIMIT = 10_000
TEXT_LIMIT = 1000

_IDENTITY = (b"final-recipient", b"original-recipient")
_OF_RECIPIENT = frozenset(
    (*_IDENTITY, b"action", b"status", b"remote-mta", b"diagnostic-code", b"last-attempt-date", b"will-retry-until")
)
# RFC 3464 section 2.3.3; the last two are Postfix's (and sendmail's) answer to `sendmail -bv`.
_OUTCOMES = ("failed", "delayed", "delivered", "relayed", "expanded", "deliverable", "undeliverable")
# Where there is no Action, as from some gateways. A class 4 is taken for the milder of its two meanings.
_BY_CLASS = {"2": "delivered", "4": "delayed", "5": "failed"}


def read(mail: Scanned) -> Report | None:
    for part in mail.parts:
        if part.type in TYPES:
            about, groups = split(part.text())
            if mail.cut and part.end == len(mail.data):
                groups = groups[:-1]  # it may lack the very field that tells a delay from a failure
            found = [recipient for group in groups[:RECIPIENTS_LIMIT] if (recipient := _recipient(group))]
            if found:
                return _report(about, found, groups)
    return None


def split(text: bytes) -> tuple[Group, list[Group]]:
    """The fields about the message, and those of each recipient.

    Blank lines ought to stand between recipients and nowhere else; gateways lose and add them. So a field that
    the recipient has already begins the next one, too, and a recipient without a name is none.
    """
    about: Group = {}
    groups: list[Group] = [{}]
    gap = False
    for name, value in fields(text):
        group = groups[-1]
        if name in _OF_RECIPIENT:
            named = _IDENTITY[0] in group or _IDENTITY[1] in group
            if name in group or (gap and named and name in _IDENTITY):
                groups.append({name: value})
            else:
                group[name] = value
        elif name and not group:
            about.setdefault(name, value)
        gap = not name
    return about, [group for group in groups if _IDENTITY[0] in group or _IDENTITY[1] in group]


def _report(about: Group, recipients: list[Recipient], groups: list[Group]) -> Report:
    report = Report(_kind(recipients), "rfc3464", recipients)
    if report.kind == NOTICE:
        report.fields["class"] = "probe"
    report.reporting_mta = _typed(about.get(b"reporting-mta", b""))
    report.envelope_id = _text(about.get(b"original-envelope-id", b""))
    report.arrival_date = _text(about.get(b"arrival-date", b""))
    report.queue_id = _text(_of_postfix(about, b"-queue-id"))
    report.sender = read_address(_of_postfix(about, b"-sender"))
    report.will_retry_until = next((_text(g[b"will-retry-until"]) for g in groups if b"will-retry-until" in g), "")
    return report


def _of_postfix(about: Group, ending: bytes) -> bytes:
    """X-Postfix-Queue-ID and X-Postfix-Sender, or what main.cf's mail_name makes of their names."""
    return next((value for name, value in about.items() if name.startswith(b"x-") and name.endswith(ending)), b"")


def _kind(recipients: list[Recipient]) -> str:
    outcomes = {recipient.outcome for recipient in recipients}
    if "failed" in outcomes:
        return FAILED
    if "delayed" in outcomes:
        return DELAYED
    # Of `sendmail -bv` nothing was ever delivered, nor should have been: an answer to the person who asked.
    return DELIVERED if outcomes & {"delivered", "relayed", "expanded"} else NOTICE


def _recipient(group: Group) -> Recipient | None:
    final, original = (read_address(group.get(name, b"")) for name in _IDENTITY)
    status = _status(group.get(b"status", b""))
    outcome = _outcome(group.get(b"action", b""), status)
    if not (final or original) or not outcome:
        return None
    found = Recipient(final or original, original, outcome, evidence="rfc3464: Final-Recipient, Action")
    found.diagnostic = _typed(group.get(b"diagnostic-code", b""))
    found.remote_mta = _typed(group.get(b"remote-mta", b""))
    found.smtp = reasons.reply_code(found.diagnostic)
    found.status = reasons.refine(status, found.diagnostic)
    found.reason = reasons.classify(outcome, found.status, found.diagnostic)
    found.category = reasons.CATEGORIES[found.reason]
    found.permanent = outcome == "failed" and found.status.startswith("5.")
    found.hard = reasons.is_hard(outcome, found.status, found.reason)
    return found


def _outcome(action: bytes, status: str) -> str:
    """`Failed (expired)` is written, too."""
    word = action.partition(b"(")[0].strip().lower().decode("ascii", "replace")
    if not word:
        return _BY_CLASS.get(status[:1], "")
    return word if word in _OUTCOMES else ""


def _status(value: bytes) -> str:
    """`5.1.1 (user unknown)` is written, too."""
    found = reasons.codes(value[:TEXT_LIMIT].decode("ascii", "replace"))
    return found[0] if found else ""


def _typed(value: bytes) -> str:
    """What follows the type: `dns; mx.example.com`, `smtp; 550 no such user`."""
    kind, semicolon, rest = value.partition(b";")
    return _text(rest if semicolon and b" " not in kind.strip() else value)


def _text(value: bytes) -> str:
    return value.strip()[:TEXT_LIMIT].decode("utf-8", "replace")
