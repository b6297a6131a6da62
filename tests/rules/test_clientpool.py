"""Which clients are one sender: names that are verified, without their hosts' numbers; else networks."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroom.rules.clientpool import pool

NETWORK = "192.0.2.0/24"


def named(name: str, address: str = "192.0.2.7") -> str:
    return pool(address, name, name)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("mail-ej1-f54.google.com", "google.com"),
        ("MAIL-ej1-f54.Google.com.", "google.com"),
        ("a8-31.smtp-out.amazonses.com", "smtp-out.amazonses.com"),
        ("mout-xforward.gmx.net", "mout-xforward.gmx.net"),
        ("mx1.example.co.uk", "example.co.uk"),
        ("mx1.mx2.example.com", "example.com"),
        ("365.co.uk", "365.co.uk"),
        ("1und1.com", "1und1.com"),
        ("mx1.1und1.com", "1und1.com"),
        ("mx1.gouv.fr", "mx1.gouv.fr"),
        ("mx1.example.de", "example.de"),
        ("mx1.ibm.de", "mx1.ibm.de"),
        ("mail.example.com", "mail.example.com"),
        ("mx_1.example.com", "example.com"),
    ],
)
def test_names(name: str, found: str) -> None:
    assert named(name) == found


@pytest.mark.parametrize(
    "name",
    [
        "unknown", "", "localhost", "mx1", "192.0.2.7", "[192.0.2.7]", "a..example.com", ".example.com",
        "a b.example.com",
        "m\u00fcller.example.com", "\udcff.example.com", "x" * 300 + ".example.com", "0/24.2.0.192.example.com",
        "host-192-0-2-7.isp.example", "7.2.0.192.dyn.isp.example", "ip192000002007.isp.example", "c0000207.isp.example",
        "h192.h0.h2.h7.isp.example",
    ],
)  # fmt: skip
def test_names_that_say_nothing_of_the_sender(name: str) -> None:
    assert named(name) == NETWORK


@pytest.mark.parametrize(
    "name",
    [
        "2001-db8-7--25.isp.example", "2001-db8-7-0-0-0-0-25.dyn.isp.example",
        "p20010db8000700000000000000000025.isp.example",
        "5.2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.7.0.0.0.8.b.d.0.1.0.0.2.isp.example",
    ],
)  # fmt: skip
def test_names_made_of_an_ipv6_address(name: str) -> None:
    assert named(name, "2001:db8:7::25") == "2001:db8:7::/64"
    assert named(name, "2001:db8:8::25") != "2001:db8:8::/64"


def test_a_name_of_an_ipv6_host_is_one() -> None:
    assert named("mx1.example.com", "2001:db8:7::25") == "example.com"
    assert named("mail-ej1-x25.google.com", "2001:db8:7::25") == "google.com"


def test_a_name_that_only_claims_is_not_believed() -> None:
    assert pool("192.0.2.7", "mx1.google.com", "unknown") == NETWORK
    assert pool("192.0.2.7", "mx1.example.net", "mx1.google.com") == NETWORK
    assert pool("192.0.2.7", "", "mx1.google.com") == "google.com"


@pytest.mark.parametrize(
    ("address", "mask", "found"),
    [
        ("192.0.2.255", (24, 64), "192.0.2.0/24"),
        ("192.0.2.255", (32, 64), "192.0.2.255/32"),
        ("192.0.2.255", (1, 64), "128.0.0.0/1"),
        ("2001:DB8:1:2:3::4", (24, 64), "2001:db8:1:2::/64"),
        ("2001:db8:1:2:3::4", (24, 128), "2001:db8:1:2:3::4/128"),
        ("::ffff:192.0.2.9", (24, 64), "192.0.2.0/24"),
        ("unknown", (24, 64), "unknown"),
        ("", (24, 64), ""),
        ("\udcff\0", (24, 64), "\udcff\0"),
    ],
)
def test_networks(address: str, mask: tuple[int, int], found: str) -> None:
    assert pool(address, "unknown", "unknown", mask) == found


@given(st.ip_addresses(), st.integers(1, 32), st.integers(1, 128))
def test_a_network_is_that_of_the_address(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, four: int, six: int
) -> None:
    network = ipaddress.ip_network(pool(str(address), "unknown", "unknown", (four, six)))
    mapped = getattr(address, "ipv4_mapped", None) or address
    assert mapped in network
    assert network.prefixlen == (four if mapped.version == 4 else six)


LABEL = st.text("abc019-", min_size=1, max_size=5)


@given(st.lists(LABEL, min_size=2, max_size=6), LABEL)
def test_hosts_that_differ_in_numbers_are_one_pool_and_it_ends_their_names(labels: list[str], host: str) -> None:
    name = ".".join([*labels, "example"])
    first, second = named("1" + name), named("2" + name)
    if "/" not in first + second:
        assert first == second
        assert ("1" + name).endswith(first) and first.count(".") >= 1


@given(st.text(max_size=40), st.text(max_size=40), st.text(max_size=40))
def test_any_text_has_a_pool(address: str, reverse: str, name: str) -> None:
    assert isinstance(pool(address, reverse, name), str)
