"""rule-policy, the program itself, over requests that no Postfix sends: it answers or ends, and stays small."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "spawn" / "rule-policy.py"
RULES = """
[list.l]
values = [".x.example", "bücher.example"]
[[rule]]
id = "listed"
at = "rcpt"
match = { sender = ["list:l", "re:^[^@]*@evil"], helo_name = "*x*" }
action = "550 5.7.1 {sender} {helo_name}"
[[rule]]
id = "domain"
at = "rcpt"
match = { recipient_domain = "x.example" }
action = "450 4.7.1 {recipient}"
"""


class Service:
    def __init__(self, folder: Path) -> None:
        config = folder / "postroom.toml"
        (folder / "state").mkdir()
        config.write_text(f'state = "{folder}/state"\nlog = "{folder}/log"\n{RULES}')
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(30)
        environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAM), "--config", str(config)],
            stdin=theirs, stdout=theirs, stderr=theirs, env=environment,
        )  # fmt: skip
        theirs.close()

    def ask(self, lines: bytes) -> bytes:
        """What it says; empty where it has hung up instead."""
        reply = b""
        try:
            self.socket.sendall(b"request=smtpd_access_policy\nprotocol_state=RCPT\n" + lines + b"\n\n")
            while not reply.endswith(b"\n\n"):
                data = self.socket.recv(65536)
                if not data:
                    break
                reply += data
        except (BrokenPipeError, ConnectionResetError):
            return b""
        return reply

    def memory(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    started = Service(tmp_path)
    yield started
    started.socket.close()
    assert started.process.wait(30) in (0, 75)


ANSWERED = {
    "invalid UTF-8": b"sender=\xff\xfe@y.x.example\nhelo_name=x\xc3",
    "control characters": b"sender=\r\t\x1b[2J@y.x.example\nhelo_name=x",
    "several @": b"sender=a@b@c@y.x.example\nhelo_name=x",
    "an equals sign": b"sender=a=b=@y.x.example\nhelo_name=x=y",
    "a name twice": b"sender=a@y.x.example\nsender=b@z.example\nhelo_name=x\nhelo_name=x",
    "no domain": b"sender=y.x.example\nhelo_name=x\nrecipient=a@x.example",
    "A-labels": b"sender=a@XN--bcher-kva.example\nhelo_name=x",
    "U-labels": "sender=a@BÜCHER.example\nhelo_name=x".encode(),
    "an address of 6 KB": b"sender=" + b"a" * 6000 + b"@y.x.example\nhelo_name=x",
    "dots": b"sender=a@" + b"." * 6000 + b".x.example\nhelo_name=" + b"x." * 3000,
    "empty": b"sender=\nhelo_name=\nrecipient=b@x.example",
    "many attributes": b"\n".join(b"a%d=1" % number for number in range(150)) + b"\nrecipient=b@x.example",
}


@pytest.mark.parametrize("name", ANSWERED)
def test_an_odd_request_gets_one_line(service: Service, name: str) -> None:
    reply = service.ask(ANSWERED[name])
    assert reply[:11] in (b"action=550 ", b"action=450 ") and reply.count(b"\n") == 2, reply
    assert len(reply) < 1024 and not set(reply[:-2]) & set(b"\0\r\t\x1b\n")
    reply.decode()
    assert service.ask(b"recipient=b@x.example") == b"action=450 4.7.1 b@x.example\n\n"


@pytest.mark.parametrize(
    "lines",
    [
        b"sender=" + b"a" * (1 << 20) + b"@y.x.example",
        b"sender=" + b"\xff" * (1 << 20),
        b"x" * (1 << 20),
        b"a=b\n" * 100_000,
        b"recipient=" + b"@" * 70_000,
        b"sender=a\0b@y.x.example",
    ],
    ids=["an address of 1 MB", "1 MB of no text", "a name of 1 MB", "100,000 attributes", "70 KB of @", "a NUL"],
)
def test_a_request_that_is_none_ends_the_conversation(service: Service, lines: bytes) -> None:
    """Postfix then asks again, and at last says smtpd_policy_service_default_action."""
    started = time.monotonic()
    reply = service.ask(lines)
    assert reply == b""
    service.process.wait(10)
    assert time.monotonic() - started < 10


def test_a_thousand_odd_requests_leave_nothing_behind(service: Service) -> None:
    service.ask(b"recipient=b@x.example")
    before = service.memory()
    for number in range(1000):
        lines = b"sender=%d" % number + b"a" * 5000 + b"@y.x.example\nhelo_name=x" + b"y" * 5000
        assert service.ask(lines).startswith(b"action=550")
    assert service.memory() < before + 10
