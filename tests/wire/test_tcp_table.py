"""The tcp_table protocol: however the bytes are cut, whatever they are."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroom.wire.events import CLOSED, NEED_DATA, Lookup, Malformed
from postroom.wire.tcp_table import LINE_LIMIT, REPLY_LIMIT, Reader, decode, encode, reply


def events(*pieces: bytes) -> list[object]:
    reader, found = Reader(), []
    for piece in (*[piece for piece in pieces if piece], b""):
        reader.receive_data(piece)
        while (event := reader.next_event()) is not NEED_DATA:
            if not isinstance(event, Lookup):
                return [*found, event]
            assert event.table == b""
            found.append(event.key)
    return found


def only_reason(*pieces: bytes) -> str:
    (event,) = events(*pieces)
    assert isinstance(event, Malformed)
    return event.reason


@given(st.binary(max_size=300))
def test_encoding_is_undone_by_decoding_and_is_postfixs(data: bytes) -> None:
    encoded = encode(data)
    assert decode(encoded) == data
    assert re.fullmatch(rb"(?:[!-$&-~]|%[0-9A-F]{2})*", encoded)


@given(st.lists(st.binary(max_size=60), max_size=5))
def test_what_is_sent_is_what_is_read(keys: list[bytes]) -> None:
    assert events(b"".join(b"get %b\n" % encode(key) for key in keys)) == [*keys, CLOSED]


def test_every_split_of_the_bytes() -> None:
    data = b"get a@example.com\nget caf%C3%a9%20x\nget \n" + b"get " + b"y" * 100 + b"\n"
    whole = events(data)
    assert whole == [b"a@example.com", "café x".encode(), b"", b"y" * 100, CLOSED]
    for first in range(len(data)):
        for second in range(first, len(data), 7):
            assert events(data[:first], data[first:second], data[second:]) == whole
    assert events(*[data[n : n + 1] for n in range(len(data))]) == whole


@given(st.binary(max_size=300), st.integers(0, 300))
def test_whatever_comes_ends_in_order(data: bytes, cut: int) -> None:
    assert [repr(event) for event in events(data[:cut], data[cut:])] == [repr(event) for event in events(data)]
    assert events(data)[-1] is CLOSED or isinstance(events(data)[-1], Malformed)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"put a b\n", "'put', expected get and a key"),
        (b"GET a\n", "'GET', expected get and a key"),
        (b"get\n", "'get', expected get and a key"),
        (b"\n", "'', expected get and a key"),
        (b"19:route a@example.com,\n", "'19:route', expected get and a key"),
        (b"get a b\n", "white space or NUL in a key, expected %XX"),
        (b"get a\r\n", "white space or NUL in a key, expected %XX"),
        (b"get a\0b\n", "white space or NUL in a key, expected %XX"),
        (b"get a%\n", "% without two hexadecimal digits in a key"),
        (b"get a%4\n", "% without two hexadecimal digits in a key"),
        (b"get a%+4b\n", "% without two hexadecimal digits in a key"),
        (b"get a%zzb\n", "% without two hexadecimal digits in a key"),
        (b"get a", "the client closed within a request"),
    ],
)
def test_what_is_no_request_is_named(data: bytes, reason: str) -> None:
    assert only_reason(data) == reason
    assert only_reason(*[data[n : n + 1] for n in range(len(data))]) == reason


def test_the_longest_line() -> None:
    key = b"x" * (LINE_LIMIT - 4)
    assert events(b"get %b\n" % key) == [key, CLOSED]
    assert only_reason(b"get %bx\n" % key) == f"a line of more than {LINE_LIMIT} bytes"
    reader = Reader()
    for _ in range(LINE_LIMIT // 16384 + 1):
        reader.receive_data(b"x" * 16384)
    assert isinstance(reader.next_event(), Malformed)
    assert len(reader._buffer) == 0


def test_replies() -> None:
    assert reply("found", "smtp:[a b]%") == b"200 smtp:[a%20b]%25\n"
    assert reply("found", "ü") == b"200 %C3%BC\n"
    assert reply("notfound", "") == b"500 not%20found\n"
    assert reply("temporary", "a\nb") == b"400 a%0Ab\n"
    assert reply("permanent", "no") == b"400 no\n"


@pytest.mark.parametrize("text", ["", "a\0b", "x" * (REPLY_LIMIT - 4), "%" * 1400, "\udcff"])
def test_what_postfix_would_not_read_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        reply("found", text)


def test_the_longest_result_and_reason() -> None:
    assert len(reply("found", "x" * (REPLY_LIMIT - 5))) == REPLY_LIMIT
    assert len(reply("temporary", "ü" * 5000)) < REPLY_LIMIT
