"""The library and rule-deliver where every user can read them, and a desk for each test."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import dns
import pytest
from agents.desk import USER, Desk, opened, python

import postroom

PROGRAM = Path(__file__).parents[2] / "agents" / "rule-deliver.py"


@pytest.fixture(scope="module")
def house() -> Iterator[Path]:
    """The library and the program, where everyone can read them."""
    assert os.geteuid() == 0, "only root can run programs as another user, as pipe(8) does: run the tests as root"
    with tempfile.TemporaryDirectory() as name:
        folder = opened(Path(name))
        for package in (postroom, dns):
            place = Path(package.__file__ or "").parent
            shutil.copytree(place, folder / "lib" / place.name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(PROGRAM, folder / "rule-deliver")
        subprocess.run([python(USER)[0], "-m", "compileall", "-q", folder / "lib"], check=True)
        yield folder


@pytest.fixture
def desk(house: Path) -> Iterator[Desk]:
    with tempfile.TemporaryDirectory() as name:
        desk = Desk(opened(Path(name)), house)
        yield desk
        desk.close()
