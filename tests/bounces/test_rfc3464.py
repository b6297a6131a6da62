"""Report parts as gateways leave them."""

from __future__ import annotations

import pytest

from postroom.bounces import report
from postroom.bounces.address import recipient, unquote
from postroom.bounces.dialects.rfc3464 import split
from postroom.message import Message

HEAD = (
    b"Subject: Undelivered\nContent-Type: multipart/report; boundary=b\n\n--b\n\nIt failed.\n"
    b"--b\nContent-Type: message/delivery-status\n\n"
)


def read(part: bytes) -> report.Report:
    return report.read(Message.of(HEAD + part + b"\n--b--\n"))


def outcomes(part: bytes) -> list[tuple[str, str, str]]:
    return [(one.address, one.outcome, one.status) for one in read(part).recipients]


A = b"Final-Recipient: rfc822; a@x.example\nAction: failed\nStatus: 5.1.1\n"
B = b"Original-Recipient: rfc822;b@x.example\nFinal-Recipient: RFC822;b@x.example\nAction: delayed\nStatus: 4.4.1\n"
BOTH = [("a@x.example", "failed", "5.1.1"), ("b@x.example", "delayed", "4.4.1")]


@pytest.mark.parametrize(
    "part",
    [
        b"Reporting-MTA: dns; m\n\n" + A + b"\n" + B,
        b"Reporting-MTA: dns; m\n" + A + b"\n" + B,  # no blank line after the message's fields
        A + b"\n" + B,
        A + B,  # nor between the recipients
        A.replace(b"\nAction", b"\n\nAction") + b"\n\n\n" + B.replace(b"\nStatus", b"\n\nStatus"),  # within one
        A.lower() + b"\n" + B.upper().replace(b"X.EXAMPLE", b"x.example").replace(b"B@", b"b@"),
        A.replace(b": ", b" :\n  ") + b" \t\n" + B,
    ],
)
def test_recipients_are_told_apart(part: bytes) -> None:
    assert outcomes(part) == BOTH


def test_the_worst_outcome_is_the_kind() -> None:
    assert read(A + b"\n" + B).kind == "failed"
    assert read(B).kind == "delayed"
    assert read(B.replace(b"delayed", b"relayed")).kind == "delivered"
    assert read(B + b"\n" + A.replace(b"failed", b"delivered")).kind == "delayed"


@pytest.mark.parametrize(
    ("fields", "outcome"),
    [
        (b"Action: Failed (expired)\nStatus: 4.4.7\n", "failed"),
        (b"Action: failed\nStatus: 4.2.2\n", "failed"),
        (b"Action: delayed\nStatus: 5.0.0\n", "delayed"),
        (b"Status: 5.1.1\n", "failed"),
        (b"Status: 4.4.1\n", "delayed"),
        (b"Status: 2.0.0\n", "delivered"),
    ],
)
def test_the_action_decides_and_the_code_only_without_one(fields: bytes, outcome: str) -> None:
    (found,) = outcomes(b"Final-Recipient: rfc822; a@x\n" + fields)
    assert found[1] == outcome


@pytest.mark.parametrize("fields", [b"", b"Action: whatever\nStatus: 5.1.1\n", b"Status: unknown\n", b"Action: =\n"])
def test_without_an_outcome_there_is_no_recipient(fields: bytes) -> None:
    assert outcomes(b"Final-Recipient: rfc822; a@x\n" + fields) == []


@pytest.mark.parametrize(
    ("status", "diagnostic", "expected"),
    [
        (b"5.1.1 (user unknown)", b"smtp; 550 no", "5.1.1"),
        (b"5.0.0", b"smtp; 550 5.1.1 no such user", "5.1.1"),
        (b"5.0.0", b"smtp; 550-5.2.1 a 550 5.2.1 b", "5.2.1"),
        (b"5.0.0", b"smtp; 550 see 192.5.1.1", "5.0.0"),
        (b"5.0.0", b"smtp; 550 5.7.26, ask https://x.example/5.1.1", "5.7.26"),
        (b"5.0.0", b"smtp; 450 4.2.2 full", "5.0.0"),
        (b"5.1.2", b"smtp; 550 5.1.1 no", "5.1.2"),
        (b"", b"smtp; 550 #5.1.1 no", "5.1.1"),
        (b"nonsense", b"smtp; 550 (5.2.2)", "5.2.2"),
    ],
)
def test_the_code_that_says_more_counts(status: bytes, diagnostic: bytes, expected: str) -> None:
    part = b"Final-Recipient: rfc822; a@x\nAction: failed\nStatus: " + status + b"\nDiagnostic-Code: " + diagnostic
    assert [found[2] for found in outcomes(part)] == [expected]


def test_only_the_original_recipient_is_better_than_none() -> None:
    assert outcomes(B.replace(b"Final-Recipient: RFC822;b@x.example\n", b"")) == [("b@x.example", "delayed", "4.4.1")]
    (one,) = read(
        A.replace(b"a@x.example", b"|/usr/bin/procmail") + b"Original-Recipient: rfc822;a@x.example\n"
    ).recipients
    assert (one.address, one.original) == ("a@x.example", "a@x.example")


@pytest.mark.parametrize(
    ("field", "address"),
    [
        (b"rfc822; Bob@Example.com", "Bob@Example.com"),
        (b"rfc822;bob@example.com.", "bob@example.com"),
        (b"RFC822 ; <bob@example.com>", "bob@example.com"),
        (b"bob@example.com", "bob@example.com"),
        (b"rfc822; smtp:bob@example.com", "bob@example.com"),
        (b"SMTP; bob@example.com", "bob@example.com"),
        (b"rfc822; <mailto:bob@example.com>", "bob@example.com"),
        (b"rfc822; @a.example,@b.example:bob@example.com", "bob@example.com"),
        (b'rfc822; "john doe"@example.com', "john doe@example.com"),
        (b'rfc822; "a\\"b\\\\c"@example.com', 'a"b\\c@example.com'),
        (b"rfc822; a@b@example.com", "a@b@example.com"),
        (b"rfc822; user+tag=x@example.com", "user+tag=x@example.com"),
        (b"rfc822; a!b!c%d@example.com", "a!b!c%d@example.com"),
        ("utf-8; j\u00f6rg@b\u00fccher.example".encode(), "j\u00f6rg@b\u00fccher.example"),
        (b"utf-8; j\\x{F6}rg@example.com", "j\u00f6rg@example.com"),
        (b"utf-8; \\x{110000}\\x{zz}\\x{41@example.com", "\\x{110000}\\x{zz}\\x{41@example.com"),
        (b"rfc822; \xff@example.com", "\udcff@example.com"),
        (b"rfc822; ", ""),
        (b"rfc822; bob", ""),
        (b"rfc822; @example.com", ""),
        (b"rfc822; bob@", ""),
        (b"rfc822; |/usr/bin/procmail@example.com", ""),
        (b"rfc822; /var/mail/bob@example.com", ""),
        (b"rfc822; bob@exa mple.com", ""),
        (b"rfc822; bob@example.com, carol@example.com", "bob@example.com, carol@example.com"),
        (b"rfc822; b\x07b@example.com", ""),
        (b"rfc822; " + b"x" * 2000 + b"@example.com", ""),
    ],
)  # fmt: skip
def test_addresses(field: bytes, address: str) -> None:
    assert recipient(field) == address


def test_an_address_typed_or_read_is_unquoted_once() -> None:
    assert unquote('"john doe"@example.com') == "john doe@example.com"
    assert unquote("john doe@example.com") == "john doe@example.com"


def test_mail_name_may_be_another() -> None:
    found = read(b"Reporting-MTA: dns; m\nX-Mymail-Queue-ID: 4Xyz\nX-Mymail-Sender: rfc822; a@b\n\n" + A)
    assert (found.queue_id, found.sender) == ("4Xyz", "a@b")


def test_what_belongs_to_no_recipient_is_no_recipient() -> None:
    about, groups = split(b"Reporting-MTA: dns; m\n\nAction: failed\nStatus: 5.1.1\n\n")
    assert about == {b"reporting-mta": b"dns; m"}
    assert groups == []


def test_a_report_of_another_system_that_says_auto_generated_is_no_copy_for_us() -> None:
    data = b"Auto-Submitted: auto-generated\n" + HEAD + b"Reporting-MTA: dns; m\n\n" + A + b"\n--b--\n"
    found = report.read(Message.of(data))
    assert (found.kind, found.reader) == ("failed", "rfc3464")
