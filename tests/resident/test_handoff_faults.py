"""The hand-off where one side fails or lies: at each step, nothing twice, nothing by nobody, nothing left open."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from resident.handing import ENVIRONMENT, MESSAGE, WORDS, Resident, by_resident, executable, wait_for, who

from postroom import __version__, handoff


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def resident(folder: Path) -> Iterator[Resident]:
    """One that runs, and has `who-deliver` loaded."""
    here = Resident(folder)
    program = executable(here.program())
    here.start(program)
    yield here
    here.kill()


# A listener that fails, at each step


class Scripted:
    """A listener of the test's own."""

    def __init__(self, place: Path) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(place))
        self.listener.listen(10)
        self.taken: list[int] = []

    def serve(self, *says: bytes | float | None) -> None:
        """Say these after what came each time; a number waits; None takes the descriptor."""
        connection, _ = self.listener.accept()
        with connection:
            connection.recv(65536)
            for one in says:
                if one is None:
                    _, taken, _, _ = socket.recv_fds(connection, 1, 4)
                    self.taken += taken
                elif isinstance(one, float):
                    time.sleep(one)
                else:
                    connection.sendall(one)


LOST = (75, b"4.3.0 the resident service went away\n")
STEPS: dict[str, tuple[tuple[bytes | float | None, ...], tuple[int, bytes] | None]] = {
    "closes at once": ((), None),
    "says nothing": ((3.0,), None),
    "says rubbish": ((b"\0\xff" * 100 + b"\n",), None),
    "says rubbish without end": ((b"x" * 5000,), None),
    "says half a word": ((b"pip",), None),
    "a patience that is none": ((b"pipe soon\n",), None),
    "takes a program of pipe(8) for one of spawn(8)": ((b"spawn\n",), None),
    "takes it, and goes": ((b"pipe 5\n", None), LOST),
    "takes it, and says half a line": ((b"pipe 5\n", None, b"0 don"), LOST),
    "takes it, and says rubbish": ((b"pipe 5\n", None, b"\xff\xfe\n"), LOST),
    "takes it, and gives it back": ((b"pipe 5\n", None, b"alone I have not touched it\n"), None),
    "reads it, and goes": ((b"pipe 5\n", None, b"read\n", 0.2), LOST),
    "reads it, and answers": ((b"pipe 5\n", None, b"read\n", 0.2, b"67 5.1.1 no\n"), (67, b"5.1.1 no\n")),
    "takes it, and is silent": ((b"pipe -9\n", None, 3.0), (75, b"4.3.0 the resident service does not answer\n")),
}


@pytest.mark.parametrize("step", STEPS)
def test_a_listener_that_fails_at_this_step(folder: Path, step: str) -> None:
    says, expected = STEPS[step]
    here = Resident(folder)
    program = executable(here.program())
    scripted = Scripted(here.place)
    with ThreadPoolExecutor(1) as other:
        served = other.submit(scripted.serve, *says)
        begin = time.monotonic()
        answer = here.run(program)
        assert time.monotonic() - begin < 5
        scripted.listener.close()
        with pytest.MonkeyPatch.context():
            try:
                served.result()
            except OSError:
                assert expected is None or expected == LOST
    if expected is None:
        assert answer[0] == 0
        assert answer[1].startswith(b"by "), "it has not run alone"
    else:
        assert answer == expected
        assert len(scripted.taken) == 1
    for descriptor in scripted.taken:
        os.close(descriptor)


# A service that is killed, a program that is killed


def test_killed_while_it_delivers_the_mail_is_put_off(folder: Path) -> None:
    resident = Resident(folder)
    program = executable(resident.program(f"open({str(folder / 'begun')!r}, 'w').close(); time.sleep(30)"))
    resident.start(program)
    with ThreadPoolExecutor(1) as other:
        answer = other.submit(resident.run, program)
        wait_for((folder / "begun").exists)
        resident.kill()
        assert answer.result() == LOST


def test_a_program_killed_before_the_message_is_whole_leaves_nothing(folder: Path) -> None:
    """What the resident has read by then looks whole: only a program that lives can say that it is."""
    resident = Resident(folder)
    program = executable(resident.program(f"open({str(folder / 'begun')!r}, 'w').close()"))
    resident.start(program)
    try:
        client = subprocess.Popen(
            resident.command(program), stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT
        )
        assert client.stdin is not None
        client.stdin.write(MESSAGE)
        client.stdin.flush()
        time.sleep(0.3)
        client.kill()
        client.communicate()
        wait_for(lambda: "not delivered" in resident.log.read_text())
        assert not (folder / "begun").exists()
    finally:
        resident.kill()


def test_pipe_killed_in_the_middle_of_the_message_nothing_is_delivered(folder: Path) -> None:
    """As `postfix stop` does: the program's parent ends, and its end of the pipe with it."""
    resident = Resident(folder)
    program = executable(resident.program(f"open({str(folder / 'begun')!r}, 'w').close()"))
    resident.start(program)
    parent = (
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        "child.stdin.write(b'Subject: x\\n\\nhalf'); child.stdin.flush(); time.sleep(0.5); os._exit(0)"
    )
    try:
        subprocess.run([sys.executable, "-c", parent, *resident.command(program)], env=ENVIRONMENT, check=True)
        wait_for(lambda: "not delivered" in resident.log.read_text())
        assert not (folder / "begun").exists()
    finally:
        resident.kill()


def test_slower_than_its_deadline_it_is_answered_for_and_the_service_goes_on(folder: Path) -> None:
    resident = Resident(folder)
    program = executable(resident.program("time.sleep(2)"))
    resident.start(program)
    try:
        begin = time.monotonic()
        assert resident.run(program, "--deadline", "1") == (75, b"4.3.0 not finished within 1 seconds\n")
        assert time.monotonic() - begin < 2
        assert "fault=deadline" in resident.log.read_text()
        wait_for(lambda: "late=yes" in resident.log.read_text())
        assert by_resident(resident, resident.run(program, "--deadline", "9"))
    finally:
        resident.kill()


# Clients that are none


def offer(*fields: bytes) -> bytes:
    body = b"\0".join(fields)
    return handoff.MAGIC + len(body).to_bytes(4, "big") + body


HEAD = (__version__.encode(), b"utf-8", b"", b"", b"")

RUBBISH = {
    "HTTP": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "zeros": bytes(5000),
    "a length without end": handoff.MAGIC + b"\xff\xff\xff\xff",
    "too few fields": offer(__version__.encode(), b"utf-8"),
    "nothing in it": offer(b""),
    "more than it says": offer(*HEAD, b"", b"", b"who-deliver", *os.fsencode("x")[:0], b"--help") + b"more",
    "no such program": offer(*HEAD, b"shipped", b"", b"../../bin/sh"),
    "bytes that are no text": offer(*HEAD, b"\xff", b"\xff\xfe", b"\xff\xff", b"\xff", b"\xff"),
    "as long as may be": offer(*HEAD, b"", b"", *[b"x" * 1000] * 1000),
}


@pytest.mark.parametrize("name", RUBBISH)
def test_rubbish_is_told_to_go_and_hurts_nobody(resident: Resident, name: str) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(resident.place))
        try:
            connection.sendall(RUBBISH[name])
            answer = connection.recv(1000)
        except ConnectionError:
            answer = b"alone"
        assert answer.startswith(b"alone")
    assert by_resident(resident, resident.run(who(resident)))


def real_offer(resident: Resident) -> bytes:
    environment = (b"", b"", b"")
    identity = handoff.identity(str(who(resident))).encode()
    words = [*resident.options, *WORDS]
    return offer(HEAD[0], b"utf-8", *environment, b"", identity, os.fsencode(who(resident)), *map(os.fsencode, words))


def connected(resident: Resident) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(10)
    connection.connect(str(resident.place))
    return connection


def test_an_offer_may_come_in_any_pieces(resident: Resident) -> None:
    data = real_offer(resident)
    for size in (1, 7, 100, len(data) - 1):
        with connected(resident) as connection:
            for start in range(0, len(data), size):
                connection.sendall(data[start : start + size])
            assert connection.recv(100) == b"pipe 250\n"


@pytest.mark.parametrize("path", ["/dev", "a datagram socket", "/dev/full"])
def test_a_descriptor_that_nothing_can_be_read_from_hurts_nobody(resident: Resident, path: str) -> None:
    before = descriptors(resident)
    with connected(resident) as connection, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams:
        connection.sendall(real_offer(resident))
        assert connection.recv(100) == b"pipe 250\n"
        given = (
            os.dup(datagrams.fileno()) if " " in path else os.open(path, os.O_RDONLY if path == "/dev" else os.O_WRONLY)
        )
        socket.send_fds(connection, [b"\0"], [given])
        os.close(given)
        if " " in path:
            datagrams.close()
            connection.shutdown(socket.SHUT_RDWR)
        else:
            assert connection.recv(200).startswith((b"alone", b"75 4.3.0 cannot take the message"))
    assert by_resident(resident, resident.run(who(resident)))
    if " " not in path:  # nothing ever ends a read of datagrams but the deadline of the mail, in its own thread
        wait_for(lambda: descriptors(resident) <= before)


@pytest.mark.parametrize("number", [0, 2, 3, 250])
def test_only_one_descriptor_is_taken(resident: Resident, number: int) -> None:
    before = descriptors(resident)
    with connected(resident) as connection:
        connection.sendall(real_offer(resident))
        assert connection.recv(100) == b"pipe 250\n"
        source = os.open("/dev/null", os.O_RDONLY)
        socket.send_fds(connection, [b"\0"], [source] * number)
        os.close(source)
        answer = connection.recv(100)
        assert answer in (b"", b"read\n")
    wait_for(lambda: descriptors(resident) <= before)
    assert by_resident(resident, resident.run(who(resident)))


def test_who_is_slow_is_left(resident: Resident) -> None:
    with connected(resident) as connection:
        connection.sendall(b"PR")
        begin = time.monotonic()
        assert connection.recv(10) == b""
        assert time.monotonic() - begin < 8


def descriptors(resident: Resident) -> int:
    assert resident.process is not None
    return len(os.listdir(f"/proc/{resident.process.pid}/fd"))


def test_nothing_is_left_open_by_a_thousand(resident: Resident) -> None:
    """By the protocol itself, without a process for each; every third goes away at another step."""
    data = real_offer(resident)
    resident.run(who(resident))
    before = descriptors(resident)
    for number in range(1000):
        with connected(resident) as connection:
            connection.sendall(data)
            assert connection.recv(100) == b"pipe 250\n"
            if number % 3 == 1:
                continue
            reader, writer = os.pipe()
            socket.send_fds(connection, [b"\0"], [reader])
            os.close(reader)
            os.write(writer, MESSAGE)
            os.close(writer)
            if number % 3 == 2:
                continue
            assert connection.recv(100) == b"read\n"
            connection.sendall(b"go\n")
            assert connection.recv(100).startswith(b"0 by ")
    wait_for(lambda: descriptors(resident) <= before)


def test_two_hundred_at_once(folder: Path) -> None:
    resident = Resident(folder)
    program = executable(resident.program("time.sleep(0.05)"))
    resident.start(program, threads=16)
    try:
        clients = [
            subprocess.Popen(
                resident.command(program, thin=True), stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT
            )
            for _ in range(200)
        ]
        for client in clients:
            assert client.stdin is not None
            client.stdin.write(MESSAGE)
            client.stdin.close()
        answers = []
        for client in clients:
            assert client.stdout is not None
            answers.append((client.wait(60), client.stdout.read()))
            client.stdout.close()
        assert all(by_resident(resident, answer) for answer in answers)
        assert resident.log.read_text().count("status=sent") == 200
    finally:
        resident.kill()
