"""docs/cookbook.md, each recipe as it stands there in front of a real Postfix."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from postroom.lab.lab import RELOAD_SECONDS, USER, Lab, replace
from postroom.postfix.session import Reply, Session

COOKBOOK = Path(__file__).parents[2] / "docs" / "cookbook.md"
RECIPES = re.findall(r"^```toml\n((?s:.*?))^```$", COOKBOOK.read_text(), re.MULTILINE)
(LANES,) = re.findall(r"^```\n((?s:slow-google unix.*?))^```$", COOKBOOK.read_text(), re.MULTILINE)

ZONES = {
    "victim.example": "@ MX 10 mx1.shadysmtpd.example.",
    "backup.example": "@ MX 10 mx.good.example.\n@ MX 20 mx1.shadysmtpd.example.",
    "parked.example": "@ MX 0 a.park-mx.example.\n@ MX 5 b.park-mx.example.",
    "gmial.example": "@ MX 0 a.park-mx.example.",
    "good.example": "@ MX 10 mx.good.example.",
    "customer.example": "@ MX 1 aspmx.l.google.com.\n@ MX 5 alt1.aspmx.l.google.com.",
    "office.example": "@ MX 0 office-example.mail.protection.outlook.com.",
    "2.0.192.in-addr.arpa": "7 PTR mail.named.example.\n8 PTR mail.other.example.",
    "named.example": "mail A 192.0.2.7",
    "other.example": "mail A 198.51.100.1",
}


class Kitchen:
    """A lab whose postroom.toml is one recipe, and clients from wherever it takes."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def cook(self, number: int, change: tuple[str, str] = ("", "")) -> None:
        """Recipe `number` comes into force; `change` replaces a text in it that would take too long."""
        lab, recipe = self.lab, RECIPES[number - 1]
        assert change[0] in recipe
        head = f'state = "{lab.state}"\nlog = "{lab.log.path}"\n[dns]\nservers = ["{lab.nameserver.address}"]\n\n'
        replace(lab.config, head + recipe.replace(*change))
        time.sleep(RELOAD_SECONDS)

    def mail(self, recipient: str, sender: str = "a@client.test", **client: str) -> tuple[Reply | None, str]:
        """The answer to RCPT, and the queue id where the mail was taken. `client`: words of XCLIENT."""
        with Session(self.lab.postfix.address) as session:
            session.command("EHLO client.test")
            if client:
                words = " ".join(f"{name}={value}" for name, value in client.items())
                reply = session.command(f"XCLIENT {words}")
                assert reply is not None and reply.code == 220
                session.command("EHLO client.test")
            session.command(f"MAIL FROM:<{sender}>")
            answer = session.command(f"RCPT TO:<{recipient}>")
            if answer is None or answer.code != 250:
                return answer, ""
            session.command("DATA")
            done = session.command("Subject: hello\r\n\r\nhello\r\n.")
            assert done is not None and done.code == 250
            return answer, done.text.split()[-1]


@pytest.fixture(scope="module")
def kitchen() -> Iterator[Kitchen]:
    with Lab(zones=ZONES) as lab:
        lanes = LANES.replace("- 2 smtp", "- 2 discard")
        master = lab.postfix.config_directory / "master.cf"
        master.write_text(master.read_text() + lanes + "fast unix - - n - - discard\n  -o syslog_name=postfix/fast\n")
        # Clients from far away are no relay clients, so that these have to be domains of ours.
        relayed = {"relay_domains": "good.example, filtered.example", "relay_transport": "$default_transport"}
        lab.postfix.set({"smtpd_authorized_xclient_hosts": "127.0.0.0/8", "default_transport": "discard:", **relayed})
        wired = ["--postfix", str(lab.postfix.config_directory), "--user", USER, "--config", str(lab.config)]
        lab.run("wire", "socketmap-lookup", *wired, "--programs", str(lab.place.programs), "--yes")
        yield Kitchen(lab)


def said(answer: Reply | None) -> str:
    assert answer is not None
    return f"{answer.code} {answer.text}"


def test_1_hang_up(kitchen: Kitchen) -> None:
    kitchen.cook(1)
    assert kitchen.mail("listed@victim.example") == (None, "")
    kitchen.lab.postfix.log.wait_for("hangup: RCPT from", timeout=10)
    assert kitchen.mail("other@victim.example")[1]
    assert kitchen.mail("a@backup.example")[1]


def test_2_poisonous_mx(kitchen: Kitchen) -> None:
    kitchen.cook(2)
    answer = said(kitchen.mail("bob@parked.example")[0])
    assert answer.startswith("550 5.7.1 <bob@parked.example>: Recipient address rejected: parked.example is served by ")
    assert answer.endswith("a.park-mx.example, b.park-mx.example, which delivers nothing")
    assert "did you mean gmail.com?" in said(kitchen.mail("bob@gmial.example")[0])
    assert kitchen.mail("bob@good.example")[1]


def test_3_slow_lanes(kitchen: Kitchen) -> None:
    kitchen.cook(3, ("boss@customer.example = smtp:", "boss@customer.example = fast:"))
    for recipient, lane in (
        ("ann@customer.example", "slow-google"),
        ("ann@office.example", "slow-microsoft"),
        ("boss@customer.example", "fast"),
        ("ann@good.example", ""),
    ):
        queue_id = kitchen.mail(recipient)[1]
        kitchen.lab.wait(queue_id, recipient, "sent")
        (line,) = [
            line for line in kitchen.lab.postfix.log.text().splitlines() if queue_id in line and "status=" in line
        ]
        assert f"postfix/{lane}/discard[" in line if lane else " postfix/discard[" in line


def test_3_the_lanes_are_what_postfix_reads(kitchen: Kitchen) -> None:
    folder = kitchen.lab.postfix.config_directory
    done = subprocess.run(["postconf", "-c", str(folder), "-M", "slow-google/unix"], capture_output=True, text=True)
    assert done.stdout.split()[:8] == ["slow-google", "unix", "-", "-", "n", "-", "2", "discard"]
    assert "smtp\n" in LANES


def test_4_a_rate_for_each_login(kitchen: Kitchen) -> None:
    kitchen.cook(4, ('["100/1h", "500/1d"]', '["3/1h", "500/1d"]'))
    ann = {"LOGIN": "ann@example.com"}
    for _ in range(3):
        assert kitchen.mail("bob@good.example", **ann)[1]
    answer = said(kitchen.mail("bob@good.example", **ann)[0])
    assert re.search(
        r"450 4\.7\.1 .*ann@example\.com has sent to too many recipients, please wait 3[4-6]\d\d sec", answer
    )
    for client in ({"LOGIN": "newsletter@example.com"}, {}, {"LOGIN": "bert@example.com"}):
        assert kitchen.mail("bob@good.example", **client)[1]


def test_5_greylisting_the_nameless(kitchen: Kitchen) -> None:
    kitchen.cook(5, ('delay = "5m"', 'delay = "2s"'))
    nameless = {"ADDR": "192.0.2.9", "NAME": "[UNAVAILABLE]"}
    assert "451 4.7.1" in (first := said(kitchen.mail("bob@good.example", **nameless)[0]))
    assert re.search(r"greylisted, please come again in [12] seconds", first)
    assert "451 4.7.1" in said(kitchen.mail("bob@good.example", **{**nameless, "ADDR": "192.0.2.8"})[0])
    # Postfix was not told a name, and DNS has one that leads back: no reason to wait.
    assert kitchen.mail("bob@good.example", **{**nameless, "ADDR": "192.0.2.7"})[1]
    time.sleep(2.2)
    assert kitchen.mail("bob@good.example", **nameless)[1]


def test_6_past_the_filter(kitchen: Kitchen) -> None:
    kitchen.cook(6)
    assert "550 5.7.1" in said(kitchen.mail("ann@filtered.example", ADDR="198.51.100.9")[0])
    assert kitchen.mail("ann@filtered.example", ADDR="192.0.2.77")[1]
    assert kitchen.mail("ann@good.example", ADDR="198.51.100.9")[1]


def test_7_several_actions(kitchen: Kitchen) -> None:
    kitchen.cook(7)
    kitchen.lab.postfix.set({"defer_transports": "discard"})
    recipient = "bob@good.example"
    answer, queue_id = kitchen.mail(recipient, "x@partner.example", ADDR="192.0.2.1")
    assert queue_id, answer
    done = subprocess.run(
        ["postcat", "-c", str(kitchen.lab.postfix.config_directory), "-q", queue_id], capture_output=True, text=True
    )
    assert "\nX-Partner: partner.example\n" in done.stdout
    assert recipient in done.stdout and "archive@example.com" in done.stdout
