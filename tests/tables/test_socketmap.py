"""The socketmap client, against a server that answers in pieces, says TEMP, breaks off, or says nothing."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroom.deadline import Deadline
from postroom.status import ConfigurationFault, Fault
from postroom.tables import socketmap, table
from postroom.tables.socketmap import QUERY_LIMIT, REPLY_LIMIT, netstring

Answer = Callable[[bytes], bytes | None]


class Server:
    """Answers each request with what `answer` makes of it, in single bytes; None closes the connection."""

    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        self.answer: Answer = lambda request: b"9:NOTFOUND ,"
        self.requests: list[bytes] = []
        self.connections = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):  # the client need not hear all of it
            buffer = b""
            while data := connection.recv(4096):
                buffer += data
                request = netstring(buffer)
                if request is None:
                    continue
                buffer = b""
                self.requests.append(request)
                reply = self.answer(request)
                if reply is None:
                    return
                for byte in reply[:200]:
                    connection.sendall(bytes([byte]))
                connection.sendall(reply[200:])


@pytest.fixture(params=["unix", "inet"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Server, str]]:
    if request.param == "unix":
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(tmp_path / "s"))
        where = f"unix:{tmp_path}/s:maps"
    else:
        listener = socket.create_server(("127.0.0.1", 0))
        where = f"inet:127.0.0.1:{listener.getsockname()[1]}:maps"
    listener.listen()
    with listener:
        yield Server(listener), where
        for connection in (one for kept in socketmap._connections.values() for one in kept):
            connection.close()


def framed(text: bytes) -> bytes:
    return b"%d:%s," % (len(text), text)


def find(where: str, value: str, seconds: float = 5) -> bool | str:
    return table("socketmap", where).find("address", value, "+", Deadline(seconds))


def test_found_with_its_text_not_found_and_one_connection_for_all(server: tuple[Server, str]) -> None:
    peer, where = server
    peer.answer = lambda request: framed(b"OK text of " + request) if b"bob" in request else framed(b"NOTFOUND ")
    assert find(where, "bob+x@example.com") == "text of maps bob+x@example.com"
    assert find(where, "ann@example.com") is False
    assert find(where.removesuffix("maps") + "others", "bob@example.com") == "text of others bob@example.com"
    # One question each: a socketmap is asked for the whole address only.
    assert peer.requests == [b"maps bob+x@example.com", b"maps ann@example.com", b"others bob@example.com"]
    assert peer.connections == 1


@pytest.mark.parametrize(
    ("value", "request_"),
    [
        ("", b"maps <>"),
        ("\udcff\0\n@x", b"maps \xff\0\n@x"),
        ("\ud800", b"maps \xed\xa0\x80"),
        ("a" * 9000, b"maps " + b"a" * 9000),
    ],
)
def test_any_key_is_sent_as_it_is(server: tuple[Server, str], value: str, request_: bytes) -> None:
    peer, where = server
    assert find(where, value) is False
    assert peer.requests == [request_]


def test_a_key_too_long_for_a_server_is_not_found(server: tuple[Server, str]) -> None:
    peer, where = server
    assert find(where, "a" * QUERY_LIMIT) is False
    assert peer.requests == []


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (framed(b"TEMP later"), "answered TEMP later"),
        (framed(b"TIMEOUT too slow\r\n\0"), "answered TIMEOUT"),
        (framed(b"PERM never"), "answered PERM never"),
        (framed(b"WHAT"), "no known answer"),
        (framed(b""), "no known answer"),
        (b"x:OK,", "no netstring"),
        (b"3:OK ;", "no netstring"),
        (b"999999:" + b"x" * 1000, "too long"),
        (b"1" * 50, "too long"),
        (None, "closed the connection"),
    ],
)
def test_trouble_is_unknown_and_the_next_question_is_asked_afresh(
    server: tuple[Server, str], reply: bytes | None, words: str
) -> None:
    peer, where = server
    peer.answer = lambda request: reply
    with pytest.raises(Fault, match=words) as caught:
        find(where, "a@x")
    assert not isinstance(caught.value, ConfigurationFault)
    assert str(caught.value).isprintable()
    peer.answer = lambda request: framed(b"OK fine")
    assert find(where, "a@x") == "fine"


def test_a_kept_connection_that_was_closed_is_opened_again_once(server: tuple[Server, str]) -> None:
    peer, where = server
    assert find(where, "a@x") is False
    ((kept,),) = socketmap._connections.values()
    kept.shutdown(socket.SHUT_RDWR)
    assert find(where, "b@x") is False
    assert peer.connections == 2
    peer.answer = lambda request: None
    with pytest.raises(Fault, match="closed the connection"):
        find(where, "c@x")
    assert peer.connections == 3
    assert not any(socketmap._connections.values())


def test_what_comes_unasked_is_not_taken_for_the_next_answer(server: tuple[Server, str]) -> None:
    peer, where = server
    peer.answer = lambda request: framed(b"OK first") + framed(b"OK unasked")
    with suppress(Fault):  # where both came at once
        assert find(where, "a@x") == "first"
    peer.answer = lambda request: framed(b"NOTFOUND ")
    time.sleep(0.1)
    assert find(where, "b@x") is False
    assert peer.connections == 2


def test_a_server_that_says_nothing_is_left_at_the_deadline(server: tuple[Server, str]) -> None:
    peer, where = server
    release = threading.Event()
    peer.answer = lambda request: release.wait(10) and framed(b"OK late")
    start = time.monotonic()
    with pytest.raises(Fault, match="time"):
        find(where, "a@x", 0.3)
    assert time.monotonic() - start < 2
    assert not any(socketmap._connections.values()), "a late answer would be taken for the next question's"
    release.set()


def test_no_server_is_unknown(tmp_path: Path) -> None:
    with pytest.raises(Fault, match="No such file"):
        find(f"unix:{tmp_path}/none:maps", "a@x")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(Fault, match="refused"):
        find(f"inet:127.0.0.1:{port}:maps", "a@x")


@pytest.mark.parametrize(
    "where", ["", "unix:/x", "inet:host:name", "inet:host:0:n", "tcp:h:1:n", "inet::1:n", "unix::n"]
)
def test_what_is_no_socketmap_is_refused(where: str) -> None:
    with pytest.raises(ConfigurationFault, match="expected unix:PATH:NAME"):
        table("socketmap", where)


@given(st.binary(max_size=300), st.binary(max_size=20))
def test_a_netstring_at_every_split(content: bytes, after: bytes) -> None:
    data = b"%d:%s," % (len(content), content)
    for end in range(len(data)):
        assert netstring(data[:end]) is None
    assert netstring(data) == content
    if after:
        with pytest.raises(OSError, match="more than one"):
            netstring(data + after)


@given(st.binary(max_size=30))
def test_any_bytes_are_a_netstring_or_not(data: bytes) -> None:
    try:
        found = netstring(data)
    except OSError:
        return
    assert found is None or len(found) <= REPLY_LIMIT
