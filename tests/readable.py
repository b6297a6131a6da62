"""Postroom where every user can read it, with a Python that every user can run.

Programs of pipe(8) and spawn(8), and the resident service, run as somebody who may not look into root's home: where
checkout or Python lie there, as they do where somebody tries things out, tests run a copy by another Python.
"""

from __future__ import annotations

import atexit
import functools
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from postroom.lab.place import choose_python

USER = "nobody"
ROOT = Path(__file__).parents[1]

# What the service and its programs import.
PACKAGES = ("click", "dns", "idna", "prometheus_client", "daemon", "lockfile")


@functools.cache
def python() -> str:
    return choose_python(USER)[0] if os.geteuid() == 0 else sys.executable


@functools.cache
def home() -> Path:
    """A copy of src/, which holds what it imports too, agents/, spawn/, bounce/ and tests/resident/; compiled."""
    folder = Path(tempfile.mkdtemp(prefix="postroom-readable-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    folder.chmod(0o755)
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("src", "agents", "spawn", "bounce", "tests/resident"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.origin is not None, f"{name} is not installed"
        shutil.copytree(Path(spec.origin).parent, folder / "src" / name, ignore=ignored)
    subprocess.run([python(), "-m", "compileall", "-q", str(folder / "src")], check=True)
    return folder
