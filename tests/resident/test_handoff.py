"""The hand-off between a real program and a real listener: same results, nothing twice, nothing by nobody."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from resident.handing import MESSAGE, ROOT, WORDS, Resident, by_resident, executable, running, who

from postroom import __version__

DELIVER = ROOT / "agents" / "rule-deliver.py"

RULES = """
[[rule]]
id = "kept"
at = "deliver"
match = { recipient = "ann@example.com" }
action = "maildir {folder}/mail/ann"

[[rule]]
id = "gone"
at = "deliver"
match = { recipient = "bob@example.com" }
action = "5.1.1 no such user"

[[rule]]
id = "ticket"
at = "deliver"
match = { recipient = "eve@example.com" }
action = "command {folder}/ticket"

[[rule]]
id = "relays"
at = "rcpt"
match = { recipient = "bob@example.com" }
action = "REJECT 5.7.1 not here"

[list.names]
values = ["example.com"]
"""


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


# The same result as alone


def rule_world(folder: Path) -> Resident:
    folder.mkdir()
    (folder / "ticket").write_text(
        "#!/bin/sh\necho $TZ/$LANG/$MAIL_CONFIG/$RECIPIENT >> ${0%/*}/tickets; cat >> ${0%/*}/tickets\n"
    )
    (folder / "ticket").chmod(0o755)
    return Resident(folder, RULES.replace("{folder}", str(folder)))


def left(resident: Resident) -> dict[str, object]:
    """What a delivery has left behind, with what differs from run to run taken out."""
    import sqlite3

    mails = sorted(path.read_bytes() for path in (resident.folder / "mail").rglob("new/*"))
    rows: object = None
    if (resident.state / "state.db").exists():
        connection = sqlite3.connect(resident.state / "state.db")
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        rows = {name: connection.execute(f"SELECT count(*) FROM {name}").fetchone() for name in sorted(tables)}
        connection.close()
    log = re.sub(r"(?m)^.*?\[\d+\]: ", "", resident.log.read_text()).replace(str(resident.folder), "")
    tickets = resident.folder / "tickets"
    return {
        "mails": [mail.replace(os.fsencode(resident.folder), b"") for mail in mails],
        "rows": rows,
        "log": log,
        "tickets": tickets.read_bytes() if tickets.exists() else None,
    }


SCENES: dict[str, tuple[str, list[list[str]]]] = {
    "kept, and asked again": ("agents/rule-deliver", [["recipient=ann@example.com"]] * 2),
    "refused": ("agents/rule-deliver", [["recipient=bob@example.com"]]),
    "no rule": ("agents/rule-deliver", [["recipient=nobody@example.com"]]),
    "a command": ("agents/rule-deliver", [["recipient=eve@example.com", "original_recipient=Eve@Example.com"]]),
    "several with different ends": (
        "agents/rule-deliver",
        [["recipient=ann@example.com", "recipient=bob@example.com"]],
    ),
    "words that are none": ("agents/rule-deliver", [["recipient=ann@example.com", "colour=red"]]),
    "a report": ("bounce/bounce-record", [["recipient=bounces+x=y@example.com"]] * 2),
    "a notice": ("bounce/notify-record", [["recipient=2bounce@example.com"]]),
}


@pytest.mark.parametrize("scene", SCENES)
def test_handed_off_a_program_does_what_it_does_alone(folder: Path, scene: str) -> None:
    name, tries = SCENES[scene]
    program = ROOT / f"{name}.py"
    results = []
    for way in ("alone", "handed"):
        here = rule_world(folder / way)
        environment = {"LANG": "C.UTF-8", "MAIL_CONFIG": "/etc/some-postfix"}
        said = []
        if way == "handed":
            here.start()
        for recipients in tries:
            words = ["--", "sender=s@example.net", "queue_id=4jXYHj0RN5zJJXJ", *recipients]
            run = here.run if way == "handed" else here.alone
            said.append(run(program, words=words, environment=environment))
        here.kill()
        if way == "handed" and "none" not in scene:
            assert here.process is not None
            assert {int(pid) for pid in re.findall(r"\[(\d+)\]: 4jX", here.log.read_text())} == {here.process.pid}
        results.append((said, left(here)))
    alone, handed = results
    handed[1]["log"] = re.sub(r"NOQUEUE: handoff=alone.*\n", "", str(handed[1]["log"]))
    assert [(status, line.replace(b"/handed", b"/alone")) for status, line in handed[0]] == alone[0]
    assert handed[1] == alone[1]


def test_a_mail_bigger_than_a_pipe_comes_whole(resident: Resident) -> None:
    body = "import hashlib; return sent(hashlib.sha256(b''.join(mail.message.chunks())).hexdigest() + str(os.getpid()))"
    resident.kill()
    program = executable(resident.program(body))
    pid = resident.start(program)
    import hashlib

    data = MESSAGE + os.urandom(3_000_000)
    for thin in (False, True):
        assert resident.run(program, data=data, thin=thin) == (0, f"{hashlib.sha256(data).hexdigest()}{pid}\n".encode())


def test_what_a_handler_raises_defers_and_the_resident_lives(resident: Resident) -> None:
    resident.kill()
    program = executable(resident.program("raise SystemExit(5)"))
    resident.start(program)
    for _ in range(2):
        assert resident.run(program) == (75, b"4.3.0 internal error (SystemExit), see the mail log\n")
    assert resident.log.read_text().count("fault=handler") == 2


# Run alone


def test_nobody_listens(folder: Path) -> None:
    here = Resident(folder)
    program = executable(here.program())
    for thin in (False, True):
        status, line = here.run(program, thin=thin)
        assert (status, line[:3]) == (0, b"by ")


def test_both_ways_are_handed_off(resident: Resident) -> None:
    for thin in (False, True):
        assert by_resident(resident, resident.run(who(resident), thin=thin))


@pytest.mark.parametrize(
    ("reason", "options", "environment"),
    [
        ("--config", ["--config", "/etc/postroom/other.toml"], {}),
        ("--state", ["--state", "/var/lib/other"], {}),
        ("--log", ["--log", "/dev/null"], {}),
        ("time zone", [], {"TZ": "Asia/Tokyo"}),
        ("encoding", [], {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": "latin-1"}),
    ],
)
def test_what_could_make_another_result_runs_alone(
    resident: Resident, reason: str, options: list[str], environment: dict[str, str]
) -> None:
    for _ in range(3):
        status, line = resident.run(who(resident), *options, environment=environment)
        assert status == 0
        assert not by_resident(resident, (0, line))
    assert resident.log.read_text().count("handoff=alone") == 1
    assert reason in resident.log.read_text()


def test_another_version_runs_alone_and_is_logged_once(resident: Resident, folder: Path) -> None:
    import shutil

    library = folder / "library"
    shutil.copytree(ROOT / "src", library, ignore=shutil.ignore_patterns("__pycache__"))
    text = (library / "postroom" / "__init__.py").read_text()
    (library / "postroom" / "__init__.py").write_text(text.replace(__version__, "9.9.9"))
    for _ in range(3):
        answer = resident.run(who(resident), environment={"PYTHONPATH": str(library)})
        assert not by_resident(resident, answer)
    assert resident.log.read_text().count("9.9.9") == 1


def test_a_program_that_is_not_loaded_or_has_changed_runs_alone(resident: Resident) -> None:
    other = executable(resident.program(name="other-deliver"))
    assert not by_resident(resident, resident.run(other))
    assert by_resident(resident, resident.run(who(resident)))
    who(resident).write_text(who(resident).read_text() + "\n# edited\n")
    assert not by_resident(resident, resident.run(who(resident)))


def test_a_namesake_of_ours_elsewhere_is_not_taken_for_ours(folder: Path) -> None:
    with running(folder) as resident:
        mine = executable(resident.program(name="rule-deliver"))
        for thin in (False, True):
            status, line = resident.run(mine, thin=thin)
            assert (status, line[:3]) == (0, b"by "), "the handler of the real rule-deliver has answered"


def test_help_is_the_programs_own(resident: Resident) -> None:
    for thin in (False, True):
        status, text = resident.run(who(resident), "--help", words=[], thin=thin)
        assert status == 0
        assert text.startswith(b"who-deliver - say which process it is")


def test_while_the_resident_ends_programs_run_alone_and_what_is_in_hand_is_finished(folder: Path) -> None:
    resident = Resident(folder)
    program = executable(resident.program("mail.recipient == 'slow@x.test' and time.sleep(2)"))
    pid = resident.start(program)
    assert resident.process is not None
    try:
        with ThreadPoolExecutor(1) as other:
            slow = [*WORDS[:-1], "recipient=slow@x.test"]
            in_hand = other.submit(resident.run, program, words=slow)
            time.sleep(0.7)
            resident.process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
            assert not by_resident(resident, resident.run(program))
            assert in_hand.result() == (0, b"by %d\n" % pid)
        assert resident.process.wait(10) == 0
    finally:
        resident.kill()


def test_no_room_is_alone_at_once(folder: Path) -> None:
    resident = Resident(folder)
    program = executable(resident.program("time.sleep(3)"))
    resident.start(program, threads=1, queue=1)
    try:
        with ThreadPoolExecutor(4) as clients:
            answers = list(clients.map(lambda _: resident.run(program), range(4)))
        assert [status for status, _ in answers] == [0] * 4
        assert sum(by_resident(resident, answer) for answer in answers) == 2
    finally:
        resident.kill()


# Who may


NOBODY = 65534


@pytest.fixture
def shared(folder: Path) -> Path:
    """A folder that other users can go into."""
    for path in (folder, *folder.parents):
        if path.owner() == "root" and path != Path("/") and path != Path("/tmp"):
            path.chmod(0o755)
    return folder


@pytest.mark.parametrize("user", [NOBODY, 1, 4242])
def test_another_user_runs_alone_unless_listed(shared: Path, user: int) -> None:
    resident = Resident(shared)
    program = executable(resident.program())
    resident.start(program)
    try:
        resident.log.chmod(0o666)
        assert not by_resident(resident, resident.run(program, user=user))
        assert f"user {user}" in resident.log.read_text()
    finally:
        resident.kill()


def test_a_user_that_is_listed_is_served_and_then_nobody_else_is_not_even_root(shared: Path) -> None:
    resident = Resident(shared)
    program = executable(resident.program())
    resident.start(program, users=("nobody", "no-such-user"))
    try:
        resident.log.chmod(0o666)
        assert by_resident(resident, resident.run(program, user=NOBODY))
        assert not by_resident(resident, resident.run(program, user=1))
        assert not by_resident(resident, resident.run(program))
        assert "no-such-user" in resident.log.read_text()
    finally:
        resident.kill()


def test_a_strangers_socket_is_not_given_any_mail(shared: Path) -> None:
    """Who can make /tmp/handoff must not get the mail of everybody; unless the folder is his as well."""
    resident = Resident(shared)
    program = executable(resident.program())
    code = (
        "import os, socket, sys\nos.setuid(65534)\nlistener = socket.socket(socket.AF_UNIX)\n"
        "listener.bind(sys.argv[1])\nlistener.listen()\nprint('listening', flush=True)\n"
        "connection, _ = listener.accept()\nprint(len(connection.recv(10)), flush=True)"
    )
    shared.chmod(0o777)
    stranger = subprocess.Popen([sys.executable, "-c", code, str(resident.place)], stdout=subprocess.PIPE)
    assert stranger.stdout is not None
    assert stranger.stdout.readline() == b"listening\n"
    try:
        status, line = resident.run(program)
        assert (status, line[:3]) == (0, b"by ")
        assert stranger.stdout.readline() == b"0\n"
    finally:
        stranger.kill()
        stranger.wait()
        stranger.stdout.close()
