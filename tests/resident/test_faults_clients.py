"""Clients that are many, slow, silent, or say too much, while mail flows."""

from __future__ import annotations

import contextlib
import resource
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from resident.house import House
from resident.traffic import trouble

from postroom.handoff import MAGIC

NAMES = ("policy", "socketmap", "tcp_table", "lmtp", "handoff", "health")

# Connections that say nothing. Half of what this process may have open, where that is less: the resident has them, too.
SILENT = min(10_000, resource.getrlimit(resource.RLIMIT_NOFILE)[1] // 2)

MEGABYTE = 1 << 20
LARGE = {
    "policy": b"request=" + b"x" * MEGABYTE,
    "socketmap": b"%d:" % MEGABYTE + b"x" * MEGABYTE + b",",
    "tcp_table": b"get " + b"x" * MEGABYTE + b"\n",
    "lmtp": b"LHLO " + b"x" * MEGABYTE + b"\r\n",
    "handoff": MAGIC + MEGABYTE.to_bytes(4, "big") + b"\0x" * (MEGABYTE // 2),
    "health": b"GET /" + b"x" * MEGABYTE + b" HTTP/1.0\r\n\r\n",
}
SLOW = {
    "policy": b"request=smtpd_access_policy\nprotocol_state=RCPT\n",
    "socketmap": b"20:route a@d1.lmtp.test,",
    "tcp_table": b"get a@d1.lmtp.test\n",
    "lmtp": b"LHLO client.test\r\nMAIL FROM:<s@client.test>\r\n",
    "handoff": MAGIC + b"\0\0\1\0" + b"x" * 100,
    "health": b"GET /status HTTP/1.0\r\n",
}


class Crowd:
    """Connections that are kept open, and closed all together."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.clients: list[socket.socket] = []

    def add(self, name: str, number: int) -> None:
        for _ in range(number):
            self.clients.append(self.house.connect(name))

    def close(self) -> None:
        while self.clients:
            self.clients.pop().close()

    def left(self) -> int:
        """How many the resident has not closed."""
        return sum(not _closed(client) for client in self.clients)


def _closed(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        while client.recv(4096):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
    return True


@pytest.fixture
def crowd(house: House) -> Iterator[Crowd]:
    made = Crowd(house)
    yield made
    made.close()


def test_connections_that_say_nothing(house: House, crowd: Crowd) -> None:
    with trouble(house, f"{SILENT} silent connections", 60) as case:
        for name in ("policy", "socketmap", "tcp_table", "lmtp"):
            crowd.add(name, SILENT // 4)
        time.sleep(3)
        case.watch_memory()
        assert crowd.left() == len(crowd.clients), "there was room for them"
        before = len(case.traffic.injected)
        case.traffic.wait_for(min(before + 5, 60))
        crowd.close()
    assert "fault=resident" not in case.log
    assert not case.duplicates


def test_clients_that_send_a_byte_a_second(house: House, crowd: Crowd) -> None:
    with trouble(house, "a byte a second", 60) as case:
        clients = {name: [house.connect(name) for _ in range(20)] for name in NAMES}
        crowd.clients += [client for some in clients.values() for client in some]
        for second in range(8):
            for name, some in clients.items():
                for client in some:
                    with contextlib.suppress(OSError):  # who is too slow for a health page or a hand-off is hung up on
                        client.send(SLOW[name][second : second + 1])
            time.sleep(1)
        crowd.close()
    assert not case.traffic.tries and not case.deferred
    assert not case.duplicates


def _shout(house: House, name: str, until: float, ends: list[str]) -> None:
    """Requests of a megabyte, one after the other; how each ended."""
    while time.monotonic() < until:
        with house.connect(name) as client:
            try:
                client.sendall(LARGE[name])
                client.shutdown(socket.SHUT_WR)
                while client.recv(65536):
                    pass
                ends.append("closed")
            except ConnectionError:
                ends.append("closed")
            except TimeoutError:
                ends.append(f"{name} neither answered nor closed")


def test_requests_of_a_megabyte(house: House) -> None:
    ends: dict[str, list[str]] = {name: [] for name in NAMES}
    with trouble(house, "requests of 1 MB", 60) as case:
        until = time.monotonic() + 5
        threads = [threading.Thread(target=_shout, args=(house, name, until, ends[name])) for name in NAMES * 2]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        case.watch_memory()
    assert all(found and set(found) == {"closed"} for found in ends.values()), ends
    assert "fault=protocol" in case.log
    assert not case.duplicates


def test_without_descriptors(house: House, crowd: Crowd) -> None:
    house.stop()
    house.start(files=64)
    try:
        with trouble(house, "no descriptors left") as case:
            end = time.monotonic() + 6
            while time.monotonic() < end:
                for name in ("policy", "socketmap", "tcp_table", "lmtp", "handoff"):
                    with contextlib.suppress(OSError):
                        crowd.add(name, 10)
                time.sleep(0.1)
            case.nothing_is_lost()
            crowd.close()
        assert "Too many open files" in case.log
        assert not case.duplicates
    finally:
        house.stop()
        house.start()
