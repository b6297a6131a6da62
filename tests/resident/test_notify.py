"""sd_notify: what goes out, to where, and what is never waited for."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from postroom.resident.notify import Notify


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    name = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(name if request.param == "path" else f"\0{name}")
        made.settimeout(5)
        yield made, name if request.param == "path" else f"@{name}"


def test_each_word(systemd: tuple[socket.socket, str]) -> None:
    heard, address = systemd
    environ = {"NOTIFY_SOCKET": address, "HOME": "/"}
    notify = Notify(environ)
    assert environ == {"HOME": "/"}, "what a worker starts does not speak for the service"
    notify.ready("2 workers")
    assert heard.recv(999) == b"READY=1\nMAINPID=%d\nSTATUS=2 workers" % os.getpid()
    notify.reloading()
    first, second = heard.recv(999).split(b"\n")
    assert first == b"RELOADING=1"
    assert abs(int(second.removeprefix(b"MONOTONIC_USEC=")) / 1e6 - time.monotonic()) < 5
    notify.status("so so")
    assert heard.recv(999) == b"STATUS=so so"
    notify.stopping("bye")
    assert heard.recv(999) == b"STOPPING=1\nSTATUS=bye"


def test_the_watchdog_hears_of_us_at_half_its_time(systemd: tuple[socket.socket, str]) -> None:
    heard, address = systemd
    notify = Notify({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "20000000", "WATCHDOG_PID": str(os.getpid())})
    assert notify.interval == 10
    now = time.monotonic()
    assert notify.pause(now) == 0
    notify.alive(now)
    notify.alive(now + 9)
    assert heard.recv(999) == b"WATCHDOG=1"
    assert notify.pause(now + 4) == 6
    notify.alive(now + 10)
    assert heard.recv(999) == b"WATCHDOG=1"
    heard.setblocking(False)
    with pytest.raises(BlockingIOError):
        heard.recv(999)


@pytest.mark.parametrize("given", [{"WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": ""}])
def test_a_watchdog_that_is_not_for_us(given: dict[str, str]) -> None:
    notify = Notify({"NOTIFY_SOCKET": "/run/no", "WATCHDOG_USEC": "1000", **given})
    assert notify.interval == 0
    assert notify.pause(time.monotonic()) == float("inf")


@pytest.mark.parametrize("address", ["", "relative", "/no/such/socket", "vsock:2:1"])
def test_nobody_there(address: str) -> None:
    notify = Notify({"NOTIFY_SOCKET": address} if address else {})
    notify.ready("x")
    notify.alive(time.monotonic())


def test_a_systemd_that_does_not_read_is_not_waited_for(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        deaf.bind(str(tmp_path / "notify"))
        notify = Notify({"NOTIFY_SOCKET": str(tmp_path / "notify")})
        begun = time.monotonic()
        for _ in range(2000):
            notify.status("x" * 1000)
        assert time.monotonic() - begun < 5
