"""pipe(8)'s verdicts and requests without running anything; the real pipe(8) is asked in tests/postfix."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroom.postfix.pipe_request import FLAGS, Recipient, Refused, Request, quote, split_extension
from postroom.postfix.pipe_verdict import SYS_EXITS, Run, filtered, judge, printable


def run(output: bytes, status: int, timed_out: bool = False, unread: int = 0) -> Run:
    return Run(output, status, timed_out, 0.1, unread)


@given(st.binary(max_size=200), st.integers(-64, 255), st.booleans())
def test_every_end_has_a_verdict_whose_code_agrees_with_it(output: bytes, status: int, timed_out: bool) -> None:
    verdict = judge(run(output, status, timed_out), "/p", "svc")
    wanted = {"sent": "2", "deferred": "4", "bounced": "5"}[verdict.status]
    assert verdict.dsn[0] == wanted
    assert (verdict.status == "sent") == (status == 0 and not timed_out)
    assert not any(letter in verdict.text for letter in "\n\t\0\r")


@given(st.integers(1, 255))
def test_only_71_and_75_defer(status: int) -> None:
    deferring = judge(run(b"", status), "/p", "svc").status == "deferred"
    assert deferring == (status in (71, 75))


@given(st.integers(1, 255))
def test_the_filter_catches_statuses_that_mean_nothing(status: int) -> None:
    verdict = filtered(judge(run(b"some text", status), "/p", "svc"))
    assert (verdict.status == "bounced") == (status in SYS_EXITS and status not in (71, 75))


@given(st.text(st.characters(blacklist_categories=["C", "Z"]), min_size=1), st.integers(1, 255))
def test_a_stated_status_wins_over_the_exit_status(word: str, status: int) -> None:
    verdict = judge(run(f"4.2.2 {word}\n".encode(), status), "/p", "svc")
    assert (verdict.status, verdict.dsn, verdict.text) == ("deferred", "4.2.2", f"{word} ")


@pytest.mark.parametrize(
    ("output", "status", "warning"),
    [
        (b"oh no", 75, "text without a status code"),
        (b" 4.2.2 full", 75, "very first thing"),
        (b"4.2.2", 75, "without text"),
        (b"2.0.0 ok", 75, "2.x.x code with a failure"),
        (b"", 1, "exit status 1 bounces"),
        (b"x" * 4096, 0, "past 4096 bytes"),
        (b"4.2.2 full", 0, "exit status 0 means delivered"),
    ],
)
def test_warnings(output: bytes, status: int, warning: str) -> None:
    assert warning in " ".join(judge(run(output, status), "/p", "svc").warnings)


def test_a_good_answer_has_no_warning() -> None:
    for output, status in ((b"", 0), (b"delivered", 0), (b"4.2.2 full\n", 75), (b"5.1.1 no\n", 67), (b"", 75)):
        assert judge(run(output, status), "/p", "svc").warnings == ()


@given(st.binary())
def test_printable_is_one_line_of_the_same_length(output: bytes) -> None:
    shown = printable(output).encode("utf-8", "surrogateescape")
    assert len(shown) == len(output.partition(b"\0")[0])
    assert not set(shown) & set(range(32))


# Requests


def request(**given: object) -> Request:
    return Request("s@x.test", (Recipient("A+b@X.test", "o@x.test"), Recipient("c@y.test", "")), **given)  # type: ignore[arg-type]


def test_a_word_with_a_recipient_macro_is_repeated() -> None:
    words = ["${recipient}", "n", "o=$original_recipient", "$sender"]
    assert request().arguments(words) == ["A+b@X.test", "c@y.test", "n", "o=o@x.test", "o=", "s@x.test"]


@given(st.text())
def test_text_without_a_dollar_is_never_changed(word: str) -> None:
    if "$" not in word:
        assert request().arguments([word]) == [word]


@given(st.text("$ab{}() sender"))
def test_a_word_is_expanded_or_refused(word: str) -> None:
    try:
        expanded = request().arguments([word])
    except Refused as refused:
        assert (refused.status, refused.dsn) == ("deferred", "4.3.5")
    else:
        assert len(expanded) == 1


@given(st.text(), st.text())
def test_strangers_text_is_not_expanded_again(sender: str, recipient: str) -> None:
    both = Request(sender, (Recipient(recipient, recipient),), null_sender="")
    assert both.arguments(["s=${sender}", "r=${recipient}"]) == [f"s={sender}", f"r={recipient}"]


@pytest.mark.parametrize(
    ("mailbox", "delimiters", "expected"),
    [
        ("a+b", "+", ("a", "b")),
        ("a+b", "", ("a+b", "")),
        ("a-b+c", "+-", ("a", "b+c")),
        ("+b", "+", ("+b", "")),
        ("owner-list", "-", ("owner-list", "")),
        ("list-request", "-", ("list-request", "")),
        ("Postmaster", "+", ("Postmaster", "")),
    ],
)
def test_extensions(mailbox: str, delimiters: str, expected: tuple[str, str]) -> None:
    assert split_extension(mailbox, delimiters) == expected


@pytest.mark.parametrize(
    ("address", "quoted"),
    [("a.b@x", "a.b@x"), ("a b@x", '"a b"@x'), ('a"b@x', '"a\\"b"@x'), ("@x", '""@x'), ("é@x", "é@x")],
)
def test_quoting(address: str, quoted: str) -> None:
    assert quote(address) == quoted


@given(st.binary(), st.sets(st.sampled_from(sorted(FLAGS))))
def test_what_a_program_reads_is_lines(message: bytes, flags: set[str]) -> None:
    content = request(flags=frozenset(flags)).content(message)
    assert content == b"" or content.endswith(b"\n")
