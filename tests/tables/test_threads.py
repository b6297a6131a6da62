"""Tables, the country database and the record, asked by many threads at once while their files change."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from postroom import tables
from postroom.record import Record
from postroom.rules import Decision
from postroom.sources import _record
from postroom.tables import files, in_memory, table

THREADS = 16
SECONDS = 1.5


def hammer(work: Callable[[int], None], seconds: float = SECONDS) -> list[int]:
    """Have all threads work until the time is over; how often each did. The first fault of any is raised."""
    counts, faults = [0] * THREADS, []
    together = threading.Barrier(THREADS)

    def run(number: int) -> None:
        try:
            together.wait()
            end = time.monotonic() + seconds
            while not counts[number] or (time.monotonic() < end and not faults):
                work(number)
                counts[number] += 1
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(THREADS)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    if faults:
        raise faults[0]
    return counts


@pytest.fixture
def postmap_lmdb(tmp_path: Path) -> Callable[[str], str]:
    """Makes an lmdb table of two entries with this text; its name."""
    (tmp_path / "main.cf").write_text("compatibility_level = 3.6\n")
    source = tmp_path / "t"

    def make(text: str) -> str:
        source.write_text(f"a@x.test {text}\nb@x.test {text}\n")
        subprocess.run(["/usr/sbin/postmap", "-c", str(tmp_path), f"lmdb:{source}"], check=True, timeout=60)
        return str(source)

    return make


@pytest.fixture
def changing() -> Iterator[Callable[[Callable[[int], None]], None]]:
    """Does something again and again in a thread of its own, until the test ends."""
    stop = threading.Event()
    threads: list[threading.Thread] = []

    def start(change: Callable[[int], None]) -> None:
        def run() -> None:
            number = 0
            while not stop.wait(0.02):
                number += 1
                change(number)

        threads.append(threading.Thread(target=run))
        threads[-1].start()

    yield start
    stop.set()
    for one in threads:
        one.join()


def test_a_list_file_that_is_replaced_is_always_the_one_or_the_other(
    tmp_path: Path, changing: Callable[[Callable[[int], None]], None]
) -> None:
    place, draft = tmp_path / "list", tmp_path / "draft"

    def change(number: int) -> None:
        draft.write_text("".join(f"key{one}@x.test text{number % 2}\n" for one in range(500)))
        os.utime(draft, (number, number))
        os.rename(draft, place)

    change(0)
    changing(change)
    found = set()

    def look(number: int) -> None:
        one = table("texthash", str(place))
        texts = {one.find("address", f"key{key}@x.test", "+") for key in (0, 250, 499)}
        assert len(texts) == 1, "half of one and half of the other"
        found.update(texts)

    hammer(look)
    assert found == {"text0", "text1"}


def test_of_many_threads_one_reads_a_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "list").write_text("192.0.2.0/24 text\n")
    os.utime(tmp_path / "list", (1, 1))
    reads = []
    read = files._read

    def slow(*arguments: Any) -> Any:
        reads.append(1)
        time.sleep(0.1)
        return read(*arguments)

    monkeypatch.setattr(files, "_read", slow)
    hammer(lambda number: void(table("cidr", str(tmp_path / "list"))), 0.3)
    assert len(reads) == 1


def test_lmdb(postmap_lmdb: Callable[[str], str], changing: Callable[[Callable[[int], None]], None]) -> None:
    where = postmap_lmdb("0")
    changing(lambda number: void(postmap_lmdb(str(number))))

    def look(number: int) -> None:
        found = table("lmdb", where).find("address", "a@x.test" if number % 2 else "c@x.test", "+")
        assert str(found).isdigit() if number % 2 else found is False, found

    hammer(look)


def void(result: object) -> None:
    """For a lambda of no result."""


def test_sqlite(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "db")
    connection.execute("CREATE TABLE t (name TEXT PRIMARY KEY, text TEXT)")
    connection.executemany("INSERT INTO t VALUES (?, ?)", [(f"key{n}@x.test", f"text{n}") for n in range(100)])
    connection.commit()
    connection.close()
    settings = tmp_path / "t.cf"
    settings.write_text(f"dbpath = {tmp_path}/db\nquery = SELECT text FROM t WHERE name = '%s'\n")

    def look(number: int) -> None:
        assert table("sqlite", str(settings)).find("address", f"key{number}@x.test", "+") == f"text{number}"
        assert table("sqlite", str(settings)).find("address", f"none{number}@x.test", "+") is False

    hammer(look)


def test_tables_that_are_no_file_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []

    def look(number: int) -> None:
        one = table("values", ("a.test", "b.test"))
        made.append(one)
        assert one.find("domain", "a.test", "+") is True

    hammer(look, 0.2)
    assert len(set(map(id, made))) == 1


def test_a_record_of_many_threads_has_whole_lines(tmp_path: Path) -> None:
    class Configuration:
        record, record_hashed, rules = str(tmp_path / "record"), False, {"delimiter": "+"}

    written = [0] * THREADS

    def write(number: int) -> None:
        record: Record = _record(Configuration())  # type: ignore[arg-type]  # three of its attributes
        decision = Decision(f"REJECT {number}", (f"REJECT {number}",), reason="x" * 500)
        record.write("rcpt", {"sender": f"{number}@x.test"}, (), decision)
        written[number] += 1

    hammer(write, 0.5)
    lines = (tmp_path / "record").read_text().splitlines()
    assert len(lines) == sum(written)
    for line in lines:
        told = json.loads(line)
        assert told["action"] == f"REJECT {told['attributes']['sender'].partition('@')[0]}"


def test_countries(tmp_path: Path, changing: Callable[[Callable[[int], None]], None]) -> None:
    from mmdb_writer import MMDBWriter
    from netaddr import IPSet

    from postroom.country import country

    place = tmp_path / "c.mmdb"

    def change(number: int) -> None:
        writer = MMDBWriter(6, "GeoLite2-Country", ipv4_compatible=True)
        writer.insert_network(IPSet(["192.0.2.0/24"]), {"country": {"iso_code": "CH" if number % 2 else "NL"}})
        writer.to_db_file(str(tmp_path / "draft"))
        os.rename(tmp_path / "draft", place)

    change(0)
    changing(change)
    found = set()

    def look(number: int) -> None:
        found.add(country(str(place), "192.0.2.7"))
        assert country(str(place), "198.51.100.7") == ""

    hammer(look)
    assert found == {"CH", "NL"}


# What may be asked without waiting.


def test_only_what_is_in_memory_is_given_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = str(tmp_path / "list")
    (tmp_path / "list").write_text("a@x.test\n")
    os.utime(where, (1, 1))
    now = [1000.0]
    monkeypatch.setattr(files, "monotonic", lambda: now[0])
    assert in_memory("file", where) is None, "it has never been read"
    known = table("file", where)
    assert in_memory("file", where) is known
    now[0] += files.FRESH
    assert in_memory("file", where) is None, "it may have changed"
    assert table("file", where) is known and in_memory("file", where) is known
    os.unlink(where)
    now[0] += files.FRESH
    assert in_memory("file", where) is None
    assert in_memory("values", ("a",)) is None
    made = table("values", ("a",))
    assert in_memory("values", ("a",)) is made
    for kind in ("lmdb", "sqlite", "socketmap"):
        assert in_memory(kind, where) is None
    assert tables._open
