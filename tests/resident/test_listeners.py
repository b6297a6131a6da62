"""Sockets: bound with the right owner and mode, never over anything of others; and those that systemd passes."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from readable import python

from postroom.config import Listen
from postroom.resident import account, listeners, passed
from postroom.resident.account import Account
from postroom.resident.listeners import Listener, bind, check, open_all
from postroom.resident.passed import Passed
from postroom.status import ConfigurationFault, Fault

ME = Account(*account.current())
NOBODY = Account("nobody", 65534, 65534)
NONE = Passed()


@pytest.fixture
def made() -> Iterator[list[Listener]]:
    found: list[Listener] = []
    yield found
    for one in found:
        one.close()


def at(path: Path | str, name: str = "policy", **given: object) -> Listen:
    where = f"unix:{path}" if isinstance(path, Path) else path
    return Listen(name, "policy", where, **given)  # type: ignore[arg-type]  # handed through


def answers(listener: Listener) -> bool:
    listen = listener.listen.at
    family = socket.AF_UNIX if listen.startswith("unix:") else socket.AF_INET
    place = listen.removeprefix("unix:") if family == socket.AF_UNIX else ("127.0.0.1", int(listen.rpartition(":")[2]))
    with socket.socket(family) as client:
        client.connect(place)
        for _ in range(100):
            with suppress(BlockingIOError):
                listener.socket.accept()[0].close()
                return True
            time.sleep(0.01)
    return False


def free_port(host: str = "127.0.0.1", family: int = socket.AF_INET) -> int:
    with socket.socket(family) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def test_a_unix_socket_has_owner_group_and_mode(tmp_path: Path, made: list[Listener]) -> None:
    made.append(bind(at(tmp_path / "one", mode=0o640, owner="nobody", group="nogroup"), ME))
    made.append(bind(at(tmp_path / "two", mode=0o600), NOBODY))
    one, two = (tmp_path / name for name in ("one", "two"))
    for path, mode in ((one, 0o640), (two, 0o600)):
        status = path.stat()
        assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (mode, 65534, 65534)
    assert answers(made[0])
    assert not made[0].socket.get_inheritable()
    assert made[0].socket.gettimeout() == 0.0


def test_it_is_never_wider_than_asked_for(tmp_path: Path, made: list[Listener]) -> None:
    """Somebody who tries all the time from another user never gets in, whatever the umask."""
    before = os.umask(0)
    path = tmp_path / "tight"
    os.chmod(tmp_path, 0o755)
    for folder in tmp_path.parents:
        if folder.stat().st_uid == os.getuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o011)
    attacker = subprocess.Popen(
        [python(), "-c", TRIES, str(path)], user=65534, group=65534, extra_groups=[], stdout=subprocess.PIPE
    )
    try:
        assert attacker.stdout is not None
        assert attacker.stdout.readline() == b"there\n"
        for _ in range(100):
            one = bind(at(path, mode=0o600), ME)
            time.sleep(0.001)
            one.close()
        made.append(bind(at(path, mode=0o666), ME))  # the attacker can
        assert attacker.stdout.readline() == b"in at 666\n"
    finally:
        os.umask(before)
        attacker.kill()
        attacker.wait()
        attacker.stdout and attacker.stdout.close()


TRIES = """
import os, socket, sys
print("there", flush=True)
while True:
    with socket.socket(socket.AF_UNIX) as one:
        try:
            one.connect(sys.argv[1])
        except OSError:
            continue
        print(f"in at {os.stat(sys.argv[1]).st_mode & 0o777:o}", flush=True)
        break
"""


def test_inet_on_both_loopbacks(made: list[Listener]) -> None:
    made.append(bind(at(f"127.0.0.1:{free_port()}"), ME))
    assert answers(made[0])
    port = free_port("::1", socket.AF_INET6)
    made.append(bind(at(f"[::1]:{port}"), ME))
    with socket.create_connection(("::1", port)):
        pass
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", port))


def test_a_port_with_connections_of_before_can_be_had_again(made: list[Listener]) -> None:
    listen = at(f"127.0.0.1:{free_port()}")
    first = bind(listen, ME)
    client = socket.create_connection(first.socket.getsockname())
    first.socket.setblocking(True)
    first.socket.accept()[0].close()  # the side that closes first is left in TIME_WAIT
    client.recv(1)
    client.close()
    first.close()
    made.append(bind(listen, ME))
    assert answers(made[0])


# What is there already


def test_a_stale_socket_is_replaced(tmp_path: Path, made: list[Listener]) -> None:
    path = tmp_path / "stale"
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(path))
    made.append(bind(at(path), ME))
    assert answers(made[0])


def test_a_living_one_is_left_and_its_process_named(tmp_path: Path) -> None:
    path = tmp_path / "living"
    with socket.socket(socket.AF_UNIX) as living:
        living.bind(str(path))
        living.listen()
        with pytest.raises(Fault, match=f"policy.*process {os.getpid()} listens there already"):
            bind(at(path), ME)
        assert path.exists()


def test_one_whose_queue_is_full_is_living(tmp_path: Path) -> None:
    path = tmp_path / "busy"
    with socket.socket(socket.AF_UNIX) as living, socket.socket(socket.AF_UNIX) as waiting:
        living.bind(str(path))
        living.listen(0)
        waiting.connect(str(path))
        with pytest.raises(Fault, match="somebody listens there already"):
            bind(at(path), ME)
        assert path.exists()


def test_one_whose_workers_are_just_ending_is_waited_for(tmp_path: Path, made: list[Listener]) -> None:
    """A killed supervisor called listen(2); what answers is a worker of it that is on its way out."""
    path = tmp_path / "orphaned"
    code = (
        "import os, socket, sys, time\ns = socket.socket(socket.AF_UNIX)\ns.bind(sys.argv[1])\ns.listen()\n"
        "if os.fork():\n os._exit(0)\nprint(1, flush=True)\ntime.sleep(1)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) as orphan:
        assert orphan.stdout is not None
        assert orphan.stdout.readline()
        begun = time.monotonic()
        made.append(bind(at(path), ME))
        assert 0.3 < time.monotonic() - begun < listeners.PATIENCE
    assert answers(made[0])


@pytest.mark.parametrize("kind", ["file", "directory", "link", "fifo", "dangling"])
def test_what_is_no_socket_is_never_touched(tmp_path: Path, kind: str) -> None:
    path, other = tmp_path / "there", tmp_path / "other"
    if kind == "file":
        path.write_text("precious")
    elif kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to(other)
    if kind == "link":
        other.write_text("precious")
    before = path.lstat()
    for attempt in (bind, check):
        with pytest.raises(ConfigurationFault, match="is there, and no socket"):
            attempt(at(path), ME)
    assert path.lstat().st_ino == before.st_ino
    assert not other.exists() or other.read_text() == "precious"


def test_a_stale_socket_of_another_service_is_left(tmp_path: Path) -> None:
    path = tmp_path / "theirs"
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(str(path))
    os.chown(path, 4711, 4711)
    with pytest.raises(ConfigurationFault, match="socket of user id 4711, not ours"):
        bind(at(path), ME)
    assert path.exists()


def test_a_datagram_socket_is_left(tmp_path: Path) -> None:
    path = tmp_path / "datagrams"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))
        with pytest.raises(Fault):
            bind(at(path), ME)
    assert path.exists()


@pytest.mark.parametrize(
    ("listen", "words"),
    [
        ({"owner": "nosuchuser"}, "no user nosuchuser: make it with: useradd"),
        ({"group": "nosuchgroup"}, "no group nosuchgroup: make it with: groupadd"),
    ],
)
def test_unknown_names(tmp_path: Path, listen: dict[str, object], words: str) -> None:
    for attempt in (bind, check):
        with pytest.raises(ConfigurationFault, match=words):
            attempt(at(tmp_path / "new", **listen), ME)
    assert not (tmp_path / "new").exists()


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    for attempt in (bind, check):
        with pytest.raises(ConfigurationFault, match=f"directory {tmp_path}/no is not there"):
            attempt(at(tmp_path / "no" / "socket"), ME)


def test_a_taken_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(Fault, match="Address already in use"):
        bind(at(f"127.0.0.1:{taken.getsockname()[1]}"), ME)


def test_the_end_leaves_what_others_put_there(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    ours = bind(at(path), ME)
    path.unlink()
    path.write_text("precious")
    assert not ours.in_place
    ours.close()
    assert path.read_text() == "precious"


def test_all_or_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationFault):
        open_all([at(tmp_path / "one"), at(tmp_path / "no" / "two", "two")], ME, NONE)
    assert list(tmp_path.iterdir()) == []


def test_a_second_time_what_is_there_is_used(tmp_path: Path, made: list[Listener]) -> None:
    first = open_all([at(tmp_path / "one"), at(tmp_path / "two", "two")], ME, NONE)
    again = open_all([at(tmp_path / "one", mode=0o600), at(tmp_path / "three", "three")], ME, NONE, first)
    made += [*first, *again]
    assert again[0].socket is first[0].socket
    assert stat.S_IMODE((tmp_path / "one").stat().st_mode) == 0o600
    assert answers(again[1])
    assert first[1].in_place


def test_a_refused_second_time_changes_nothing(tmp_path: Path, made: list[Listener]) -> None:
    made += open_all([at(tmp_path / "one", mode=0o640)], ME, NONE)
    with pytest.raises(ConfigurationFault):
        open_all([at(tmp_path / "one", mode=0o666), at(tmp_path / "no" / "two", "two")], ME, NONE, made)
    assert stat.S_IMODE((tmp_path / "one").stat().st_mode) == 0o640
    assert answers(made[0])


def test_a_connecting_process_is_told_who_listens(tmp_path: Path, made: list[Listener]) -> None:
    """Bound by one process, served by another: SO_PEERCRED names the one that calls own()."""
    made.append(bind(at(tmp_path / "one"), ME))
    child = os.fork()
    if not child:
        made[0].own()
        time.sleep(30)
        os._exit(0)
    try:
        for _ in range(200):
            pid = listeners._answering(str(tmp_path / "one"))
            if pid == child:
                break
            time.sleep(0.02)
        assert pid == child
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def test_connections_while_it_is_bound_again_and_again(tmp_path: Path) -> None:
    """Stale, replaced, closed: whoever connects is refused or served, and nothing is left behind."""
    path, stop, seen = tmp_path / "busy", threading.Event(), set()

    def knock() -> None:
        while not stop.is_set():
            with socket.socket(socket.AF_UNIX) as client:
                try:
                    client.connect(str(path))
                except OSError as error:
                    seen.add(type(error))

    threads = [threading.Thread(target=knock) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(200):
        bind(at(path), ME).close()
    stop.set()
    for thread in threads:
        thread.join()
    assert seen <= {FileNotFoundError, ConnectionRefusedError, ConnectionResetError}
    assert list(tmp_path.iterdir()) == []


# systemd


@pytest.fixture
def third(tmp_path: Path) -> Iterator[str]:
    """Descriptors 3 and 4 of a process with two listening sockets, and its LISTEN_FDNAMES by argument."""
    yield (
        "import os, socket, sys\n"
        "from postroom.config import Listen\n"
        "from postroom.resident.passed import passed\n"
        f"os.chdir({str(tmp_path)!r})\n"
        "a = socket.socket(socket.AF_UNIX); a.bind(os.path.abspath('a')); a.listen()\n"
        "b = socket.create_server(('127.0.0.1', 0))\n"
        "fds = [os.dup(a.fileno()), os.dup(b.fileno())]\n"
        "port = b.getsockname()[1]\n"
        "fds = [os.dup2(fds[0], 30), os.dup2(fds[1], 31)]; a.close(); b.close()\n"
        "os.closerange(3, 30); os.dup2(30, 3); os.dup2(31, 4)\n"
        "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='2', LISTEN_FDNAMES=sys.argv[1])\n"
        "given = passed()\n"
        "assert not any(name.startswith('LISTEN') for name in os.environ)\n"
        "assert not os.get_inheritable(3) and not os.get_blocking(4)\n"
        "def named(name, at): return [one.fileno() for one in given.take(Listen(name, 'policy', at))]\n"
    )


def ran(code: str, *arguments: str) -> None:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_passed_sockets_go_by_name_then_by_address(third: str, tmp_path: Path) -> None:
    ran(
        third + "assert named('second', 'unix:/else') == [4]\n"
        f"assert named('x', 'unix:{tmp_path}/a') == [3]\n"
        "assert named('x', f'127.0.0.1:{port}') == [4]\n"
        "assert named('x', '127.0.0.1:1') == []\n"
        f"assert given.unclaimed([Listen('second', 'policy', 'unix:/b')]) == ['unix:{tmp_path}/a']\n",
        "first:second",
    )


def test_two_of_one_name_are_both_for_it(third: str) -> None:
    ran(third + "assert named('both', 'unix:/else') == [3, 4]\n", "both:both")


def test_without_names_the_address_counts(third: str, tmp_path: Path) -> None:
    ran(third + f"assert named('x', 'unix:{tmp_path}/a') == [3]\n", "")


def test_a_passed_socket_is_not_bound_and_not_removed(third: str, tmp_path: Path) -> None:
    ran(
        third + "from postroom.resident import account\nfrom postroom.resident.listeners import open_all\n"
        "me = account.Account(*account.current())\n"
        f"(one,) = open_all([Listen('x', 'policy', 'unix:{tmp_path}/a')], me, given)\n"
        "assert one.socket.fileno() == 3 and one.in_place\n"
        "one.close()\n",
        "",
    )
    assert (tmp_path / "a").exists()


def test_variables_for_another_process_are_not_for_us() -> None:
    environ = {"LISTEN_PID": "1", "LISTEN_FDS": "2", "PATH": "/"}
    assert passed.passed(environ).sockets == []
    assert environ == {"PATH": "/"}


def test_what_is_passed_and_no_listening_socket_is_refused(tmp_path: Path) -> None:
    code = (
        "import os, socket\n"
        "from postroom.resident.passed import passed\nfrom postroom.status import ConfigurationFault\n"
        "{make}\nos.dup2(one.fileno(), 3)\n"
        "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1')\n"
        "try:\n passed()\n"
        "except ConfigurationFault as fault:\n assert {words!r} in str(fault), fault\nelse:\n raise SystemExit(9)"
    )
    ran(code.format(make="one = open('/dev/null')", words="descriptor 3 is no socket"))
    ran(code.format(make="one = socket.socket()", words="not a listening stream socket"))
