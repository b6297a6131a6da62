"""A syslogd that has stopped reading: Postfix has its answer in time, and it is the answer that belongs to the mail."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from postroom import log

WORDS = ["--", "sender=s@example.com", "recipient=r@example.org", "original_recipient=r@example.org", "queue_id=4Xy"]
REQUEST = b"request=smtpd_access_policy\nprotocol_state=RCPT\nrecipient=r@example.org\n\n"

PIPE = """
import time
from postroom import log
log.DEVICE = {device!r}
from postroom.delivery import *
from postroom.runners.pipe import run
def deliver(mail):
    {body}
run(deliver)
"""
POLICY = """
import time
from postroom import log
log.DEVICE = {device!r}
from postroom.runners.stdio import run
def decide(request):
    {body}
run(decide)
"""


class Stopped:
    """A syslogd as after kill -STOP, its queue full of others' lines."""

    def __init__(self, folder: Path) -> None:
        self.device = str(folder / "dev-log")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.device)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            other.setblocking(False)
            other.connect(self.device)
            try:
                while True:
                    other.send(b"other")
            except BlockingIOError:
                pass

    def drain(self) -> None:
        self.socket.setblocking(False)
        try:
            while True:
                self.socket.recv(65536)
        except BlockingIOError:
            self.socket.settimeout(10)


@pytest.fixture
def stopped(tmp_path: Path) -> Iterator[Stopped]:
    made = Stopped(tmp_path)
    yield made
    made.socket.close()


def start(folder: Path, text: str, stream: int | socket.socket, *words: str) -> "subprocess.Popen[bytes]":
    file = folder / "odd-program.py"
    file.write_text(text)
    return subprocess.Popen(
        [sys.executable, str(file), *words],
        stdin=stream,
        stdout=stream,
        stderr=subprocess.STDOUT,
        env={"PATH": "/usr/bin:/bin", "LANG": "C", "PYTHONPATH": str(Path(log.__file__).parents[1])},
    )


def deliver(stopped: Stopped, folder: Path, body: str, *options: str) -> tuple[int, bytes, float]:
    """Exit status, line and seconds of a delivery."""
    begun = time.monotonic()
    text = PIPE.format(device=stopped.device, body=body)
    process = start(folder, text, subprocess.PIPE, *options, *WORDS)
    output, _ = process.communicate(b"Subject: hello\n\n", timeout=30)
    return process.returncode, output, time.monotonic() - begun


@pytest.mark.parametrize(
    ("body", "status", "line"),
    [
        ("return sent('kept')", 0, b"kept\n"),
        ("return bounced('no such user', '5.1.1')", 67, b"5.1.1 no such user\n"),
        ("print('chatter\\n' * 99); return sent('kept')", 0, b"kept\n"),
        ("1 / 0", 75, b"4.3.0 internal error (ZeroDivisionError), see the mail log\n"),
    ],
)
def test_a_delivery_ends_as_the_handler_said(
    stopped: Stopped, tmp_path: Path, body: str, status: int, line: bytes
) -> None:
    found = deliver(stopped, tmp_path, body)
    assert found[:2] == (status, line)
    assert found[2] < 3


def test_a_delivery_that_ends_just_before_the_deadline_is_not_put_off_by_its_log(
    stopped: Stopped, tmp_path: Path
) -> None:
    """It would be delivered a second time."""
    body = """
    log.info = lambda *_, **__: time.sleep(1.5)
    time.sleep(mail.deadline.remaining() - 0.25)
    return sent('kept')"""
    assert deliver(stopped, tmp_path, body, "--deadline", "2")[:2] == (0, b"kept\n")


def test_a_delivery_past_its_deadline_is_answered_for(stopped: Stopped, tmp_path: Path) -> None:
    status, line, spent = deliver(stopped, tmp_path, "time.sleep(30)", "--deadline", "1")
    assert (status, line) == (75, b"4.3.0 not finished within 1 seconds\n")
    assert spent < 4, "by the thread that watches, not by the kernel"


class Client:
    """smtpd(8), and the program that answers it."""

    def __init__(self, stopped: Stopped, folder: Path, body: str, *options: str) -> None:
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(10)
        self.process = start(folder, POLICY.format(device=stopped.device, body=body), theirs, *options)
        theirs.close()

    def ask(self, request: bytes = REQUEST) -> tuple[bytes, float]:
        begun = time.monotonic()
        self.socket.sendall(request)
        answer = b""
        while not answer.endswith(b"\n\n") and (more := self.socket.recv(4096)):
            answer += more
        return answer, time.monotonic() - begun

    def close(self) -> int:
        self.socket.close()
        return self.process.wait(20)


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        ("request.log['rule'] = 'one'; return 'REJECT no'", b"action=REJECT no\n\n"),
        ("1 / 0", b"action=DEFER_IF_PERMIT 4.3.0 Temporary local problem, try again later\n\n"),
    ],
)
def test_every_client_is_answered_and_the_log_tells_what_it_lacks(
    stopped: Stopped, tmp_path: Path, body: str, answer: bytes
) -> None:
    client = Client(stopped, tmp_path, body)
    spent = []
    for _ in range(20):
        found, seconds = client.ask()
        assert found == answer
        spent.append(seconds)
    assert sum(spent) < 5
    time.sleep(0.2)
    stopped.drain()
    assert client.ask()[0] == answer
    assert b"warning: NOQUEUE: lost=20 (" in stopped.socket.recv(4096)
    assert b": NOQUEUE: " in stopped.socket.recv(4096)
    assert client.close() == 0


def test_the_answer_to_a_handlers_mistake_goes_before_its_line(stopped: Stopped, tmp_path: Path) -> None:
    client = Client(stopped, tmp_path, "log.WAIT_LIMIT = log._syslog._left = 3.0; 1 / 0")
    answer, seconds = client.ask()
    assert answer.startswith(b"action=DEFER_IF_PERMIT 4.3.0")
    assert seconds < 2, "the line waits for three"
    assert client.close() == 0


def test_a_request_past_its_deadline_is_answered_for(stopped: Stopped, tmp_path: Path) -> None:
    client = Client(stopped, tmp_path, "time.sleep(30)", "--deadline", "1")
    answer, seconds = client.ask()
    assert answer.startswith(b"action=DEFER_IF_PERMIT 4.3.0 ")
    assert seconds < 3
    assert client.close() == 75


def test_what_is_no_request_ends_the_conversation_at_once(stopped: Stopped, tmp_path: Path) -> None:
    client = Client(stopped, tmp_path, "return 'DUNNO'")
    begun = time.monotonic()
    client.socket.sendall(b"GET / HTTP/1.1\n\n")
    assert client.process.wait(5) == 75
    assert time.monotonic() - begun < 3
    client.socket.close()
