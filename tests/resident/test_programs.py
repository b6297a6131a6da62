"""Program files, executed for their handlers: which are found, what is kept, what a broken one does to the others."""

from __future__ import annotations

import os
import shutil
import tomllib
from pathlib import Path

import pytest

from postroom import handoff, log
from postroom.resident import programs
from postroom.runners.captive import capture, hand_over

CHECKOUT = Path(__file__).parents[2]
HEAD = "from postroom.runners.pipe import run\n"
GOOD = HEAD + "def deliver(mail):\n    return {number}\nrun(deliver)\nraise SystemExit(3)\n"


@pytest.fixture(autouse=True)
def logfile(tmp_path: Path) -> Path:
    log.open("test", str(tmp_path / "log"))
    (tmp_path / "log").touch()
    return tmp_path / "log"


def write(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


def test_shipped_is_what_is_installed() -> None:
    manifest = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert set(programs.SHIPPED) == set(manifest["shared-scripts"].values())


def test_all_of_ours_are_found_and_say_what_they_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("agents", "spawn", "bounce"):
        for file in (CHECKOUT / name).glob("*.py"):
            shutil.copy(file, tmp_path / file.stem)
    monkeypatch.setattr("sys.argv", [str(tmp_path / "postroom")])
    found = programs.load()
    assert {name: (one.kind, one.protocol, one.through_sources) for name, one in found.items()} == {
        "rule-deliver": ("pipe", "pipe", False),
        "bounce-record": ("pipe", "pipe", False),
        "notify-record": ("pipe", "pipe", False),
        "rule-policy": ("policy", "policy", True),
        "socketmap-lookup": ("lookup", "socketmap", True),
        "tcp-lookup": ("lookup", "tcp_table", True),
        "lmtp-deliver": ("lmtp", "lmtp", False),
    }
    assert all(one.shipped and callable(one.handler) for one in found.values())


def test_those_beside_the_command_come_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = write(tmp_path, "rule-deliver", f"#!{os.devnull}\n" + GOOD.format(number=1))
    monkeypatch.setattr("sys.argv", [str(tmp_path / "postroom")])
    assert {name: one.path for name, one in programs.load().items()} == {"rule-deliver": path}


@pytest.fixture
def only_mine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "_shipped", list)


BROKEN = {
    "no Python": "def :\n",
    "an exception": "raise ValueError('bad day')\n",
    "SystemExit": "import sys; sys.exit(1)\n",
    "a guard that leaves": (
        "import os\ntry:\n    import no_such_module\nexcept BaseException:\n    try:\n        pass\n"
        "    finally:\n        os._exit(75)\n"
    ),
    "no run": "def deliver(mail):\n    pass\n",
}


@pytest.mark.usefixtures("only_mine")
@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_file_is_logged_and_takes_nothing_from_the_others(fault: str, tmp_path: Path, logfile: Path) -> None:
    paths = (write(tmp_path, "bad.py", BROKEN[fault]), write(tmp_path, "good.py", GOOD.format(number=1)), "/no/file")
    assert list(programs.load(paths)) == ["good"]
    lines = [line for line in logfile.read_text().splitlines() if "fault=program" in line]
    assert len(lines) == 2
    assert all("runs alone" in line for line in lines)
    if "guard" in fault:
        assert "no_such_module" in lines[0]


@pytest.mark.usefixtures("only_mine")
def test_os_exit_is_itself_again(tmp_path: Path) -> None:
    before = os._exit
    programs.load((write(tmp_path, "bad.py", BROKEN["a guard that leaves"]),))
    assert os._exit is before


@pytest.mark.usefixtures("only_mine")
def test_a_reload_keeps_what_has_not_changed_and_drops_what_is_broken(tmp_path: Path) -> None:
    first, second = (write(tmp_path, f"{name}.py", GOOD.format(number=1)) for name in ("first", "second"))
    before = programs.load((first, second))
    Path(first).write_text(GOOD.format(number=22))
    after = programs.load((first, second), before)
    assert after["second"] is before["second"]
    assert (before["first"].handler(None), after["first"].handler(None)) == (1, 22)
    assert after["first"].identity == handoff.identity(first) != before["first"].identity
    Path(first).write_text("def :\n")
    assert list(programs.load((first, second), after)) == ["second"]


@pytest.mark.usefixtures("only_mine")
def test_modules_beside_a_file_are_found(tmp_path: Path) -> None:
    write(tmp_path, "tickets_of_ours.py", "NUMBER = 7\n")
    text = "import tickets_of_ours\n" + GOOD.format(number="tickets_of_ours.NUMBER")
    assert programs.load((write(tmp_path, "mine.py", text),))["mine"].handler(None) == 7


def test_outside_of_a_capture_nothing_is_handed_over() -> None:
    assert hand_over("pipe", print) is None
    with pytest.raises(ZeroDivisionError):
        capture(lambda: 1 // 0)
    assert hand_over("pipe", print) is None
    assert capture(lambda: None) is None


def test_what_a_file_does_after_its_run_is_not_done(tmp_path: Path) -> None:
    handed = capture(lambda: exec(GOOD.format(number=1), {}))
    assert handed is not None
    assert (handed.kind, handed.handler(None)) == ("pipe", 1)
