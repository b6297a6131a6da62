"""The SMTP client: every reply as it came, however the bytes were cut, and a connection that ends without one."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postroom.postfix.session import Reply, Session, dot_stuffed

GREETING = b"220 lab.test ESMTP\r\n"


def serve(talk: Callable[[socket.socket], None]) -> tuple[tuple[str, int], threading.Thread]:
    """A server for one connection."""
    listener = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        connection, _ = listener.accept()
        listener.close()
        # The client may leave first.
        with connection, contextlib.suppress(ConnectionError):
            talk(connection)

    thread = threading.Thread(target=run)
    thread.start()
    address: tuple[str, int] = listener.getsockname()
    return address, thread


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 60), max_size=10))
def test_replies_in_any_pieces(cuts: list[int]) -> None:
    data = GREETING + b"250-first\r\n250-SIZE 10\r\n250 last\r\n"

    def talk(connection: socket.socket) -> None:
        edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
        for start, end in pairwise(edges):
            connection.sendall(data[start:end])
        connection.recv(100)

    address, thread = serve(talk)
    with Session(address) as session:
        assert session.greeting == Reply(220, "lab.test ESMTP")
        assert session.command("EHLO x") == Reply(250, "first\nSIZE 10\nlast")
    thread.join()


@pytest.mark.parametrize("reset", [False, True])
def test_an_end_without_a_reply_is_none(reset: bool) -> None:
    def talk(connection: socket.socket) -> None:
        connection.sendall(GREETING)
        connection.recv(100)
        connection.sendall(b"250 half")
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    address, thread = serve(talk)
    with Session(address) as session:
        assert session.command("RCPT TO:<a@b.test>") is None
        assert session.command("NOOP") is None
        assert session.replies == [Reply(220, "lab.test ESMTP"), None, None]
    thread.join()


def test_a_reply_without_end_is_refused() -> None:
    def talk(connection: socket.socket) -> None:
        connection.sendall(GREETING + b"2" * 70000)
        connection.recv(100)

    address, thread = serve(talk)
    with Session(address) as session, pytest.raises(ValueError, match="no end"):
        session.reply()
    thread.join()


@given(st.binary())
def test_dot_stuffing_can_be_undone_and_never_ends_the_message(message: bytes) -> None:
    sent = dot_stuffed(message)
    assert b"\r\n.\r\n" not in b"\r\n" + sent
    lines = sent.split(b"\r\n")[:-1]
    back = [line[1:] if line.startswith(b".") else line for line in lines]
    given_lines = message.replace(b"\r\n", b"\n").split(b"\n")
    assert back == (given_lines[:-1] if given_lines[-1] == b"" else given_lines)
