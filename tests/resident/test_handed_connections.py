"""Programs of spawn(8) that give their connection away: the client notices nothing, and the program is gone."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from resident.handing import ENVIRONMENT, ROOT, Resident, executable, wait_for

from postroom import handoff

SPAWN = ROOT / "spawn"

RULES = """
[[rule]]
id = "not-here"
at = "rcpt"
match = { recipient = "bob@example.com" }
action = "REJECT 5.7.1 not here"

[[rule]]
id = "slowly"
at = "route"
match = { recipient = "bob@example.com" }
action = "slow:"
"""

ASKED = b"request=smtpd_access_policy\nprotocol_state=RCPT\nrecipient=%s\n\n"

# Program, more options, what is asked, what is answered.
TALKS = {
    "rule-policy": ([], ASKED % b"bob@example.com", b"action=REJECT 5.7.1 not here\n\n"),
    "socketmap-lookup": ([], b"21:route bob@example.com,", b"8:OK slow:,"),
    "tcp-lookup": ([], b"get bob@example.com\n", b"200 slow:\n"),
    "tcp-lookup of a list": (["--table", "list.none"], b"get bob@example.com\n", b"400 "),
    "lmtp-deliver": ([], b"", b"220 "),
}


@pytest.fixture
def resident(tmp_path: Path) -> Iterator[Resident]:
    here = Resident(tmp_path, RULES)
    yield here
    here.kill()


def start(resident: Resident, name: str, *options: str) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """The program as spawn(8) starts it, and the client's end of the connection."""
    ours, theirs = socket.socketpair()
    ours.settimeout(20)
    words = resident.command(SPAWN / f"{name}.py", *options, words=[])
    program = subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs, env=ENVIRONMENT)
    theirs.close()
    return program, ours


def talk(client: socket.socket, asked: bytes, expected: bytes) -> bytes:
    client.sendall(asked)
    answer = b""
    while len(answer) < len(expected):
        part = client.recv(1000)
        assert part, "closed"
        answer += part
    return answer


@pytest.mark.parametrize("name", TALKS)
def test_the_same_answers_and_the_program_leaves(resident: Resident, name: str) -> None:
    options, asked, expected = TALKS[name]
    program, client = start(resident, name.split()[0], *options, "--handoff", "no")
    with client:
        alone = talk(client, asked, expected)
    assert program.wait(20) == 0
    resident.start()
    program, client = start(resident, name.split()[0], *options)
    with client:
        assert program.wait(20) == 0, "it is to leave while its client is there"
        handed = talk(client, asked, expected)
        assert (alone[:9], handed[: len(expected)]) == (handed[:9], expected)
        if asked:  # the connection stays
            assert talk(client, asked, expected).startswith(expected)


def test_what_the_client_has_said_before_is_answered(resident: Resident) -> None:
    resident.start()
    _, asked, expected = TALKS["rule-policy"]
    ours, theirs = socket.socketpair()
    with ours:
        ours.settimeout(20)
        ours.sendall(asked * 3)
        with theirs:
            words = resident.command(SPAWN / "rule-policy.py", words=[])
            assert subprocess.run(words, stdin=theirs, stdout=theirs, env=ENVIRONMENT, check=False).returncode == 0
        assert talk(ours, b"", expected * 3) == expected * 3


def test_a_service_that_is_killed_closes_it_and_the_next_connection_is_answered(resident: Resident) -> None:
    """As smtpd(8) does: it connects again, spawn(8) starts another program, and that runs alone."""
    resident.start()
    _, asked, expected = TALKS["rule-policy"]
    program, client = start(resident, "rule-policy")
    with client:
        assert talk(client, asked, expected) == expected
        assert program.wait(20) == 0
        resident.kill()
        assert client.recv(10) == b""
    program, client = start(resident, "rule-policy")
    with client:
        assert talk(client, asked, expected) == expected
        assert program.poll() is None, "nobody can have taken it"
    program.wait(20)


@pytest.mark.parametrize("says", [b"", b"rubbish\n", b"tak"])
def test_given_away_and_not_confirmed_it_is_never_touched_again(tmp_path: Path, says: bytes) -> None:
    here = Resident(tmp_path, RULES)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(here.place))
        listener.listen()
        program, client = start(here, "rule-policy")
        with client:
            client.sendall(ASKED % b"bob@example.com")
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"spawn\n")
                _, taken, _, _ = socket.recv_fds(connection, 1, 4)
                connection.sendall(says)
            assert program.wait(20) == 75
            assert os.read(taken[0], 1000).startswith(b"request="), "the program has read of it"
            os.close(taken[0])
            assert client.recv(10) == b""


def test_given_back_it_is_served_alone(tmp_path: Path) -> None:
    here = Resident(tmp_path, RULES)
    _, asked, expected = TALKS["rule-policy"]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(here.place))
        listener.listen()
        program, client = start(here, "rule-policy")
        with client:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"spawn\n")
                _, taken, _, _ = socket.recv_fds(connection, 1, 4)
                connection.sendall(b"alone no room\n")
                os.close(taken[0])
            assert talk(client, asked, expected) == expected
        program.wait(20)


def test_tried_by_hand_it_answers_where_it_was_asked(resident: Resident) -> None:
    resident.start()
    words = resident.command(SPAWN / "rule-policy.py", words=[])
    done = subprocess.run(words, input=ASKED % b"bob@example.com", stdout=subprocess.PIPE, env=ENVIRONMENT, check=False)
    assert (done.returncode, done.stdout) == (0, b"action=REJECT 5.7.1 not here\n\n")


@pytest.mark.parametrize("options", [["--deadline", "3"], ["--state", "/var/lib/other"]])
def test_options_that_mean_something_else_here_keep_it_alone(resident: Resident, options: list[str]) -> None:
    resident.start()
    _, asked, expected = TALKS["rule-policy"]
    program, client = start(resident, "rule-policy", *options)
    with client:
        assert talk(client, asked, expected) == expected
        assert program.poll() is None
    program.wait(20)
    assert "handoff=alone" in resident.log.read_text()


def test_a_hundred_connections_are_one_process(resident: Resident) -> None:
    pid = resident.start()
    _, asked, expected = TALKS["rule-policy"]
    pairs = [start(resident, "rule-policy") for _ in range(100)]
    assert [program.wait(60) for program, _ in pairs] == [0] * 100
    for _, client in pairs:
        assert talk(client, asked, expected) == expected
    assert set(re.findall(r"rule-policy\[(\d+)\]", resident.log.read_text())) == {str(pid)}
    for _, client in pairs:
        client.close()
    wait_for(lambda: len(os.listdir(f"/proc/{pid}/fd")) < 40)


def test_a_handler_of_ones_own_is_handed_off_by_run(resident: Resident) -> None:
    """A file as in docs/writing-a-handler.md, whose first lines do not offer."""
    mine = resident.folder / "my-policy.py"
    mine.write_text(
        "import os\nfrom postroom.runners.stdio import run\n"
        "def decide(request):\n    return f'OK {os.getpid()}'\nrun(decide)\n"
    )
    pid = resident.start(executable(mine))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(20)
        words = resident.command(mine, words=[])
        assert subprocess.run(words, stdin=theirs, stdout=theirs, env=ENVIRONMENT, check=False).returncode == 0
        assert talk(ours, ASKED % b"x@y.test", b"action=OK %d\n\n" % pid) == b"action=OK %d\n\n" % pid


def test_nobody_listening_costs_next_to_nothing(tmp_path: Path) -> None:
    """What an offer to nobody takes, against a start of Python; measured here as time on the processor."""
    before = time.process_time()
    for _ in range(1000):
        with pytest.raises(FileNotFoundError):
            handoff.hand_off(__file__, ["--handoff", str(tmp_path / "nobody")], False)
    assert time.process_time() - before < 0.2, "more than 0.2 ms each"
