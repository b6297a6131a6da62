"""The table of outcomes: every code agrees with what Postfix makes of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroom.status import CODES, MAX_LINE, Outcome, bounced, clean, cut, deferred, from_reply, is_status, parse, sent

statuses = st.builds("{}.{}.{}".format, st.sampled_from("245"), st.integers(0, 999), st.integers(0, 999))


@given(statuses, st.text())
def test_every_outcome_says_the_same_by_exit_status_reply_and_text(status: str, text: str) -> None:
    outcome = {"2": sent, "4": deferred, "5": bounced}[status[0]](text, status)
    assert outcome.exit_status in {"2": (0,), "4": (75,), "5": (65, 67, 68, 69, 73, 76, 77)}[status[0]]
    assert outcome.reply()[0] == status[0]
    line = outcome.line()
    assert len(line) <= MAX_LINE
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    code, _, rest = line.decode().partition(" ")
    assert code == status
    assert rest.strip(), "Postfix reads past its buffer on a bare code"


@given(statuses, st.text(min_size=1))
def test_parse_reads_back_what_line_wrote(status: str, text: str) -> None:
    outcome = parse(f"{status} {text}")
    if not clean(text):
        assert outcome is None
    else:
        assert outcome is not None
        assert parse(str(outcome)) == outcome


@pytest.mark.parametrize(
    "text", ["", "4.2.2", "4.2.2 ", " 4.2.2 x", "450 4.2.2 x", "3.1.1 x", "4.2 x", "4.2.2.2 x", "4.1234.1 x", "4.٢.2 x"]
)
def test_parse_takes_nothing_that_postfix_would_not(text: str) -> None:
    assert parse(text) is None


def test_a_code_of_the_wrong_kind_is_refused_where_it_is_written() -> None:
    with pytest.raises(ValueError, match="enhanced status"):
        sent("ok", "5.1.1")
    with pytest.raises(ValueError, match="enhanced status"):
        bounced("no", "4.1.1")
    with pytest.raises(ValueError, match="enhanced status"):
        Outcome("deferred", "4.x.1", "")


@given(st.integers(-5, 9999), st.text())
def test_a_remote_reply_never_bounces_unless_it_is_5yz(code: int, text: str) -> None:
    outcome = from_reply(code, text)
    assert (outcome.kind == "bounced") == (500 <= code <= 599)
    assert (outcome.kind == "sent") == (200 <= code <= 299)


def test_an_enhanced_code_of_another_class_than_the_reply_does_not_count() -> None:
    assert from_reply(550, "4.2.2 odd").status == "5.0.0"
    assert from_reply(550, "5.1.1 gone").status == "5.1.1"
    assert from_reply(550, "no idea").status == "5.0.0", "a made-up 5.1.1 would suppress a good address"


@given(st.text(), st.integers(0, 40))
def test_cut_never_splits_a_character(text: str, limit: int) -> None:
    data = cut(text, limit)
    assert len(data) <= limit
    assert text.encode("utf-8", "replace").startswith(data)
    data.decode()


@given(st.text(st.characters(codec=None, categories=None)))
def test_clean_leaves_one_printable_line(text: str) -> None:
    line = clean(text)
    assert line.isprintable()
    line.encode()


def test_the_table_has_no_row_that_can_never_be_reached() -> None:
    for number, (prefix, _, _) in enumerate(CODES):
        assert is_status(prefix) or prefix.endswith(".")
        assert not any(prefix.startswith(earlier) and earlier.endswith(".") for earlier, _, _ in CODES[:number])
