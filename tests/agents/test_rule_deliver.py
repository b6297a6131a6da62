"""rule-deliver as pipe(8) runs it: another user, two pipes, one line and an exit status."""

import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import postroom
from postroom.lab.place import choose_python

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "agents" / "rule-deliver.py"
Words = tuple[str, ...]

USER = "nobody"
NOBODY = 65534
MAIL = b"Received: by m; Sun, 22 Nov 2026 15:04:54 +0000\nSubject: hello\n\nbody\n"


def opened(folder: Path) -> Path:
    """pytest's own temporary folders are closed to other users."""
    folder.chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def house() -> Iterator[Path]:
    """The library and the program, where everyone can read them."""
    assert os.geteuid() == 0, "only root can run programs as another user, as pipe(8) does: run the tests as root"
    with tempfile.TemporaryDirectory() as name:
        folder = opened(Path(name))
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(Path(postroom.__file__).parent, folder / "lib" / "postroom", ignore=ignored)
        shutil.copy(PROGRAM, folder / "rule-deliver")
        subprocess.run([choose_python(USER)[0], "-m", "compileall", "-q", folder / "lib"], check=True)
        yield folder


class Desk:
    """A configuration, a state directory and a place for mail, all the unprivileged user's."""

    def __init__(self, folder: Path, house: Path) -> None:
        self.folder = folder
        self.house = house
        self.started: list[subprocess.Popen[bytes]] = []
        self.library = house / "lib"
        self.box = folder / "box"
        self.state = folder / "state"
        self.state.mkdir()
        self.configure(f"maildir {self.box}")
        for path in (folder, self.state):
            os.chown(path, NOBODY, NOBODY)
        self.locked = folder / "locked"  # as the queue directory is for this user: it can be in it, and not read it
        self.locked.mkdir(mode=0o711)

    def configure(self, action: str, more: str = "") -> None:
        (self.folder / "postroom.toml").write_text(
            f'state = "{self.state}"\nlog = "{self.folder}/log"\n{more}\n[[rule]]\nid = "one"\nat = "deliver"\n'
            f'match = {{ recipient = "example.org" }}\naction = {json.dumps(action)}\n'
        )

    def start(
        self, *options: str, words: Words = (), stdin: int = subprocess.PIPE, before: Words = ()
    ) -> "subprocess.Popen[bytes]":
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        words = words or ("sender=s@example.com", "recipient=bob@example.org", "queue_id=4XyzQ")
        process = subprocess.Popen(
            [*before, choose_python(USER)[0], "-s", self.house / "rule-deliver",
             "--config", self.folder / "postroom.toml", *options, "--", *words],
            stdin=stdin, stdout=writer, stderr=writer,
            env={"PATH": "/usr/bin:/bin", "LANG": "C", "PYTHONPATH": str(self.library)},
            cwd=self.locked, user=NOBODY, group=NOBODY, extra_groups=[], umask=0o077, start_new_session=True,
        )  # fmt: skip
        os.close(writer)
        process.stdout = os.fdopen(reader, "rb")
        self.started.append(process)
        return process

    def close(self) -> None:
        for process in self.started:
            process.kill()
            process.wait(timeout=10)
            for stream in (process.stdin, process.stdout):
                if stream:
                    stream.close()

    def run(self, *options: str, words: Words = (), data: bytes = MAIL) -> tuple[int, str]:
        """Exit status and what it said, which is one line."""
        output, _ = (process := self.start(*options, words=words)).communicate(data, timeout=60)
        assert output.endswith(b"\n") and output.count(b"\n") == 1 and len(output) <= 500, output
        return process.returncode, output.decode().rstrip("\n")

    def to(self, recipient: str, sender: str = "s@example.com") -> tuple[int, str]:
        return self.run(words=(f"sender={sender}", f"recipient={recipient}", "queue_id=4XyzQ"))

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    @property
    def mails(self) -> list[bytes]:
        return [path.read_bytes() for path in self.box.glob("new/*")] if self.box.exists() else []


@pytest.fixture
def desk(house: Path) -> Iterator[Desk]:
    with tempfile.TemporaryDirectory() as name:
        desk = Desk(opened(Path(name)), house)
        yield desk
        desk.close()


DELIVERED = (0, "delivered to maildir")


def test_a_mail_is_delivered_and_the_log_tells_by_which_rule(desk: Desk) -> None:
    assert desk.run() == DELIVERED
    assert desk.mails == [
        b"Return-Path: <s@example.com>\nX-Original-To: bob@example.org\nDelivered-To: bob@example.org\n" + MAIL
    ]
    (line,) = desk.log.splitlines()
    assert " postroom/rule-deliver[" in line
    said = f"rule=one, action=maildir {desk.box}, status=sent, dsn=2.0.0 (delivered to maildir)"
    assert line.endswith(f": 4XyzQ: to=<bob@example.org>, {said}")


@pytest.mark.parametrize(
    ("action", "result"),
    [
        ("discard", (0, "discarded by rule")),
        ("discard no thanks", (0, "no thanks")),
        ("5.7.1 not for {recipient_localpart}", (77, "5.7.1 not for bob")),
        ("4.2.1 moved, come back", (75, "4.2.1 moved, come back")),
        ("command /bin/sh -c 'exit 67'", (67, "5.1.1 user unknown")),
        ("command /bin/sh -c 'exit 1'", (75, "4.3.0 command sh failed with exit status 1")),
        ("command /usr/bin/wc -c", (0, f"delivered to command wc: {len(MAIL)}")),
        ("command /no/such/program", (75, "4.3.0 command program: No such file or directory")),
        ("relay lmtp:unix:/no/such", (75, "4.4.1 connect to relay[/no/such]: No such file or directory")),
        ("maildir /proc/box", (75, "4.3.0 maildir /proc/box: No such file or directory")),
    ],
)
def test_each_action_has_its_exit_status_and_its_words(desk: Desk, action: str, result: tuple[int, str]) -> None:
    desk.configure(action)
    assert desk.run() == result


def test_what_has_no_rule_waits_for_one(desk: Desk) -> None:
    assert desk.to("bob@elsewhere.example") == (75, "4.3.5 no rule for bob@elsewhere.example")
    desk.configure(f"maildir {desk.box}", '[[rule]]\nid = "all"\nat = "deliver"\naction = "discard"\n')
    assert desk.to("bob@elsewhere.example") == (0, "discarded by rule")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("this is not toml", "4.3.5 postroom.toml"),
        ('[[rule]]\nid = "x"\nat = "deliver"\naction = "bounce it"\n', "4.3.5 postroom.toml: line 4: rule "),
    ],
)
def test_a_broken_configuration_defers_until_it_is_mended(desk: Desk, text: str, said: str) -> None:
    good = (desk.folder / "postroom.toml").read_text()
    (desk.folder / "postroom.toml").write_text(text)
    status, line = desk.run("--log", f"{desk.folder}/log")
    assert (status, line[: len(said)]) == (75, said)
    assert said[6:] in desk.log
    (desk.folder / "postroom.toml").write_text(good)
    assert desk.run() == DELIVERED


def test_a_rule_that_cannot_be_decided_says_so_in_the_log(desk: Desk) -> None:
    rule = '[list.some]\nfile = "some"\n[[rule]]\nid = "listed"\nat = "deliver"\n'
    rule += 'match = { recipient = "list:some" }\naction = "discard"\non_error = "defer"\n'
    (desk.folder / "some").write_text("x@y\n")
    desk.configure(f"maildir {desk.box}", rule)
    assert desk.run()[0] == 0
    (desk.folder / "some").unlink()
    status, line = desk.run(data=b"another\n")
    assert (status, line[:6]) == (75, "4.3.0 ")
    assert "rule=listed, action=4.3.0" in desk.log
    assert "on_error=list some: " in desk.log


def test_shadow_rules_are_logged_and_do_nothing(desk: Desk) -> None:
    desk.configure(
        f"maildir {desk.box}", '[[rule]]\nid = "new"\nat = "deliver"\nmode = "shadow"\naction = "5.7.1 no more"\n'
    )
    assert desk.run() == DELIVERED
    assert "shadow=new: 5.7.1 no more, rule=one" in desk.log


@pytest.mark.parametrize("local", ["../../etc/passwd", "..", "-x", 'a "b"\\', "\udcff", "a\nb", "a" * 300])
def test_strangers_addresses_are_only_addresses(desk: Desk, local: str) -> None:
    address = f"{local}@example.org"
    assert desk.to(address, sender=f"-{address}") == DELIVERED
    (mail,) = desk.mails
    assert mail.endswith(b"\n" + MAIL)
    assert [line.split(b":")[0] for line in mail.split(b"\n")[:4]] == [
        b"Return-Path", b"X-Original-To", b"Delivered-To", b"Received",
    ]  # fmt: skip
    users = desk.folder / "users"
    desk.configure(f"maildir {users}/{{recipient_localpart}}/box")
    result = desk.to(address, sender="another@example.com")
    assert result in (DELIVERED, (69, "5.1.3 bad destination mailbox address syntax"))
    for box in users.glob("**/new"):
        assert box.relative_to(users).parts[1:] == ("box", "new")
    assert (result == DELIVERED) == users.exists()
    assert {path.name for path in desk.folder.iterdir()} <= {"box", "users", "state", "log", "locked", "postroom.toml"}


def test_the_null_sender(desk: Desk) -> None:
    assert desk.to("bob@example.org", sender="") == DELIVERED
    assert desk.mails[0].startswith(b"Return-Path: <>\n")


def test_several_recipients_have_one_result_or_wait(desk: Desk) -> None:
    words = ("sender=", "queue_id=Q", "recipient=a@example.org", "recipient=b@example.org")
    assert desk.run(words=words) == DELIVERED
    assert len(desk.mails) == 2
    rule = '[[rule]]\nid = "b"\nat = "deliver"\nmatch = { recipient = "b@example.org" }\naction = "5.1.1 no b"\n'
    desk.configure(f"maildir {desk.box}", rule)
    status, line = desk.run(words=words)
    assert (status, line[:6]) == (75, "4.3.5 ")


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("", "ModuleNotFoundError: No module named 'postroom"),
        ("import sys\nsys.exit(1)", "SystemExit: 1"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt:"),
        ("raise OSError('line\\nend\\r\\n\\x00\\u20ac' + 'x' * 9999)", "OSError: line end "),
        ("def (", "SyntaxError: "),
    ],
)
def test_a_broken_library_defers_until_it_is_mended(desk: Desk, broken: str, said: str) -> None:
    desk.library = desk.folder / "lib"
    shutil.copytree(desk.house / "lib", desk.library)
    module = desk.library / "postroom" / "actions" / "by_rule.py"
    shutil.rmtree(module.parent / "__pycache__")
    if broken:
        module.write_text(broken)
    else:
        shutil.rmtree(module.parent)
    status, line = desk.run()
    assert status == 75
    assert line.startswith(f"4.3.5 rule-deliver: {said}")
    desk.library = desk.house / "lib"
    assert desk.run() == DELIVERED


def test_an_action_missing_from_the_library_defers(desk: Desk) -> None:
    desk.library = desk.folder / "lib"
    shutil.copytree(desk.house / "lib", desk.library)
    (desk.library / "postroom" / "actions" / "maildir.py").unlink()
    assert desk.run() == (75, "4.3.5 incomplete installation (ModuleNotFoundError), see the mail log")
    assert "No module named 'postroom.actions.maildir'" in desk.log


def test_a_broken_library_defers_even_if_nobody_listens(desk: Desk) -> None:
    desk.library = desk.folder / "nothing"
    process = desk.start()
    assert process.stdout and process.stdin
    process.stdout.close()
    process.stdin.close()
    assert process.wait(timeout=60) == 75


# --- once ----------------------------------------------------------------------------------------------------------


def test_asked_again_it_is_not_done_again(desk: Desk) -> None:
    assert desk.run() == DELIVERED
    for path in desk.box.glob("new/*"):
        path.unlink()  # somebody has read it
    assert desk.run() == DELIVERED
    assert desk.mails == []
    assert desk.log.count("repeated=yes") == 1
    desk.configure("discard")
    assert desk.run() == (0, "discarded by rule")
    desk.configure(f"maildir {desk.folder}/other")
    assert desk.run() == DELIVERED, "what was delivered by a rule is not delivered once more by another"
    assert not (desk.folder / "other").exists()
    assert desk.run(data=MAIL + b"more") == DELIVERED
    assert (desk.folder / "other").exists()


def test_a_refusal_is_no_delivery(desk: Desk) -> None:
    """With soft_bounce it stays in the queue until what caused it is mended."""
    desk.configure("command /bin/sh -c 'exit 67'")
    assert desk.run()[0] == desk.run()[0] == 67
    desk.configure("command /bin/true")
    assert desk.run()[0] == 0


def test_killed_at_any_moment_it_is_delivered_once_in_the_end(desk: Desk) -> None:
    for number in range(12):
        data = MAIL + b"line %d\n" % number * 50_000
        for _ in range(3):
            process = desk.start(stdin=_file(data))
            time.sleep(random.random() * 0.15)
            process.kill()
            process.communicate(timeout=10)
        process = desk.start(stdin=_file(data))
        process.communicate(timeout=10)
        assert process.returncode == 0
    assert len(desk.mails) == 12
    assert len({len(mail) for mail in desk.mails}) <= 2
    assert list((desk.box / "tmp").iterdir()) == []


def _file(data: bytes) -> int:
    fd = os.memfd_create("mail")
    os.write(fd, data)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def test_a_command_that_was_cut_off_is_run_again(desk: Desk) -> None:
    """At least once: we cannot know what it had done."""
    mark = desk.folder / "mark"
    desk.configure(f"command /bin/sh -c 'echo x >> {mark}; test -e {mark}.go || kill -9 $PPID'")
    process = desk.start()
    process.communicate(MAIL, timeout=10)
    assert process.returncode == -signal.SIGKILL
    (desk.folder / "mark.go").touch()
    assert desk.run()[0] == 0
    assert mark.read_text() == "x\nx\n"
    assert desk.run()[0] == 0
    assert mark.read_text() == "x\nx\n"


def test_an_orphan_still_at_it_is_not_doubled(desk: Desk) -> None:
    """`postfix stop` leaves the program running, and the mail in the queue."""
    mark = desk.folder / "mark"
    desk.configure(f"command /bin/sh -c 'echo x >> {mark}; while ! test -e {mark}.go; do sleep 0.02; done'")
    orphan = desk.start()
    assert orphan.stdin is not None
    orphan.stdin.write(MAIL)
    orphan.stdin.close()
    _until(mark.exists)
    assert desk.run() == (75, "4.3.0 another process is still delivering this mail")
    (desk.folder / "mark.go").touch()
    assert orphan.stdout and orphan.stdout.read() == b"delivered to command sh\n"
    orphan.stdout.close()
    assert orphan.wait(timeout=10) == 0
    assert desk.run() == (0, "delivered to command sh")
    assert mark.read_text() == "x\n"


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


# --- state that fails ----------------------------------------------------------------------------------------------


def test_a_locked_state_defers_before_anything_happens(desk: Desk) -> None:
    assert desk.run(data=b"first\n") == DELIVERED
    holder = sqlite3.connect(desk.state / "state.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    assert desk.run("--deadline", "2") in (
        (75, "4.3.0 the state is locked"),
        (75, "4.3.0 not finished within 2 seconds"),
    )
    assert len(desk.mails) == 1
    holder.close()
    assert desk.run() == DELIVERED
    assert len(desk.mails) == 2


def test_a_state_that_cannot_be_written_defers(desk: Desk) -> None:
    os.chown(desk.state, 0, 0)
    assert desk.run() == (75, "4.3.0 the state cannot be opened")
    assert desk.mails == []
    os.chown(desk.state, NOBODY, NOBODY)
    assert desk.run() == DELIVERED


def test_a_state_that_is_something_else_defers(desk: Desk) -> None:
    (desk.state / "state.db").write_text("not a database\n" * 100)
    os.chown(desk.state / "state.db", NOBODY, NOBODY)
    assert desk.run()[0] == 75
    assert desk.mails == []
    (desk.state / "state.db").unlink()
    assert desk.run() == DELIVERED


def test_a_state_on_a_full_disk_defers(desk: Desk) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=777", "tmpfs", str(desk.state)], check=True)
    try:
        filler = desk.state / "filler"
        filler.write_bytes(b"x" * (1 << 20))
        status, line = desk.run()
        assert (status, line[:4]) == (75, "4.3.")
        assert desk.mails == []
        filler.unlink()
        assert desk.run() == DELIVERED
    finally:
        subprocess.run(["umount", str(desk.state)], check=True)


def test_delivered_but_not_recorded_is_delivered(desk: Desk) -> None:
    database = desk.state / "state.db"
    desk.configure(f"command /bin/sh -c 'rm {database}*; mkdir {database}'")
    assert desk.run() == (0, "delivered to command sh")
    assert "warning: 4XyzQ: to=<bob@example.org> (sent, but that is not recorded: " in desk.log


# --- what is big or slow -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: b"",
        lambda: b"\n",
        lambda: b"\0" * 70_000,
        lambda: b"Subject: x\n\n" + b"y" * 1_000_000,
        lambda: b"a: b\n" * 1_000_000,
        lambda: b" \n" * 1_000_000,
        lambda: b"Subject: big\n\n" + b"0123456789abcde\n" * 6_250_000,
    ],
    ids=["empty", "one line end", "NULs", "a line of 1 MB", "a million headers", "a million blank lines", "100 MB"],
)
def test_any_message_in_bounded_memory(desk: Desk, make: Callable[[], bytes]) -> None:
    rule = '[[rule]]\nid = "h"\nat = "deliver"\nmatch = { "header.x-no" = "y" }\naction = "discard"\n'
    desk.configure(f"maildir {desk.box}", rule)
    data = make()
    # Past this limit malloc fails, which would defer the mail. Bare Python has 6 MB of data, a thread's stack 8.
    process = desk.start(before=("/bin/sh", "-c", 'ulimit -d 32768; exec "$0" "$@"'))
    output, _ = process.communicate(data, timeout=60)
    assert (process.returncode, output) == (0, b"delivered to maildir\n")
    (mail,) = desk.mails
    assert mail.endswith(data) and len(mail) - len(data) < 200


def test_a_server_that_never_answers_is_left_in_time(desk: Desk) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        name = f"[127.0.0.1]:{server.getsockname()[1]}"
        desk.configure(f"relay smtp:{name}")
        assert desk.run("--deadline", "3") == (
            75, f"4.4.2 conversation with relay{name} timed out while waiting for the greeting",
        )  # fmt: skip
