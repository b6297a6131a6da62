"""actions.smtp: replies and content, whatever the pieces they come in."""

from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from postroom.actions.smtp import LINE_LIMIT, REPLY_LIMIT, BrokenReply, Content, Replies, Reply, encoded, features

LINES = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=20), min_size=1, max_size=4)
# Bytes that matter to transparency, thick enough to meet each other.
MESSAGES = st.lists(st.sampled_from([b".", b"\n", b"\r", b"\r\n", b"a", b"\n.", b"\0", b"\xff"]), max_size=30).map(
    b"".join
)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(places)]


def read(replies: Replies) -> list[tuple[int, tuple[str, ...]]]:
    found = []
    while (reply := replies.next()) is not None:
        found.append((reply.code, reply.lines))
    return found


def written(code: int, lines: list[str], end: str) -> str:
    return "".join(f"{code}{' ' if line is lines[-1] else '-'}{line}{end}" for line in lines)


@given(
    st.lists(st.tuples(st.integers(100, 999), LINES), min_size=1, max_size=3),
    st.sampled_from(["\r\n", "\n"]),
    st.lists(st.integers(0, 500), max_size=8),
)
def test_replies_in_any_pieces(wanted: list[tuple[int, list[str]]], end: str, cuts: list[int]) -> None:
    wanted = [(code, [f"{number}{line}" for number, line in enumerate(lines)]) for code, lines in wanted]
    data = "".join(written(code, lines, end) for code, lines in wanted).encode()
    replies, found = Replies(), []
    for piece in pieces(data, cuts):
        replies.feed(piece)
        found += read(replies)
    assert found == [(code, tuple(lines)) for code, lines in wanted]
    assert not replies.pending


def test_every_split_of_a_conversation() -> None:
    data = b"220 hi\r\n250-one\r\n250 two\n354\r\n"
    for first in range(len(data) + 1):
        for second in range(first, len(data) + 1):
            replies = Replies()
            found = []
            for piece in (data[:first], data[first:second], data[second:]):
                replies.feed(piece)
                found += read(replies)
            assert found == [(220, ("hi",)), (250, ("one", "two")), (354, ("",))]


@pytest.mark.parametrize(
    "line", [b"\n", b"hello\n", b"25 x\n", b"2500 x\n", b"250_x\n", b"-50 x\n", b"\xb2\xb2\xb2 x\n"]
)
def test_what_is_no_reply_is_refused(line: bytes) -> None:
    replies = Replies()
    replies.feed(line)
    with pytest.raises(BrokenReply):
        replies.next()


@pytest.mark.parametrize("part", [b"250-a\n", b"x", b"250-" + b"y" * 1000 + b"\n", b"\0"])
def test_a_reply_without_end_is_refused_while_it_is_small(part: bytes) -> None:
    replies = Replies()
    taken = 0
    with pytest.raises(BrokenReply):
        while taken < 10 * REPLY_LIMIT:
            replies.feed(part)
            taken += len(part)
            replies.next()
    assert taken <= REPLY_LIMIT + LINE_LIMIT


@given(st.binary())
def test_any_bytes_are_replies_or_refused(data: bytes) -> None:
    replies = Replies()
    replies.feed(data)
    with suppress(BrokenReply):
        read(replies)


def test_what_a_server_announces() -> None:
    reply = Reply(250, ("m.example PIPELINING", "SIZE 1000", "8bitmime", "AUTH=LOGIN", "", " "))
    assert features(reply) == {"SIZE", "8BITMIME", "AUTH=LOGIN"}


def received(wire: bytes) -> bytes:
    """What a server that keeps to RFC 5321 makes of it: the reverse, written another way."""
    assert wire.endswith(b".\r\n")
    lines = wire[:-3].split(b"\r\n")
    assert lines.pop() == b""
    for line in lines:
        assert line != b"." and b"\r" not in line and b"\n" not in line
    return b"".join((line[1:] if line.startswith(b".") else line) + b"\n" for line in lines)


@given(MESSAGES, st.lists(st.integers(0, 100), max_size=6))
@example(b"a\r\n.\r\nb", [1, 2, 3, 4, 5])
def test_content_in_any_pieces_arrives_whole(message: bytes, cuts: list[int]) -> None:
    wanted = message.replace(b"\r\n", b"\n").replace(b"\r", b" ")
    if wanted and not wanted.endswith(b"\n"):
        wanted += b"\n"
    assert received(b"".join(encoded(iter(pieces(message, cuts))))) == wanted


def test_every_split_of_the_hard_places() -> None:
    message = b".\n..\r\n\r.\n\n.\r\r\n.a\n."
    whole = b"".join(encoded(iter([message])))
    for first in range(len(message) + 1):
        for second in range(first, len(message) + 1):
            parts = [message[:first], message[first:second], message[second:]]
            assert b"".join(encoded(iter(parts))) == whole
    assert whole == b"..\r\n...\r\n .\r\n\r\n.. \r\n..a\r\n..\r\n.\r\n"


def test_an_empty_message_is_a_dot_alone() -> None:
    assert Content().end() == b".\r\n"
