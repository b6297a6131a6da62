"""Keys in Postfix's order, globs, networks."""

import ipaddress
import re
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from postroom.rules.lookup import (
    address_keys,
    fold,
    glob_matches,
    in_nets,
    ip_keys,
    keys_of,
    parents,
    parse_ip,
    part_of,
    without_extension,
)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@pytest.mark.parametrize(
    ("address", "keys"),
    [
        ("bob@a.b.c", ("bob@a.b.c", "a.b.c", ".b.c", ".c", "bob@")),
        ("bob+x@c", ("bob+x@c", "bob@c", "c", "bob+x@", "bob@")),
        ("bob+x+y@c", ("bob+x+y@c", "bob@c", "c", "bob+x+y@", "bob@")),
        ("bob+@c", ("bob+@c", "bob@c", "c", "bob+@", "bob@")),
        ("+x@c", ("+x@c", "c", "+x@")),
        ("", ("<>",)),
        ("postmaster", ("postmaster",)),
        ("a@b@c", ("a@b@c", "c", "a@b@")),
        ("@c", ("@c", "c", "@")),
        ("a@", ("a@", "", "a@")),
        ("mailer-daemon@c", ("mailer-daemon@c", "c", "mailer-daemon@")),
    ],
)
def test_an_address_is_looked_up_in_the_order_of_access_5(address: str, keys: tuple[str, ...]) -> None:
    assert address_keys(address, "+") == keys


def test_the_delimiter_is_a_set_and_may_be_none() -> None:
    assert without_extension("bob-x+y", "+-") == "bob"
    assert without_extension("bob+x", "") == "bob+x"
    assert without_extension("owner-list", "-") == "owner-list"


def test_parents_are_label_aligned_and_few() -> None:
    assert parents("a.b.c") == [".b.c", ".c"]
    assert parents("localhost") == []
    assert parents(".c") == []
    long = parents("x." * 500_000 + "c")
    assert len(long) <= 128
    assert max(map(len, long)) <= 255


@pytest.mark.parametrize(
    ("address", "keys"),
    [
        ("192.0.2.7", ("192.0.2.7", "192.0.2", "192.0", "192")),
        ("2001:db8::7", ("2001:db8::7", "2001:db8", "2001")),
        ("unknown", ("unknown",)),
    ],
)
def test_an_address_of_a_host_is_looked_up_with_its_networks(address: str, keys: tuple[str, ...]) -> None:
    assert ip_keys(address) == keys


@given(st.text("ab*.", max_size=8), st.text("ab.", max_size=10))
@example("*", "")
@example("a*a", "a")
@example("*ab*ab*", "ab")
def test_a_glob_is_what_the_regular_expression_says(pattern: str, text: str) -> None:
    expected = re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text) is not None
    if "*" in pattern:
        assert glob_matches(tuple(pattern.split("*")), text) == expected


def test_a_glob_made_to_be_slow_is_not() -> None:
    start = time.process_time()
    assert not glob_matches(tuple(("*a" * 200 + "*b").split("*")), "a" * 1_000_000)
    assert time.process_time() - start < 2


@given(st.ip_addresses(), st.ip_addresses(), st.integers(0, 128))
def test_networks_hold_what_ipaddress_says(address: Address, other: Address, length: int) -> None:
    for near in (other, type(address)(int(address) ^ 1), type(address)(int(address) ^ 1 << 20)):
        network = ipaddress.ip_network((near, min(length, near.max_prefixlen)), strict=False)
        host_bits = near.max_prefixlen - network.prefixlen
        nets = ((near.version, host_bits, frozenset({int(network.network_address) >> host_bits})),)
        mapped = getattr(address, "ipv4_mapped", None) or address
        parsed = parse_ip(str(address))
        assert parsed == (mapped.version, int(mapped))
        assert in_nets(parsed, nets) == (mapped in network)


@pytest.mark.parametrize(
    "text", ["", "unknown", "1.2.3", "1.2.3.4.5", "::g", "1.2.3.4\0", "[1.2.3.4]", "\udcff", "1" * 10**6]
)
def test_what_is_no_address_is_none(text: str) -> None:
    assert parse_ip(text) is None


def test_ipv4_inside_ipv6_is_ipv4() -> None:
    assert parse_ip("::ffff:192.0.2.1") == parse_ip("192.0.2.1")


@given(
    st.sampled_from(["address", "domain", "ip", "text", "fold", "header"]),
    st.text(max_size=60),
    st.sampled_from(["", "+", "+-"]),
)
def test_any_text_has_keys_and_the_whole_of_it_is_the_first(kind: str, text: str, delimiter: str) -> None:
    value = fold(kind, text)
    keys = keys_of(kind, value, delimiter)
    assert keys[0] == (value or ("<>" if kind == "address" else ""))
    assert part_of(text, "", delimiter) == text


@pytest.mark.parametrize(
    ("part", "expected"),
    [("localpart", "Bob+News"), ("domain", "X.example"), ("extension", "News"), ("", "Bob+News@X.example")],
)
def test_parts_of_an_address_keep_their_case(part: str, expected: str) -> None:
    assert part_of("Bob+News@X.example", part, "+") == expected
