"""A mail to act on, and a real server to relay it to (smtp-sink(1), of Debian's postfix package)."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from actions.scripted import Scripted

from postroom.actions import lock
from postroom.deadline import Deadline
from postroom.delivery import Mail
from postroom.envelope import Envelope, Recipient
from postroom.message import Message

CONTENT = (
    b"Received: from c.example (c.example [192.0.2.1])\n\tby m.example (Postfix) with ESMTP id 4XyzQ\n"
    b"\tfor <r@example.org>; Sun, 22 Nov 2026 15:04:54 +0100 (CET)\nSubject: hello\n\nbody\n"
)


class Service:
    """What a runner lends: here, a configuration with a state directory and nothing else."""

    def __init__(self, state: str) -> None:
        self.configuration = type("Configuration", (), {"state": state})()


Make = Callable[..., Mail]


@pytest.fixture
def make_mail(tmp_path: Path) -> Make:
    def make(
        content: bytes | Message = CONTENT,
        sender: str = "s@example.com",
        recipient: str = "r@example.org",
        original: str = "",
        seconds: float = 20,
        **values: str,
    ) -> Mail:
        envelope = Envelope([], sender=sender, queue_id="4XyzQ", **values)
        message = content if isinstance(content, Message) else Message.of(content)
        service = Service(str(tmp_path))
        return Mail(envelope, Recipient(recipient, original), message, Deadline(seconds), service)

    return make


@pytest.fixture
def mail(make_mail: Make) -> Mail:
    return make_mail()


class Sink:
    """A running smtp-sink that keeps what it was sent, one file a mail."""

    def __init__(self, folder: Path, target: str, options: list[str]) -> None:
        self.folder = folder
        self.target = target
        program = shutil.which("smtp-sink", path="/usr/sbin:/usr/bin")
        assert program, "smtp-sink is missing: apt-get install postfix"
        user = ["-u", "root"] if os.geteuid() == 0 else []
        arguments = [program, *user, *options, "-d", f"{folder}/%H.", target.removeprefix("inet:"), "50"]
        self.process = subprocess.Popen(arguments, stderr=subprocess.PIPE)

    @property
    def mails(self) -> list[bytes]:
        return [path.read_bytes() for path in sorted(self.folder.iterdir()) if path.stat().st_size]

    def wait(self, connect: Callable[[], None]) -> None:
        end = time.monotonic() + 10
        while self.process.poll() is None:
            try:
                return connect()
            except OSError:
                assert time.monotonic() < end, "smtp-sink does not answer"
                time.sleep(0.01)
        raise AssertionError(self.process.stderr and self.process.stderr.read())


@pytest.fixture
def sink(tmp_path: Path) -> Iterator[Callable[..., tuple[str, Sink]]]:
    """start(protocol, *options) -> (relay target, Sink); the protocol is smtp, lmtp or lmtp:unix."""
    started: list[Sink] = []

    def start(protocol: str, *options: str) -> tuple[str, Sink]:
        folder = tmp_path / f"sink{len(started)}"
        folder.mkdir()
        flags = [*options, "-L"] if protocol.startswith("lmtp") else list(options)
        if protocol == "lmtp:unix":
            path = str(folder.parent / f"socket{len(started)}")
            server = Sink(folder, f"unix:{path}", flags)
            started.append(server)
            server.wait(lambda: _connect(socket.AF_UNIX, path))
            return f"lmtp:unix:{path}", server
        port = free_port()
        server = Sink(folder, f"inet:127.0.0.1:{port}", flags)
        started.append(server)
        server.wait(lambda: _connect(socket.AF_INET, ("127.0.0.1", port)))
        return f"{protocol}:[127.0.0.1]:{port}", server

    yield start
    for server in started:
        server.process.terminate()
        server.process.communicate(timeout=10)


def _connect(family: int, address: object) -> None:
    with socket.socket(family) as probe:
        probe.connect(address)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def scripted() -> Iterator[Callable[..., Scripted]]:
    servers: list[Scripted] = []

    def start(*script: object, **options: int) -> Scripted:
        servers.append(Scripted(*script, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.end()


@pytest.fixture(autouse=True)
def nothing_is_left_open() -> Iterator[None]:
    before = set(os.listdir("/proc/self/fd"))
    yield
    lock._kept.__dict__.clear()  # as where the thread ends
    after = {fd for fd in os.listdir("/proc/self/fd") if fd not in before and os.path.exists(f"/proc/self/fd/{fd}")}
    assert not after, [os.readlink(f"/proc/self/fd/{fd}") for fd in after]
