"""Delivery by rule: one mail to several recipients, each with its own result."""

from __future__ import annotations

from collections.abc import Iterator

from postroom.lab.cases import Line
from postroom.lab.lab import Lab

# recipient, status, dsn, a part of the reason
EXPECTED = (
    ("box@home.test", "sent", "2.0.0", "maildir"),
    ("relay@home.test", "sent", "2.", "relay"),
    ("smtp@home.test", "sent", "2.", "relay"),
    ("command@home.test", "sent", "2.0.0", "command"),
    ("refused@home.test", "bounced", "5.7.1", "this mailbox takes no mail"),
    ("later@home.test", "deferred", "4.2.1", "being moved"),
)


def by_rule(lab: Lab) -> Iterator[Line]:
    message = b"Subject: one mail, six recipients\n\nHello.\n.leading dot\n"
    before = len(lab.maildir("box"))
    queue_id = lab.send(*(recipient for recipient, *_ in EXPECTED), message=message)
    for recipient, status, dsn, said in EXPECTED:
        found = lab.wait(queue_id, recipient)
        yield Line(
            f"{queue_id} to {recipient}",
            f"status={found.status} dsn={found.dsn}",
            found.text.strip(),
            found.status == status and found.dsn.startswith(dsn) and said in found.text,
        )
    saved = lab.maildir("box")
    content = saved[-1].read_bytes() if saved else b""
    yield Line(
        f"{queue_id} in the maildir",
        f"{len(saved) - before} file",
        "Return-Path, Delivered-To and the message as it was sent",
        len(saved) == before + 1
        and content.startswith(b"Return-Path: <someone@client.test>\n")
        and b"Delivered-To: box@home.test\n" in content
        and content.endswith(b"\n\nHello.\n.leading dot\n"),
    )
