"""A house for each module of tests, and a door that stands between it and its name server."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from readable import home
from resident.door import Door
from resident.house import House
from resident.house_files import KINDS

from postroom.lab.nameserver import Nameserver
from postroom.postfix.instance import missing

ZONES = {f"{kind}.test": "* 5 MX 10 mx.lab.test.\n" for kind in KINDS}


def folder_for(name: str) -> Path:
    """One that nobody can enter: those of tmp_path are their owner's alone."""
    folder = Path(tempfile.mkdtemp(prefix=f"postroom-{name}-"))
    folder.chmod(0o755)
    return folder


@pytest.fixture(scope="session")
def installed() -> Path:
    return home()


@pytest.fixture(scope="module")
def door() -> Iterator[Door]:
    """In front of a real nsd: every name in the zones has an MX record, for five seconds."""
    with Nameserver(ZONES) as server:
        made = Door(server.port)
        yield made
        made.close()


@pytest.fixture(scope="module")
def start_house(installed: Path, door: Door) -> Iterator[Callable[[], House]]:
    reason = missing()
    if reason:
        pytest.fail(reason, pytrace=False)
    made: list[House] = []

    def start() -> House:
        made.append(House(folder_for("house"), installed, door.address))
        return made[-1]

    yield start
    for one in made:
        one.close()


@pytest.fixture(scope="module")
def house(start_house: Callable[[], House]) -> House:
    """With the resident running."""
    one = start_house()
    one.start()
    return one
