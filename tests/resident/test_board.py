"""The board: whole or nothing, whatever happens to who writes."""

import os
import signal
import time
from collections.abc import Iterator
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroom.resident import board as module
from postroom.resident.board import SNAPSHOT_LIMIT, Board, TooBig


@pytest.fixture
def board() -> Board:
    return Board(2)


@pytest.fixture
def writer(board: Board) -> Iterator[int]:
    """A process that writes without end: texts of all lengths that carry their own checksum."""
    child = os.fork()
    if child == 0:
        number = 0
        while True:
            number += 1
            text = os.urandom(number * 7919 % 20000)
            board.write(0, crc32(text).to_bytes(4, "big") + text)
    yield child
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def is_whole(data: bytes | None) -> bool:
    return data is not None and crc32(data[4:]) == int.from_bytes(data[:4], "big")


@given(st.lists(st.tuples(st.integers(0, 3), st.binary(max_size=300))))
def test_what_was_written_last_is_read(writes: list[tuple[int, bytes]]) -> None:
    board = Board(2)
    told: dict[int, list[bytes]] = {slot: [] for slot in range(4)}
    for slot, data in writes:
        board.write(slot, data)
        told[slot].append(data)
    for slot, all in told.items():
        assert board.read(slot) == (all[-1] if all else None)
        assert [data for _, data in board.both(slot)] == all[-2:]
        numbers = [number for number, _ in board.both(slot)]
        assert numbers == list(range(len(all) + 1 - len(numbers), len(all) + 1))


def test_regions_are_apart_and_there_are_no_others(board: Board) -> None:
    whole = bytes([7]) * SNAPSHOT_LIMIT
    for slot in (0, 1, board.supervisor, board.health):
        board.write(slot, bytes([slot]) + whole[1:])
    assert [board.read(slot) for slot in range(4)] == [bytes([slot]) + whole[1:] for slot in range(4)]
    for slot in (-1, 4):
        with pytest.raises(IndexError):
            board.write(slot, b"")
        with pytest.raises(IndexError):
            board.read(slot)


def test_too_big_leaves_what_was_there(board: Board) -> None:
    board.write(0, b"before")
    with pytest.raises(TooBig):
        board.write(0, bytes(SNAPSHOT_LIMIT + 1))
    assert board.read(0) == b"before"


def test_a_child_writes_and_the_parent_reads(board: Board) -> None:
    child = os.fork()
    if child == 0:
        board.write(1, b"of the child")
        os._exit(0)
    os.waitpid(child, 0)
    assert board.read(1) == b"of the child"


@given(st.integers(0, 1), st.integers(0, module._CELL - 1), st.integers(1, 255))
def test_no_broken_byte_is_believed(half: int, offset: int, flip: int) -> None:
    """The cell that is broken is left out; the other one still speaks, and the next write mends it."""
    board = Board(1)
    texts = (b"x" * 100, b"y" * 100)
    for text in texts:
        board.write(0, text)
    place = board._place(0, half) + offset
    board._memory[place] ^= flip
    used = module._CHECKSUM.size + module._HEAD.size + 100
    expected = [text for number, text in enumerate(texts) if number != half or offset >= used]
    assert [data for _, data in board.both(0)] == expected
    board.write(0, b"z")
    assert board.read(0) == b"z"


def test_a_reader_never_sees_half_of_a_text(board: Board, writer: int) -> None:
    until = time.monotonic() + 1.5
    seen = set()
    while time.monotonic() < until:
        data = board.read(0)
        if data is not None:
            assert is_whole(data)
            seen.add(data)
    assert len(seen) > 20, "the writer was not running"


def test_a_writer_that_is_killed_leaves_something_whole(board: Board) -> None:
    for round in range(40):
        child = os.fork()
        if child == 0:
            while True:
                text = os.urandom(200_000)
                board.write(0, crc32(text).to_bytes(4, "big") + text)
        while board.read(0) is None:
            time.sleep(0.001)
        time.sleep(round % 10 / 2000)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert is_whole(board.read(0))
