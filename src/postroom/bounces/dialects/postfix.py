"""Postfix's notices to the postmaster (postconf(5) notify_classes): transcripts of sessions, copies of bounces.

They are about other people's sessions and mail. Taken for bounces, they would let a stranger who is refused get our
own users suppressed.
"""

from __future__ import annotations

from postroom.bounces.dialects import rfc3464
from postroom.bounces.scan import Scanned
from postroom.bounces.transcript import Transcript
from postroom.bounces.values import NOTICE, Report

# "$mail_name SMTP server: errors from name[address]" (smtpd_chat.c, smtp_chat.c); the client's carries a port.
_SESSIONS = (
    (b" SMTP server: errors from ", True),
    (b" SMTP client: errors from ", False),
    (b" LMTP client: errors from ", False),
)
_TRANSCRIPT = b"Transcript of session follows."
# bounce_template_file can give other subjects; the words of these are Postfix's own.
_COPIES = (b"postmaster copy: ", b"postmaster warning: ")
_SCAN_LIMIT = 256 * 1024


def read(mail: Scanned) -> Report | None:
    subject = mail.header(b"subject")
    for words, server in _SESSIONS:
        before, found, peer = subject.partition(words)
        if found and b" " not in before:
            return _transcript(mail, peer, server)
    return _copy(mail, subject)


def _transcript(mail: Scanned, peer: bytes, server: bool) -> Report | None:
    if not mail.parts or _TRANSCRIPT not in (text := mail.parts[0].text(_SCAN_LIMIT)):
        return None
    transcript = Transcript(text[text.index(_TRANSCRIPT) :], server)
    name, _, address = peer.strip().decode("utf-8", "replace")[:500].partition("[")
    report = Report(NOTICE, "postfix-transcript")
    report.fields = {
        "class": transcript.klass,
        "side": "server" if server else "client",
        "peer": name,
        "peer_address": address.partition("]")[0],
        "command": transcript.command,
        "reply": transcript.reply,
        "aborted": transcript.aborted,
    }
    return report


def _copy(mail: Scanned, subject: bytes) -> Report | None:
    """A copy of a report to a sender; `Auto-Submitted: auto-generated` tells it from the sender's (auto-replied)."""
    generated = mail.header(b"auto-submitted").strip().lower() == b"auto-generated"
    if not generated and not subject.lower().startswith(_COPIES):
        return None
    report = rfc3464.read(mail)
    if report is None or not report.queue_id:
        return None  # auto-generated, and not by Postfix: other mail systems write that on their reports, too
    report.fields = {"class": _class(report, mail)}
    report.kind = NOTICE
    report.reader = "postfix-copy"
    return report


def _class(report: Report, mail: Scanned) -> str:
    if report.kind == "delayed":
        return "delay"
    # A bounce of the null sender's mail comes whole; of others' mail the postmaster is sent the headers only.
    null = report.sender.lower().startswith("mailer-daemon@")
    whole = mail.returned is not None and mail.returned.type in (b"message/rfc822", b"message/global")
    return "2bounce" if null or whole else "bounce"
