"""The SQLite store under the failures one fears: crowds, crashes, locks, full and read-only disks, foreign files."""

from __future__ import annotations

import os
import sqlite3
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from postroom import store
from postroom.deadline import Deadline
from postroom.status import Fault
from postroom.store import Event, Reported, Suppression

if TYPE_CHECKING:
    from postroom.store import Store

Spawn = Callable[..., Any]
Tell = Callable[[bytes], None]
CROWD = 20


@pytest.fixture
def opened(state: Path) -> Iterator[Store]:
    one = store.open(str(state), Deadline(5))
    yield one
    one.close()


def integrity(state: Path) -> str:
    connection = sqlite3.connect(state / "state.db")
    try:
        return str(connection.execute("PRAGMA integrity_check").fetchone()[0])
    finally:
        connection.close()


def detail(fault: Fault) -> str:
    return str(fault.__cause__)


def test_twenty_writers_at_once_lose_nothing_and_none_starves(state: Path, spawn: Spawn) -> None:
    rounds = 25

    def work(number: int) -> Callable[[Tell], None]:
        def writer(tell: Tell) -> None:
            longest = 0.0
            for turn in range(rounds):
                before = time.monotonic()
                one = store.open(str(state), Deadline(20))
                key = b"%d %d" % (number, turn)
                assert one.claim(key) is None
                one.done(key, f"2.0.0 {number} {turn}")
                one.record(Event(key, int(time.time()), "failed"), [Suppression(f"u{number}.{turn}@example.com", 1)])
                one.close()
                longest = max(longest, time.monotonic() - before)
            tell(b"%f" % longest)

        return writer

    start = time.monotonic()
    crowd = [spawn(work(number)) for number in range(CROWD)]
    waits = [float(process.heard()) for process in crowd]
    assert [process.end() for process in crowd] == [0] * CROWD
    # SQLite's own busy handler lets one writer of twenty wait for the whole run; a disk may be slow for everybody.
    assert max(waits) < max(3, (time.monotonic() - start) / 2)
    one = store.open(str(state), Deadline(5))
    assert len(list(one.suppressions())) == len(list(one.events())) == CROWD * rounds
    for number in range(CROWD):
        for turn in range(rounds):
            assert one.claim(b"%d %d" % (number, turn)) == f"2.0.0 {number} {turn}"
    one.close()
    assert integrity(state) == "ok"


def test_a_crowd_may_make_the_file(state: Path, spawn: Spawn) -> None:
    def first(number: int) -> Callable[[Tell], None]:
        return lambda tell: store.open(str(state), Deadline(10)).done(b"%d" % number, "2.0.0 ok")

    crowd = [spawn(first(number)) for number in range(CROWD)]
    assert [process.end() for process in crowd] == [0] * CROWD
    one = store.open(str(state), Deadline(5))
    assert all(one.claim(b"%d" % number) == "2.0.0 ok" for number in range(CROWD))
    one.close()
    assert not list(state.glob("*.new"))


def test_what_was_answered_survives_a_kill(state: Path, spawn: Spawn) -> None:
    def writer(tell: Tell) -> None:
        one = store.open(str(state), Deadline(5))
        for number in range(10**6):
            one.record(
                Event(b"%d %d" % (os.getpid(), number), int(time.time()), "failed", recipients=[Reported("a@x")] * 50)
            )
            tell(b"%d %d\n" % (os.getpid(), number))

    answered: set[bytes] = set()
    for turn in range(8):
        process = spawn(writer)
        time.sleep(0.05 + 0.013 * turn)
        process.kill()
        answered.update(process.heard().splitlines())
        assert process.end() == -9
    one = store.open(str(state), Deadline(5))
    found = {event.key: len(event.recipients) for event in one.events()}
    one.close()
    assert answered
    assert answered <= set(found)
    assert set(found.values()) == {50}, "an event was recorded in part"
    assert len(found) <= len(answered) + 8, "more than the one event that was under way at each kill"
    assert integrity(state) == "ok"


def exclusive(state: Path, seconds: float) -> Callable[[Tell], None]:
    def hold(tell: Tell) -> None:
        connection = sqlite3.connect(state / "state.db", isolation_level=None)
        connection.execute("BEGIN EXCLUSIVE")
        tell(b"held")
        time.sleep(seconds)
        connection.execute("ROLLBACK")

    return hold


def test_a_lock_shorter_than_the_deadline_is_waited_for(state: Path, opened: Store, spawn: Spawn) -> None:
    opened.claim(b"before")
    process = spawn(exclusive(state, 0.5))
    assert os.read(process.reader, 4) == b"held"
    before = time.monotonic()
    assert opened.claim(b"key") is None
    assert 0.3 < time.monotonic() - before < 3
    assert process.end() == 0


def test_a_lock_longer_than_the_deadline_is_a_fault(state: Path, opened: Store, spawn: Spawn) -> None:
    opened.claim(b"before")
    process = spawn(exclusive(state, 5))
    assert os.read(process.reader, 4) == b"held"
    opened.deadline = Deadline(0.3)
    before = time.monotonic()
    with pytest.raises(Fault, match=r"^the state is locked$") as caught:
        opened.claim(b"key")
    assert 0.25 < time.monotonic() - before < 2
    assert str(state) in detail(caught.value)
    assert opened.suppression("a@example.com") is None, "readers do not wait for a writer"
    process.kill()
    process.end()
    opened.deadline = Deadline(5)
    assert opened.claim(b"key") is None


def test_the_fair_lock_held_too_long_is_a_fault(state: Path, opened: Store, spawn: Spawn) -> None:
    import fcntl

    opened.claim(b"before")

    def hold(tell: Tell) -> None:
        fd = os.open(state / "state.lock", os.O_RDWR)
        fcntl.flock(fd, fcntl.LOCK_EX)
        tell(b"held")
        time.sleep(5)

    process = spawn(hold)
    assert os.read(process.reader, 4) == b"held"
    opened.deadline = Deadline(0.3)
    with pytest.raises(Fault, match=r"^the state is locked$"):
        opened.done(b"key", "2.0.0 ok")
    process.kill()
    process.end()


def test_who_was_left_waiting_for_the_lock_neither_keeps_it_nor_piles_up(
    state: Path, opened: Store, spawn: Spawn
) -> None:
    import fcntl
    import threading

    opened.claim(b"before")
    fd = os.open(state / "state.lock", os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    threads = len(sys._current_frames())
    for _ in range(5):
        opened.deadline = Deadline(0.1)
        with pytest.raises(Fault, match=r"^the state is locked$"):
            opened.claim(b"key")
    assert len(sys._current_frames()) <= threads + 1
    fcntl.flock(fd, fcntl.LOCK_UN)
    end = time.monotonic() + 5
    while len(sys._current_frames()) > threads and time.monotonic() < end:
        threading.Event().wait(0.01)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # free: nobody has it who does not know
    opened.deadline = Deadline(5)
    process = spawn(lambda tell: (time.sleep(0.2), os._exit(0)))  # the lock goes with the last who has the descriptor
    os.close(fd)
    assert opened.claim(b"key") is None
    assert process.end() == 0


def test_a_read_only_directory_is_a_fault(state: Path, spawn: Spawn, root: None) -> None:
    def visitor(tell: Tell) -> None:
        for name, act in (
            ("claim", lambda one: one.claim(b"k")),
            ("read", lambda one: one.suppression("a@example.com")),
        ):
            try:
                act(store.open(str(state), Deadline(1)))
            except Fault as fault:
                tell(f"{name}: {fault} | {detail(fault)}\n".encode())

    state.chmod(0o755)
    for parent in list(state.parents)[:3]:
        parent.chmod(parent.stat().st_mode | 0o055)
    process = spawn(visitor, "nobody")
    lines = process.heard().decode().splitlines()
    assert process.end() == 0
    assert [line.split(" | ")[0] for line in lines] == ["claim: the state cannot be opened"], "nothing to read yet"
    assert all(str(state) in line.split(" | ")[1] for line in lines)

    one = store.open(str(state), Deadline(5))  # root's own, in root's directory: not for nobody
    one.claim(b"k")
    process = spawn(visitor, "nobody")
    lines = process.heard().decode().splitlines()
    assert process.end() == 0
    assert len(lines) == 2
    one.close()


def test_a_read_only_file_is_a_fault_before_anything_happened(state: Path, spawn: Spawn, root: None) -> None:
    def visitor(tell: Tell) -> None:
        one = store.open(str(state), Deadline(1))
        assert one.suppression("a@example.com") is not None, "what can be read is read"
        try:
            one.claim(b"k")
        except Fault as fault:
            tell(str(fault).encode())

    one = store.open(str(state), Deadline(5))
    one.suppress(Suppression("a@example.com", 1))
    nobody = 65534
    for path in (state, *state.iterdir()):
        os.chown(path, nobody, -1)
    for parent in list(state.parents)[:3]:
        parent.chmod(parent.stat().st_mode | 0o055)
    for path in state.glob("state.db*"):
        path.chmod(0o400)
    process = spawn(visitor, "nobody")
    assert process.heard() == b"the state is read-only"
    assert process.end() == 0
    one.close()


def test_a_full_disk_is_a_fault_and_heals(small_disk: Path) -> None:
    one = store.open(str(small_disk), Deadline(5))
    one.done(b"before", "2.0.0 ok")
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(b"x" * 4096)
    with pytest.raises(Fault, match=r"^no room to keep state$"):
        for number in range(1000):  # the log may have room left for a few
            one.record(Event(b"%d" % number, int(time.time()), "failed", fields={"subject": "x" * 900}))
    with pytest.raises(Fault, match=r"^no room to keep state$"):
        one.claim(b"key")
    assert one.claim is not None and one.suppression("a@example.com") is None, "reading goes on"
    filler.unlink()
    assert one.claim(b"key") is None
    assert one.claim(b"before") == "2.0.0 ok"
    one.close()
    assert integrity(small_disk) == "ok"


def test_no_room_for_the_first_file_is_a_fault(small_disk: Path) -> None:
    with (small_disk / "filler").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(b"x" * 4096)
    one = store.open(str(small_disk), Deadline(1))
    with pytest.raises(Fault, match=r"^(no room to keep state|the state cannot be (opened|read or written))$"):
        one.claim(b"key")
    (small_disk / "filler").unlink()
    assert one.claim(b"key") is None
    one.close()


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"garbage " * 1000, "the state file is not a database"),
        (b"SQLite format 3\0" + b"\xff" * 5000, "the state file is not a database"),
        (b"not one\n" * 100, "the state file is not a database"),
    ],
)
def test_a_file_that_is_no_database_is_a_fault_and_stays_as_it_is(state: Path, content: bytes, text: str) -> None:
    (state / "state.db").write_bytes(content)
    for act in (lambda one: one.claim(b"k"), lambda one: one.suppression("a@example.com")):
        with pytest.raises(Fault, match=f"^{text}$"):
            act(store.open(str(state), Deadline(1)))
    assert (state / "state.db").read_bytes() == content


def test_pages_turned_to_garbage_are_a_fault(state: Path) -> None:
    one = store.open(str(state), Deadline(5))
    one.suppress(Suppression("a@example.com", 1))
    one.close()
    path = state / "state.db"
    data = path.read_bytes()
    path.write_bytes(data[:4096] + os.urandom(len(data) - 4096))
    one = store.open(str(state), Deadline(1))
    with pytest.raises(Fault, match=r"^the state is damaged$"):
        one.suppression("a@example.com")
    one.close()


def test_a_database_of_another_program_is_a_fault(state: Path) -> None:
    connection = sqlite3.connect(state / "state.db")
    connection.execute("CREATE TABLE theirs (x)")
    connection.commit()
    connection.close()
    with pytest.raises(Fault, match="belongs to another program"):
        store.open(str(state), Deadline(1)).claim(b"k")


def test_a_newer_version_is_a_fault(state: Path, opened: Store) -> None:
    opened.claim(b"k")
    connection = sqlite3.connect(state / "state.db")
    connection.execute("PRAGMA user_version = 999")
    connection.close()
    with pytest.raises(Fault, match="newer version"):
        store.open(str(state), Deadline(1)).claim(b"k")


def test_a_missing_directory_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(Fault, match=r"^the state cannot be opened$") as caught:
        store.open(str(tmp_path / "absent"), Deadline(1)).claim(b"k")
    assert "absent" in detail(caught.value)


@pytest.mark.parametrize("name", ["state.db", "state.lock"])
def test_a_link_is_not_followed(state: Path, tmp_path: Path, name: str) -> None:
    (state / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Fault):
        store.open(str(state), Deadline(1)).claim(b"k")
    assert not (tmp_path / "elsewhere").exists()


def test_a_path_with_special_characters(tmp_path: Path) -> None:
    state = tmp_path / "a?b#c%41 d"
    state.mkdir()
    one = store.open(str(state), Deadline(1))
    assert one.claim(b"k") is None
    one.close()
    assert (state / "state.db").exists()
    assert list(tmp_path.iterdir()) == [state]


def test_what_root_makes_is_for_the_owner_of_the_directory(state: Path, spawn: Spawn, root: None) -> None:
    def service(tell: Tell) -> None:
        one = store.open(str(state), Deadline(1))
        tell(repr(one.suppression("a@example.com") is not None).encode())
        one.suppress(Suppression("b@example.com", 1))

    os.chown(state, 65534, 65534)
    for parent in list(state.parents)[:3]:
        parent.chmod(parent.stat().st_mode | 0o055)
    one = store.open(str(state), Deadline(5))
    one.suppress(Suppression("a@example.com", 1))
    files = {path.name: path.stat() for path in state.iterdir()}
    assert set(files) == {"state.db", "state.db-wal", "state.db-shm", "state.lock"}
    assert {(found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) for found in files.values()} == {
        (65534, 65534, 0o600)
    }
    process = spawn(service, "nobody")
    assert (process.heard(), process.end()) == (b"True", 0)
    assert one.suppression("b@example.com") is not None
    one.close()


def test_a_directory_for_a_group_has_files_for_the_group(state: Path) -> None:
    state.chmod(0o770)
    one = store.open(str(state), Deadline(5))
    one.claim(b"k")
    assert {stat.S_IMODE(path.stat().st_mode) for path in state.iterdir()} == {0o660}
    one.close()


def test_the_log_stays_short_though_nobody_closes(state: Path, spawn: Spawn) -> None:
    def deliver(tell: Tell) -> None:
        one = store.open(str(state), Deadline(5))
        for number in range(500):
            one.claim(b"%d" % number)
            one.done(b"%d" % number, "2.0.0 ok")

    for _ in range(3):
        process = spawn(deliver)
        assert process.end() == 0
    assert (state / "state.db-wal").stat().st_size < 1_000_000


def test_a_step_that_fails_leaves_nothing_behind(opened: Store) -> None:
    opened.claim(b"before")
    bad = Event(b"k", int(time.time()), "failed", fields={"a": "b"})
    bad.fields["c"] = 5  # type: ignore[assignment] # what a bug would do
    with pytest.raises(TypeError):
        opened.record(bad, [Suppression("a@example.com", 1)])
    assert list(opened.events()) == []
    assert opened.suppression("a@example.com") is None
    assert opened.record(Event(b"k", int(time.time()), "failed"))
