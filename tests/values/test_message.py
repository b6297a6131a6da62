"""The message: read once, spooled, its header lazily understood."""

import os
import threading
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postroom.message import CHUNK, HEAD_LIMIT, Message, open_spool


def read(data: bytes, directory: str, memory_limit: int = 100) -> Message:
    reader, writer = os.pipe()

    def feed() -> None:
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(data)

    thread = threading.Thread(target=feed)
    thread.start()
    try:
        return Message.read(reader, directory, memory_limit=memory_limit)
    finally:
        thread.join()
        os.close(reader)


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_spooled_or_not_the_bytes_are_the_same(data: bytes) -> None:
    spooled, kept = read(data, "/tmp"), Message.of(data)
    assert b"".join(spooled.chunks()) == b"".join(spooled.chunks()) == data
    assert b"".join(kept.chunks()) == data
    assert (spooled.size, spooled.digest(), spooled.head) == (kept.size, kept.digest(), kept.head)


def test_a_spool_leaves_no_file_behind(tmp_path: Path) -> None:
    message = read(b"x" * 300_000, str(tmp_path))
    assert list(tmp_path.iterdir()) == []
    assert message.size == sum(len(chunk) for chunk in message.chunks()) == 300_000


def test_two_readers_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    message = read(os.urandom(3 * CHUNK), str(tmp_path))
    for one, other in zip(message.chunks(), message.chunks(), strict=True):
        assert one == other


def test_the_next_directory_serves_where_the_first_does_not(tmp_path: Path) -> None:
    fd = open_spool("/nonexistent", str(tmp_path))
    assert os.write(fd, b"x") == 1
    os.close(fd)


def test_no_place_to_spool_is_an_oserror_and_nothing_else() -> None:
    with pytest.raises(OSError, match="No such file"):
        read(b"x" * 1000, "/nonexistent")


def test_headers_are_unfolded_decoded_and_found_in_any_case() -> None:
    message = Message.of(
        b"From MAILER-DAEMON Sun\nSubject: =?utf-8?q?caf=C3=A9?=\n and more\nX-One: 1\nx-one:\t2\n"
        b"Raw: caf\xc3\xa9\nBroken: =?no-such-charset?b?AAAA?=\nLatin: \xe9\n"
        b"Odd: =?\xff?b?AAAA?=\n\nSubject: in the body\n"
    )
    assert message.header("subject") == "café and more"
    assert message.headers("X-ONE") == ["1", "2"]
    assert message.header("raw") == "café"
    assert message.header("broken") == "=?no-such-charset?b?AAAA?="
    assert message.header("latin") == "\udce9"
    assert message.header("odd") == "=?\udcff?b?AAAA?="
    assert message.header("missing") is None


@pytest.mark.parametrize(
    "data", [b"", b"\n", b"\r\n", b"\nSubject: body\n", b"no header at all", b":\n:x\n\n", b"\0\0"]
)
def test_mail_without_a_header_has_none(data: bytes) -> None:
    assert Message.of(data).header("subject") is None


@given(st.binary(max_size=30), st.sampled_from([b"q", b"b", b"Q", b"x"]), st.binary(max_size=60))
def test_no_encoded_word_upsets_the_header_reader(charset: bytes, encoding: bytes, text: bytes) -> None:
    word = b"=?" + charset + b"?" + encoding + b"?" + text + b"?="
    assert len(Message.of(b"Subject: " + word.replace(b"\n", b"") + b"\n\n").headers("subject")) == 1


@given(st.binary(max_size=300))
def test_no_bytes_upset_the_header_reader(data: bytes) -> None:
    for name in ("subject", "to", ""):
        Message.of(data).headers(name)


def test_a_million_headers_are_not_held_in_memory(tmp_path: Path) -> None:
    content = b"A: b\n" * 1_000_000 + b"\nbody\n"
    tracemalloc.start()
    try:
        message = read(content, str(tmp_path), memory_limit=262_144)
        assert len(message.head) <= HEAD_LIMIT
        assert message.header("a") == "b"
        assert tracemalloc.get_traced_memory()[1] < 20 * HEAD_LIMIT
    finally:
        tracemalloc.stop()
