"""Reasons: the table, and what must never suppress anybody."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroom.bounces.reasons import CATEGORIES, TABLE, classify, codes, is_hard, refine, reply_code


def test_every_row_can_be_reached_and_names_a_reason() -> None:
    for number, (pattern, needle, reason) in enumerate(TABLE):
        assert reason in CATEGORIES
        assert needle == needle.lower()
        for before, words, _ in TABLE[:number]:
            covers = before[0] in ("?", pattern[0]) and (
                pattern[1:].startswith(before[1:-1]) if before[-1] == "*" else pattern[1:] == before[1:]
            )
            assert not (covers and not words), f"{pattern} {needle!r} is hidden by {before}"


@pytest.mark.parametrize(
    ("outcome", "status", "text", "reason", "hard"),
    [
        ("failed", "5.1.1", "550 5.1.1 no such user", "bad-mailbox", True),
        ("failed", "5.1.0", "Domain x does not accept mail (nullMX)", "no-mail-domain", True),
        ("failed", "5.1.0", "550 5.1.0 address rejected", "undetermined", False),
        ("failed", "5.1.10", "RESOLVER.ADR.RecipientNotFound; not found", "bad-mailbox", True),
        ("failed", "5.2.2", "552 5.2.2 mailbox full", "mailbox-full", False),
        ("failed", "5.7.1", "blocked using zen.example", "blocklisted", False),
        ("failed", "5.7.1", "relay access denied", "relay-denied", False),
        ("failed", "5.7.26", "unauthenticated", "auth-failure", False),
        ("failed", "5.7.606", "banned sending IP", "blocklisted", False),
        ("failed", "4.4.1", "connection refused", "expired", False),
        ("failed", "4.2.2", "452 4.2.2 mailbox full", "mailbox-full", False),
        ("failed", "4.1.1", "450 4.1.1 user unknown, unverified", "expired", False),
        ("delayed", "4.1.1", "450 4.1.1 user unknown", "bad-mailbox", False),
        ("delayed", "5.1.1", "550 5.1.1 user unknown", "bad-mailbox", False),
        ("failed", "5.4.4", "Host or domain name not found", "bad-domain", True),
        ("delayed", "4.4.4", "no address", "dns-failure", False),
        ("failed", "", "550 no such user", "undetermined", False),
        ("failed", "5.0.0", "550 no such user", "undetermined", False),
    ],
)
def test_reasons(outcome: str, status: str, text: str, reason: str, hard: bool) -> None:
    found = classify(outcome, status, text)
    assert (found, is_hard(outcome, status, found)) == (reason, hard)


@given(st.text(max_size=80))
def test_any_text_has_codes_or_none(text: str) -> None:
    for code in codes(text):
        assert code in text
        assert refine("", text).count(".") == 2
    assert reply_code(text) == "" or text.startswith(reply_code(text))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("550 5.1.1 no", ["5.1.1"]),
        ("550-5.1.1 a 550 5.1.1 b", ["5.1.1", "5.1.1"]),
        ("(5.1.1) #5.2.2: <5.7.1>", ["5.1.1", "5.2.2", "5.7.1"]),
        ("from 192.5.1.1 by 10.5.1.1", []),
        ("Exim 4.96.1, sendmail 5.99.3", []),
        ("https://x.example/5.1.1 v5.1.1", []),
        ("5.1 5.1.1.1 3.1.1 5.1.1111", []),
        ("5.1.1.", ["5.1.1"]),
    ],
)
def test_codes_in_text(text: str, found: list[str]) -> None:
    assert codes(text) == found


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("550 no", "550"),
        ("550-5.1.1", "550"),
        ("5501", ""),
        ("999 x", ""),
        ("", ""),
        ("550", "550"),
        ("\u0665\u0665\u0660", ""),
    ],
)
def test_reply_codes(text: str, code: str) -> None:
    assert reply_code(text) == code


@pytest.mark.parametrize(
    ("diagnostic", "reason"),
    [
        ("550-5.2.1 The user you are trying to contact is receiving mail at a rate that", "rate-limited"),
        ("550 5.2.1 mailbox temporarily disabled, try later", "recipient-refused"),
        ("550 5.2.1 mailbox disabled", "inactive-mailbox"),
    ],
)
def test_a_mailbox_that_is_only_busy_is_not_gone(diagnostic: str, reason: str) -> None:
    assert classify("failed", "5.2.1", diagnostic) == reason
