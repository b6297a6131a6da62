"""A record that anybody may have written: each bad line is told by its number, and the others are read."""

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroom.record.read import READ_LIMIT, Line, lines, parse
from postroom.rules.keys import STAGES

GOOD: dict[str, Any] = {
    "format": 1,
    "version": "9",
    "time": 1795363200.5,
    "stage": "rcpt",
    "attributes": {"recipient": "a@x.example"},
    "asked": [{"kind": "fcrdns", "argument": "192.0.2.1", "answer": True, "ms": 1}],
    "action": "DUNNO",
    "rule": None,
    "on_error": False,
    "reason": "",
    "shadow": [["s", "WARN"]],
    "hashed": False,
    "cut": [],
}


def good(**changes: Any) -> bytes:
    return json.dumps({**GOOD, **changes}).encode()


def test_a_good_line() -> None:
    line = parse(good(), STAGES)
    assert isinstance(line, Line)
    assert (line.time, line.action, line.rule, line.shadow) == (1795363200.5, "DUNNO", None, (("s", "WARN"),))
    assert line.answers == {("fcrdns", "192.0.2.1"): True}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"hello", "is not JSON: Expecting value at character 1"),
        (b"\xff\xfe{", "is no decision"),
        (b"\xffabc", "is no decision"),
        (b"[" * 100000, "is no decision"),
        (b'{"format":' + b"9" * 50000 + b"}", "is no decision"),
        (b"[]", "expected an object with a format"),
        (b"{}", "expected an object with a format"),
        (good(format=2), "it has format 2, this version reads 1"),
        (good(format=True), "it has format True"),
        (good(time="now"), "time: expected seconds since 1970"),
        (good(time=True), "time: expected seconds since 1970"),
        (good(stage="nowhere"), "stage: expected one of connect, "),
        (good(attributes=[]), "attributes: expected an object of texts"),
        (good(attributes={"a": 1}), "attributes: expected an object of texts"),
        (good(action=None), "action: expected a text"),
        (good(rule=1), "rule: expected the id of a rule or null"),
        (good(on_error=0), "on_error: expected true or false"),
        (good(shadow=[["a"]]), "shadow: expected a list of pairs"),
        (good(shadow=["ab"]), "shadow: expected a list of pairs"),
        (good(cut=[1]), "cut: expected a list of names"),
        (good(asked=[1]), "asked: expected objects with a kind"),
        (good(asked=[{"kind": "mx", "argument": "x", "answer": 1}]), "asked: mx: expected an object"),
        (good(asked=[{"kind": "mx", "argument": {}, "unknown": "x"}]), "asked: mx: argument: expected texts"),
        (good(asked=[{"kind": "mx", "argument": "x", "unknown": "x", "ms": "1"}]), "ms: expected milliseconds"),
        (good(asked=[{"kind": "x\x1b\n", "argument": 1}]), "there are no questions of kind"),
    ],
    ids=range(25),
)
def test_each_refusal_says_what_was_expected(data: bytes, said: str) -> None:
    found = parse(data, STAGES)
    assert isinstance(found, str)
    assert said in found
    assert found.isprintable()
    assert len(found) < 300


@given(st.dictionaries(st.sampled_from(list(GOOD)), st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=5,
), max_size=3))  # fmt: skip
def test_nothing_raises(changes: dict[str, Any]) -> None:
    assert isinstance(parse(good(**changes), STAGES), Line | str)


def test_lines_are_numbered_as_an_editor_does() -> None:
    data = good() + b"\n\nnonsense\n" + b"x" * (3 * READ_LIMIT) + b"\n" + good()
    found = list(lines(io.BytesIO(data), STAGES))
    assert [(number, type(what)) for number, _, what in found] == [(1, Line), (3, str), (4, str), (5, Line)]
    assert found[2][2] == f"is longer than {READ_LIMIT} bytes"
    assert found[-1][1] == len(data)


def test_a_file_without_line_ends_is_not_read_into_memory() -> None:
    class Endless(io.RawIOBase):
        left = 50 * READ_LIMIT
        largest = 0

        def readline(self, size: int | None = -1, /) -> bytes:
            assert size == READ_LIMIT
            took = min(size, self.left)
            self.left -= took
            return b"x" * took

    assert [what for _, _, what in lines(Endless(), STAGES)] == [f"is longer than {READ_LIMIT} bytes"]  # type: ignore[arg-type]  # only readline() is used
