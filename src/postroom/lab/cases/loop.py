"""The loop closes: a bounce of our own mail suppresses its recipient; a stranger's forgery suppresses nobody."""

from __future__ import annotations

from collections.abc import Iterator

from postroom.lab.cases import Line, short
from postroom.lab.lab import Lab

GONE, GOOD = "gone@home.test", "good@home.test"


def closes(lab: Lab) -> Iterator[Line]:
    signed = lab.run("verp", "make", GONE, "--config", str(lab.config)).strip()
    reply, _ = lab.rcpt(GONE)
    yield Line(
        f"RCPT TO:<{GONE}>",
        f"replied {short(reply)}",
        "nothing is known against it yet",
        reply is not None and reply.code == 250,
    )
    yield from _bounce_comes_back(lab, signed)
    yield from _refused_from_now_on(lab)
    yield from _forgeries(lab, signed)


def _bounce_comes_back(lab: Lab, signed: str) -> Iterator[Line]:
    queue_id = lab.send(GONE, sender=signed)
    found = lab.wait(queue_id, GONE)
    yield Line(
        f"{queue_id} from <{signed}>",
        f"status={found.status} dsn={found.dsn}",
        found.text.strip(),
        found.status == "bounced",
    )
    dsn = lab.postfix.log.wait_for(rf"{queue_id}: sender non-delivery notification: (\w+)").group(1)
    recorded = lab.wait(dsn, signed)
    yield Line(
        f"{dsn}: Postfix's report to that sender",
        f"status={recorded.status} ({recorded.relay})",
        recorded.text,
        recorded.status == "sent" and recorded.relay == "bounce-record",
    )


def _refused_from_now_on(lab: Lab) -> Iterator[Line]:
    listed = [entry for entry in lab.facts("suppress", "list") if entry["address"] == GONE]
    yield Line(
        "postroom suppress list",
        f"{len(listed)} entry for {GONE}",
        "the report proved that it answers our mail",
        len(listed) == 1,
    )
    reply, _ = lab.rcpt(GONE)
    text = str(reply)
    yield Line(
        f"RCPT TO:<{GONE}>",
        f"replied {short(reply)}",
        "rule suppressed-recipient",
        reply is not None and reply.code == 550 and "since 20" in text and "5.1.1" in text,
    )
    why = lab.run("suppress", "why", GONE, "--config", str(lab.config))
    yield Line(f"postroom suppress why {GONE}", why.splitlines()[0], "", GONE in why)
    lab.run("suppress", "remove", GONE, "--config", str(lab.config))
    reply, _ = lab.rcpt(GONE)
    yield Line(
        "postroom suppress remove, RCPT again",
        f"replied {short(reply)}",
        "the suppression is undone",
        reply is not None and reply.code == 250,
    )


def _forgeries(lab: Lab, signed: str) -> Iterator[Line]:
    for title, to in (
        ("a forged report, to an address with no signature", "bounces@bounces.lab.test"),
        ("a forged report, with a made-up signature", f"bounces+{'a' * 21}@bounces.lab.test"),
        ("a forged report, with the signature of another mail", signed),
    ):
        queue_id = lab.send(to, sender="", message=forged(to, GOOD))
        found = lab.wait(queue_id, to)
        suppressed = [entry for entry in lab.facts("suppress", "list") if entry["address"] == GOOD]
        reply, _ = lab.rcpt(GOOD)
        event = lab.log.wait_for(rf"{queue_id}: .*authentic=(\w+)", timeout=10).group(1)
        yield Line(
            f"{title}, says {GOOD} failed",
            f"status={found.status}, recorded as {event}, {len(suppressed)} suppressed",
            f"RCPT TO:<{GOOD}> is answered {short(reply)}",
            found.status == "sent"
            and event in ("unverified", "forged")
            and not suppressed
            and reply is not None
            and reply.code == 250,
        )


def forged(to: str, victim: str) -> bytes:
    """A report as Postfix would write it, about mail that was never sent."""
    return (
        f"From: MAILER-DAEMON@mx.stranger.test\nTo: {to}\nSubject: Undelivered Mail Returned to Sender\n"
        "Auto-Submitted: auto-replied\nMIME-Version: 1.0\n"
        'Content-Type: multipart/report; report-type=delivery-status; boundary="b1"\n\n'
        "--b1\nContent-Type: text/plain\n\nIt failed.\n\n"
        "--b1\nContent-Type: message/delivery-status\n\nReporting-MTA: dns; mx.stranger.test\n\n"
        f"Final-Recipient: rfc822; {victim}\nOriginal-Recipient: rfc822;{victim}\nAction: failed\nStatus: 5.1.1\n"
        "Diagnostic-Code: smtp; 550 5.1.1 no such user\n\n--b1--\n"
    ).encode()
