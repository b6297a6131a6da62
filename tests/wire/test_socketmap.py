"""The socketmap protocol: however the bytes are cut, whatever they are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroom.wire.events import CLOSED, NEED_DATA, Lookup, Malformed
from postroom.wire.socketmap import REASON_LIMIT, REPLY_LIMIT, REQUEST_LIMIT, Reader, reply

NAMES = st.binary(min_size=1, max_size=20).filter(lambda name: b" " not in name)
PAIRS = st.lists(st.tuples(NAMES, st.binary(max_size=60)), max_size=5)


def netstring(payload: bytes) -> bytes:
    return b"%d:%b," % (len(payload), payload)


def events(*pieces: bytes) -> list[object]:
    """What a reader makes of the pieces, the end of the connection after them; the last event ends it."""
    reader, found = Reader(), []
    for piece in (*[piece for piece in pieces if piece], b""):
        reader.receive_data(piece)
        while (event := reader.next_event()) is not NEED_DATA:
            found.append((event.table, event.key) if isinstance(event, Lookup) else event)
            if not isinstance(event, Lookup):
                return found
    return found


def only_reason(*pieces: bytes) -> str:
    (event,) = events(*pieces)
    assert isinstance(event, Malformed)
    return event.reason


@given(PAIRS)
def test_what_is_sent_is_what_is_read(pairs: list[tuple[bytes, bytes]]) -> None:
    data = b"".join(netstring(b"%b %b" % pair) for pair in pairs)
    assert events(data) == [*pairs, CLOSED]


def test_every_split_of_the_bytes() -> None:
    data = netstring(b"route a,b 3:@example.com") + netstring(b"list.x \n\0\xff") + netstring(b"r " + b"y" * 100)
    whole = events(data)
    assert len(whole) == 4
    for first in range(len(data)):
        for second in range(first, len(data), 7):
            assert events(data[:first], data[first:second], data[second:]) == whole
    assert events(*[data[n : n + 1] for n in range(len(data))]) == whole


@given(st.binary(max_size=300), st.integers(0, 300))
def test_whatever_comes_ends_in_order(data: bytes, cut: int) -> None:
    assert events(data[:cut], data[cut:])[-1] is CLOSED or isinstance(events(data)[-1], Malformed)
    assert [repr(event) for event in events(data[:cut], data[cut:])] == [repr(event) for event in events(data)]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"get a@example.com\n", "no netstring: expected a length"),
        (b"-1:x,", "no netstring: expected a length"),
        (b" 5:r abc,", "no netstring: expected a length"),
        ("٣:r a,".encode(), "no netstring: expected a length"),
        (b":,", "a netstring with an odd length"),
        (b"05:r abc,", "a netstring with an odd length"),
        (b"5:r abcd,", "a netstring that does not end in a comma"),
        (b"0:,", "a request without a name and a key"),
        (b"5:route,", "a request without a name and a key"),
        (b"4: key,", "a request without a name and a key"),
        (b"9:route", "the client closed within a request"),
        (b"12", "the client closed within a request"),
        (b"131073:", "a request of more than 131072 bytes"),
        (b"9" * 5000, "a request of more than 131072 bytes"),
    ],
)
def test_what_is_no_request_is_named(data: bytes, reason: str) -> None:
    assert only_reason(data) == reason
    assert only_reason(*[data[n : n + 1] for n in range(len(data))]) == reason


def test_the_longest_request() -> None:
    key = b"x" * (REQUEST_LIMIT - 2)
    assert events(netstring(b"r " + key)) == [(b"r", key), CLOSED]
    assert only_reason(netstring(b"r " + key + b"x")).startswith("a request of more than")


def test_a_length_too_long_is_refused_before_its_bytes_are_held() -> None:
    reader = Reader()
    reader.receive_data(b"999999:")
    assert isinstance(reader.next_event(), Malformed)
    reader.receive_data(b"x" * 1_000_000)
    assert len(reader._buffer) == 0


def test_an_empty_key_is_a_key() -> None:
    assert events(netstring(b"route ")) == [(b"route", b""), CLOSED]


def test_replies() -> None:
    assert reply("found", "slow:") == b"8:OK slow:,"
    assert reply("found", "ü") == "5:OK ü,".encode()
    assert reply("notfound", "") == b"9:NOTFOUND ,"
    assert reply("temporary", "later") == b"10:TEMP later,"
    assert reply("permanent", "no such table") == b"18:PERM no such table,"


@pytest.mark.parametrize("text", ["", "a\0b", "x" * (REPLY_LIMIT - 2), "\udcff"])
def test_what_postfix_would_not_read_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        reply("found", text)


def test_the_longest_result_and_reason() -> None:
    assert reply("found", "x" * (REPLY_LIMIT - 3)).startswith(b"100000:OK x")
    cut = reply("temporary", "ü" * REASON_LIMIT)
    assert len(cut) == len("405:TEMP ,") + REASON_LIMIT
    assert cut[4:-1].decode() == "TEMP " + "ü" * (REASON_LIMIT // 2)
