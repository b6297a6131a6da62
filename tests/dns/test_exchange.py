"""Servers that are slow, broken, strange or forged: never an exception, never a wait past the deadline."""

from __future__ import annotations

import os
import socket
import time

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroom import dnsquery, mx
from postroom.deadline import Deadline
from postroom.dns import Resolver


def silent(_query: bytes) -> list[bytes]:
    return []


def code(rcode: int, bare: bool = False):
    def talk(query: bytes) -> list[bytes]:
        reply = dns.message.make_response(dns.message.from_wire(query), recursion_available=True)
        reply.set_rcode(rcode)
        return [query[:2] + bytes([0x81, 0x80 | rcode]) + bytes(8) if bare else reply.to_wire()]

    return talk


def test_a_silent_server_ends_with_its_time(server, ask) -> None:
    one = server(silent)
    start = time.monotonic()
    plan = ask(one.address, timeout=0.2)
    assert 0.35 < time.monotonic() - start < 1.5  # two tries
    assert plan.reason == f"no answer within 0.2 s from {one.address} for MX a.test"
    assert len(one.queries) == 2
    assert plan.outcome.startswith("defer 4.4.3")


def test_the_deadline_stands_above_all_tries(server, ask) -> None:
    servers = [server(silent).address for _ in range(3)]
    start = time.monotonic()
    plan = ask(*servers, seconds=0.6, timeout=5)
    assert 0.5 < time.monotonic() - start < 1.2
    assert plan.state == "error"
    assert all(address in plan.reason for address in servers)  # none was left out for lack of time


def test_an_expired_deadline_asks_nobody(server, good, ask) -> None:
    one = server(good())
    plan = ask(one.address, seconds=0)
    assert (plan.state, plan.reason, one.queries) == ("error", "no time left to ask for MX a.test", [])


def test_an_answer_that_comes_too_late_is_none(server, good, ask) -> None:
    def late(query: bytes) -> list[bytes]:
        time.sleep(0.5)
        return good()(query)

    assert ask(server(late).address, timeout=0.1, seconds=0.4).state == "error"


def test_one_lost_packet_is_asked_for_again(server, good, ask) -> None:
    lost: list[bytes] = []

    def talk(query: bytes) -> list[bytes]:
        lost.append(query)
        return [] if len(lost) == 1 else good()(query)

    assert ask(server(talk).address).primary == ("mx.test",)
    assert lost[0][:2] != lost[1][:2]  # a new id for each try
    assert lost[0][10:12] == b"\0\1"
    assert lost[1][10:12] == b"\0\0"  # the second without EDNS, which some firewalls drop


def forgeries(query: bytes) -> list[bytes]:
    """What must not be taken for the answer: forged id, a query, another question, noise."""
    message = dns.message.from_wire(query)
    evil = dns.message.make_response(message, recursion_available=True)
    evil.answer.append(dns.rrset.from_text("a.test.", 9, "IN", "MX", "10 evil.test."))
    wire = evil.to_wire()
    other = dns.message.make_response(dns.message.make_query("b.test", "MX", id=message.id), recursion_available=True)
    other.answer.append(dns.rrset.from_text("a.test.", 9, "IN", "MX", "10 evil.test."))
    wrong_type = wire.replace(b"\1a\4test\0\0\x0f", b"\1a\4test\0\0\x01", 1)
    flipped = bytes([wire[0] ^ 1])
    no_question = wire[:4] + b"\0\0" + wire[6:]
    return [
        flipped + wire[1:],
        wire[:2] + bytes([wire[2] & 0x7F]) + wire[3:],
        wire[:2] + bytes([wire[2] | 0x28]) + wire[3:],
        other.to_wire(),
        wrong_type,
        no_question,
        b"",
        wire[:11],
        wire[:14],
        os.urandom(300),
    ]


def test_forged_and_strange_replies_are_passed_over(server, good, ask) -> None:
    one = server(lambda query: forgeries(query) + good()(query))
    assert ask(one.address).primary == ("mx.test",)


def test_nothing_but_forgeries_is_an_error(server, ask) -> None:
    one = server(forgeries)
    plan = ask(one.address)
    assert (plan.state, plan.reason) == ("error", f"malformed reply from {one.address} for MX a.test")


def test_a_right_reply_from_another_address_is_not_seen(server, good, ask) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.bind(("127.0.0.1", 0))
        clients: list[int] = []

        def talk(query: bytes) -> list[bytes]:
            with open("/proc/net/udp") as table:  # the asking socket: the one that is connected to this server
                remote = f"0100007F:{one.port:04X}"
                rows = [row.split() for row in table if remote in row.split()[2]]
            for row in rows:
                clients.append(int(row[1].partition(":")[2], 16))
                stranger.sendto(good()(query)[0], ("127.0.0.1", clients[-1]))
            return []

        one = server(talk)
        plan = ask(one.address)
    assert clients
    assert plan.state == "error"


def test_a_flood_of_noise_ends_in_time(server, ask) -> None:
    one = server(lambda _query: [os.urandom(50) for _ in range(2000)])
    start = time.monotonic()
    assert ask(one.address, seconds=1).state == "error"
    assert time.monotonic() - start < 2


def test_the_question_in_other_letters_is_still_ours(server, good, ask) -> None:
    one = server(lambda query: [good()(query)[0].replace(b"\1a\4test", b"\1A\4TeST", 1)])
    assert ask(one.address).primary == ("mx.test",)


def test_a_server_that_does_not_know_edns(server, good, ask) -> None:
    def talk(query: bytes) -> list[bytes]:
        return good()(query) if query[10:12] == b"\0\0" else [query[:2] + b"\x81\x81" + bytes(8)]

    one = server(talk)
    assert ask(one.address).primary == ("mx.test",)
    assert len(one.queries) == 2


@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize(
    ("rcode", "outcome"),
    [
        (1, "bounce 5.4.3 Non-recoverable error"),
        (2, "defer 4.4.3 Host or domain name not found, try again"),
        (4, "defer 4.4.3 Host or domain name not found, try again"),
        (5, "defer 4.4.3 Host or domain name not found, try again"),
    ],
)
def test_codes(server, ask, rcode: int, bare: bool, outcome: str) -> None:
    one = server(code(rcode, bare))
    plan = ask(one.address)
    assert (plan.state, plan.outcome) == ("error", outcome)
    assert plan.reason == f"{dns.rcode.to_text(dns.rcode.Rcode(rcode))} from {one.address} for MX a.test"


@pytest.mark.parametrize("rcode", [6, 9, 11, 15])
def test_codes_that_nobody_should_send(server, ask, rcode: int) -> None:
    assert ask(server(code(rcode)).address).outcome == "bounce 5.4.3 Non-recoverable error"


def test_one_soft_failure_among_hard_ones_is_soft(server, ask) -> None:
    assert ask(server(code(1)).address, server(code(2)).address).outcome.startswith("defer")
    assert ask(server(code(2)).address, server(code(1)).address).outcome.startswith("defer")


def test_a_referral_is_no_answer(server, ask) -> None:
    def talk(query: bytes) -> list[bytes]:
        reply = dns.message.make_response(dns.message.from_wire(query))
        reply.authority.append(dns.rrset.from_text("test.", 60, "IN", "NS", "ns.elsewhere.test."))
        return [reply.to_wire()]

    one = server(talk)
    assert ask(one.address).reason == f"referral from {one.address} for MX a.test"


def truncated(query: bytes) -> list[bytes]:
    return [query[:2] + b"\x83\x80" + query[4:6] + bytes(6) + query[12:-11]]  # cut where the OPT record stood


def framed(reply: bytes) -> bytes:
    return len(reply).to_bytes(2) + reply


def test_tcp_byte_by_byte(server, good, ask) -> None:
    def drip(query: bytes) -> list[bytes]:
        return [bytes([byte]) for byte in framed(good()(query)[0])]

    assert ask(server(truncated, drip).address).primary == ("mx.test",)


@pytest.mark.parametrize("tcp", [b"", b"\0", b"\0\0", b"\xff\xff", b"\0\5short", b"\0\x20" + bytes(32)])
def test_tcp_that_breaks_off_or_is_noise(server, ask, tcp: bytes) -> None:
    one = server(truncated, lambda _query: [tcp])
    plan = ask(one.address)
    assert plan.state == "error"
    assert plan.outcome.startswith("defer 4.4.3")


def test_tcp_of_a_server_that_never_ends(server, ask) -> None:
    def endless(_query: bytes) -> list[bytes]:
        time.sleep(0.7)
        return [b"\xff"]

    start = time.monotonic()
    assert ask(server(truncated, endless).address, seconds=0.5).state == "error"
    assert time.monotonic() - start < 1


def test_records_of_other_names_classes_and_types_do_not_count(server, ask) -> None:
    def talk(query: bytes) -> list[bytes]:
        reply = dns.message.make_response(dns.message.from_wire(query), recursion_available=True)
        reply.answer.append(dns.rrset.from_text("b.test.", 60, "IN", "MX", "10 evil.test."))
        reply.answer.append(dns.rrset.from_text("a.test.", 60, "CH", "TXT", "evil"))
        reply.answer.append(dns.rrset.from_text("a.test.", 60, "IN", "TXT", "evil"))
        return [reply.to_wire()]

    assert ask(server(talk).address).state == "none"


def test_a_loop_of_cnames(server, good, ask) -> None:
    one = server(good(text="a.test.", kind="CNAME"))
    assert ask(one.address).outcome == "bounce 5.4.4 Name server loop"
    assert len(one.queries) == 3


@given(st.data())
def test_bytes_of_a_reply_changed_anywhere(data: st.DataObject) -> None:
    """The codec is given a stranger's bytes; what it makes of them is an Answer or a Failure, and the plan stands."""
    reply = dns.message.make_response(dns.message.make_query("a.test", "MX"), recursion_available=True)
    for line in ("10 mx.test.", "20 b.a.test."):
        reply.answer.append(dns.rrset.from_text("a.test.", 60, "IN", "MX", line))
    reply.authority.append(dns.rrset.from_text("test.", 60, "IN", "SOA", "ns.test. h.test. 1 1 1 1 1"))
    wire = bytearray(reply.to_wire())
    for _ in range(data.draw(st.integers(1, 5))):
        wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(wire)))
    for kind in ("MX", "A"):
        try:
            answer = dnsquery._answer(dnsquery._parse(bytes(wire[:cut])), kind)
        except dnsquery.Failure as failure:
            assert failure.text.isprintable()
            continue
        machine = mx.resolution("a.test")
        next(machine)
        try:
            machine.send(answer)
        except StopIteration as end:
            assert isinstance(end.value, mx.Plan)


def test_a_broken_installation_of_dnspython_is_an_error_not_an_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "dns.message", None)
    plan = Resolver(("127.0.0.1",)).plan("a.test", Deadline(5))
    assert plan.state == "error"
    assert plan.reason.startswith("dnspython cannot be loaded")
