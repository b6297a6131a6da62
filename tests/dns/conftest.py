"""Servers to ask: a real nsd, and a socket that says whatever a test wants it to say."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import dns.flags
import dns.message
import dns.rrset
import pytest

from postroom.deadline import Deadline
from postroom.dns import Resolver
from postroom.lab.nameserver import Nameserver
from postroom.mx import Plan

MANY = "".join(f"@ MX {number} mx{number}.a-rather-long-label-to-fill-the-packet\n" for number in range(200))
ZONES = {
    "victim.test": "@ 300 MX 10 mx1.shadysmtpd.test.\n@ 300 MX 20 Backup.Good.test.\nwww 60 CNAME victim.test.\n",
    "equal.test": "@ MX 10 b.good.test.\n@ MX 10 a.good.test.\n",
    "good.test": "@ MX 10 mx\nmx A 192.0.2.1\nmx AAAA 2001:db8::1\nalias CNAME mx\nfour A 192.0.2.4\n"
    "* A 192.0.2.99\nleaf.deep TXT x\ncut NS ns.elsewhere.test.\n",
    "implicit.test": "@ A 192.0.2.7\n",
    "six.test": "@ AAAA 2001:db8::7\n",
    "null.test": "@ 120 MX 0 .\n",
    "mixed.test": "@ MX 0 .\n@ MX 10 mx.good.test.\n",
    "empty.test": "",
    "cname.test": "to CNAME www.victim.test.\nlost CNAME nx.empty.test.\n",
    "mxalias.test": "@ MX 10 alias.good.test.\n",
    "ip.test": "@ MX 10 192.0.2.9.\n",
    "malformed.test": "@ MX 10 a\\032b.test.\n",
    "many.test": MANY,
    "loop.test": "a CNAME b\nb CNAME a\n",
    "halfdead.test": "@ MX 10 a.broken.test.\n@ MX 20 mx.good.test.\n",
    "dead.test": "@ MX 10 a.broken.test.\n",
    "xn--bcher-kva.test": "@ MX 10 mx.good.test.\n",
    "2.0.192.in-addr.arpa": "1 PTR mx.good.test.\n3 PTR mx.good.test.\n4 PTR four.good.test.\n4 PTR nx.empty.test.\n"
    "5 PTR a.broken.test.\n6 PTR a.broken.test.\n6 PTR mx.good.test.\n7 CNAME 7.0/25\n7.0/25 PTR implicit.test.\n"
    "9 PTR a\\032b.test.\n" + "".join(f"8 PTR h{number:02}.good.test.\n" for number in range(12)),
    "8.b.d.0.1.0.0.2.ip6.arpa": "1" + ".0" * 23 + " PTR mx.good.test.\n",
    "bl.test": "2.2.0.192 A 127.0.0.2\n2.2.0.192 A 127.0.0.10\n2.2.0.192 TXT listed\n"
    "1" + ".0" * 23 + ".8.b.d.0.1.0.0.2 A 127.0.0.3\n"
    "evil.test A 127.0.1.2\nxn--bcher-kva.test A 127.0.1.3\nalso.test CNAME evil.test\n",
    "empty.bl.example": "",
}


@pytest.fixture(scope="package")
def nsd() -> Iterator[Nameserver]:
    with Nameserver(ZONES, servfail=("broken.test",)) as server:
        yield server


Talk = Callable[[bytes], list[bytes]]


def both() -> tuple[socket.socket, socket.socket]:
    """A listening TCP socket and a UDP one with the same port; others on this machine take ports too."""
    while True:
        streams = socket.create_server(("127.0.0.1", 0))
        datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            datagrams.bind(streams.getsockname())
        except OSError:
            streams.close()
            datagrams.close()
            continue
        return streams, datagrams


class Server:
    """A socket on loopback that sends what `talk` makes of each query; over TCP what `tcp` does, byte for byte."""

    def __init__(self, talk: Talk, tcp: Talk | None) -> None:
        self.talk, self.tcp = talk, tcp
        self.queries: list[bytes] = []
        self.streams, self.datagrams = both()
        self.port = self.datagrams.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self.stopped = threading.Event()
        self.threads = [threading.Thread(target=self.serve), threading.Thread(target=self.serve_tcp)]
        for sock in (self.datagrams, self.streams):
            sock.settimeout(0.05)
        for thread in self.threads:
            thread.start()

    def serve(self) -> None:
        while not self.stopped.is_set():
            try:
                query, client = self.datagrams.recvfrom(4096)
            except TimeoutError:
                continue
            self.queries.append(query)
            for reply in self.talk(query):
                self.datagrams.sendto(reply, client)

    def serve_tcp(self) -> None:
        while not self.stopped.is_set():
            try:
                connection, _ = self.streams.accept()
            except TimeoutError:
                continue
            with connection:
                query = connection.recv(4096)[2:]
                for piece in self.tcp(query) if self.tcp else []:
                    connection.sendall(piece)

    def stop(self) -> None:
        self.stopped.set()
        for thread in self.threads:
            thread.join()
        self.datagrams.close()
        self.streams.close()


@pytest.fixture
def server() -> Iterator[Callable[..., Server]]:
    started: list[Server] = []

    def start(talk: Talk, tcp: Talk | None = None) -> Server:
        started.append(Server(talk, tcp))
        return started[-1]

    yield start
    for one in started:
        one.stop()


def answering(ttl: int = 300, text: str = "10 mx.test.", kind: str = "MX") -> Talk:
    """A server that has this record for every name and every type."""

    def talk(query: bytes) -> list[bytes]:
        message = dns.message.from_wire(query)
        reply = dns.message.make_response(message, recursion_available=True)
        reply.answer.append(dns.rrset.from_text(message.question[0].name, ttl, "IN", kind, text))
        return [reply.to_wire()]

    return talk


@pytest.fixture
def good() -> Callable[..., Talk]:
    return answering


@pytest.fixture
def ask() -> Callable[..., Plan]:
    """The plan of a.test by one or more servers, each by its address."""

    def plan(*servers: str, domain: str = "a.test", seconds: float = 5, timeout: float = 0.3) -> Plan:
        return Resolver(servers, timeout=timeout).plan(domain, Deadline(seconds))

    return plan
