"""Running as the user that programs run as."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

NOBODY = 65534


def as_nobody(work: Callable[[], Any]) -> Any:
    """What `work` returns or raises, done by nobody in a child process (by ourselves, where we are not root)."""
    if os.geteuid() != 0:
        return work()
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            result: tuple[bool, Any] = True, work()
        except BaseException as error:
            result = False, error
        with os.fdopen(writer, "wb") as stream:
            stream.write(pickle.dumps(result))
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        data = stream.read()
    os.waitpid(child, 0)
    good, value = pickle.loads(data)
    if not good:
        raise value
    return value


@pytest.fixture
def nobody() -> Callable[[Callable[[], Any]], Any]:
    return as_nobody


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder that nobody can write to, below folders that it can pass."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o711)
    if os.geteuid() == 0:
        os.chown(tmp_path, NOBODY, NOBODY)
    return tmp_path
