"""Folders that other users can enter: pytest's own tmp_path is of mode 700 and keeps user nobody out."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A temporary folder of mode 755 right under /tmp."""
    made = Path(tempfile.mkdtemp(prefix="postroom-test-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)
