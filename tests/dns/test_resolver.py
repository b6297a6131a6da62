"""The resolver in front of a real nsd."""

from __future__ import annotations

import socket
import time

import pytest

from postroom.deadline import Deadline
from postroom.dns import Resolver

NOT_FOUND = "bounce 5.4.4 Host or domain name not found"
NULL = "bounce 5.1.0 Domain {} does not accept mail (nullMX)"


@pytest.mark.parametrize(
    ("domain", "state", "hosts", "outcome"),
    [
        ("victim.test", "mx", ((10, "mx1.shadysmtpd.test"), (20, "backup.good.test")), "deliver"),
        ("VICTIM.test.", "mx", ((10, "mx1.shadysmtpd.test"), (20, "backup.good.test")), "deliver"),
        ("equal.test", "mx", ((10, "a.good.test"), (10, "b.good.test")), "deliver"),
        ("implicit.test", "implicit", ((0, "implicit.test"),), "deliver"),
        ("six.test", "implicit", ((0, "six.test"),), "deliver"),
        ("null.test", "null", (), NULL.format("null.test")),
        ("mixed.test", "null", (), NULL.format("mixed.test")),
        ("empty.test", "none", (), NOT_FOUND),
        ("nx.empty.test", "none", (), NOT_FOUND),
        ("www.victim.test", "mx", ((10, "mx1.shadysmtpd.test"), (20, "backup.good.test")), "deliver"),
        ("to.cname.test", "mx", ((10, "mx1.shadysmtpd.test"), (20, "backup.good.test")), "deliver"),
        ("lost.cname.test", "none", (), NOT_FOUND),
        ("mxalias.test", "mx", ((10, "alias.good.test"),), "deliver"),
        ("ip.test", "mx", ((10, "192.0.2.9"),), "deliver"),
        ("malformed.test", "none", (), "bounce 5.4.4 Malformed or unexpected name server reply"),
        ("a.loop.test", "none", (), "bounce 5.4.4 Name server loop"),
        ("bücher.test", "mx", ((10, "mx.good.test"),), "deliver"),
        ("[192.0.2.1]", "literal", ((0, "192.0.2.1"),), "deliver"),
    ],
)
def test_plan(nsd, domain: str, state: str, hosts: tuple, outcome: str) -> None:
    plan = Resolver((nsd.address,)).plan(domain, Deadline(5))
    assert (plan.state, plan.hosts, plan.outcome) == (state, hosts, outcome)


@pytest.mark.parametrize(("domain", "code"), [("broken.test", "SERVFAIL"), ("elsewhere.example", "REFUSED")])
def test_an_error_names_server_code_and_question(nsd, domain: str, code: str) -> None:
    plan = Resolver((nsd.address,)).plan(domain, Deadline(5))
    assert (plan.state, plan.reason) == ("error", f"{code} from {nsd.address} for MX {domain}")
    assert plan.outcome.startswith("defer 4.4.3")


def test_a_reply_too_long_for_udp_comes_by_tcp(nsd) -> None:
    plan = Resolver((nsd.address,)).plan("many.test", Deadline(5))
    assert plan.primary == ("mx0.a-rather-long-label-to-fill-the-packet.many.test",)
    assert plan.notes == ("100 of 200 MX records kept, lowest preference first",)


def test_ttls(nsd) -> None:
    resolver = Resolver((nsd.address,))
    assert resolver.plan("victim.test", Deadline(5)).ttl == 300
    assert resolver.plan("www.victim.test", Deadline(5)).ttl == 60  # the CNAME's
    assert resolver.plan("nx.empty.test", Deadline(5)).ttl == 10  # the SOA's minimum


@pytest.mark.parametrize(
    ("domain", "addresses", "outcome"),
    [
        ("mxalias.test", [("192.0.2.1", "2001:db8::1")], "deliver"),
        ("halfdead.test", [(), ("192.0.2.1", "2001:db8::1")], "deliver"),
        ("dead.test", [()], "defer 4.4.3 Host or domain name not found, try again"),
        ("six.test", [("2001:db8::7",)], "deliver"),
        ("null.test", [], NULL.format("null.test")),
    ],
)
def test_reach(nsd, domain: str, addresses: list, outcome: str) -> None:
    resolver = Resolver((nsd.address,))
    hosts, verdict = resolver.reach(resolver.plan(domain, Deadline(5)), Deadline(5))
    assert ([host.addresses for host in hosts], verdict) == (addresses, outcome)


def test_a_dead_server_costs_no_time_where_another_lives(nsd) -> None:
    dead = free_address()
    resolver = Resolver((dead, nsd.address))
    start = time.monotonic()
    assert resolver.plan("victim.test", Deadline(5)).state == "mx"
    assert time.monotonic() - start < 1
    assert resolver.servers()[0] == ("127.0.0.1", nsd.port)  # and is not the first to be asked from then on


def test_only_dead_servers() -> None:
    one, other = free_address(), free_address()
    plan = Resolver((one, other)).plan("victim.test", Deadline(5))
    assert plan.state == "error"
    assert plan.reason == f"connection refused from {one}, connection refused from {other} for MX victim.test"


def test_servfail_here_is_not_the_last_word_where_another_server_knows(nsd, server, good) -> None:
    knows = server(good(text="10 mx.test."))
    assert Resolver((nsd.address, knows.address)).plan("broken.test", Deadline(5)).primary == ("mx.test",)


def free_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{sock.getsockname()[1]}"
