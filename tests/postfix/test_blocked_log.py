"""A syslog daemon that has stopped, under a real Postfix: mail is delivered once, and clients are answered in time.

Postfix's own log goes to postlogd(8) here; only our programs speak to the daemon.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from postroom import log
from postroom.lab.lab import RELOAD_SECONDS, Lab, replace

RULES = """
[[rule]]
id = "closed"
at = "rcpt"
match = {{ recipient_localpart = "closed" }}
action = "REJECT no"

[[rule]]
id = "home"
at = "deliver"
action = "maildir {box}"
"""


class House:
    """A lab whose programs log to `daemon`, which is ours, and full."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        device = str(lab.folder / "sockets" / "log")
        module = lab.library / "log.py"
        text = module.read_text()
        assert f'DEVICE = "{log.DEVICE}"' in text
        module.write_text(text.replace(f'DEVICE = "{log.DEVICE}"', f'DEVICE = "{device}"'))
        self.daemon = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.daemon.bind(device)
        Path(device).chmod(0o666)
        self.box = lab.folder / "mail" / "box"
        replace(lab.config, f'state = "{lab.state}"\n' + RULES.format(box=self.box))
        time.sleep(RELOAD_SECONDS)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            other.setblocking(False)
            other.connect(device)
            try:
                while True:
                    other.send(b"other")
            except BlockingIOError:
                pass

    def drained(self) -> list[bytes]:
        self.daemon.setblocking(False)
        found = []
        try:
            while True:
                found.append(self.daemon.recv(65536))
        except BlockingIOError:
            return found

    @property
    def mails(self) -> list[Path]:
        return list((self.box / "new").iterdir()) if self.box.exists() else []


@pytest.fixture
def house() -> Iterator[House]:
    with Lab() as lab:
        made = House(lab)
        yield made
        made.daemon.close()


def test_mail_is_delivered_once_and_clients_are_answered(house: House) -> None:
    begun = time.monotonic()
    queue_id = house.lab.send("somebody@home.test", inside=True)
    delivery = house.lab.postfix.wait_for(rf"{queue_id}: to=<somebody@home.test>.*status=(\w+) \((.*)\)")
    assert delivery.groups() == ("sent", "delivered via rule-deliver service (delivered to maildir)")
    assert time.monotonic() - begun < 10
    assert len(house.mails) == 1

    begun = time.monotonic()
    with house.lab.postfix.session() as smtp:
        smtp.command("EHLO client.test")
        smtp.command("MAIL FROM:<a@client.test>")
        for _ in range(10):
            reply = smtp.command("RCPT TO:<closed@home.test>")
            assert reply is not None and reply.code == 554
        assert time.monotonic() - begun < 5

        time.sleep(1)  # the last of them may still be waited with
        assert set(house.drained()) == {b"other"}
        reply = smtp.command("RCPT TO:<closed@home.test>")
        assert reply is not None and reply.code == 554
        time.sleep(0.5)
    notice, line = house.drained()
    assert b"]: warning: NOQUEUE: lost=10 (" in notice
    assert b"]: NOQUEUE: client=" in line and b"rule=closed" in line
    assert len(house.mails) == 1
