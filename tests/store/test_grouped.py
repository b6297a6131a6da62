"""The store of a process of many threads: shared commits, own deadlines, and nothing that one does to the others."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from postroom import store
from postroom.deadline import Deadline
from postroom.status import Fault
from postroom.store import Event, Suppression, engine, grouped, writer

pytestmark = pytest.mark.usefixtures("shared")

Spawn = Callable[..., Any]
Tell = Callable[[bytes], None]


class Asked(threading.Thread):
    """`ask` of a store of this state, in a thread: what it returned, or raised, and after how long."""

    def __init__(self, state: Path, ask: Callable[[Any], Any], seconds: float = 20) -> None:
        super().__init__()
        self.state, self.ask, self.seconds = state, ask, seconds
        self.result: Any = None
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        begin = time.monotonic()
        try:
            self.result = self.ask(store.open(str(self.state), Deadline(self.seconds)))
        except BaseException as error:
            self.error = error
        self.took = time.monotonic() - begin

    def ended(self) -> Asked:
        self.join(30)
        assert not self.is_alive()
        return self


@contextmanager
def nobody_writes(state: Path) -> Iterator[None]:
    """Whoever wants to write waits for its turn, as long as this goes on."""
    fd = os.open(state / "state.lock", os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(fd)


def all_wait(number: int, state: Path) -> None:
    end = time.monotonic() + 10
    waiting = grouped._places[str(state)].writer._waiting
    while len(waiting) < number and time.monotonic() < end:
        time.sleep(0.005)
    assert len(waiting) == number


def made(state: Path) -> Any:
    one = store.open(str(state), Deadline(5))
    one.claim(b"before")
    return one


def keys(state: Path) -> set[bytes]:
    connection = sqlite3.connect(state / "state.db")
    try:
        return {row[0] for row in connection.execute("SELECT key FROM deliveries")}
    finally:
        connection.close()


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The synchronous of each transaction that is made."""
    found = []

    def transaction(connection: Any, change: Any, synchronous: str, dry: bool = False) -> Any:
        found.append(synchronous)
        return whole(connection, change, synchronous, dry)

    whole = engine.transaction
    monkeypatch.setattr(engine, "transaction", transaction)
    return found


def test_what_waits_together_is_committed_together_and_as_durably_as_one_asks(state: Path, commits: list[str]) -> None:
    made(state)
    commits.clear()
    with nobody_writes(state):
        asked = [Asked(state, lambda one, n=n: one.claim(b"%d" % n)) for n in range(39)]
        asked.append(Asked(state, lambda one: one.suppress(Suppression("a@example.com", 1))))
        all_wait(40, state)
    assert [one.ended().error for one in asked] == [None] * 40
    assert [one.result for one in asked] == [None] * 39 + [True]
    assert commits == ["FULL"]


def test_what_is_made_and_what_fails_is_counted(state: Path) -> None:
    made(state)
    before = dict(writer.counts)
    with nobody_writes(state):
        asked = [Asked(state, lambda one, n=n: one.claim(b"%d" % n)) for n in range(3)]
        all_wait(3, state)
        hasty = Asked(state, lambda one: one.claim(b"hasty"), 0.3).ended()
    assert [one.ended().error for one in asked] == [None] * 3
    assert hasty.error is not None
    with pytest.raises(TypeError):
        store.open(str(state), Deadline(5)).done(b"k", None)  # type: ignore[arg-type]  # wrong, on purpose
    new = {name: writer.counts[name] - before[name] for name in before}
    assert new == {"batches": 1, "changes": 3, "failures": 2}


def test_a_commit_is_bounded(state: Path, commits: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    made(state)
    commits.clear()
    monkeypatch.setattr(writer, "MAX_BATCH", 16)
    with nobody_writes(state):
        asked = [Asked(state, lambda one, n=n: one.claim(b"%d" % n)) for n in range(40)]
        all_wait(40, state)
    assert [one.ended().error for one in asked] == [None] * 40
    assert commits == ["NORMAL"] * 3


def test_one_that_fails_is_taken_back_alone(state: Path, commits: list[str]) -> None:
    def spoilt(one: Any) -> bool:
        event = Event(b"k", int(time.time()), "failed", fields={"a": "b"})
        event.fields["c"] = 5  # type: ignore[assignment] # what a bug would do
        return bool(one.record(event, [Suppression("a@example.com", 1)]))

    one = made(state)
    commits.clear()
    with nobody_writes(state):
        asked = [Asked(state, lambda one, n=n: one.claim(b"%d" % n)) for n in range(5)]
        all_wait(5, state)
        bad = Asked(state, spoilt)
        all_wait(6, state)
        asked += [Asked(state, lambda one, n=n: one.claim(b"%d" % n)) for n in range(5, 10)]
        all_wait(11, state)
    assert isinstance(bad.ended().error, TypeError)
    assert [one.ended().error for one in asked] == [None] * 10
    assert len(commits) == 1
    assert keys(state) == {b"before", *(b"%d" % n for n in range(10))}
    assert list(one.events()) == []


def test_a_caller_whose_deadline_passes_withdraws_and_nobody_else_does(state: Path) -> None:
    one = made(state)
    with nobody_writes(state):
        patient = Asked(state, lambda one: one.claim(b"patient"))
        hasty = Asked(state, lambda one: one.claim(b"hasty"), 0.3)
        assert str(hasty.ended().error) == "the state is locked"
        assert "state.db" in str(hasty.error.__cause__)  # type: ignore[union-attr]  # it has one
        assert 0.2 < hasty.took < 2
        assert one.suppression("a@example.com") is None, "readers do not wait for a writer"
    assert patient.ended().error is None
    assert one.claim(b"after") is None
    assert keys(state) == {b"before", b"patient", b"after"}


def test_past_its_deadline_a_delivery_is_recorded_all_the_same(state: Path) -> None:
    made(state)
    one = store.open(str(state), Deadline(0))
    one.done(b"key", "2.0.0 ok")
    assert one.claim(b"key") == "2.0.0 ok"


def test_of_what_was_taken_and_is_slow_nothing_is_said_but_that(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(state)
    whole = engine.transaction

    def slow(connection: Any, change: Any, synchronous: str, dry: bool = False) -> Any:
        def lasting(connection: Any) -> Any:
            result = change(connection)
            time.sleep(1.0)
            return result

        return whole(connection, lasting, synchronous, dry)

    monkeypatch.setattr(engine, "transaction", slow)
    late = Asked(state, lambda one: one.suppress(Suppression("a@example.com", 1)), 0.3)
    assert str(late.ended().error) == "the state is slow to answer"
    assert late.took < 0.9
    monkeypatch.undo()
    asleep(state)
    assert store.open(str(state), Deadline(5)).suppression("a@example.com"), "it may have been made, and was"


def test_who_comes_alone_writes_in_the_own_thread_unless_it_has_to_be_synced(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = made(state)
    threads = []
    whole = engine.transaction

    def told(*arguments: Any) -> Any:
        threads.append(threading.get_ident())
        return whole(*arguments)

    monkeypatch.setattr(engine, "transaction", told)
    ours = threading.get_ident()
    for number in range(3):
        one.done(b"%d" % number, "2.0.0 ok")
        asleep(state)
    assert threads == [ours] * 3
    assert one.suppress(Suppression("a@example.com", 1))
    assert threads[3] != ours
    asleep(state)
    with pytest.raises(TypeError):
        one.done(b"k", None)  # type: ignore[arg-type]  # wrong, on purpose
    asleep(state)
    assert one.claim(b"1") == "2.0.0 ok"
    assert one.claim(b"k") is None


def asleep(state: Path) -> None:
    """Until the thread that writes has nothing to do."""
    end = time.monotonic() + 5
    while not grouped._place(str(state)).writer._asleep:
        assert time.monotonic() < end
        time.sleep(0.001)


def test_what_comes_while_one_writes_joins_it_or_is_written_after_it(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(state)
    asleep(state)
    begun, end = threading.Event(), threading.Event()
    whole = engine.transaction

    def slow(connection: Any, change: Any, synchronous: str, dry: bool = False) -> Any:
        result = whole(connection, change, synchronous, dry)
        begun.set()
        assert end.wait(10)
        return result

    monkeypatch.setattr(engine, "transaction", slow)
    first = Asked(state, lambda one: one.claim(b"first"))
    assert begun.wait(10)
    others = [Asked(state, lambda one, n=n: one.claim(b"%d" % n)) for n in range(5)]
    all_wait(5, state)
    end.set()
    assert [one.ended().error for one in (first, *others)] == [None] * 6
    assert keys(state) == {b"before", b"first", *(b"%d" % n for n in range(5))}


def test_the_first_of_a_commit_that_fails_is_taken_back_alone(state: Path, commits: list[str]) -> None:
    one = made(state)
    commits.clear()
    event = Event(b"k", int(time.time()), "failed", fields={"a": "b"})
    event.fields["c"] = 5  # type: ignore[assignment] # what a bug would do
    with nobody_writes(state):
        bad = Asked(state, lambda one: one.record(event))
        all_wait(1, state)
        asked = [Asked(state, lambda one, n=n: one.claim(b"%d" % n)) for n in range(5)]
        all_wait(6, state)
    assert isinstance(bad.ended().error, TypeError)
    assert [one.ended().error for one in asked] == [None] * 5
    assert len(commits) == 1
    assert keys(state) == {b"before", *(b"%d" % n for n in range(5))}
    assert list(one.events()) == []


def test_deadline_clock_and_dry_are_each_callers_own(state: Path) -> None:
    one, other = made(state), store.open(str(state), Deadline(1), lambda: 1_000_000.0)
    other.dry = True
    assert one.deadline.seconds == 5 and other.deadline.seconds == 1
    assert one.clock() > 1_700_000_000 and other.clock() == 1_000_000.0
    assert other.rate("r", ("k",), ((1, 60.0),)) == 0
    assert other.rate("r", ("k",), ((1, 60.0),)) == 0, "judged, and not counted"
    assert one.rate("r", ("k",), ((1, 60.0),)) == 0
    assert one.rate("r", ("k",), ((1, 60.0),)) > 0
    assert other.rate("r", ("k",), ((1, 60.0),)) > 0


def test_dry_makes_no_file(state: Path) -> None:
    one = store.open(str(state), Deadline(5))
    one.dry = True
    assert one.greylist("p", ("k",), 60.0, 600.0, 600.0) == 60
    assert list(state.iterdir()) == []


# --- connections ---------------------------------------------------------------------------------------------------


def descriptors(state: Path) -> int:
    links = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the one that lists
            links.append(os.readlink(f"/proc/self/fd/{name}"))
    return sum(link.startswith(str(state)) for link in links)


def test_a_thread_opens_one_connection_and_it_ends_with_the_thread(state: Path) -> None:
    made(state).suppression("a@example.com")
    before = descriptors(state)

    def many(one: Any) -> int:
        for _ in range(50):
            again = store.open(str(state), Deadline(5))
            again.suppression("a@example.com")
            again.close()
        return descriptors(state)

    for _ in range(5):
        asked = Asked(state, many).ended()
        assert asked.error is None
        assert 0 < asked.result - before <= 3, "the database and its log, for one thread"
    assert descriptors(state) <= before + 1, "SQLite keeps one for the next, while others have locks on the file"


def test_connections_are_bounded(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(state).suppression("a@example.com")
    monkeypatch.setattr(grouped, "MAX_CONNECTIONS", 2)
    leave = threading.Event()

    def stay(one: Any) -> None:
        one.suppression("a@example.com")
        leave.wait(20)

    first = Asked(state, stay)
    end = time.monotonic() + 10
    while len(grouped._places[str(state)].readers) < 2 and time.monotonic() < end:
        time.sleep(0.005)
    refused = Asked(state, lambda one: one.suppression("a@example.com")).ended()
    assert str(refused.error) == "too many threads use the state"
    leave.set()
    assert first.ended().error is None
    assert Asked(state, lambda one: one.suppression("a@example.com")).ended().error is None


def test_a_thread_that_turns_to_another_state_leaves_the_first(state: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    made(state).suppress(Suppression("a@example.com", 1))
    made(other).suppress(Suppression("b@example.com", 1))
    before = store.open(str(state), Deadline(5)).suppression("a@example.com") and descriptors(state)
    assert store.open(str(other), Deadline(5)).suppression("a@example.com") is None
    assert descriptors(state) < before
    assert store.open(str(state), Deadline(5)).suppression("a@example.com") is not None


def test_a_fork_has_its_own(state: Path, spawn: Spawn) -> None:
    one = made(state)
    one.suppress(Suppression("a@example.com", 1))

    def child(tell: Tell) -> None:
        mine = store.open(str(state), Deadline(5))
        assert mine.suppression("a@example.com") is not None
        assert mine.claim(b"child") is None
        asked = [Asked(state, lambda one, n=n: one.done(b"%d" % n, "2.0.0 ok")) for n in range(5)]
        assert [one.ended().error for one in asked] == [None] * 5

    assert spawn(child).end() == 0
    assert one.suppression("a@example.com") is not None
    assert one.claim(b"3") == "2.0.0 ok"
    one.done(b"parent", "2.0.0 ok")


def test_each_has_its_own_again_where_nothing_is_shared(state: Path) -> None:
    assert isinstance(store.open(str(state), Deadline(5)), grouped.GroupedStore)
    store.share(None)
    assert not isinstance(store.open(str(state), Deadline(5)), grouped.GroupedStore)


def test_after_the_end_what_was_given_is_written(state: Path) -> None:
    made(state)
    with nobody_writes(state):
        asked = Asked(state, lambda one: one.claim(b"last"))
        all_wait(1, state)
        ending = threading.Thread(target=grouped.close)
        ending.start()
        time.sleep(0.1)
    ending.join(10)
    assert asked.ended().error is None
    assert b"last" in keys(state)
    assert store.open(str(state), Deadline(5)).claim(b"more") is None, "and begins anew where it is asked to"


# --- the file ------------------------------------------------------------------------------------------------------


def test_deleted_it_is_gone_for_every_thread(state: Path, tmp_path: Path) -> None:
    one = made(state)
    one.suppress(Suppression("a@example.com", 1))
    kept = tmp_path / "kept"
    (state / "state.db").rename(kept)
    for name in ("state.db-wal", "state.db-shm", "state.lock"):
        (state / name).rename(tmp_path / name)
    acts = (lambda one: one.suppression("a@example.com"), lambda one: one.claim(b"k"), lambda one: one.counts())
    for act in acts:
        with pytest.raises(Fault, match=r"^the state is gone$"):
            act(one)
        assert str(Asked(state, act).ended().error) == "the state is gone", "a thread that never had it open"
    assert list(state.iterdir()) == []
    for name in ("state.db-wal", "state.db-shm", "state.lock"):
        (tmp_path / name).rename(state / name)
    kept.rename(state / "state.db")
    assert one.suppression("a@example.com") is not None
    assert Asked(state, lambda one: one.claim(b"k")).ended().error is None


def test_another_file_in_its_place_is_believed(state: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    store.share(None)
    backup = store.open(str(other), Deadline(5))
    backup.suppress(Suppression("old@example.com", 1))
    backup.close()
    store.share(grouped.open)
    one = made(state)
    for path in state.iterdir():
        path.unlink()
    (other / "state.db").rename(state / "state.db")
    assert one.suppression("old@example.com") is not None
    assert Asked(state, lambda one: one.suppression("old@example.com")).ended().result is not None
    assert one.claim(b"before") is None, "which this one has never seen"
    assert keys(state) == {b"before"}
