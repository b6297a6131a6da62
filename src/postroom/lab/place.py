"""Where programs can be installed so that an unprivileged user can run them, and with which Python.

pipe(8) and spawn(8) refuse root. A clone, a virtual environment or a Python under a home directory of mode 700 can
be read by its owner only, and the user that Postfix changes to gets "Permission denied" for all of it. Debian's
python3 can be executed by everyone; so can a folder that the lab makes for itself.
"""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from urllib.parse import unquote, urlsplit

# Debian's own first: every user can execute it.
CANDIDATES = (
    "/usr/bin/python3",
    "/usr/bin/python3.13",
    "/usr/bin/python3.12",
    "/usr/bin/python3.11",
    "/usr/local/bin/python3",
)
_ENOUGH = "import sys, sqlite3; sys.exit(sys.version_info < (3, 11))"


class PlaceError(Exception):
    """No Python or no folder that the user can execute; the text says what was tried."""


@dataclass(frozen=True)
class Place:
    """An installation that the user can run: its programs' folder, the Python it uses, and why that one."""

    programs: Path
    python: str
    why: str


def runs_as(user: str, arguments: list[str], seconds: float = 30) -> tuple[bool, str]:
    """Whether `user` can run the command, tried for real, with pipe(8)'s environment; and the last line it wrote."""
    account = pwd.getpwnam(user)
    try:
        done = subprocess.run(
            arguments,
            user=account.pw_uid,
            group=account.pw_gid,
            extra_groups=[],
            cwd="/",
            env={"PATH": "/usr/bin:/bin", "LANG": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return False, str(error)
    lines = (done.stderr + done.stdout).strip().splitlines()
    return done.returncode == 0, lines[-1] if lines else ""


def choose_python(user: str) -> tuple[str, str]:
    """(interpreter, why): our own where `user` can execute it, else the first of CANDIDATES that it can."""
    own = os.path.realpath(sys.executable)
    fine, said = runs_as(user, [own, "-I", "-c", _ENOUGH])
    if fine:
        return own, f"user {user} can execute it"
    tried = [f"{own}: {said}"]
    for python in CANDIDATES:
        if not os.access(python, os.X_OK):
            continue
        fine, other = runs_as(user, [python, "-I", "-c", _ENOUGH])
        if fine:
            return python, f"user {user} cannot execute {own}"
        tried.append(f"{python}: {other or 'older than 3.11'}")
    raise PlaceError(
        f"no Python from 3.11 on that user {user} can execute ({'; '.join(tried)}); as root: apt-get install python3"
    )


def install(folder: Path, user: str) -> Place:
    """Install this very version of Postroom into a new virtual environment in `folder`, for `user` to run."""
    python, why = choose_python(user)
    environment = folder / "venv"
    # --without-pip: Debian splits ensurepip off into python3-venv; the pip that installed us installs this one, too.
    _run([python, "-m", "venv", "--without-pip", str(environment)])
    # `make` keeps our wheel and those of the dependencies in one folder: then nothing is fetched a second time.
    requirement, wheels = _requirement()
    target = str(environment / "bin" / "python")
    pip = [sys.executable, "-m", "pip", "--python", target, "install", "-q", "--disable-pip-version-check"]
    _run([*pip, *wheels, requirement])
    program = environment / "bin" / "rule-deliver"
    fine, said = runs_as(user, [str(program), "--help"])
    if not fine:
        raise PlaceError(f"user {user} cannot execute {program}: {said}")
    return Place(environment / "bin", python, why)


def _requirement() -> tuple[str, list[str]]:
    """What to tell pip so that it installs what is running now, and where it finds the dependencies' wheels."""
    package = distribution("postroom")
    origin = package.read_text("direct_url.json")  # PEP 610: written where a file or a folder was installed
    if origin is None:
        return f"postroom=={package.version}", []
    path = unquote(urlsplit(json.loads(origin)["url"]).path)
    return path, ["--no-index", "--find-links", os.path.dirname(path)] if path.endswith(".whl") else []


def _run(arguments: list[str]) -> None:
    done = subprocess.run(arguments, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    if done.returncode:
        last = (done.stderr + done.stdout).strip().splitlines()[-1:] or ["no output"]
        raise PlaceError(f"{os.path.basename(arguments[0])} {arguments[2]} failed: {last[0]}")
