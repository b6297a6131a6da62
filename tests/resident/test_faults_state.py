"""The state is full, locked, or gone, while mail flows."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from resident.house import House
from resident.traffic import IN_HAND, Case, trouble

# Above the deadline of a delivery, 4 s: some do not get their turn.
LOCKED_SECONDS = 8.0


@pytest.fixture(scope="module")
def small(start_house: Callable[[], House]) -> Iterator[House]:
    """A house whose state lies on a small disk of its own."""
    house = start_house()
    state = house.folder / "state"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m,mode=755", "tmpfs", str(state)], check=True)
    os.chown(state, house.account.pw_uid, house.account.pw_gid)
    try:
        house.start()
        yield house
    finally:
        house.stop()
        house.close()
        subprocess.run(["umount", str(state)], check=True)
        shutil.rmtree(house.folder)


def test_the_disk_of_the_state_is_full(small: House) -> None:
    filler = small.folder / "state" / "filler"
    with trouble(small, "state on a full disk") as case:
        with filler.open("wb", 0) as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(bytes(4096))
        time.sleep(5)
        case.nothing_is_lost()
        filler.unlink()
    assert "is full" in case.log
    assert case.deferred
    assert not case.duplicates


def test_somebody_locks_the_state(small: House) -> None:
    with trouble(small, f"state locked for {LOCKED_SECONDS:g} s") as case:
        holder = sqlite3.connect(small.folder / "state" / "state.db", isolation_level=None)
        try:
            holder.execute("BEGIN IMMEDIATE")
            time.sleep(LOCKED_SECONDS)
            case.nothing_is_lost()
        finally:
            holder.close()
    assert "the state is locked" in case.log
    assert case.deferred
    assert sum(case.duplicates.values()) <= IN_HAND, "more than were cut off after their effect"


def _deleted(house: House, case: Case) -> None:
    """Delete the file; for five seconds, in which nothing is delivered that could not be recorded."""
    (house.folder / "state" / "state.db").unlink()
    time.sleep(4)
    before = house.delivered()
    time.sleep(1)
    assert house.delivered() == before
    case.nothing_is_lost()


def _judge(case: Case) -> None:
    assert "the state is gone" in case.log
    assert case.deferred
    assert not case.duplicates


def test_the_state_is_deleted_and_a_copy_put_back(small: House) -> None:
    state = small.folder / "state"
    with trouble(small, "state deleted, restored") as case:
        copy = small.folder / "copy"
        with closing(sqlite3.connect(state / "state.db")) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
        _deleted(small, case)
        for path in state.glob("state.db-*"):
            path.unlink()  # of the file that is gone
        shutil.copy(copy, state / "draft")
        os.chown(state / "draft", small.account.pw_uid, small.account.pw_gid)
        os.rename(state / "draft", state / "state.db")
    _judge(case)


def test_the_state_is_deleted_and_begun_anew(small: House) -> None:
    """The new one knows no delivery, but Postfix asks for none again that was done. Who had the old one starts anew."""
    with trouble(small, "state deleted, begun anew") as case:
        _deleted(small, case)
        small.stop()
        for path in (small.folder / "state").glob("state.*"):
            path.unlink()
        small.start()
    _judge(case)
