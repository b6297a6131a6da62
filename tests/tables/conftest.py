"""What Postfix itself finds in a table."""

import os
import re
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from postroom import tables
from postroom.tables import files, socketmap

# Warnings about what is read all the same.
PASSING = re.compile(r"duplicate entry|is this an alias file|logical line must not start with whitespace")

Postmap = Callable[[str, Iterable[str]], dict[str, str]]


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test reads its tables itself."""
    monkeypatch.setattr(tables, "_open", {})
    monkeypatch.setattr(files, "_files", {})
    monkeypatch.setattr(socketmap, "_connections", {})


@pytest.fixture(scope="session")
def postfix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("postfix")
    (folder / "main.cf").write_text("compatibility_level = 3.6\nmyhostname = mail.example.com\n")
    os.utime(folder / "main.cf", (1, 1))
    return folder


@pytest.fixture(scope="session")
def postmap(postfix: Path) -> Postmap:
    """`postmap -q -`: what is found under each of the keys. A warning is an error, as a rule."""

    def query(table: str, keys: Iterable[str]) -> dict[str, str]:
        command = ["/usr/sbin/postmap", "-c", str(postfix), "-q", "-", table]
        text = "\n".join(keys).encode("utf-8", "surrogateescape")
        done = subprocess.run(command, input=text, capture_output=True, check=False, timeout=60)
        said = [line for line in done.stderr.decode(errors="replace").splitlines() if not PASSING.search(line)]
        if said:
            raise ValueError("\n".join(said))
        lines = done.stdout.decode("utf-8", "surrogateescape").split("\n")[:-1]
        return dict(line.split("\t", 1) for line in lines)

    return query


@pytest.fixture
def settle() -> Callable[[Path], None]:
    """Makes a file one that has not been written to for a while."""

    def age(path: Path) -> None:
        then = path.stat().st_mtime - 3600
        os.utime(path, (then, then))

    return age


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder below folders that anybody can pass."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o711)
    return tmp_path
