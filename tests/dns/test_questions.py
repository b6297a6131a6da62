"""What is asked about hosts, domains and clients besides MX: addresses, name servers, lists, names that come back."""

from __future__ import annotations

import socket
import threading
import time

import dns.message
import dns.rrset
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postroom import dns as postroom_dns
from postroom import dnsasker, dnsname
from postroom.deadline import Deadline
from postroom.dns import Resolver
from postroom.rules import Unknown
from postroom.rules.dnsbl import ZONES_LIMIT

LONG = ".".join(["a" * 62] * 4)  # 251 octets: a name, with nothing more before or behind it


@pytest.fixture
def resolver(nsd) -> Resolver:
    return Resolver((nsd.address,))


def reason(answer: object) -> str:
    assert isinstance(answer, Unknown), answer
    return answer.reason


# Addresses


@pytest.mark.parametrize(
    ("host", "found"),
    [
        ("mx.good.test", ("192.0.2.1", "2001:db8::1")),
        ("MX.Good.TEST.", ("192.0.2.1", "2001:db8::1")),
        ("alias.good.test", ("192.0.2.1", "2001:db8::1")),
        ("four.good.test", ("192.0.2.4",)),
        ("six.test", ("2001:db8::7",)),
        ("nx.empty.test", ()),
        ("lost.cname.test", ()),
        ("a.loop.test", ()),
        ("192.0.2.9", ("192.0.2.9",)),
        ("2001:DB8:0::9", ("2001:db8::9",)),
        ("*.good.test", ("192.0.2.99",)),
        ("", ()),
        ("a b", ()),
        ("a..b", ()),
        ("[192.0.2.1]", ()),
        ("a\0b", ()),
        ("\udcff.test", ()),
        (LONG + ".test", ()),
    ],
)
def test_addresses(resolver: Resolver, host: str, found: tuple[str, ...]) -> None:
    assert resolver.addresses(host, Deadline(5)) == found


def test_addresses_that_dns_does_not_tell(resolver: Resolver, nsd) -> None:
    assert (
        reason(resolver.addresses("a.broken.test", Deadline(5))) == f"SERVFAIL from {nsd.address} for A a.broken.test"
    )


def by_kind(**replies: str):
    """A server that answers A and AAAA as given, and SERVFAIL to any type that is left out."""

    def talk(query: bytes) -> list[bytes]:
        message = dns.message.from_wire(query)
        kind = message.question[0].rdtype.name
        if kind not in replies:
            return [query[:2] + b"\x81\x82" + bytes(8)]
        reply = dns.message.make_response(message, recursion_available=True)
        if replies[kind]:
            reply.answer.append(dns.rrset.from_text(message.question[0].name, 60, "IN", kind, replies[kind]))
        return [reply.to_wire()]

    return talk


@pytest.mark.parametrize("known", ["A", "AAAA"])
def test_half_of_the_addresses_is_unknown_not_less(server, known: str) -> None:
    value = "192.0.2.1" if known == "A" else "2001:db8::1"
    other = "AAAA" if known == "A" else "A"
    half = Resolver((server(by_kind(**{known: value})).address,))
    assert f"for {other} a.test" in reason(half.addresses("a.test", Deadline(5)))
    whole = Resolver((server(by_kind(**{known: value, other: ""})).address,))
    assert whole.addresses("a.test", Deadline(5)) == (value,)


def test_a_host_with_thousands_of_addresses_has_a_hundred(server) -> None:
    def reply(query: bytes) -> bytes:
        message = dns.message.make_response(dns.message.from_wire(query), recursion_available=True)
        name = message.question[0].name
        if message.question[0].rdtype == 1:
            texts = [f"10.0.{number // 250}.{number % 250}" for number in range(3000)]
            message.answer.append(dns.rrset.from_text_list(name, 60, "IN", "A", texts))
        return message.to_wire(max_size=65535)

    one = server(
        lambda query: [query[:2] + b"\x83\x80" + query[4:6] + bytes(6) + query[12:-11]],
        lambda query: [len(reply(query)).to_bytes(2) + reply(query)],
    )
    assert len(Resolver((one.address,)).addresses("a.test", Deadline(5))) == dnsasker.MAX_RECORDS


# Name servers


@pytest.mark.parametrize(
    ("domain", "found"),
    [
        ("good.test", ("ns.invalid",)),
        ("Good.Test.", ("ns.invalid",)),
        ("leaf.deep.good.test", ("ns.invalid",)),
        ("nx.empty.test", ("ns.invalid",)),
        ("bücher.test", ("ns.invalid",)),
        ("www.victim.test", ("ns.invalid",)),  # an alias: the name servers of what it stands for
        ("lost.cname.test", ("ns.invalid",)),
        ("", ()),
        ("a b", ()),
        ("192.0.2.1", ()),
        ("2001:db8::1", ()),
        ("[192.0.2.1]", ()),
    ],
)
def test_name_servers(resolver: Resolver, domain: str, found: tuple[str, ...]) -> None:
    assert resolver.name_servers(domain, Deadline(5)) == found


def answered_at(*names: str):
    """A server that has NS records at these names only; and what it was asked."""
    asked: list[str] = []

    def talk(query: bytes) -> list[bytes]:
        message = dns.message.from_wire(query)
        asked.append(message.question[0].name.to_text())
        reply = dns.message.make_response(message, recursion_available=True)
        if asked[-1] in names:
            texts = ["B.Ns.Test.", "a.ns.test."]
            reply.answer.append(dns.rrset.from_text_list(message.question[0].name, 60, "IN", "NS", texts))
        return [reply.to_wire()]

    return talk, asked


def test_the_nearest_parent_that_has_any(server) -> None:
    talk, asked = answered_at("c.test.", "test.")
    resolver = Resolver((server(talk).address,))
    assert set(resolver.name_servers("a.b.c.test", Deadline(5))) == {"a.ns.test", "b.ns.test"}
    assert asked == ["a.b.c.test.", "b.c.test.", "c.test."]


def test_the_root_is_never_asked(server) -> None:
    talk, asked = answered_at(".")
    assert Resolver((server(talk).address,)).name_servers("a.test", Deadline(5)) == ()
    assert asked == ["a.test.", "test."]


def test_a_name_of_many_labels_is_given_up(server) -> None:
    talk, asked = answered_at("test.")
    resolver = Resolver((server(talk).address,))
    deepest = "a." * (dnsname.MAX_PARENTS - 1) + "test"
    assert len(resolver.name_servers(deepest, Deadline(5))) == 2
    del asked[:]
    assert reason(resolver.name_servers("a." + deepest, Deadline(5))).startswith("no name servers within 10 labels")
    assert len(asked) == dnsname.MAX_PARENTS


def test_name_servers_that_dns_does_not_tell(resolver: Resolver) -> None:
    assert "SERVFAIL" in reason(resolver.name_servers("a.broken.test", Deadline(5)))


# Lists


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("192.0.2.2", {"127.0.0.2", "127.0.0.10"}),
        ("::ffff:192.0.2.2", {"127.0.0.2", "127.0.0.10"}),
        ("192.0.2.3", set()),
        ("2001:db8::1", {"127.0.0.3"}),
        ("2001:0DB8:0::0001", {"127.0.0.3"}),
        ("2001:db8::2", set()),
        ("evil.test", {"127.0.1.2"}),
        ("Evil.TEST.", {"127.0.1.2"}),
        ("also.test", {"127.0.1.2"}),
        ("bücher.test", {"127.0.1.3"}),
        ("good.example", set()),
        ("", set()),
        ("[192.0.2.2]", set()),
        ("a b\n.test", set()),
        (LONG, set()),  # with the zone behind it no name that DNS can hold
    ],
)
def test_dnsbl(resolver: Resolver, name: str, found: set[str]) -> None:
    answers = resolver.dnsbl(name, ("bl.test", "empty.bl.example"), Deadline(5))
    assert list(answers) == ["bl.test", "empty.bl.example"]
    assert (set(answers["bl.test"]), answers["empty.bl.example"]) == (found, ())


def test_a_zone_that_fails_is_unknown_and_the_others_are_not(resolver: Resolver) -> None:
    answers = resolver.dnsbl("192.0.2.2", ("broken.test", "bl.test"), Deadline(5))
    assert "SERVFAIL" in reason(answers["broken.test"])
    assert set(answers["bl.test"]) == {"127.0.0.2", "127.0.0.10"}


def partly_silent(good):
    """A server that never answers for names in slow.test, and lists everything else."""

    def talk(query: bytes) -> list[bytes]:
        return [] if b"\4slow\4test" in query else good(kind="A", text="127.0.0.2")(query)

    return talk


def test_sixty_silent_zones_take_as_long_as_one(server, good) -> None:
    resolver = Resolver((server(partly_silent(good)).address,), timeout=0.4)
    zones = tuple(f"z{number}.slow.test" for number in range(60))
    start = time.monotonic()
    answers = resolver.dnsbl("192.0.2.2", (*zones, "quick.test"), Deadline(30))
    assert time.monotonic() - start < 3 * 0.4 * 2  # two tries each; one after the other it would be 48 s
    assert answers["quick.test"] == ("127.0.0.2",)
    assert all("no answer" in reason(answers[zone]) for zone in zones)


def test_many_servers_do_not_make_it_longer(server) -> None:
    resolver = Resolver(tuple(server(lambda _query: []).address for _ in range(3)), timeout=0.4)
    start = time.monotonic()
    assert "no answer" in reason(resolver.dnsbl("192.0.2.2", ("bl.test",), Deadline(30))["bl.test"])
    assert 0.6 < time.monotonic() - start < 1.6


def test_the_deadline_stands_above_the_lists(server, good) -> None:
    resolver = Resolver((server(partly_silent(good)).address,), timeout=5)
    start = time.monotonic()
    answers = resolver.dnsbl("192.0.2.2", ("a.slow.test", "b.slow.test", "quick.test"), Deadline(0.4))
    assert time.monotonic() - start < 1.2
    assert answers["quick.test"] == ("127.0.0.2",)
    assert isinstance(answers["a.slow.test"], Unknown)


def test_no_time_at_all(resolver: Resolver) -> None:
    for answer in resolver.dnsbl("192.0.2.2", ("bl.test", "empty.bl.example"), Deadline(0)).values():
        assert "no time left" in reason(answer)
    assert "no time left" in reason(resolver.fcrdns("192.0.2.1", Deadline(0)))
    assert resolver.dnsbl("192.0.2.2", ("bl.test",), Deadline(5))["bl.test"] != ()  # and nothing of it is kept


def test_more_zones_than_are_asked_at_once_are_unknown(server, good) -> None:
    one = server(good(kind="A", text="127.0.0.2"))
    zones = tuple(f"z{number}.test" for number in range(ZONES_LIMIT + 3))
    answers = Resolver((one.address,)).dnsbl("192.0.2.2", zones, Deadline(10))
    assert [zone for zone in zones if isinstance(answers[zone], Unknown)] == list(zones[-3:])
    assert len(one.queries) == ZONES_LIMIT


def test_where_no_thread_is_to_be_had_they_are_asked_in_turn(resolver, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(postroom_dns, "start_new_thread", refuse)
    answers = resolver.dnsbl("192.0.2.2", ("broken.test", "bl.test", "empty.bl.example"), Deadline(5))
    assert len(answers["bl.test"]) == 2
    assert answers["empty.bl.example"] == ()


def test_no_thread_is_left_behind(server, good) -> None:
    resolver = Resolver((server(partly_silent(good)).address,), timeout=0.2)
    before = threading.active_count()
    resolver.dnsbl("192.0.2.2", tuple(f"z{number}.slow.test" for number in range(20)), Deadline(5))
    time.sleep(0.3)
    with open("/proc/self/status") as status:  # threads of _thread are not in threading's list
        (count,) = [int(line.split()[1]) for line in status if line.startswith("Threads:")]
    assert count <= before + 1


def test_what_is_known_is_not_asked_again_and_failures_are_for_a_moment(server, good) -> None:
    now = [1000.0]
    one = server(partly_silent(good))
    resolver = Resolver((one.address,), timeout=0.2, clock=lambda: now[0])
    zones = ("quick.test", "a.slow.test")
    first = resolver.dnsbl("192.0.2.2", zones, Deadline(5))
    asked = len(one.queries)
    assert resolver.dnsbl("192.0.2.2", zones, Deadline(5))["quick.test"] == first["quick.test"]
    assert len(one.queries) == asked == 3  # the silent one had two tries
    now[0] += dnsasker.FAILURE_TTL + 0.1
    resolver.dnsbl("192.0.2.2", zones, Deadline(5))
    assert len(one.queries) == asked + 2
    now[0] += 300
    resolver.dnsbl("192.0.2.2", ("quick.test",), Deadline(5))
    assert len(one.queries) == asked + 3


def test_what_the_lists_say_of_many_clients_does_not_push_out_plans(server, good, monkeypatch) -> None:
    monkeypatch.setattr(dnsasker, "MAX_WEIGHT", 10)
    resolver = Resolver((server(good()).address,))
    plan = resolver.plan("a.test", Deadline(5))
    for number in range(20):
        resolver.dnsbl(f"192.0.2.{number}", ("bl.test", "other.test"), Deadline(5))
    assert resolver.plan("a.test", Deadline(5)) is plan
    assert resolver._asker.answers.answers._weight <= 10


# Names that come back


@pytest.mark.parametrize(
    ("address", "holds"),
    [
        ("192.0.2.1", True),
        ("::ffff:192.0.2.1", True),
        ("192.0.2.2", False),  # no name
        ("192.0.2.3", False),  # the name of another
        ("192.0.2.4", True),  # one of two names
        ("192.0.2.6", None),  # one is another's, the other unknown
        ("192.0.2.5", None),
        ("192.0.2.7", True),  # by way of RFC 2317
        ("192.0.2.9", False),  # no host name
        ("2001:db8::1", True),
        ("2001:db8::2", False),
        ("198.51.100.1", None),  # REFUSED: this server does not know
        ("unknown", None),
        ("", None),
        ("192.0.2.1\0", None),
    ],
)
def test_fcrdns(resolver: Resolver, address: str, holds: bool | None) -> None:
    answer = resolver.fcrdns(address, Deadline(5))
    assert (None if isinstance(answer, Unknown) else answer) is holds


@pytest.mark.parametrize(("place", "holds"), [("n09.test.", True), ("n10.test.", False)])
def test_only_some_of_many_names_are_looked_at(server, place: str, holds: bool) -> None:
    asked: list[str] = []

    def talk(query: bytes) -> list[bytes]:
        message = dns.message.from_wire(query)
        question = message.question[0]
        asked.append(question.rdtype.name)
        reply = dns.message.make_response(message, recursion_available=True)
        if question.rdtype.name == "PTR":
            names = [f"n{number:02}.test." for number in range(30)]
            reply.answer.append(dns.rrset.from_text_list(question.name, 60, "IN", "PTR", names))
        elif question.name.to_text() == place:
            reply.answer.append(dns.rrset.from_text(question.name, 60, "IN", "A", "192.0.2.1"))
        return [reply.to_wire()]

    assert Resolver((server(talk).address,)).fcrdns("192.0.2.1", Deadline(5)) is holds
    assert (asked.count("A"), asked.count("AAAA")) == (postroom_dns.MAX_NAMES, 0)


# Hostile answers


@pytest.mark.parametrize(
    "text", ["a.test.", "\\000.test.", "a\\.b.test.", "\\255\\255.", ".", "x" * 63 + "." + LONG[:178] + "."]
)
@pytest.mark.parametrize("kind", ["PTR", "CNAME", "NS"])
def test_strange_targets_end_in_an_answer(server, good, kind: str, text: str) -> None:
    resolver = Resolver((server(good(kind=kind, text=text)).address,), timeout=0.3)
    for answer in (
        resolver.fcrdns("192.0.2.1", Deadline(2)),
        resolver.addresses("b.test", Deadline(2)),
        resolver.name_servers("b.test", Deadline(2)),
        resolver.dnsbl("192.0.2.1", ("bl.test",), Deadline(2))["bl.test"],
    ):
        assert isinstance(answer, bool | tuple | Unknown)


def test_records_of_another_name_list_nobody(server) -> None:
    def talk(query: bytes) -> list[bytes]:
        reply = dns.message.make_response(dns.message.from_wire(query), recursion_available=True)
        reply.answer.append(dns.rrset.from_text("9.9.9.9.bl.test.", 60, "IN", "A", "127.0.0.2"))
        return [reply.to_wire()]

    assert Resolver((server(talk).address,)).dnsbl("192.0.2.2", ("bl.test",), Deadline(5)) == {"bl.test": ()}


def test_a_reply_whose_names_point_at_themselves(server) -> None:
    """A compression loop: the codec must end, and it is no answer."""

    def talk(query: bytes) -> list[bytes]:
        plain = query[:12][:10] + b"\0\0" + query[12 : query.index(b"\0", 12) + 5]
        start = len(plain)
        record = bytes([0xC0, start]) + b"\0\x01\0\x01\0\0\0\x3c\0\4\x7f\0\0\2"
        return [plain[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + plain[12:] + record]

    answer = Resolver((server(talk).address,), timeout=0.3).dnsbl("192.0.2.2", ("bl.test",), Deadline(5))["bl.test"]
    assert "malformed reply" in reason(answer)


@settings(max_examples=100, deadline=None)
@given(st.text(), st.text())
def test_nothing_that_is_asked_about_raises(name: str, zone: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    resolver = Resolver((f"127.0.0.1:{port}",), timeout=0.1)
    for answer in (
        resolver.addresses(name, Deadline(0.2)),
        resolver.name_servers(name, Deadline(0.2)),
        resolver.fcrdns(name, Deadline(0.2)),
        *resolver.dnsbl(name, (zone, "bl.test"), Deadline(0.2)).values(),
    ):
        assert isinstance(answer, tuple | Unknown)


def test_a_missing_idna_is_unknown(nsd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "idna", None)
    resolver = Resolver((nsd.address,))
    assert "idna" in reason(resolver.dnsbl("bücher.test", ("bl.test",), Deadline(5))["bl.test"])
    assert "idna" in reason(resolver.name_servers("bücher.test", Deadline(5)))
    assert "idna" in reason(resolver.addresses("bücher.test", Deadline(5)))


# Names


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("192.0.2.10", "10.2.0.192.in-addr.arpa"),
        ("::ffff:192.0.2.10", "10.2.0.192.in-addr.arpa"),
        ("2001:db8::567:89ab", "b.a.9.8.7.6.5.0" + ".0" * 16 + ".8.b.d.0.1.0.0.2.ip6.arpa"),  # RFC 3596's way
    ],
)
def test_reverse_names(address: str, name: str) -> None:
    octets = dnsname.packed(address)
    assert octets is not None
    assert dnsname.reverse_name(octets) == name


@given(st.ip_addresses())
def test_reverse_names_are_those_of_the_standard_library(address) -> None:
    mapped = getattr(address, "ipv4_mapped", None) or address
    octets = dnsname.packed(str(address))
    assert octets == mapped.packed
    assert dnsname.reverse_name(octets) == mapped.reverse_pointer
    assert dnsname.packed(dnsname.unpacked(octets)) == octets
