"""Rules of stage bounce in bounce-record: what they add, and what they cannot make unsafe."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from email import message_from_bytes
from typing import Any

import pytest
from actions.conftest import free_port
from actions.scripted import CONVERSATION, Scripted
from actions.web import Web, reply

PROGRAM = "bounce-record"
GONE = "nosuch@remote.example"
RECORDED = (0, "recorded: failed, verified\n")


def rule(place: Any, action: object, match: str = "", more: str = "", name: str = "one") -> None:
    text = f'\n[[rule]]\nid = "{name}"\nat = "bounce"\naction = {json.dumps(action)}\n{more}'
    place.config.write_text(place.config.read_text() + text + (f"match = {{ {match} }}\n" if match else ""))


@pytest.fixture
def web() -> Iterator[Callable[..., Web]]:
    servers: list[Web] = []

    def start(*answers: Any) -> Web:
        servers.append(Web(*(answers or (reply("200 OK"),))))
        return servers[-1]

    yield start
    for server in servers:
        server.end()


@pytest.fixture
def server() -> Iterator[Callable[..., Scripted]]:
    servers: list[Scripted] = []

    def start(script: list[Any] = CONVERSATION) -> Scripted:
        servers.append(Scripted(script))
        return servers[-1]

    yield start
    for one in servers:
        one.end()


def test_record_keeps_a_recipient_from_being_suppressed(place, read_sample) -> None:
    rule(place, "record", '"bounce.recipient" = "remote.example"')
    assert place.run(PROGRAM, read_sample("postfix-failed"), place.signed(GONE)) == RECORDED
    assert place.suppressed() == []
    assert [event.kind for event in place.events()] == ["failed"]
    assert "rule=one: record, " in place.last_line()


@pytest.mark.parametrize(
    ("match", "suppressed"),
    [
        ('"bounce.reason" = "bad-mailbox"', False),
        ('"bounce.hard" = true', False),
        ('"bounce.kind" = "failed", "bounce.authentic" = "verified"', False),
        ('"bounce.status" = "5.1.1"', False),
        ('"header.subject" = "*Undelivered*"', False),
        ('recipient_domain = "bounces.example.com", null_sender = true', False),
        ('"bounce.reason" = "mailbox-full"', True),
        ('"bounce.hard" = false', True),
        ('"bounce.recipient" = "other.example"', True),
    ],
)
def test_what_a_rule_can_go_by(place, read_sample, match: str, suppressed: bool) -> None:
    rule(place, "record", match)
    assert place.run(PROGRAM, read_sample("postfix-failed"), place.signed(GONE)) == RECORDED
    assert bool(place.suppressed()) == suppressed


@pytest.mark.parametrize(("kept", "suppressed"), [("plain@remote.example", [GONE]), (GONE, [])])
def test_each_recipient_has_a_decision_of_its_own(place, read_sample, kept: str, suppressed: list[str]) -> None:
    """Three are reported on; the rule for one of them does not reach the others."""
    message = read_sample("postfix-failed-several").replace(b"policy@remote.example", GONE.encode())
    rule(place, "record", f'"bounce.recipient" = "{kept}"')
    place.run(PROGRAM, message.replace(b"Status: 5.7.1", b"Status: 5.1.1"), place.signed(GONE))
    (event,) = place.events()
    assert (len(event.recipients), event.authentic) == (3, "verified")
    assert event.recipients[0].address == GONE, "the proven one comes first"
    assert place.suppressed() == suppressed


@pytest.mark.parametrize(
    ("recipient", "authentic"),
    [("bounces@bounces.example.com", "unverified"), (f"bounces+{'a' * 21}@bounces.example.com", "forged")],
)
def test_no_rule_suppresses_on_the_word_of_a_stranger(place, read_sample, recipient, authentic) -> None:
    place.key.write_text(place.key.read_text().replace(place.ring[0].id, "a", 1))
    rule(place, "suppress")
    status, output = place.run(PROGRAM, read_sample("postfix-failed"), recipient)
    assert (status, output) == (0, f"recorded: failed, {authentic}\n")
    assert place.suppressed() == []


def test_no_rule_suppresses_for_a_delay(place, read_sample) -> None:
    rule(place, "suppress")
    place.run(PROGRAM, read_sample("postfix-delayed"), place.signed("later@remote.example"))
    assert place.suppressed() == []
    place.run(PROGRAM, read_sample("postfix-failed"), place.signed(GONE))
    assert place.suppressed() == [GONE]


def test_webhook_posts_the_event_once(place, read_sample, web) -> None:
    server = web()
    rule(place, ["suppress", f"webhook {server.url('/b/{bounce.reason}?x={recipient_user}')}"])
    to = place.signed(GONE)
    assert place.run(PROGRAM, read_sample("postfix-failed"), to) == RECORDED
    assert place.run(PROGRAM, read_sample("postfix-failed"), to) == (0, "recorded before\n")
    ((first, fields, body),) = server.requests
    assert first.startswith("POST /b/bad-mailbox?x=bounces")
    assert fields["content-type"] == "application/json"
    facts = json.loads(body)
    (event,) = place.events()
    assert (facts["key"], facts["kind"], facts["authentic"]) == (event.key.hex(), "failed", "verified")
    assert fields["idempotency-key"] == event.key.hex()
    assert facts["queue_id"] == "4Xyz"
    assert facts["suppressed"] == [GONE]
    (one,) = facts["recipients"]
    assert (one["address"], one["status"], one["reason"], one["hard"]) == (GONE, "5.1.1", "bad-mailbox", True)
    assert facts["fields"] == event.fields
    assert place.suppressed() == [GONE]


def test_webhook_alone_suppresses_nobody_and_says_so(place, read_sample, web) -> None:
    server = web()
    rule(place, f"webhook {server.url()}")
    assert place.run(PROGRAM, read_sample("postfix-failed"), place.signed(GONE)) == RECORDED
    assert place.suppressed() == []
    assert json.loads(server.requests[0][2])["suppressed"] == []


@pytest.mark.parametrize("status", ["500 no", "404 no", "410 gone for good", "301 there"])
def test_a_server_that_fails_delays_what_is_done_but_not_what_is_known(place, read_sample, web, status) -> None:
    server = web(reply(status, "5.1.1 no" if status[0] == "4" else ""), reply("200 OK"))
    rule(place, ["suppress", f"webhook {server.url()}"])
    code, output = place.run(PROGRAM, read_sample("postfix-failed"), place.signed(GONE))
    assert (code, output[:2]) == (75, "4."), "never a bounce: it would be a bounce of a bounce"
    assert place.suppressed() == [GONE]
    assert place.run(PROGRAM, read_sample("postfix-failed"), place.signed(GONE))[0] == 0
    assert len(server.requests) == 2
    assert len(place.events()) == 1


def test_of_two_effects_the_one_that_was_done_is_not_repeated(place, read_sample, web) -> None:
    good, bad = web(), web(reply("503 later"), reply("200 OK"))
    rule(place, [f"webhook {bad.url()}", f"webhook {good.url()}"])
    assert place.run(PROGRAM, read_sample("postfix-failed"), place.signed(GONE))[0] == 75
    assert place.run(PROGRAM, read_sample("postfix-failed"), place.signed(GONE))[0] == 0
    assert (len(good.requests), len(bad.requests)) == (1, 2)


def test_forward_hands_the_report_on_as_it_came(place, read_sample, server) -> None:
    one = server()
    rule(place, f"forward staff@example.com {one.target}", '"bounce.kind" = "not-a-bounce"')
    message = read_sample("no-bounce")
    assert place.run(PROGRAM, message, place.signed(GONE))[0] == 0
    one.end()
    lines = [line.rstrip(b"\r\n") for line in one.lines]
    assert lines[1].startswith(b"MAIL FROM:<> ")
    assert lines[2] == b"RCPT TO:<staff@example.com>"
    body = b"\n".join(lines[4 : lines.index(b".")]) + b"\n"
    assert message_from_bytes(body).items() == message_from_bytes(message).items()
    assert body == message


def test_forward_refused_for_good_waits(place, read_sample, server) -> None:
    one = server([*CONVERSATION[:3], b"550 5.1.1 no staff here\r\n"])
    rule(place, f"forward staff@example.com {one.target}")
    code, output = place.run(PROGRAM, read_sample("postfix-failed"), place.signed(GONE))
    assert (code, output.startswith("4.1.1 forward: ")) == (75, True), output
    assert len(place.events()) == 1


def test_nobody_at_the_place_to_forward_to_waits(place, read_sample) -> None:
    rule(place, f"forward staff@example.com smtp:[127.0.0.1]:{free_port()}")
    code, output = place.run(PROGRAM, read_sample("postfix-failed"), place.signed(GONE))
    assert (code, output.startswith("4.4.1 forward: ")) == (75, True), output


def test_what_cannot_be_decided_waits_before_anything_happens(place, read_sample) -> None:
    place.config.write_text(place.config.read_text() + '[list.some]\nfile = "missing"\n')
    rule(place, "suppress", '"bounce.recipient" = "list:some"')
    code, output = place.run(PROGRAM, read_sample("postfix-failed"), place.signed(GONE))
    assert (code, output) == (75, "4.3.0 rule one cannot be decided now\n")
    assert "on_error=list some" in place.last_line()
    assert (place.events(), place.suppressed()) == ([], [])
    (place.folder / "missing").write_text("x@y.example\n")
    assert place.run(PROGRAM, read_sample("postfix-failed"), place.signed(GONE)) == RECORDED
    assert place.suppressed() == [GONE]


def test_a_shadow_rule_decides_nothing(place, read_sample) -> None:
    rule(place, "record", more='mode = "shadow"\n')
    assert place.run(PROGRAM, read_sample("postfix-failed"), place.signed(GONE)) == RECORDED
    assert place.suppressed() == [GONE]
    assert "shadow=one: record" in place.last_line()


def test_a_crowd_in_one_report_is_forwarded_once_and_asked_about_a_few_times(place, web) -> None:
    server = web()
    rule(place, f"webhook {server.url()}")
    groups = "".join(
        f"Final-Recipient: rfc822; u{number}@x.example\nAction: failed\nStatus: 5.1.1\n\n" for number in range(3000)
    )
    message = (
        'Content-Type: multipart/report; report-type=delivery-status; boundary="b"\n\n--b\n\nhi\n--b\n'
        f"Content-Type: message/delivery-status\n\nReporting-MTA: dns; m\n\n{groups}--b--\n"
    )
    assert place.run(PROGRAM, message.encode(), "bounces@bounces.example.com")[0] == 0
    ((_, _, body),) = server.requests
    assert len(json.loads(body)["recipients"]) == 50
    assert place.events()[0].fields["more_recipients"] == "2950"


def test_without_rules_at_bounce_the_rules_are_not_loaded(place, read_sample) -> None:
    """Another stage's rules cost a report nothing."""
    place.config.write_text(place.config.read_text() + '[[rule]]\nid = "x"\nat = "rcpt"\naction = "DUNNO"\n')
    assert place.run(PROGRAM, read_sample("postfix-failed"), place.signed(GONE)) == RECORDED
    assert "rule=" not in place.last_line()
