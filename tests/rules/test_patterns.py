"""No pattern that passes the check can be kept busy by a text made for it."""

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postroom.rules.patterns import TEXT_LIMITS, check
from postroom.rules.problems import Refused


@pytest.mark.parametrize(
    "pattern",
    [
        r"^a+b", r"(?:\.\w{1,10})+$", r".*a.*b", r"^(\w+)\.(\w+)\.(\w+)\.(\w+)$", r"(\d+\.){3}\d+", r"(foo|bar)+",
        r"\w+\s\w+\s\w+\s\w+x", r"^[^@]+@[^@]+$", r"(?i:ab)+", r"(?=.*a)b", r"\bfoo\b", r"(?<=a)b+", r"(?P<x>a)",
        r"^(dyn|dhcp|pool)[-.]?\d", "[\u0430-\u044f]+", r"a?b?c?", r"(25[0-5]|2[0-4]\d|1?\d?\d)(\.|$)",
    ],
)  # fmt: skip
def test_ordinary_patterns_pass(pattern: str) -> None:
    assert check(pattern) in TEXT_LIMITS


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        (r"(a+)+$", "inside an unbounded one"),
        (r"(a*)*", "inside an unbounded one"),
        (r"(a{1,3})+", "inside an unbounded one"),
        (r"(a?)+", "inside an unbounded one"),
        (r"(x+x+)+y", "inside an unbounded one"),
        (r"(a{1,30}){1,30}", "inside an unbounded one"),
        (r"(a|ab)*c", "start alike"),
        (r"(a|a)*c", "start alike"),
        (r"(a?b|bc?)*", "start alike"),
        (r"(?:|a)*", "start alike"),
        (r".*a.*b.*c", "3 unbounded repetitions"),
        (r"(a*){5}", "5 unbounded repetitions"),
        (r"(a)\1", "groupref"),
        (r"((a)|b)(?(2)c|d)", "groupref_exists"),
        ("", "empty"),
        ("(", "no regular expression"),
        ("a**", "no regular expression"),
        ("[[a]", "no regular expression"),
        ("(" * 5000, "no regular expression"),
    ],
)
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
        limit = check(candidate)
    except Refused:
        return
    # A quarter of the limit: what is exponential shows as well, and the test stays short.
    text = (body * limit)[: limit // 4] + end
    start = time.perf_counter()
    re.search(candidate, text, re.IGNORECASE)
    assert time.perf_counter() - start < 3, candidate
