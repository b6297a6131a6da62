"""The programs as pipe(8) runs them: a process each, a configuration, a state."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from postroom import store
from postroom.bounces import keys, verp
from postroom.deadline import Deadline

if TYPE_CHECKING:
    from postroom.store import Store

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "tests" / "data" / "bounces"
DOMAIN = "bounces.example.com"


class Place:
    """A configuration with its state, its key file and its log."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.library = ROOT / "src"
        self.state = folder / "state"
        self.state.mkdir()
        self.log = folder / "log"
        self.key = folder / "bounce.key"
        self.key.touch(mode=0o600)
        self.ring = [keys.fresh([])]
        self.key.write_text(keys.line(self.ring[0]))
        self.config = folder / "postroom.toml"
        self.config.write_text(
            f"state = {json.dumps(str(self.state))}\nlog = {json.dumps(str(self.log))}\n"
            f'[bounces]\nkey = "bounce.key"\nprefix = "bounces"\ndomain = "{DOMAIN}"\n'
        )

    def signed(self, recipient: str, age: float = 0) -> str:
        return f"{verp.make(self.ring[0], 'bounces', recipient, time.time() - age)}@{DOMAIN}"

    def run(self, program: str, message: bytes, recipient: str, *options: str) -> tuple[int, str]:
        """Exit status and output; what went to stderr counts as output, as in pipe(8)."""
        arguments = ["--config", str(self.config), *options, "--", "sender=", f"recipient={recipient}", "queue_id=4Xyz"]
        done = subprocess.run(
            [sys.executable, "-s", str(ROOT / "bounce" / f"{program}.py"), *arguments],
            input=message,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={"PATH": os.defpath, "PYTHONPATH": str(self.library), "PYTHONDONTWRITEBYTECODE": "1"},
            timeout=60,
        )
        return done.returncode, done.stdout.decode()

    def store(self) -> Store:
        return store.open(str(self.state), Deadline(5))

    def suppressed(self) -> list[str]:
        with_state = self.store()
        found = [entry.address for entry in with_state.suppressions()]
        with_state.close()
        return found

    def events(self) -> list[store.Event]:
        with_state = self.store()
        found = list(with_state.events())
        with_state.close()
        return found

    def last_line(self) -> str:
        return self.log.read_text().splitlines()[-1]


def sample(name: str) -> bytes:
    return (SAMPLES / f"{name}.eml").read_bytes()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    return Place(tmp_path)


@pytest.fixture
def read_sample() -> Callable[[str], bytes]:
    return sample


@pytest.fixture
def broken_library(place: Place) -> Callable[[str, str, str], None]:
    """Run with a copy of the library in which a piece of a file was replaced, once, by another."""

    def breaks(file: str, old: str, new: str) -> None:
        place.library = place.folder / "library"
        shutil.copytree(ROOT / "src", place.library, ignore=shutil.ignore_patterns("__pycache__"))
        path = place.library / "postroom" / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return breaks
