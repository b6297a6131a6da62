"""The addresses of the hosts, and what becomes of the mail when some or all have none."""

from __future__ import annotations

import pytest

HOSTS = "ok.test 60 A 192.0.2.1\nok.test 60 AAAA 2001:db8::1\nempty.test 60 TXT x\nalias.test 60 CNAME ok.test\n"
FAILING = {"sf.test": "SERVFAIL", "fe.test": "FORMERR"}
NOT_FOUND = "5.4.4 Host or domain name not found"


def reach(world, *targets: str):
    records = "".join(f"a.test 60 MX {n} {target}\n" for n, target in enumerate(targets))
    return world(HOSTS + records, failing=FAILING).reach("a.test")


@pytest.mark.parametrize(
    ("targets", "outcome"),
    [
        (["ok.test"], "deliver"),
        (["nx.test", "ok.test"], "deliver"),
        (["sf.test", "ok.test"], "deliver"),
        (["alias.test"], "deliver"),
        (["192.0.2.7", "nx.test"], "deliver"),
        (["nx.test"], f"bounce {NOT_FOUND}"),
        (["empty.test", "nx.test"], f"bounce {NOT_FOUND}"),
        (["sf.test"], "defer 4.4.3 Host or domain name not found, try again"),
        (["nx.test", "sf.test"], "defer 4.4.3 Host or domain name not found, try again"),
        (["sf.test", "nx.test"], "defer 4.4.4 Host or domain name not found"),
        (["sf.test", "fe.test"], "defer 4.4.3 Non-recoverable error"),
        (["fe.test", "sf.test"], "defer 4.4.3 Host or domain name not found, try again"),
        (["fe.test", "nx.test"], f"bounce {NOT_FOUND}"),
        (["nx.test", "fe.test"], "bounce 5.4.3 Non-recoverable error"),
    ],
)
def test_outcome(world, targets: list[str], outcome: str) -> None:
    assert reach(world, *targets)[1] == outcome


def test_each_host_has_its_addresses_or_its_trouble(world) -> None:
    hosts, _ = reach(world, "alias.test", "192.0.2.7", "nx.test", "empty.test", "sf.test")
    assert [(host.preference, host.name, host.addresses, host.trouble) for host in hosts] == [
        (0, "alias.test", ("192.0.2.1", "2001:db8::1"), ""),
        (1, "192.0.2.7", ("192.0.2.7",), ""),
        (2, "nx.test", (), "no such name (NXDOMAIN)"),
        (3, "empty.test", (), "no address"),
        (4, "sf.test", (), "SERVFAIL from 127.0.0.1:53 for A sf.test"),
    ]


@pytest.mark.parametrize("domain", ["nx.test", "sf.test", "a..b"])
def test_a_plan_without_hosts_keeps_its_outcome(world, domain: str) -> None:
    net = world(HOSTS, failing=FAILING)
    assert net.reach(domain) == ((), net.plan(domain).outcome)


def test_the_implicit_host_and_the_literal(world) -> None:
    net = world(HOSTS)
    assert [host.addresses for host in net.reach("ok.test")[0]] == [("192.0.2.1", "2001:db8::1")]
    assert [host.addresses for host in net.reach("[IPv6:::1]")[0]] == [("::1",)]
