"""A mail handed off, and its end: past the deadline, or with nobody to tell, nothing more is delivered; and who may."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from resident.handing import ENVIRONMENT, MESSAGE, PYTHON, WORDS, Resident, by_resident, executable, wait_for, who

from postroom import __version__, handoff, log
from postroom.delivery import Mail, Outcome, sent
from postroom.envelope import Envelope, Recipient
from postroom.resident import handed
from postroom.resident import handoff as listener
from postroom.resident.handed import Delivery
from postroom.resident.offered import Offer
from postroom.resident.programs import Program
from postroom.runners.captive import Handed
from postroom.status import ConfigurationFault

ALL = [f"r{number}@x.test" for number in range(4)]
SEVERAL = [*WORDS[:3], *(f"recipient={address}" for address in ALL)]
LATE = (75, b"4.3.0 not finished within 1 seconds\n")


@pytest.fixture
def resident(tmp_path: Path) -> Iterator[Resident]:
    here = Resident(tmp_path, 'deadline = "1s"\n')
    yield here
    here.kill()


def slow(resident: Resident, first: str = "") -> Path:
    done = str(resident.folder / "done")
    body = f"{first}; time.sleep(0.7); open({done!r}, 'a').write(mail.recipient + chr(10))"
    return executable(resident.program(body.removeprefix("; ")))


def delivered(resident: Resident) -> list[str]:
    path = resident.folder / "done"
    return path.read_text().split() if path.exists() else []


# The deadline, alone and handed off


def test_past_the_deadline_the_other_recipients_are_left(resident: Resident) -> None:
    program = slow(resident, "mail.configuration")
    resident.start(program)
    assert resident.run(program, words=SEVERAL) == LATE
    assert resident.log.read_text().count("fault=deadline") == 1
    wait_for(lambda: "late=yes" in resident.log.read_text())
    time.sleep(1.5)
    assert delivered(resident) == ALL[:2], "delivered, though Postfix was told that nothing was"


SCENES: dict[str, tuple[str, tuple[str, ...]]] = {
    "no configuration read": ("pass", ()),
    "configuration read": ("mail.configuration", ()),
    "configuration read by the second": ("mail.recipient.startswith('r1') and mail.configuration", ()),
    "an option": ("pass", ("--deadline", "1")),
    "an option, and the configuration read": ("mail.configuration", ("--deadline", "9")),
}


@pytest.mark.parametrize("scene", SCENES)
def test_the_same_deadline_as_alone(resident: Resident, scene: str) -> None:
    """The configuration's counts from when the handler has read it."""
    first, options = SCENES[scene]
    program = executable(resident.program(f"{first}; time.sleep(0.7); return sent('done')"))
    alone = resident.alone(program, *options, words=SEVERAL)
    resident.start(program)
    assert resident.run(program, *options, words=SEVERAL) == alone
    assert alone == ((0, b"done\n") if "no " in scene or "9" in options else LATE)
    assert "handoff=alone" not in resident.log.read_text()


def test_a_program_killed_while_it_waits_gets_no_more_delivered(resident: Resident) -> None:
    program = slow(resident)
    resident.start(program)
    client = subprocess.Popen(resident.command(program, words=SEVERAL), stdin=subprocess.PIPE, env=ENVIRONMENT)
    assert client.stdin is not None
    client.stdin.write(MESSAGE)
    client.stdin.close()
    wait_for(lambda: delivered(resident))
    client.send_signal(signal.SIGKILL)
    client.wait()
    wait_for(lambda: "2 of 4 not delivered" in resident.log.read_text())
    time.sleep(1)
    assert delivered(resident) == ALL[:2]


# The message


class Lender:
    @property
    def configuration(self) -> Any:
        raise ConfigurationFault("none")


@pytest.fixture
def give(tmp_path: Path) -> Iterator[Callable[..., tuple[Delivery, socket.socket]]]:
    """A delivery of what descriptor gives, and the program's end of its connection."""
    log.open("resident", str(tmp_path / "log"))
    ends = []

    def make(source: int, seconds: float = 9.0, handler: Callable[[Mail], Outcome] = lambda mail: sent("kept")) -> Any:
        offer = Offer([b"", b"utf-8", b"", b"", b"", b"", b"", b"x-deliver"])
        offer.program = Program("x-deliver", "/x/x-deliver.py", "", Handed("pipe", handler, None, False))
        offer.envelope = Envelope([Recipient("r@example.org", "r@example.org")], sender="s@example.com", queue_id="4Xy")
        offer.seconds = offer.most = seconds
        ours, theirs = socket.socketpair()
        ends.append(theirs)
        return Delivery(offer, source, ours, Lender()), theirs

    yield make
    for end in ends:
        end.close()


def test_a_message_without_end_is_read_until_the_deadline(give: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = descriptors()
    delivery, _ = give(os.open("/dev/zero", os.O_RDONLY), 0.5)
    begin = time.monotonic()
    assert str(delivery.work()) == "4.3.0 not finished within 0.5 seconds"
    assert time.monotonic() - begin < 2
    assert descriptors() == before + 1, "of the program's end"


def test_one_that_does_not_come_is_waited_for_until_the_deadline(give: Any) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"Subject: half")
    delivery, _ = give(reader, 0.5)
    assert str(delivery.work()) == "4.3.0 not finished within 0.5 seconds"
    os.close(writer)


def test_who_goes_while_it_comes_is_not_waited_for(give: Any) -> None:
    reader, writer = os.pipe()
    delivery, program = give(reader, 30.0)
    threading.Timer(0.2, program.close).start()
    begin = time.monotonic()
    assert delivery.work() is None
    assert time.monotonic() - begin < 5
    os.close(writer)


def test_past_the_limit_it_is_put_off(give: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handed, "MESSAGE_LIMIT", 3 << 20)
    delivery, _ = give(os.open("/dev/zero", os.O_RDONLY))
    assert str(delivery.work()) == "4.3.0 more than 3 MB: too big to be handed off, needs --handoff no"


def test_its_file_is_given_back(give: Any, tmp_path: Path) -> None:
    path = tmp_path / "big"
    path.write_bytes(MESSAGE + b"x" * 1_000_000)
    before = descriptors()
    seen = []
    delivery, program = give(os.open(path, os.O_RDONLY), handler=lambda mail: sent(f"{seen.append(descriptors())}"))
    program.sendall(b"go\n")
    assert delivery.work().kind == "sent"
    assert seen[0] > before + 2, "it lay in no file"
    assert descriptors() == before + 1, "of the program's end"


def test_one_that_was_over_before_its_thread_began_is_not_delivered(give: Any) -> None:
    delivery, program = give(os.open("/dev/null", os.O_RDONLY))
    program.sendall(b"go\n")
    delivery.over = True
    assert delivery.work() is None
    with pytest.raises(ConnectionResetError):  # closed with its word unheard, and nothing said
        program.recv(10)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


# Who may


STRANGER = """
import os, socket, sys, time
os.setgroups([]); os.setgid(1); os.setuid(1)
for number in range(50):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(sys.argv[1])
        try:
            connection.sendall(bytes.fromhex(sys.argv[2]).replace(b"NUMBER", b"%06d" % number))
        except OSError:
            pass
        print(connection.recv(300).decode().strip())
"""


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    for path in (tmp_path, *tmp_path.parents):
        if path.owner() == "root" and path != Path("/") and path != Path("/tmp"):
            path.chmod(0o755)
    return tmp_path


def test_a_stranger_is_told_nothing_and_logged_once(shared: Path) -> None:
    here = Resident(shared)
    program = executable(here.program())
    here.start(program, users=("root",))
    body = b"\0".join([__version__.encode(), b"utf-8", b"", b"", b"", b"", b"1 2 3 4", b"/x/evil-NUMBER"])
    data = handoff.MAGIC + len(body).to_bytes(4, "big") + body
    try:
        words = [PYTHON, "-c", STRANGER, str(here.place), data.hex()]
        told = subprocess.run(words, capture_output=True, text=True, check=False).stdout.splitlines()
        assert set(told) <= {"alone user 1 may not hand off", ""} and any(told)
        assert here.log.read_text().count("user 1 may not hand off") == 1
        assert "evil" not in here.log.read_text()
        assert by_resident(here, here.run(program))
    finally:
        here.kill()


def test_who_says_nothing_makes_room_for_who_does(tmp_path: Path) -> None:
    """A worker of few descriptors, and more connections than it has of them."""
    here = Resident(tmp_path)
    program = executable(here.program())
    here.start(program, files=100)
    silent = [socket.socket(socket.AF_UNIX) for _ in range(70)]
    try:
        for one in silent:
            one.connect(str(here.place))
        # A program waits two seconds at most, which may be too little on a busy machine; without room it is for ever.
        assert any(by_resident(here, here.run(program)) for _ in range(5))
    finally:
        for one in silent:
            one.close()
        here.kill()


def test_a_user_is_looked_up_again_after_a_while(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    log.open("resident", str(tmp_path / "log"))
    now = [listener.USERS_TIME * 1000]
    known: dict[str, Any] = {}
    monkeypatch.setattr(listener.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(listener.pwd, "getpwnam", lambda name: known[name])
    assert listener.allowed(("made-later",)) == frozenset()
    known["made-later"] = type("Entry", (), {"pw_uid": 4711})
    now[0] += listener.USERS_TIME
    assert listener.allowed(("made-later",)) == {4711}
    del known["made-later"]
    for _ in range(3):
        now[0] += listener.USERS_TIME
        assert listener.allowed(("made-later",)) == frozenset()
    assert len(re.findall("there is no user made-later", (tmp_path / "log").read_text())) == 1


# What is relative


def test_a_relative_folder_of_the_same_name_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Relative(Resident):
        @property
        def options(self) -> list[str]:
            return ["--config", str(self.config), "--state", "state", "--log", str(self.log)]

    monkeypatch.chdir(tmp_path)
    here = Relative(tmp_path)
    program = executable(here.program())
    here.start(program)
    try:
        assert not by_resident(here, here.run(program))
        assert "--state state, ours is state" in here.log.read_text()
        assert by_resident(here, here.run(program, "--state", str(here.state)))
        assert who(here) == program
    finally:
        here.kill()
