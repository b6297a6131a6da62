"""The record as it is written: whole lines only, rotated at any time, bounded, and never in the way of mail."""

import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from record.conftest import ANSWERS, TEXTS, Write, plain

from postroom import __version__, log
from postroom.mx import Plan
from postroom.record import ANSWER_LIMIT, FORMAT, LINE_LIMIT, TEXT_LIMIT, VALUE_LIMIT, Record
from postroom.record.read import Line, parse
from postroom.rules import Decision, Question, Unknown
from postroom.rules.keys import STAGES

GIVEN = {"sender": "s@x.example", "recipient": "a@victim.example", "queue_id": "4XyzAb1"}


@pytest.fixture
def logged(tmp_path: Path) -> Path:
    log.open("test", str(tmp_path / "log"))
    return tmp_path / "log"


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_holds_all_of_a_decision(write: Write) -> None:
    plan = Plan("victim.example", "mx", ((10, "mx1.shady.example"),), 60)
    asked = [
        (Question("mx", "victim.example"), plan, 0.0123),
        (Question("list", ("blocked", "a@victim.example", "address")), "by hand", 0.0),
        (Question("fcrdns", "192.0.2.1"), Unknown("timed out"), 2.0),
    ]
    decision = Decision("HANGUP", ("HANGUP",), "shady", True, "why", (("watch", "WARN x"),))
    before = time.time()
    found = write(GIVEN, asked, decision)
    assert before - 1 < found.pop("time") < time.time() + 1
    assert found == {
        "format": FORMAT,
        "version": __version__,
        "stage": "rcpt",
        "attributes": GIVEN,
        "asked": [
            {
                "kind": "mx",
                "argument": "victim.example",
                "answer": {
                    "domain": "victim.example",
                    "state": "mx",
                    "hosts": [[10, "mx1.shady.example"]],
                    "ttl": 60,
                    "reason": "",
                    "outcome": "deliver",
                    "notes": [],
                    "stale": False,
                },
                "ms": 12.3,
            },
            {"kind": "list", "argument": ["blocked", "a@victim.example", "address"], "answer": "by hand", "ms": 0},
            {"kind": "fcrdns", "argument": "192.0.2.1", "unknown": "timed out", "ms": 2000},
        ],
        "action": "HANGUP",
        "rule": "shady",
        "on_error": True,
        "reason": "why",
        "shadow": [["watch", "WARN x"]],
        "hashed": False,
        "cut": [],
    }


@settings(max_examples=60)
@given(
    st.sampled_from(STAGES),
    st.dictionaries(TEXTS, TEXTS, max_size=4),
    st.lists(st.sampled_from(list(ANSWERS)).flatmap(lambda kind: st.tuples(st.just(kind), TEXTS, ANSWERS[kind]))),
    TEXTS,
    st.none() | TEXTS,
    st.booleans(),
    st.lists(st.tuples(TEXTS, TEXTS), max_size=2).map(tuple),
)
def test_what_is_written_is_read_again(
    tmp_path_factory: pytest.TempPathFactory,
    stage: str,
    attributes: dict[str, str],
    asked: list[tuple[str, str, Any]],
    action: str,
    rule: str | None,
    on_error: bool,
    shadow: tuple[tuple[str, str], ...],
) -> None:
    path = tmp_path_factory.mktemp("record") / "record"
    questions = [(Question(kind, about), answer, 0.001) for kind, about, answer in asked]
    Record(str(path)).write(stage, attributes, questions, Decision(action, (), rule, on_error, "why", shadow))
    data = path.read_bytes()
    assert data.endswith(b"\n")
    assert data.count(b"\n") == 1
    line = parse(data, STAGES)
    assert isinstance(line, Line)
    assert (line.stage, line.attributes, line.action, line.rule, line.on_error, line.shadow, line.cut) == (
        stage, attributes, action, rule, on_error, shadow, (),
    )  # fmt: skip
    assert [(kind, about, plain(answer)) for kind, about, answer, _ in line.asked] == [
        (kind, about, plain(answer)) for kind, about, answer in asked
    ]


def test_only_the_owner_may_read_it(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        Record(str(tmp_path / "record")).write("rcpt", GIVEN, [], Decision("DUNNO"))
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "record").stat().st_mode) == 0o600


def test_rotation_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "record"
    record = Record(str(path))
    before = len(os.listdir("/proc/self/fd"))
    for number in range(6):
        record.write("rcpt", {"queue_id": str(number)}, [], Decision("DUNNO"))
        if number == 1:
            path.rename(tmp_path / "record.1")
        if number == 3:
            path.unlink()
        if number == 4:
            os.truncate(path, 0)  # copytruncate
    assert [one["attributes"]["queue_id"] for one in lines(tmp_path / "record.1")] == ["0", "1"]
    assert [one["attributes"]["queue_id"] for one in lines(path)] == ["5"]
    assert len(os.listdir("/proc/self/fd")) <= before + 1


def test_no_descriptors_pile_up(tmp_path: Path) -> None:
    path = tmp_path / "record"
    record = Record(str(path))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        record.write("rcpt", GIVEN, [], Decision("DUNNO"))
        path.unlink()
    assert len(os.listdir("/proc/self/fd")) <= before + 1


WRITER = """
import sys
from postroom.record import Record
from postroom.rules import Decision
record = Record(sys.argv[1])
for number in range(200):
    record.write("rcpt", {"queue_id": f"{sys.argv[2]}-{number}", "helo_name": "x" * 3000}, [], Decision("DUNNO"))
"""


def test_many_processes_never_mix_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "record"
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(number)], env={**os.environ})
        for number in range(4)
    ]
    rotated = []
    while any(writer.poll() is None for writer in writers):
        time.sleep(0.02)
        if path.exists():
            rotated.append(tmp_path / f"record.{len(rotated)}")
            path.rename(rotated[-1])
    assert [writer.wait() for writer in writers] == [0] * 4
    files = [*rotated, *([path] if path.exists() else [])]
    names = [one["attributes"]["queue_id"] for file in files for one in lines(file)]
    assert len(names) == 800
    assert len(set(names)) == 800


def test_threads_share_it(tmp_path: Path) -> None:
    path = tmp_path / "record"
    record = Record(str(path))

    def work() -> None:
        for _ in range(100):
            record.write("rcpt", GIVEN, [], Decision("DUNNO"))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(10):
        if path.exists():
            path.rename(tmp_path / f"record.{number}")
    for thread in threads:
        thread.join()
    files = [*tmp_path.glob("record.*"), *([path] if path.exists() else [])]
    assert sum(len(lines(file)) for file in files) == 400


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.mkdir(), "Is a directory"),
        (lambda path: os.mkfifo(path), "No such device or address"),
        (lambda path: path.symlink_to("/dev/null"), "is not a regular file"),
        (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
    ],
)
def test_what_is_no_file_is_told_once_and_holds_nothing_up(tmp_path: Path, logged: Path, make: Any, said: str) -> None:
    path = tmp_path / "record"
    make(path)
    record = Record(str(path))
    start = time.monotonic()
    for _ in range(3):
        record.write("rcpt", GIVEN, [], Decision("DUNNO"))
    assert time.monotonic() - start < 1
    (line,) = logged.read_text().splitlines()
    assert f"warning: NOQUEUE: record={path} (decisions are not recorded: {said})" in line


def test_trouble_that_comes_back_is_told_again(tmp_path: Path, logged: Path) -> None:
    folder = tmp_path / "away"
    record = Record(str(folder / "record"))
    record.write("rcpt", GIVEN, [], Decision("DUNNO"))
    folder.mkdir()
    record.write("rcpt", GIVEN, [], Decision("DUNNO"))
    (folder / "record").unlink()
    folder.rmdir()
    record.write("rcpt", GIVEN, [], Decision("DUNNO"))
    record.write("rcpt", GIVEN, [], Decision("DUNNO"))
    assert logged.read_text().count("No such file or directory") == 2


def test_a_path_that_cannot_be_is_told(logged: Path) -> None:
    Record("a\0b").write("rcpt", GIVEN, [], Decision("DUNNO"))
    assert "embedded null byte" in logged.read_text()


FULL = """
import resource, sys
from postroom import log
from postroom.record import Record
from postroom.rules import Decision
log.open("test", sys.argv[2])
record = Record(sys.argv[1])
for size in (1500, 5000, 0):
    if not size:
        size = resource.RLIM_INFINITY
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    for number in range(20):
        record.write("rcpt", {"queue_id": str(number)}, [], Decision("DUNNO"))
"""


def test_a_full_disk_costs_lines_and_nothing_else(tmp_path: Path) -> None:
    """A limit for the file's size does what a full disk does: part of a line, then nothing."""
    path = tmp_path / "record"
    done = subprocess.run([sys.executable, "-c", FULL, str(path), str(tmp_path / "log")], env={**os.environ})
    assert done.returncode == 0
    data = path.read_bytes().splitlines()
    whole = [parse(line, STAGES) for line in data if line]
    broken = [line for line in whole if isinstance(line, str)]
    assert 1 <= len(broken) <= 2
    # After the disk has room again not one line is lost, nor spoilt by what was cut off before.
    assert [line.attributes["queue_id"] for line in whole[-20:] if isinstance(line, Line)] == [
        str(number) for number in range(20)
    ]
    # The log's own file is as full; what reached it was told at most twice for each of the two times.
    assert (tmp_path / "log").read_text().count("not recorded") <= 4


def test_huge_values_are_cut_and_named(write: Write) -> None:
    found = write({**GIVEN, "helo_name": "x" * (VALUE_LIMIT + 1), "ccert_subject": "y" * VALUE_LIMIT})
    assert found["cut"] == ["helo_name"]
    assert found["attributes"]["helo_name"] == "x" * VALUE_LIMIT
    assert found["attributes"]["ccert_subject"] == "y" * VALUE_LIMIT


def test_a_huge_answer_is_left_out_and_named(write: Write) -> None:
    asked = [(Question("header", "received"), ["r" * 500] * 100, 0.001), (Question("header", "subject"), ["hi"], 0)]
    found = write(GIVEN, asked, stage="deliver")
    assert found["cut"] == ["header:"]
    assert found["asked"][0] == {"kind": "header", "ms": 1.0}
    assert found["asked"][1]["answer"] == ["hi"]


def test_no_line_is_longer_than_the_limit(write: Write, tmp_path: Path) -> None:
    attributes = {**{f"attribute{number}": "\udcff" * VALUE_LIMIT for number in range(200)}, **GIVEN}
    asked = [(Question("header", "x" * 70000), ["r" * (ANSWER_LIMIT // 2)], 0.0)] * 20
    shadow = tuple((f"rule{number}", "\x01" * 4000) for number in range(1000))
    decision = Decision("\x01" * 100000, (), "r", True, "\x01" * 100000, shadow)
    for hashed in (False, True):
        found = write(attributes, asked, decision, hashed=hashed)
        assert found["cut"] == ["*", "shadow"]
        assert found["asked"] == []
        assert found["attributes"]["queue_id"] == "4XyzAb1"
        assert len(found["action"]) < TEXT_LIMIT
    assert max(map(len, (tmp_path / "record").read_bytes().splitlines())) < LINE_LIMIT


def test_an_interrupted_program_leaves_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "record"
    writer = subprocess.Popen([sys.executable, "-c", WRITER.replace("200", "10**9"), str(path), "0"])
    while not path.exists() or path.stat().st_size < 100000:
        time.sleep(0.01)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    data = path.read_bytes()
    assert data.endswith(b"\n")
    assert all(isinstance(parse(line, STAGES), Line) for line in data.splitlines())
