"""Answers as JSON: what comes back is what went in; what nobody wrote is refused with words."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from record.conftest import ANSWERS, TEXTS, plain

from postroom.record import dumps
from postroom.record.answers import argument, decode, encode


@pytest.mark.parametrize("kind", ANSWERS)
def test_what_comes_back_is_what_went_in(kind: str) -> None:
    @given(ANSWERS[kind])
    def through_json(answer: Any) -> None:
        told = dumps(encode(kind, answer))
        assert told.isascii()
        assert "\n" not in told
        again = decode(kind, json.loads(told))
        assert plain(again) == plain(answer)
        assert type(again) is type(answer)

    through_json()


# As the kinds of issue them: texts, numbers, nothing, and tuples of these.
ARGUMENTS = st.recursive(
    st.none() | TEXTS | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=8,
)


@given(ARGUMENTS)
def test_arguments_come_back(value: Any) -> None:
    assert argument(json.loads(dumps(value))) == value


@given(ARGUMENTS | st.dictionaries(TEXTS, ARGUMENTS, max_size=3))
def test_the_writer_says_what_json_says(value: Any) -> None:
    assert json.loads(dumps(value)) == json.loads(json.dumps(value))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS | st.sampled_from(["state", "hosts"]), inner),
    max_leaves=6,
)


@given(st.sampled_from([*ANSWERS, "nonsense", ""]), JSON)
def test_what_is_no_answer_is_refused_with_words(kind: str, data: Any) -> None:
    try:
        decode(kind, data)
    except ValueError as error:
        assert str(error)


@pytest.mark.parametrize(
    ("kind", "data", "said"),
    [
        ("mx", None, "expected an object"),
        ("mx", {"state": "odd"}, "as state"),
        ("mx", {"state": "mx", "hosts": [[True, "a"]]}, "expected a whole number"),
        ("mx", {"state": "mx", "hosts": [[10]]}, "[preference, name]"),
        ("mx", {"state": "mx", "hosts": [], "domain": "x", "reason": "", "outcome": ""}, "whole number"),
        ("mx", {"state": "mx", "hosts": [], "domain": "x", "reason": "", "outcome": "", "ttl": 1}, "list of texts"),
        ("suppressed", {"address": "a@b"}, "expected a text"),
        ("dnsbl", {"z": {"unknown": 1}}, "expected a text"),
        ("dnsbl", ["z"], "an object of zones"),
        ("rate", -1, "expected a whole number"),
        ("rate", True, "expected a whole number"),
        ("now", [7, 0], "a weekday below 7"),
        ("now", [1], "[weekday, minute]"),
        ("fcrdns", 1, "true or false"),
        ("list", 1, "true, false or a text"),
        ("magic", 1, "no questions of kind 'magic'"),
    ],
)
def test_each_refusal_says_what_was_expected(kind: str, data: Any, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        decode(kind, data)
