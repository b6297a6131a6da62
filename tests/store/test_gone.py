"""A state file that has gone, is empty, or is of an earlier version: never a new one in its place, in silence."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from postroom import store
from postroom.deadline import Deadline
from postroom.status import Fault
from postroom.store import Event, Suppression, schema

if TYPE_CHECKING:
    from postroom.store import Store

ADDRESS = "a@example.com"


@pytest.fixture
def used(state: Path) -> Store:
    one = store.open(str(state), Deadline(5))
    one.suppress(Suppression(ADDRESS, 1))
    return one


def another(state: Path) -> Store:
    return store.open(str(state), Deadline(5))


def is_gone(one: Store) -> None:
    for act in (
        lambda: one.suppression(ADDRESS),
        lambda: list(one.events()),
        lambda: one.claim(b"k"),
        lambda: one.rate("r", ("k",), ((1, 60.0),)),
    ):
        with pytest.raises(Fault, match=r"^the state is gone$") as caught:
            act()
        assert "state.lock" in str(caught.value.__cause__), "it says how to begin anew"


def test_reading_makes_no_file(state: Path) -> None:
    one = another(state)
    assert one.suppression(ADDRESS) is None
    assert [*one.suppressions(), *one.events(), *one.rates(), *one.greylisted(), *one.pools(), *one.met()] == []
    assert one.counts()["rates"] == 0
    one.dry = True
    assert one.rate("r", ("k",), ((1, 60.0),)) == 0
    assert one.greylist("p", ("k",), 60.0, 600.0, 600.0) == 60
    assert list(state.iterdir()) == []
    one.dry = False
    one.claim(b"k")
    assert (state / "state.db").exists()


@pytest.mark.parametrize("names", [["state.db"], ["state.db", "state.db-wal", "state.db-shm"]])
def test_deleted_under_a_process_it_is_gone_for_that_and_for_the_next(
    state: Path, used: Store, names: list[str]
) -> None:
    for name in names:
        (state / name).unlink()
    is_gone(used)
    is_gone(another(state))
    assert not (state / "state.db").exists()


def test_deleted_with_its_lock_it_is_gone_for_who_had_it_and_new_for_others(state: Path, used: Store) -> None:
    for path in state.iterdir():
        path.unlink()
    is_gone(used)
    other = another(state)
    assert other.suppression(ADDRESS) is None
    is_gone(used)
    other.suppress(Suppression("new@example.com", 1))
    assert used.suppression("new@example.com") is not None, "another file has taken its place: it is believed"
    assert used.suppress(Suppression("newer@example.com", 1))
    assert {entry.address for entry in other.suppressions()} == {"new@example.com", "newer@example.com"}


def test_a_log_without_its_database_is_not_replayed_into_another(state: Path, used: Store) -> None:
    (state / "state.db").unlink()
    (state / "state.lock").unlink()
    assert (state / "state.db-wal").stat().st_size > 0
    is_gone(another(state))
    for path in state.iterdir():
        path.unlink()
    assert another(state).claim(b"k") is None


def test_emptied_it_is_gone(state: Path, used: Store) -> None:
    used.close()
    (state / "state.db").write_bytes(b"")
    is_gone(another(state))
    assert (state / "state.db").stat().st_size == 0


def test_a_first_write_that_was_killed_in_the_middle_is_made_good(state: Path) -> None:
    (state / "state.db").touch()  # linked, nothing in it yet
    assert another(state).suppression(ADDRESS) is None
    assert (state / "state.db").stat().st_size == 0
    assert another(state).claim(b"k") is None
    (state / "state.lock").unlink()  # killed before the lock was made
    assert another(state).claim(b"l") is None


def test_a_restored_file_is_used_again(state: Path, used: Store, tmp_path: Path) -> None:
    used.close()
    (state / "state.db").rename(tmp_path / "backup")
    is_gone(another(state))
    (tmp_path / "backup").rename(state / "state.db")
    assert used.suppression(ADDRESS) is not None
    assert another(state).suppression(ADDRESS) is not None


# --- an earlier version --------------------------------------------------------------------------------------------


@pytest.fixture
def old(state: Path) -> Path:
    """As the first version left it, with a delivery from a day when the clock was wrong."""
    connection = sqlite3.connect(state / "state.db")
    connection.execute("PRAGMA journal_mode = WAL")
    for sql in schema.STEPS[0]:
        connection.execute(sql)
    connection.execute("PRAGMA user_version = 1")
    row = (ADDRESS, ADDRESS, 1, None, "bad-mailbox", "5.1.1", "no", "bounce")
    connection.execute("INSERT INTO suppressions VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
    connection.execute("INSERT INTO events VALUES (7, x'00', 1800000000, 'failed', 'verified', '4Xyz')")
    connection.execute("INSERT INTO event_fields VALUES (7, 'subject', 'news')")
    connection.execute("INSERT INTO deliveries VALUES (1, x'01', 99999999999, '2.0.0 sent')")
    connection.execute("INSERT INTO deliveries VALUES (2, x'02', 1700000000, '2.0.0 sent')")
    connection.commit()
    connection.close()
    (state / "state.lock").touch()
    return state


@pytest.mark.parametrize("first", ["read", "write"])
def test_an_earlier_version_is_brought_up_to_date_with_all_that_is_in_it(old: Path, first: str) -> None:
    one = another(old)
    if first == "write":
        one.rate("r", ("k",), ((1, 60.0),))
    found = one.suppression(ADDRESS)
    assert found is not None and found.why == "no"
    assert [(event.id, event.fields) for event in one.events()] == [(7, {"subject": "news"})]
    assert one.claim(b"\x01") == "2.0.0 sent"
    assert one.greylist("p", ("k",), 60.0, 600.0, 600.0) == 60
    one.close()
    connection = sqlite3.connect(old / "state.db")
    assert connection.execute("PRAGMA user_version").fetchone() == (schema.VERSION,) == (2,)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert connection.execute("SELECT max(started) < 4000000000 FROM deliveries").fetchone() == (1,)
    connection.close()


def test_a_crowd_brings_it_up_to_date_once(old: Path, spawn: object) -> None:
    crowd = [spawn(lambda tell: another(old).rate("r", ("k",), ((100, 60.0),))) for _ in range(8)]  # type: ignore[operator]
    assert [process.end() for process in crowd] == [0] * 8
    (entry,) = another(old).rates()
    assert entry.used == 8


def test_a_program_of_the_earlier_version_that_still_runs_goes_on(old: Path) -> None:
    running = sqlite3.connect(old / "state.db", isolation_level=None)
    running.execute("SELECT * FROM suppressions").fetchall()
    assert another(old).record(Event(b"k", 1_800_000_000, "failed"))
    running.execute("INSERT INTO deliveries (key, started) VALUES (x'03', 1800000000)")
    running.execute("INSERT INTO events (key, at, kind, authentic, queue_id) VALUES (x'04', 1, 'failed', '', '')")
    assert running.execute("SELECT count(*) FROM events").fetchone() == (3,)
    running.close()
