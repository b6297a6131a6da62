"""Every sample that Postfix wrote reads as what it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from postroom.bounces import report
from postroom.bounces.report import Report
from postroom.message import Message

SAMPLES = Path(__file__).parents[1] / "data" / "bounces"

# name -> (kind, ((address, original, outcome, status, smtp, reason, hard), ...))
REPORTS = {
    "postfix-failed": (
        "failed",
        (("nosuch@remote.example", "nosuch@remote.example", "failed", "5.1.1", "550", "bad-mailbox", True),),
    ),
    "postfix-failed-several": (
        "failed",
        (
            ("full@remote.example", "full@remote.example", "failed", "5.2.2", "552", "mailbox-full", False),
            ("plain@remote.example", "plain@remote.example", "failed", "5.0.0", "550", "undetermined", False),
            ("policy@remote.example", "policy@remote.example", "failed", "5.7.1", "554", "blocklisted", False),
        ),
    ),
    "postfix-failed-alias": (
        "failed",
        (
            ("full@remote.example", "team@alias.example.com", "failed", "5.2.2", "552", "mailbox-full", False),
            ("nosuch1@remote.example", "team@alias.example.com", "failed", "5.1.1", "550", "bad-mailbox", True),
        ),
    ),
    "postfix-failed-orcpt": (
        "failed",
        (("nosuch2@remote.example", "Fwd+x@alias.example.com", "failed", "5.1.1", "550", "bad-mailbox", True),),
    ),
    "postfix-failed-global": (
        "failed",
        (
            (
                "nosuch\u00fc@remote.example",
                "nosuch\u00fc@remote.example",
                "failed",
                "5.1.1",
                "550",
                "bad-mailbox",
                True,
            ),
        ),
    ),
    "postfix-failed-global-headers": (
        "failed",
        (
            (
                "nosuch\u00fc2@remote.example",
                "nosuch\u00fc2@remote.example",
                "failed",
                "5.1.1",
                "550",
                "bad-mailbox",
                True,
            ),
        ),
    ),
    "postfix-failed-headers-only": (
        "failed",
        (("nosuch@remote.example", "nosuch@remote.example", "failed", "5.1.1", "550", "bad-mailbox", True),),
    ),
    "postfix-failed-program": (
        "failed",
        (("closed@pipe.example", "closed@pipe.example", "failed", "5.2.1", "", "inactive-mailbox", True),),
    ),
    "postfix-failed-quoted": (
        "failed",
        (("nosuch@x@remote.example", "nosuch@x@remote.example", "failed", "5.1.1", "550", "bad-mailbox", True),),
    ),
    "postfix-failed-fake-inside": (
        "failed",
        (("nosuch@remote.example", "nosuch@remote.example", "failed", "5.1.1", "550", "bad-mailbox", True),),
    ),
    "postfix-failed-odd-reply": (
        "failed",
        (("a@garbage.example", "a@garbage.example", "failed", "5.5.0", "", "protocol-error", False),),
    ),
    "postfix-expired": (
        "failed",
        (("down@down.example", "down@down.example", "failed", "4.4.1", "", "expired", False),),
    ),
    "postfix-expired-greylisted": (
        "failed",
        (("later@remote.example", "later@remote.example", "failed", "4.2.0", "450", "expired", False),),
    ),
    "postfix-delayed": (
        "delayed",
        (("later@remote.example", "later@remote.example", "delayed", "4.2.0", "450", "greylisted", False),),
    ),
    "postfix-delivered": (
        "delivered",
        (
            ("x@ok.example", "x@ok.example", "relayed", "2.0.0", "", "undetermined", False),
            ("fine@remote.example", "fine@remote.example", "relayed", "2.0.0", "250", "undetermined", False),
        ),
    ),
    "postfix-expanded": (
        "delivered",
        (("team@alias.example.com", "team@alias.example.com", "expanded", "2.0.0", "", "undetermined", False),),
    ),
    "postfix-probed": (
        "notice",
        (
            ("fine@remote.example", "fine@remote.example", "deliverable", "2.1.5", "250", "undetermined", False),
            ("nosuch@remote.example", "nosuch@remote.example", "undeliverable", "5.1.1", "550", "bad-mailbox", False),
        ),
    ),
    "no-bounce": ("not-a-bounce", ()),
}
NOTICES = sorted(path.stem for path in SAMPLES.glob("notice-*.eml"))


def read(name: str) -> Report:
    return report.read(Message.of((SAMPLES / f"{name}.eml").read_bytes()))


def test_every_sample_is_expected_to_be_something() -> None:
    assert {path.stem for path in SAMPLES.glob("*.eml")} == {*REPORTS, *NOTICES}
    assert len(NOTICES) > 20


@pytest.mark.parametrize("name", REPORTS)
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_a_report_says_what_became_of_whom(name: str, line_end: bytes) -> None:
    data = (SAMPLES / f"{name}.eml").read_bytes().replace(b"\n", line_end)
    found = report.read(Message.of(data))
    recipients = tuple(
        (one.address, one.original, one.outcome, one.status, one.smtp, one.reason, one.hard) for one in found.recipients
    )
    assert (found.kind, recipients) == REPORTS[name]


def test_the_fields_of_the_message() -> None:
    found = read("postfix-delayed")
    assert found.reader == "rfc3464"
    assert found.queue_id == "4jXXmb5G7LzJ9Kd"
    assert found.sender == "bounces+tag@example.com"
    assert found.reporting_mta == "mail.example.com"
    assert found.arrival_date == "Sun, 22 Nov 2026 15:19:27 +0000 (UTC)"
    assert found.will_retry_until == "Sun, 22 Nov 2026 15:19:35 +0000 (UTC)"
    assert found.subject == "Delayed Mail (still being retried)"
    assert found.message_id == "<4jXXmc0MgzzJ9qw@mail.example.com>"
    assert found.fields == {
        "original_message_id": "<5@news.example.com>",
        "original_from": "News <news@example.com>",
        "original_subject": "Delay and expire",
    }
    assert read("postfix-delivered").envelope_id == "env+1"


def test_the_fields_of_a_recipient() -> None:
    (one,) = read("postfix-failed").recipients
    assert one.remote_mta == "mx.remote.example"
    assert one.diagnostic == (
        "550-5.1.1 The email account that you tried to reach does not exist. Please try 550-5.1.1 double-checking the"
        " recipient's email address for typos or 550-5.1.1 unnecessary spaces. Learn more at 550 5.1.1"
        " https://support.remote.example/?p=NoSuchUser x192.5.1.1si1 - gsmtp"
    )
    assert one.permanent
    assert one.category == "invalid"


def test_mail_given_up_after_days_failed_and_is_not_the_fault_of_the_address() -> None:
    (one,) = read("postfix-expired").recipients
    assert (one.outcome, one.permanent, one.hard, one.category) == ("failed", False, False, "infrastructure")


def test_a_forgery_inside_the_returned_message_is_not_read() -> None:
    found = read("postfix-failed-fake-inside")
    assert b"victim@example.org" in (SAMPLES / "postfix-failed-fake-inside.eml").read_bytes()
    assert "victim@example.org" not in repr([(one.address, one.original) for one in found.recipients])


@pytest.mark.parametrize("name", NOTICES)
def test_a_notice_is_of_the_class_that_made_it(name: str) -> None:
    found = read(name)
    assert found.kind == "notice", "taken for a bounce it would suppress our own users"
    words = name.removesuffix("-headers").split("-")
    expected = {"auth": "protocol", "lost": "protocol"}.get(words[2], words[2])
    assert found.fields["class"] == expected
    if words[1] == "copy":
        assert found.reader == "postfix-copy"
        assert found.recipients
    else:
        assert found.reader == "postfix-transcript"
        assert found.fields["side"] == words[1]
        assert found.recipients == ()


def test_a_transcript_names_the_client_the_command_and_the_reply() -> None:
    assert {k: v for k, v in read("notice-server-policy-refused").fields.items() if v} == {
        "class": "policy",
        "side": "server",
        "peer": "client.example.net",
        "peer_address": "192.0.2.7",
        "command": "RCPT TO:<refused@example.com>",
        "reply": "554 5.7.1 <refused@example.com>: Recipient address rejected: policy says no",
    }
    lost = read("notice-server-lost").fields
    assert (lost["command"], lost["reply"], lost["aborted"]) == (
        "NONSENSE", "500 5.5.2 Error: command not recognized", "lost connection",
    )  # fmt: skip
    client = read("notice-client-protocol").fields
    assert (client["peer"], client["peer_address"], client["reply"]) == (
        "mx.remote.example", "192.0.2.25", "999 what do you mean",
    )  # fmt: skip


def test_no_password_of_a_sample_is_kept() -> None:
    for name in ("notice-server-auth", "notice-server-protocol-auth"):
        found = read(name)
        for secret in ("AGpvZQBzM2NyZXQ=", "am9l", "czNjcmV0", "AAAA"):
            assert secret not in repr(found.fields)
    assert read("notice-server-protocol-auth").fields["command"] == "AUTH PLAIN [redacted]"


@pytest.mark.parametrize("name", [*REPORTS, *NOTICES])
def test_cut_anywhere_a_sample_raises_nothing_and_names_nobody_new(name: str) -> None:
    data = (SAMPLES / f"{name}.eml").read_bytes()
    whole = {address for one in read(name).recipients for address in (one.address, one.original)}
    for end in range(0, len(data), 7):
        found = report.read(Message.of(data[:end]))
        for one in found.recipients:
            # Cut inside an address, the beginning of it is what there is to see.
            assert any(address.startswith(one.address) for address in whole)
