"""Notices: what notify_classes sends is recorded; when the recorder fails they wait, and nothing goes in circles."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from postroom.lab.cases import Line
from postroom.lab.lab import Lab
from postroom.postfix.session import Session

ERROR, DOUBLE = "error@notices.lab.test", "2bounce@notices.lab.test"


def recorded(lab: Lab) -> Iterator[Line]:
    yield _notice(lab, "policy", "a client refused by policy", _provoke_policy)
    yield _notice(lab, "protocol", "a client that speaks nonsense", _provoke_protocol)
    yield _notice(lab, "2bounce", "a bounce that bounces", _provoke_double_bounce)
    yield _listed(lab)
    yield _fails(lab)


def _provoke_policy(lab: Lab) -> None:
    lab.run("suppress", "add", "former@home.test", "--reason", "inactive-mailbox", "--config", str(lab.config))
    with Session(lab.postfix.address) as session:
        session.mail("someone@client.test", ["former@home.test"], b"")


def _provoke_protocol(lab: Lab) -> None:
    with Session(lab.postfix.address) as session:
        for line in ("EHLO client.test", "MAIL FROM someone", "RCPT TO:<a@home.test>", "NONSENSE", "QUIT"):
            session.command(line)


def _provoke_double_bounce(lab: Lab) -> None:
    lab.send("refused@home.test", sender="refused@home.test")


def _notice(lab: Lab, kind: str, title: str, provoke: Callable[[Lab], None]) -> Line:
    since, own = lab.postfix.log.size(), lab.log.size()
    provoke(lab)
    to = DOUBLE if kind == "2bounce" else ERROR
    status = lab.postfix.log.wait_for(rf"to=<{to}>, relay=notify-record.*status=(\w+)", since=since).group(1)
    line = lab.log.wait_for(r"postroom/notify-record\[\d+\]: (.*status=sent.*)$", since=own, timeout=10).group(1)
    return Line(
        f"{title}: notice to {to}",
        f"status={status} by notify-record",
        line.partition(", status=")[0],
        status == "sent" and kind in line,
    )


def _listed(lab: Lab) -> Line:
    kinds = {
        str(event.get("class") or event.get("reason")) for event in lab.facts("bounces", "list", "--kind", "notice")
    }
    return Line(
        "postroom bounces list --kind notice", ", ".join(sorted(kinds)), "", {"policy", "protocol", "2bounce"} <= kinds
    )


def _fails(lab: Lab) -> Line:
    """A notice that cannot be recorded is deferred; no notice is made about a notice."""
    good = lab.config.read_text()
    since = lab.postfix.log.size()
    lab.config.write_text("this is no TOML\n")
    try:
        _provoke_protocol(lab)
        lab.postfix.log.wait_for(rf"to=<{ERROR}>, relay=notify-record.*status=deferred", since=since)
        time.sleep(3)  # several retries: what would go in circles would be seen by now
        made = lab.postfix.log.text(since).count("message-id=<")
    finally:
        lab.config.write_text(good)
    lab.postfix.log.wait_for(rf"to=<{ERROR}>, relay=notify-record.*status=sent", since=since)
    bounced = lab.postfix.log.text(since).count("status=bounced")
    return Line(
        "notify-record itself broken (no TOML)",
        f"status=deferred, {made} mail made, {bounced} bounced; then status=sent",
        "double-bounce mail is never answered, and our fault never bounces",
        made == 1 and bounced == 0,
    )
