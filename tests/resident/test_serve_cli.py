"""`postroom serve` as it is called: what can be wrong before it serves, whom it becomes, and leaving the terminal."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from readable import home, python
from resident.supervised import alive, children, until

from postroom.cli.serve import DEFAULT_PID_FILE
from postroom.resident import account
from postroom.status import ConfigurationFault

USER = ["--user", "nobody", "--group", "nogroup"]
# It becomes another user, and imports one thing or the other as that one.
ENVIRON = {**os.environ, "PYTHONPATH": str(home() / "src")}
COMMAND = [python(), "-c", "from postroom.cli import main; main()", "serve"]
# linux/prctl.h, PR_SET_MDWE: what MemoryDenyWriteExecute= of the unit comes to.
HARDENED = [
    python(),
    "-c",
    "import ctypes, os, sys; assert ctypes.CDLL(None).prctl(65, 1, 0, 0, 0) == 0; os.execv(sys.argv[1], sys.argv[1:])",
]


class Place:
    """A folder that nobody may write to, with a configuration in it."""

    def __init__(self, folder: Path) -> None:
        for above in folder.parents:
            if above.stat().st_uid == os.getuid() and above != Path("/"):
                above.chmod(above.stat().st_mode | 0o011)
        os.chown(folder, 65534, 65534)
        folder.chmod(0o755)
        self.folder = folder
        self.config = folder / "postroom.toml"
        self.log = folder / "log"
        self.socket = folder / "policy"
        self.pid_file = folder / "pid"
        (folder / "state").mkdir(exist_ok=True)
        os.chown(folder / "state", 65534, 65534)
        self.write(f'[listen.policy]\nat = "unix:{self.socket}"\nmode = "0600"')

    def write(self, listen: str, serve: str = "") -> None:
        self.config.write_text(
            f'state = "{self.folder}/state"\nlog = "{self.log}"\n[serve]\nworkers = 1\n{serve}\n{listen}\n'
            '[[rule]]\nid = "no"\nat = "rcpt"\naction = "REJECT 5.7.1 no"\nmatch.sender = "a@example.com"\n'
        )

    def run(self, *arguments: str, user: list[str] = USER) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, "--config", str(self.config), *user, *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=ENVIRON,
            cwd=self.folder,
        )

    def detached(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run("--detach", "--pid-file", str(self.pid_file), *arguments)

    @contextmanager
    def started(self, *before: str) -> Iterator[subprocess.Popen[str]]:
        """In the foreground, once it serves; killed in the end, if it is still there."""
        words = [*before, *COMMAND, "--config", str(self.config), *USER]
        with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=ENVIRON) as service:
            try:
                until(lambda: "serving: " in self.logged(), 40, self.logged)
                yield service
            finally:
                service.kill()

    def logged(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    @property
    def pid(self) -> int:
        return int(self.pid_file.read_text())

    def ask(self, path: Path | None = None) -> str:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(20)
            client.connect(str(path or self.socket))
            request = (
                "request=smtpd_access_policy\nprotocol_state=RCPT\nsender=a@example.com\nrecipient=b@example.com\n\n"
            )
            client.sendall(request.encode())
            return client.recv(1000).decode()

    def end(self) -> None:
        if self.pid_file.exists() and (text := self.pid_file.read_text()):
            os.kill(int(text), signal.SIGKILL)
            until(lambda: not alive(int(text)))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    one = Place(tmp_path)
    yield one
    one.end()


def refused(done: subprocess.CompletedProcess[str], status: int, words: str) -> None:
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.startswith("postroom: ")
    assert done.stderr.count("\n") == 1
    assert words in done.stderr


# What can be wrong


def test_nothing_to_listen_on(place: Place) -> None:
    place.write("")
    refused(place.run(), 78, "no [listen.NAME] table: nothing to listen on")


def test_a_configuration_that_is_wrong(place: Place) -> None:
    place.config.write_text("rules = maybe")
    refused(place.run(), 78, "is not TOML")
    place.config.unlink()
    refused(place.run(), 78, "No such file")


def test_root_runs_no_workers(place: Place) -> None:
    refused(place.run(user=["--user", "root"]), 78, "root runs no workers")


def test_no_such_user_and_group(place: Place) -> None:
    refused(place.run(user=["--user", "nosuchuser"]), 78, "no user nosuchuser: make it with: useradd --system")
    refused(place.run(user=["--user", "nobody", "--group", "nosuchgroup"]), 78, "no group nosuchgroup: make it with")
    place.write(f'[listen.policy]\nat = "unix:{place.socket}"', serve='user = "alsonosuch"')
    refused(place.run(user=[]), 78, "no user alsonosuch")


def test_who_is_not_root_cannot_be_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    assert account.choose("", "").uid == 65534
    assert account.choose("nobody", "").uid == 65534
    with pytest.raises(ConfigurationFault, match="user is daemon, but nobody runs this"):
        account.choose("daemon", "")
    with pytest.raises(ConfigurationFault, match="group is daemon, which only root can change to"):
        account.choose("", "daemon")


def test_becoming_another_is_looked_at_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("initgroups", "setresgid", "setresuid"):
        monkeypatch.setattr(os, name, lambda *_: None)
    with pytest.raises(ConfigurationFault, match="could not become nobody"):
        account.become(account.Account("nobody", 65534, 65534))


@pytest.mark.parametrize("detach", [False, True])
def test_an_address_that_is_taken(place: Place, detach: bool) -> None:
    with socket.socket(socket.AF_UNIX) as living:
        living.bind(str(place.socket))
        living.listen()
        refused(place.detached() if detach else place.run(), 75, f"process {os.getpid()} listens there already")
    assert not place.pid_file.exists()


@pytest.mark.parametrize("detach", [False, True])
def test_no_such_directory_and_no_socket(place: Place, detach: bool) -> None:
    start = place.detached if detach else place.run
    place.write(f'[listen.policy]\nat = "unix:{place.folder}/no/policy"')
    refused(start(), 78, f"directory {place.folder}/no is not there")
    place.socket.write_text("precious")
    place.write(f'[listen.policy]\nat = "unix:{place.socket}"')
    refused(start(), 78, "is there, and no socket")
    assert place.socket.read_text() == "precious"


@pytest.mark.parametrize("detach", [False, True])
def test_a_state_that_nothing_can_be_kept_in(place: Place, detach: bool) -> None:
    start = place.detached if detach else place.run
    mine = place.folder / "mine"
    mine.mkdir(mode=0o755)
    refused(start("--state", str(mine)), 75, f"the state directory {mine} cannot be written by nobody: chown nobody")
    refused(start("--state", str(mine / "no")), 75, f"the state directory {mine}/no is not there: install -d")


def test_a_pid_file_that_cannot_be(place: Place) -> None:
    refused(place.run("--pid-file", str(place.folder / "no" / "pid")), 78, "No such file or directory")
    (place.folder / "link").symlink_to(place.folder / "precious")
    refused(place.run("--pid-file", str(place.folder / "link")), 78, "symbolic links")
    refused(place.run("--pid-file", "/dev/null"), 78, "not a regular file")
    assert not (place.folder / "precious").exists()


def test_a_passed_socket_that_nobody_wants(place: Place) -> None:
    code = (
        "import os, socket, sys\na = socket.create_server(('127.0.0.1', 0))\nos.dup2(a.fileno(), 3)\n"
        "os.set_inheritable(3, True)\n"
        "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1')\nos.execv(sys.argv[1], sys.argv[1:])"
    )
    done = subprocess.run(
        [python(), "-c", code, *COMMAND, "--config", str(place.config), *USER],
        capture_output=True, text=True, check=False, env=ENVIRON, timeout=60,
    )  # fmt: skip
    refused(done, 78, "systemd passed a socket at 127.0.0.1:")


def test_check_says_where_and_binds_nothing(place: Place) -> None:
    place.write(
        f'[listen.policy]\nat = "unix:{place.socket}"\nmode = "0660"\ngroup = "nogroup"\n'
        '[listen.tcp_table]\nat = "127.0.0.1:2527"'
    )
    done = place.run("--check")
    assert done.stdout.splitlines() == [
        f"policy: policy at unix:{place.socket}, mode 0660, owner nobody, group nogroup, rule-policy",
        "tcp_table: tcp_table at 127.0.0.1:2527, tcp-lookup, table route",
        "1 worker of 16 threads, as nobody",
    ]
    assert (done.returncode, done.stderr) == (0, "")
    assert not place.socket.exists()
    place.write(f'[listen.policy]\nat = "unix:{place.folder}/no/policy"')
    refused(place.run("--check"), 78, "is not there")


# Serving


def identities(pid: int) -> dict[str, set[str]]:
    lines = [line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
    return {words[0]: set(words[1:]) for words in lines if words and words[0] in ("Uid:", "Gid:", "Groups:")}


@pytest.mark.parametrize("before", [[], HARDENED], ids=["plain", "without writable code"])
def test_in_the_foreground_as_another_user(place: Place, before: list[str]) -> None:
    with place.started(*before) as service:
        assert "serving: 1 worker, 1 listener" in place.logged()
        assert place.ask() == "action=REJECT 5.7.1 no\n\n"
        assert place.socket.stat().st_uid == 65534
        for pid in (service.pid, *children(service.pid)):
            assert identities(pid) == {"Uid:": {"65534"}, "Gid:": {"65534"}, "Groups:": {"65534"}}
            assert os.readlink(f"/proc/{pid}/cwd") == "/"
        service.terminate()
        assert service.wait(20) == 0
        assert service.stderr is not None
        assert service.stderr.read() == ""
    assert not place.socket.exists()


def test_detached_returns_when_it_answers(place: Place) -> None:
    done = place.detached()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"postroom: serving as pid {place.pid}\n"
    assert place.ask() == "action=REJECT 5.7.1 no\n\n", "at once, without waiting"
    (worker,) = children(place.pid)
    for pid in (place.pid, worker):
        assert identities(pid) == {"Uid:": {"65534"}, "Gid:": {"65534"}, "Groups:": {"65534"}}
        assert os.getsid(pid) != os.getsid(0)
        assert str(place.pid_file) not in [os.readlink(fd) for fd in Path(f"/proc/{worker}/fd").iterdir()]
    assert os.readlink(f"/proc/{place.pid}/cwd") == "/"
    assert {os.readlink(f"/proc/{place.pid}/fd/{fd}") for fd in (0, 1, 2)} == {"/dev/null"}
    assert "0077" in Path(f"/proc/{place.pid}/status").read_text().partition("Umask:")[2].split()[0]
    refused(place.detached(), 75, f"runs already as pid {place.pid}")
    refused(place.run("--pid-file", str(place.pid_file)), 75, f"runs already as pid {place.pid}")
    pid = place.pid
    os.kill(pid, signal.SIGTERM)
    until(lambda: not alive(pid))
    assert not place.pid_file.exists()
    assert not place.socket.exists()


def test_another_pid_file_does_not_help_a_second_one(place: Place) -> None:
    place.detached()
    begun = time.monotonic()
    refused(place.run(), 75, f"process {place.pid} listens there already")
    assert time.monotonic() - begun < 3, "it is seen to live, and not waited for"


def test_after_a_kill_the_next_start_works(place: Place) -> None:
    place.detached()
    first = place.pid
    os.kill(first, signal.SIGKILL)
    assert place.detached().returncode == 0
    assert place.pid != first
    assert "REJECT" in place.ask()


def test_a_pid_file_of_a_process_that_is_another_by_now(place: Place) -> None:
    place.pid_file.write_text(f"{os.getpid()}\n")
    os.chown(place.pid_file, 65534, 65534)
    assert place.detached().returncode == 0
    assert place.pid != os.getpid()


def test_two_starts_at_once(place: Place) -> None:
    starts = [
        subprocess.Popen(
            [*COMMAND, "--config", str(place.config), *USER, "--detach", "--pid-file", str(place.pid_file)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRON,
        )
        for _ in range(3)
    ]  # fmt: skip
    for each in starts:
        each.communicate(timeout=60)
    assert sorted(each.returncode for each in starts) == [0, 75, 75]
    assert "REJECT" in place.ask()


def test_the_default_pid_file_is_told() -> None:
    done = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, check=True, env=ENVIRON)
    assert DEFAULT_PID_FILE in done.stdout
