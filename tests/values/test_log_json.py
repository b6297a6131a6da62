"""The log line as JSON: one object, whatever is logged; never longer than a line, and cheap to begin with."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroom import log


@pytest.fixture(autouse=True)
def anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process that has not logged yet."""
    for name, value in (("_lost", 0), ("_destination", "syslog"), ("_program", "test"), ("_format", "text")):
        monkeypatch.setattr(log, name, value)
    yield


def objects(file: Path) -> list[dict[str, object]]:
    """Each line is one, and no constant that JSON does not have is in it."""

    def refuse(constant: str) -> object:
        raise ValueError(constant)

    return [json.loads(line, parse_constant=refuse) for line in file.read_text().splitlines()]


def test_a_line_in_json(tmp_path: Path) -> None:
    log.open("rule-deliver", str(tmp_path / "log"), "json")
    begun = time.time()
    log.info("4XyzAb", to="<a@b>", orig_to=None, rule="r", size=3, took=0.25, dry=False, text='say "hi"\n\\')
    log.error("", fault="runner", rate=float("inf"))
    first, second = objects(tmp_path / "log")
    stamp = first.pop("time")
    assert isinstance(stamp, str)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d", stamp)
    assert begun - 0.002 <= datetime.fromisoformat(stamp).timestamp() <= time.time()
    assert list(first.items()) == [
        ("program", "rule-deliver"), ("pid", os.getpid()), ("level", "info"), ("queue_id", "4XyzAb"),
        ("to", "<a@b>"), ("rule", "r"), ("size", 3), ("took", 0.25), ("dry", False), ("text", 'say "hi"\n\\'),
    ]  # fmt: skip
    assert (second["level"], second["queue_id"], second["rate"]) == ("error", "NOQUEUE", "inf")


@pytest.mark.parametrize(("zone", "offset"), [("UTC", "+00:00"), ("XXX-05:45", "+05:45"), ("XXX+03:30", "-03:30")])
def test_the_offset_of_its_time(zone: str, offset: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    log.open("test", str(tmp_path / "log"), "json")
    log.info("4Xy", text="a")
    monkeypatch.undo()
    time.tzset()
    (told,) = objects(tmp_path / "log")
    assert str(told["time"]).endswith(offset)
    assert abs(datetime.fromisoformat(str(told["time"])).timestamp() - time.time()) < 60


texts = st.text(
    st.characters() | st.sampled_from('"\\\n\0\x7f\x85\u2028\udc80\udfff\U000e0001\U0001f600é'), max_size=3000
)


@given(
    texts,
    st.dictionaries(
        st.sampled_from(["to", "rule", "text", "time", "pid", "cut", "queue_id"]),
        texts | st.integers() | st.floats() | st.booleans() | st.none(),
    ),
    st.sampled_from([0, 60]),
)
def test_whatever_is_logged_is_one_line_of_json(queue_id: str, fields: dict[str, object], used: int) -> None:
    fixed: dict[str, object] = {"time": "2026-11-22T15:37:52.123+01:00", "program": "test", "pid": 1, "level": "info"}
    record = log._json({**fixed, "queue_id": queue_id or "NOQUEUE"}, fields, log.MAX_LINE - used)
    assert len(record) <= log.MAX_LINE - used
    line = record.decode()
    assert line.isprintable()
    told = json.loads(line)
    assert {name: told[name] for name in fixed} == fixed
    cut = told.pop("cut", False)
    expected = {f"{name}_" if name in log._FIXED else name: value for name, value in fields.items()}
    expected |= {"queue_id": queue_id or "NOQUEUE"}
    for name in told.keys() - fixed.keys():
        value = expected[name]
        if isinstance(value, str):
            clean = re.sub("[\ud800-\udfff]", "\ufffd", value)
            assert told[name] == clean or (cut and clean.startswith(told[name]))
        else:
            assert told[name] == value or told[name] == str(value) or cut
    told_none = {name for name, value in expected.items() if value is None or (name == "text" and not value)}
    assert cut or told.keys() == fixed.keys() | expected.keys() - told_none


def test_a_long_line_loses_its_end_and_says_so(tmp_path: Path) -> None:
    log.open("rule-deliver", str(tmp_path / "log"), "json")
    log.info("4Xy", text="x" * 5000, to="<a@b>", status="sent")
    log.info("4Xy", to="\u20ac" * 5000, status="sent", text="t")
    first, second = objects(tmp_path / "log")
    assert (first["to"], first["status"], first["cut"]) == ("<a@b>", "sent", True)
    assert len(str(first["text"])) > 1700
    assert set(str(second["to"])) == {"\u20ac"}
    assert "status" not in second
    sizes = [len(line) for line in (tmp_path / "log").read_bytes().splitlines()]
    assert all(log.MAX_LINE - 8 < size <= log.MAX_LINE for size in sizes)


def test_lines_that_were_lost_are_told_in_json(tmp_path: Path) -> None:
    log.open("rule-deliver", "/dev/full", "json")
    for _ in range(3):
        log.info("4Xy", text="lost")
    log.open("rule-deliver", str(tmp_path / "log"))
    log.format("json")
    log.info("4Xy", text="line 0")
    notice, line = objects(tmp_path / "log")
    assert (notice["level"], notice["lost"], line["text"]) == ("warning", 3, "line 0")


def test_logging_json_imports_nothing(tmp_path: Path) -> None:
    code = f"import sys; from postroom import log; log.open('p', {str(tmp_path / 'log')!r}, 'json'); "
    code += "before = set(sys.modules); log.info('4Xy', text='a')\n"
    code += "print(sorted(set(sys.modules) - before), 'json' in sys.modules)"
    source = Path(__file__).parents[2] / "src"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], env={"PYTHONPATH": str(source)}, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[] False\n"
    assert objects(tmp_path / "log")[0]["text"] == "a"
