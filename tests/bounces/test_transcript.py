"""Transcripts: nothing that could be a password is kept, wherever it stands."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroom.bounces import report
from postroom.bounces.transcript import Transcript
from postroom.message import Message

GREETING = b" Out: 220 mail.example.com ESMTP Postfix\n"
START = b"Transcript of session follows.\n\n"
secrets = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+/=", min_size=8, max_size=60)


def kept(text: bytes, server: bool = True) -> str:
    found = Transcript(START + text, server)
    return " | ".join((found.command, found.reply, found.aborted))


@given(secrets)
def test_an_auth_command_keeps_its_mechanism_only(secret: str) -> None:
    said = kept(
        GREETING + f" In:  auth PLAIN {secret}\n Out: 535 5.7.8 Error: authentication failed: {secret}\n".encode()
    )
    assert secret not in said
    assert "PLAIN" in said


@given(secrets, secrets)
def test_the_lines_of_an_exchange_are_not_kept(user: str, password: str) -> None:
    dialogue = (
        f" In:  AUTH LOGIN\n Out: 334 VXNlcm5hbWU6\n In:  {user}\n Out: 334 UGFzc3dvcmQ6\n In:  {password}\n"
        " Out: 535 5.7.8 Error: authentication failed\n"
    )
    said = kept(GREETING + dialogue.encode())
    assert user not in said
    assert password not in said


@given(secrets)
def test_a_transcript_that_begins_inside_an_exchange_gives_nothing_away(secret: str) -> None:
    said = kept(f" In:  {secret}\n Out: 535 5.7.8 Error: authentication failed\n In:  QUIT\n Out: 221 Bye\n".encode())
    assert secret not in said


@given(secrets)
def test_our_own_password_for_a_relay_is_not_kept(secret: str) -> None:
    text = f" In:  220 relay.example.net\n Out: AUTH PLAIN {secret}\n In:  999 what is {secret}\n Out: QUIT\n"
    said = kept(text.encode(), server=False)
    assert secret not in said
    assert "999" in said


def test_a_wrapped_secret_goes_as_a_whole() -> None:
    said = kept(GREETING + b" In:  AUTH XOAUTH2 dXNlcj1ib2I\n     Z29lcyBvbgo=\n Out: 535 no\n")
    assert "Z29lcyBvbgo" not in said
    assert "dXNlcj1ib2I" not in said


def test_after_an_exchange_commands_are_shown_again() -> None:
    said = kept(
        GREETING + b" In:  AUTH PLAIN AGJvYgBzZWNyZXQ=\n Out: 235 2.7.0 ok\n In:  RCPT TO:<a@x>\n Out: 554 5.7.1 no\n"
    )
    assert said.startswith("RCPT TO:<a@x> | 554 5.7.1 no")


def test_wrapped_replies_are_whole() -> None:
    said = kept(
        GREETING + b" In:  RCPT TO:<a@x>\n Out: 554 5.7.1 <a@x>: Recipient address rejected: policy\n     says no\n"
    )
    assert said.startswith("RCPT TO:<a@x> | 554 5.7.1 <a@x>: Recipient address rejected: policy says no")


@pytest.mark.parametrize(
    ("replies", "expected"),
    [
        (["500 5.5.2 Error: command not recognized", "451 4.3.5 Server configuration error"], "software"),
        (["554 5.7.1 <a@x>: Recipient address rejected: no", "503 5.5.1 Error: need RCPT command"], "policy"),
        (["550 5.1.1 <a@x>: Recipient address rejected: undeliverable address: User unknown"], "policy"),
        (["550 5.1.1 <a@x>: Recipient address rejected: User unknown in local recipient table"], "bounce"),
        (["421 4.7.0 mail.example.com Error: too many errors"], "protocol"),
    ],
)
def test_the_gravest_reply_is_the_class(replies: list[str], expected: str) -> None:
    text = GREETING + "".join(f" In:  X\n Out: {reply}\n" for reply in replies).encode()
    assert Transcript(START + text, True).klass == expected


@given(
    st.lists(st.sampled_from([" In:  ", " Out: ", "     ", "\n", "AUTH ", "220 ", "x", "Session aborted, reason: "]))
)
def test_any_text_is_read(words: list[str]) -> None:
    text = START + "".join(words).encode()
    Transcript(text, True)
    report.read(Message.of(b"Subject: Postfix SMTP server: errors from a[b]\n\n" + text))


def test_a_subject_alone_makes_no_notice() -> None:
    found = report.read(Message.of(b"Subject: Postfix SMTP server: errors from a[b]\n\nHello Bob\n"))
    assert found.kind == "not-a-bounce"
