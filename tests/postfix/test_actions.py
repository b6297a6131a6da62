"""Webhook, relay over TLS, quarantine and the rules for reports, under a real pipe(8) with its queue behind it."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from actions.web import Web, reply
from certificates import Authority

from postroom.lab.lab import Lab, replace
from postroom.postfix.instance import Instance, free_port
from postroom.postfix.maillog import Delivery

SAMPLES = Path(__file__).parents[1] / "data" / "bounces"
GONE = "nosuch@remote.example"


class House:
    """The lab with one more rule, and a second Postfix that only speaks TLS."""

    def __init__(self, lab: Lab, authority: Authority, elsewhere: Instance, tls_port: int) -> None:
        self.lab = lab
        self.authority = authority
        self.elsewhere = elsewhere
        self.tls_port = tls_port
        self._base = lab.config.read_text()

    def rule(self, at: str, action: object, match: str = "") -> None:
        """This rule before all others of its stage, instead of the one before it."""
        head, found, rest = self._base.partition("[[rule]]")
        own = f'[[rule]]\nid = "own"\nat = "{at}"\nmatch = {{ {match} }}\naction = {json.dumps(action)}\n\n'
        replace(self.lab.config, head + own + found + rest)

    def deliver(self, action: object, name: str) -> str:
        """The queue id of a mail to `name`, for which this is the rule."""
        self.rule("deliver", action, f'recipient = "{name}@home.test"')
        return self.lab.send(f"{name}@home.test", message=b"Subject: to %b\n\nbody\n" % name.encode(), inside=True)

    def sent_in_the_end(self, queue_id: str, recipient: str) -> Delivery:
        return self.lab.wait(queue_id, recipient, "sent")

    def statuses(self, queue_id: str) -> set[str]:
        return {line.status for line in self.lab.deliveries(queue_id)}


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with Lab() as lab:
        authority = Authority(_open(lab.folder / "ca"))
        certificate, key = authority.certificate("localhost", "IP:127.0.0.1")
        port = free_port()
        parameters = {
            "default_transport": "discard:",
            "smtpd_tls_cert_file": str(certificate),
            "smtpd_tls_key_file": str(key),
            "smtpd_tls_security_level": "encrypt",
            "smtpd_relay_restrictions": "permit_mynetworks, reject",
        }
        wrapped = f"127.0.0.1:{port} inet n - n - - smtpd\n  -o smtpd_tls_wrappermode=yes\n"
        with Instance(parameters=parameters, services=wrapped) as elsewhere:
            yield House(lab, authority, elsewhere, port)


@pytest.fixture
def web() -> Iterator[Web]:
    """One for each test: mail that another one left in the queue does not come here."""
    server = Web(reply("200 OK"))
    yield server
    server.end()


def _open(folder: Path) -> Path:
    folder.mkdir(mode=0o755)
    return folder


def until(condition: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


# webhook


def test_a_webhook_gets_the_mail(house: House, web: Web) -> None:
    queue_id = house.deliver(f"webhook {web.url('/in/{recipient_user}')}", "hook+x")
    found = house.lab.wait(queue_id, "hook+x@home.test")
    assert (found.status, found.dsn) == ("sent", "2.0.0")
    first, fields, body = web.requests[-1]
    assert first == "POST /in/hook HTTP/1.1"
    assert (fields["postroom-queue-id"], fields["postroom-sender"]) == (queue_id, "someone@client.test")
    assert b"\nDelivered-To: hook+x@home.test\n" in body and body.endswith(b"\n\nbody\n")


@pytest.mark.parametrize(
    ("answer", "status", "dsn"),
    [("422 no", "bounced", "5.6.0"), ("404 no", "deferred", "4.3.0"), ("503 later", "deferred", "4.3.0")],
)
def test_what_the_server_says_is_the_status(house: House, web: Web, answer: str, status: str, dsn: str) -> None:
    web.answers[:] = [reply(answer)]
    queue_id = house.deliver(f"webhook {web.url()}", "hook")
    found = house.lab.wait(queue_id, "hook@home.test")
    assert (found.status, found.dsn) == (status, dsn)
    web.answers[:] = [reply("200 OK")]
    if status == "deferred":
        house.sent_in_the_end(queue_id, "hook@home.test")


def programs(house: House) -> list[int]:
    found = []
    for entry in os.listdir("/proc"):
        try:
            words = Path(f"/proc/{int(entry)}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            continue
        if str(house.lab.place.programs / "rule-deliver").encode() in words[:2]:
            found.append(int(entry))
    return found


def test_killed_in_the_middle_of_a_webhook_the_mail_goes_out_under_the_same_key(house: House, web: Web) -> None:
    """The server has the mail, and we are killed before it answers: once more, and the server can tell that it is."""

    def kill(connection: object) -> None:
        for pid in programs(house):
            os.kill(pid, signal.SIGKILL)

    web.answers[:] = [kill, kill, reply("200 OK")]
    queue_id = house.deliver(f"webhook {web.url()}", "hook")
    house.sent_in_the_end(queue_id, "hook@home.test")
    assert house.statuses(queue_id) == {"deferred", "sent"}
    requests = [request for request in web.requests if request[1]["postroom-queue-id"] == queue_id]
    assert len(requests) == 3
    assert len({fields["idempotency-key"] for _, fields, _ in requests}) == 1
    assert len({body for _, _, body in requests}) == 1


# relay over TLS


@pytest.mark.parametrize("protocol", ["smtps", "smtp+starttls"])
def test_relay_to_a_postfix_that_insists_on_tls(house: House, protocol: str) -> None:
    port = house.tls_port if protocol == "smtps" else house.elsewhere.port
    target = f"{protocol}:[127.0.0.1]:{port}"
    queue_id = house.deliver(f"relay {target} ca={house.authority.ca}", "tls")
    found = house.lab.wait(queue_id, "tls@home.test")
    assert found.status == "sent", found.text
    there = found.text.split("queued as ")[1].split(")")[0]
    house.elsewhere.log.wait_for(rf"{there}: to=<tls@home\.test>.*status=sent")

    waits = house.deliver(f"relay {target}", "tls")
    found = house.lab.wait(waits, "tls@home.test")
    assert (found.status, found.dsn) == ("deferred", "4.7.5"), "whom the system does not know gets no mail"
    queue_id = house.deliver(f"relay smtp:[127.0.0.1]:{house.elsewhere.port}", "clear")
    assert house.lab.wait(queue_id, "clear@home.test").status == "bounced", "530 5.7.0 Must issue a STARTTLS command"
    house.deliver(f"relay {target} ca={house.authority.ca}", "tls")
    house.sent_in_the_end(waits, "tls@home.test")


# quarantine


def test_a_poison_mail_ends_in_the_quarantine_and_the_next_mail_does_not(house: House) -> None:
    box = house.lab.folder / "mail" / "quarantine"
    program = "command /bin/sh -c 'if grep -q ^Subject:.poison; then kill -9 $PPID; fi'"
    house.rule("deliver", [program, f"quarantine {box} after=3"], 'recipient = "poison@home.test"')
    poison = house.lab.send("poison@home.test", message=b"Subject: poison\n\nx\n", inside=True)
    healthy = house.lab.send("poison@home.test", message=b"Subject: healthy\n\nx\n", inside=True)
    assert house.lab.wait(healthy, "poison@home.test").status == "sent"
    found = house.sent_in_the_end(poison, "poison@home.test")
    assert "quarantined after 3 failed attempts" in found.text
    assert [line.status for line in house.lab.deliveries(poison)] == ["deferred"] * 3 + ["sent"]
    (file,) = (box / "new").iterdir()
    content = file.read_bytes()
    assert b"\nX-Postroom-Quarantine-Attempts: 3\n" in content
    assert b"\nSubject: poison\n" in content and content.endswith(b"\n\nx\n")
    assert (
        f"error: {poison}: to=<poison@home.test>, quarantine={box} (after 3 failed attempts: " in house.lab.log.text()
    )


# reports


def test_what_is_no_report_is_forwarded_to_a_person(house: House) -> None:
    before = len(house.lab.maildir("staff"))
    action = f"forward staff@home.test smtp:[127.0.0.1]:{house.lab.inside}"
    house.rule("bounce", action, '"bounce.kind" = "not-a-bounce"')
    message = (SAMPLES / "no-bounce.eml").read_bytes()
    queue_id = house.lab.send("bounces@bounces.lab.test", sender="", message=message, inside=True)
    found = house.lab.wait(queue_id, "bounces@bounces.lab.test")
    assert (found.status, "not-a-bounce" in found.text) == ("sent", True)
    until(lambda: len(house.lab.maildir("staff")) == before + 1)
    content = house.lab.maildir("staff")[-1].read_bytes()
    assert content.startswith(b"Return-Path: <>\n")
    assert message.partition(b"\n\n")[2] in content


def test_a_report_reaches_a_webhook_that_was_down(house: House, web: Web) -> None:
    web.answers[:] = [reply("503 down"), reply("200 OK")]
    house.rule("bounce", ["suppress", f"webhook {web.url()}"], '"bounce.hard" = true')
    to = house.lab.run("verp", "make", GONE, "--config", str(house.lab.config)).strip()
    report = (SAMPLES / "postfix-failed.eml").read_bytes()
    queue_id = house.lab.send(to, sender="", message=report, inside=True)
    house.sent_in_the_end(queue_id, to)
    assert house.statuses(queue_id) == {"deferred", "sent"}
    _, _, body = web.requests[-1]
    assert len(web.requests) == 2
    assert json.loads(body)["suppressed"] == [GONE]
    assert GONE in house.lab.run("suppress", "list", "--config", str(house.lab.config))
