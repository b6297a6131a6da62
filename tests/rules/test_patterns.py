"""No pattern that passes the check can be kept busy by a text made for it."""

import re
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postroom.rules import Unknown
from postroom.rules.patterns import LEAST_TEXT, LINEAR_TEXT, MOST_TEXT, bound, check, engine, linear
from postroom.rules.problems import Refused


@pytest.fixture
def no_re2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "re2", None)


@pytest.mark.parametrize(
    "pattern",
    [
        r"^a+b", r"(?:\.\w{1,10})+$", r".*a.*b", r"^(\w+)\.(\w+)\.(\w+)\.(\w+)$", r"(\d+\.){3}\d+", r"(foo|bar)+",
        r"\w+\s\w+\s\w+\s\w+x", r"^[^@]+@[^@]+$", r"(?i:ab)+", r"(?=.*a)b", r"\bfoo\b", r"(?<=a)b+", r"(?P<x>a)",
        r"a*a*b", r"^.*a.*b.*c$", r"^(dyn|dhcp|pool)[-.]?\d", "[\u0430-\u044f]+", r"a?b?c?",
        r"(25[0-5]|2[0-4]\d|1?\d?\d)(\.|$)",
    ],
)  # fmt: skip
def test_ordinary_patterns_pass(pattern: str) -> None:
    assert LEAST_TEXT <= check(pattern) <= MOST_TEXT


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        (r"(a+)+$", "inside another"),
        (r"(a*)*", "inside another"),
        (r"(a{1,3})+", "inside another"),
        (r"(a?)+", "inside another"),
        (r"(x+x+)+y", "inside another"),
        (r"(a{1,30}){1,30}", "inside another"),
        (r"(a|ab)*c", "start alike"),
        (r"(a|a)*c", "start alike"),
        (r"(a?b|bc?)*", "start alike"),
        (r"(?:|a)*", "start alike"),
        (r".*a.*b.*c", "too many repetitions"),
        (r"(a*){5}", "too many repetitions"),
        (r"a*a*a*b", "too many repetitions"),
        (r".*.*.*x", "too many repetitions"),
        ("a?" * 20 + "a" * 20, "too many repetitions"),
        ("(a|a)" * 20 + "b", "too many repetitions"),
        ("a{0,16}" * 8 + "b", "too many repetitions"),
        (r"(a{1,16}){1,16}b", "too many repetitions"),
        ("(" * 40 + "a" + "{1,16})" * 40 + "b", "too many repetitions"),
        (r"(a)\1", "groupref"),
        (r"((a)|b)(?(2)c|d)", "groupref_exists"),
        ("", "empty"),
        ("(", "no regular expression"),
        ("a**", "no regular expression"),
        ("[[a]", "no regular expression"),
        ("(" * 5000, "no regular expression"),
    ],
)
@pytest.mark.usefixtures("no_re2")
def test_runaway_patterns_are_refused_with_a_hint(pattern: str, words: str) -> None:
    with pytest.raises(Refused, match=re.escape(words)):
        check(pattern)


atom = st.sampled_from(["a", "b", ".", "[ab]", "[^a]", r"\w", "(?:a|b)", "(?:ab|b)", "(a)", r"\b", "^", "$"])
grouped = st.sampled_from(["", "*", "+", "{2}", "?"])
piece = st.tuples(atom, st.sampled_from(["", "", "*", "+", "?", "{2}", "{1,3}", "*?"])).map("".join)
pattern = st.recursive(
    st.lists(piece, min_size=1, max_size=4).map("".join),
    lambda inner: st.lists(
        st.tuples(inner, grouped).map(lambda pair: f"({pair[0]}){pair[1]}"), min_size=1, max_size=2
    ).map("".join),
    max_leaves=4,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(pattern, st.sampled_from(["a", "ab", "ba", "aab"]), st.sampled_from(["", "!", "c"]))
def test_whatever_passes_is_done_soon(candidate: str, body: str, end: str) -> None:
    try:
        limit = bound(candidate, re.IGNORECASE)
    except Refused:
        return
    text = (body * limit)[: limit - len(end)] + end
    start = time.process_time()
    re.search(candidate, text, re.IGNORECASE)
    assert time.process_time() - start < 3, candidate


# With RE2


def test_re2_takes_what_could_run_away_and_is_told_by_the_limit() -> None:
    assert check(r"(a+)+$") == -LINEAR_TEXT
    start = time.process_time()
    assert linear(r"(a+)+$", "a" * (LINEAR_TEXT - 1) + "b") is False
    assert linear(r"(A+)+$", "xaaa") is True
    assert linear(r"(\w+)+\Z", "\udcff") is False
    assert time.process_time() - start < 1


@pytest.mark.parametrize("pattern", [r"(a)\1+", r"(?=a)(a+)+", r"(?:a|ab)*+c"])
def test_what_re2_does_not_know_stays_refused(pattern: str) -> None:
    with pytest.raises(Refused):
        check(pattern)


@pytest.mark.usefixtures("no_re2")
def test_a_pattern_left_to_re2_is_unknown_without_it() -> None:
    answer = linear(r"(a+)+$", "a")
    assert isinstance(answer, Unknown)
    assert "needs RE2" in answer.reason
    with pytest.raises(Refused, match="inside another"):
        engine(r"(a+)+$", re.NOFLAG)


def test_an_anchor_at_every_line_is_no_anchor() -> None:
    assert bound(r"(?m)^.*a.*b", re.NOFLAG) < bound(r"^.*a.*b", re.NOFLAG)
    assert bound(r"^.*a.*b", re.MULTILINE) < bound(r"^.*a.*b", re.NOFLAG)


@pytest.mark.parametrize("flags", [re.NOFLAG, re.IGNORECASE, re.MULTILINE, re.DOTALL])
@pytest.mark.parametrize("text", [b"", b"ab", b"AB", b"x\nab", b"a\nb", b"ab\n"])
def test_both_engines_answer_alike(flags: re.RegexFlag, text: bytes) -> None:
    for pattern, same in ((r"(a.?b+)+\Z", r"a.?b+\Z"), (r"(^a+)+", "^a+"), (r"(\x5cZ|b+)+", r"b+")):
        assert (engine(pattern, flags).search(text) is None) == (re.search(same.encode(), text, flags) is None)
