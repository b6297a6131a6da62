"""Who is suppressed: only whom the tag proves, only when this very mailbox is gone for good."""

from __future__ import annotations

import pytest

from postroom.bounces import events
from postroom.bounces.report import Recipient, Report
from postroom.bounces.verp import Verdict

NOW = 1_800_000_000.0
VERIFIED = Verdict("verified", "", "bob@example.com", int(NOW))


def gone(address: str = "bob@example.com", original: str = "", **changes: object) -> Recipient:
    one = Recipient(address, original, "failed", "5.1.1")
    one.reason, one.category, one.hard, one.permanent = "bad-mailbox", "invalid", True, True
    one.diagnostic = "550 5.1.1 no such user"
    for name, value in changes.items():
        setattr(one, name, value)
    return one


def suppressed(*recipients: Recipient, verdict: Verdict = VERIFIED, kind: str = "failed") -> list[str]:
    return [entry.address for entry in events.suppressed(Report(kind, "test", recipients), verdict, "4X", NOW)]


def test_the_recipient_that_the_tag_proves_is_suppressed() -> None:
    report = Report("failed", "test", [gone()])
    report.message_id = "<1@mx.example>"
    (entry,) = events.suppressed(report, VERIFIED, "4Xyz", NOW)
    assert (entry.address, entry.since, entry.until) == ("bob@example.com", int(NOW), None)
    assert (entry.reason, entry.status, entry.why) == ("bad-mailbox", "5.1.1", "550 5.1.1 no such user")
    assert entry.source == "bounce 4Xyz <1@mx.example>"


@pytest.mark.parametrize("authentic", ["unverified", "forged"])
def test_what_is_not_verified_suppresses_nobody(authentic: str) -> None:
    assert suppressed(gone(), verdict=Verdict(authentic, "", "bob@example.com")) == []


@pytest.mark.parametrize("kind", ["delayed", "delivered", "notice", "not-a-bounce", "unreadable"])
def test_only_failures_suppress(kind: str) -> None:
    assert suppressed(gone(), kind=kind) == []


def test_a_soft_failure_suppresses_nobody() -> None:
    assert suppressed(gone(hard=False)) == []


def test_nobody_else_in_the_report_is_suppressed() -> None:
    assert suppressed(gone("carol@example.com"), gone()) == ["bob@example.com"]
    assert suppressed(gone("carol@example.com")) == []


def test_an_alias_with_a_member_gone_stays() -> None:
    assert suppressed(gone("dead@inside.example", "bob@example.com")) == []
    assert suppressed(gone("bob@example.com", "bob@example.com"), gone("dead@inside.example", "bob@example.com")) == []


def test_the_same_mailbox_under_the_name_of_its_host_counts() -> None:
    assert suppressed(gone("Bob@mail.example.com", "bob@Example.com")) == ["bob@example.com"]


def test_a_place_that_the_mail_was_also_sent_on_to_does_not() -> None:
    assert suppressed(gone("bob@example.net", "bob@example.com")) == []
    assert suppressed(gone("bob@badexample.com", "bob@example.com")) == []


@pytest.mark.parametrize("reason", ["bad-domain", "rate-limited", "undetermined"])
def test_one_report_is_not_enough_where_the_fault_may_be_ours(reason: str) -> None:
    assert suppressed(gone(reason=reason)) == []


def test_an_address_that_was_rewritten_on_the_way_out_counts() -> None:
    assert suppressed(gone("bob@example.com", "robert@example.com")) == ["bob@example.com"]


def test_several_reports_on_one_recipient_must_agree() -> None:
    assert suppressed(gone(), gone(hard=False)) == []


def test_the_event_says_what_was_proven_and_why() -> None:
    report = Report("failed", "rfc3464", [gone(original="bob@example.com")])
    report.queue_id, report.subject = "4Abc", "Undelivered"
    event = events.event(report, VERIFIED, b"digest", "bounces+x@b.example", "4X", NOW)
    assert (event.kind, event.authentic, event.at, event.queue_id) == ("failed", "verified", int(NOW), "4X")
    assert event.fields == {
        "to": "bounces+x@b.example", "proven": "bob@example.com", "reader": "rfc3464", "subject": "Undelivered",
        "reported_queue_id": "4Abc",
    }  # fmt: skip
    (one,) = event.recipients
    assert (one.address, one.original, one.hard, one.diagnostic) == (
        "bob@example.com", "bob@example.com", True, "550 5.1.1 no such user",
    )  # fmt: skip


def key(report: Report, verdict: Verdict = VERIFIED, content: bytes = b"1", to: str = "t") -> bytes:
    return events.event(report, verdict, content, to, "4X", NOW).key


def test_a_report_told_twice_is_one_event() -> None:
    report = Report("failed", "test", [gone()])
    assert key(report) == key(report)
    assert key(report) != key(report, content=b"2"), "without a Message-ID the bytes tell reports apart"
    report.message_id = "<1@x>"
    assert key(report) == key(report, content=b"2"), "a Received line more, after postsuper -r"
    assert key(report) != key(report, to="other")
    assert key(report) != key(Report("failed", "test", [gone("carol@example.com")]))


def test_a_forgery_does_not_take_the_place_of_the_true_report() -> None:
    report = Report("failed", "test", [gone()])
    report.message_id = "<1@x>"
    assert key(report, Verdict("forged", "")) != key(report)


def test_candidates_are_bounded_and_as_sent_to_first() -> None:
    many = Report("failed", "test", [gone(f"u{n}@x", f"o{n}@x") for n in range(1000)])
    assert events.candidates(many)[:4] == ["o0@x", "u0@x", "o1@x", "u1@x"]
    assert len(events.candidates(many)) == 2 * events.CANDIDATES_LIMIT


def test_of_a_report_on_a_crowd_a_few_are_recorded_and_the_rest_counted() -> None:
    """Ten thousand rows of a stranger's making, for one mail, are 8 MB of the state."""
    crowd = [gone(f"u{number}@example.com") for number in range(10_000)]
    report = Report("failed", "test", crowd)
    found = events.event(report, None, b"x" * 20, "bounces@b.example", "4X", NOW)
    assert [one.address for one in found.recipients] == [f"u{n}@example.com" for n in range(events.RECORDED_LIMIT)]
    assert found.fields["more_recipients"] == str(10_000 - events.RECORDED_LIMIT)
    few = events.event(Report("failed", "test", crowd[:50]), None, b"", "b", "4X", NOW)
    assert len(few.recipients) == 50 and "more_recipients" not in few.fields


def test_the_recipient_that_the_tag_proves_is_always_among_them() -> None:
    crowd = [gone(f"u{number}@example.com") for number in range(99)]
    report = Report("failed", "test", [*crowd, gone("Bob@Example.com")])
    found = events.event(report, VERIFIED, b"x" * 20, "bounces@b.example", "4X", NOW)
    assert found.recipients[0].address == "Bob@Example.com"
    assert len(found.recipients) == events.RECORDED_LIMIT
    assert [entry.address for entry in events.suppressed(report, VERIFIED, "4X", NOW)] == ["bob@example.com"]
