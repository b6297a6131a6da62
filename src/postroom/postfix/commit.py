"""Changed configuration files: shown as a diff, tried on a copy, written so that all of them change or none does.

Postfix reads these files at any moment (every new daemon process does), so each is replaced by rename(2) in one step.
postconf takes no lock that others could share; a flock(2) on the configuration directory keeps two of us apart.
"""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from postroom.postfix.postconf import COMMAND_SECONDS, Postconf, PostconfError, command, one_line, settle

LOCK_SECONDS = 10.0
# A complaint that was there before stays the same one when its line has moved.
LINE_NUMBER = re.compile(r",? line \d+(-\d+)?")
# What the copy must not share with the system whose configuration it is: `postfix check` makes missing folders.
CHECK_OVERRIDES = "multi_instance_enable = no\nmulti_instance_directories =\nmulti_instance_wrapper =\nmaillog_file =\n"


class Refusal(Exception):
    """Nothing was changed; each reason is one line."""

    def __init__(self, reasons: list[str]) -> None:
        super().__init__("\n".join(reasons))
        self.reasons = reasons


@dataclass(frozen=True)
class Change:
    """One file before and after; None where there is no file."""

    path: Path
    old: str | None
    new: str | None

    def diff(self) -> str:
        """The change as a unified diff."""
        old, new = (text.splitlines(keepends=True) if text is not None else [] for text in (self.old, self.new))
        before = str(self.path) if self.old is not None else "/dev/null"
        after = str(self.path) if self.new is not None else "/dev/null"
        lines = difflib.unified_diff(old, new, before, after)
        return "".join(line if line.endswith("\n") else line + "\n\\ No newline at end of file\n" for line in lines)


@contextlib.contextmanager
def lock(directory: Path) -> Iterator[None]:
    """Keep other edits by this program away; Refusal when one does not end."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        end = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise Refusal([f"another edit of {directory} is under way"]) from None
                time.sleep(0.1)
        yield
    finally:
        os.close(descriptor)


# On a copy


def rehearse(postconf: Postconf, changes: list[Change], services: list[str]) -> None:
    """Make the changes in a copy of the directory and let Postfix read it; Refusal with what it complains of."""
    with tempfile.TemporaryDirectory(prefix="postroom-wire-") as name:
        copy = Path(name)
        for file in ("main.cf", "master.cf"):
            shutil.copy(postconf.directory / file, copy)
        for change in changes:
            (copy / change.path.name).write_bytes(encoded(change.new or ""))
        settle(copy / "main.cf")
        before = complaints(postconf.directory, postconf)
        new = [line for line in dict.fromkeys(complaints(copy, postconf)) if line not in before]
        if not new:
            missing = [service for service in services if not Postconf(copy).services(service)]
            new = [f"postconf -M does not show {service}" for service in missing]
        if not new and os.geteuid() == 0:
            new = check(copy)
        if new:
            raise Refusal([f"Postfix does not like the change: {line}" for line in new])


def complaints(directory: Path, postconf: Postconf) -> list[str]:
    """What postconf warns of or refuses while it reads both files."""
    found = []
    for arguments in (("-n",), ("-M",), ("-P",)):
        done = subprocess.run(
            [postconf.program, "-c", str(directory), *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=COMMAND_SECONDS,
        )
        found += [LINE_NUMBER.sub("", line.replace(str(directory), "")) for line in done.stderr.splitlines()]
    # A main.cf that names its own directory is at odds with every copy of it.
    return [line for line in found if "config_directory=" not in line]


def check(copy: Path) -> list[str]:
    """`postfix check` on the copy, with a queue and data directory of its own; what it calls an error."""
    (copy / "queue").mkdir()
    (copy / "data").mkdir()
    main = copy / "main.cf"
    own = f"queue_directory = {copy}/queue\ndata_directory = {copy}/data\n"
    main.write_bytes(main.read_bytes().rstrip(b"\n") + f"\n{own}{CHECK_OVERRIDES}".encode())
    settle(main)
    status, said = on_terminal([command("postfix"), "-c", str(copy), "check"])
    return [one_line(said) or f"postfix check: exit status {status}, its reasons are in the mail log"] if status else []


def on_terminal(arguments: list[str]) -> tuple[int, str]:
    """Run a Postfix command with a terminal as its standard error; elsewhere it tells its reasons to syslog alone."""
    try:
        reading, terminal = os.openpty()
    except OSError:
        # No /dev/ptmx, as in a bare chroot or container: then only the exit status tells.
        reading, terminal = os.pipe()
    process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=terminal, stderr=terminal)
    os.close(terminal)
    said = b""
    # The end of a terminal is EIO, that of a pipe an empty read.
    with contextlib.suppress(OSError):
        while data := os.read(reading, 4096):
            said += data
    os.close(reading)
    return process.wait(), said.decode("utf-8", "replace")


# For real


def unwritable(changes: list[Change]) -> list[str]:
    """The folders in which files would have to be replaced and cannot be, each with the remedy."""
    folders = dict.fromkeys(change.path.resolve().parent for change in changes)
    remedy = "run this as root" if os.geteuid() != 0 else "its file system is read-only"
    return [f"cannot write {folder}: {remedy}" for folder in folders if not os.access(folder, os.W_OK | os.X_OK)]


def commit(postconf: Postconf, changes: list[Change], services: list[str]) -> None:
    """Write the changes; after any failure every file is as it was before, and the failure is raised."""
    written: list[Change] = []
    with lock(postconf.directory):
        stale = [str(change.path) for change in changes if current(change.path) != change.old]
        if stale:
            raise Refusal([f"{path} was changed by somebody else meanwhile: run this again" for path in stale])
        try:
            for change in changes:
                written.append(change)
                write(change.path, change.new)
            verify(postconf, services)
        except BaseException:
            for change in reversed(written):
                write(change.path, change.old)
            raise


def verify(postconf: Postconf, services: list[str]) -> None:
    """Read the configuration as it is now; PostconfError when Postfix cannot, or does not see a service."""
    postconf.run("-n")
    for service in services:
        if not postconf.services(service):
            raise PostconfError(f"postconf -M does not show {service}")


def current(path: Path) -> str | None:
    """The text of a file, None when there is none."""
    return path.read_bytes().decode("utf-8", "surrogateescape") if path.exists() else None


def encoded(text: str) -> bytes:
    """The bytes that `current` made the text of."""
    return text.encode("utf-8", "surrogateescape")


def write(path: Path, text: str | None) -> None:
    """Replace a file in one step, mode, owner and attributes kept; None removes it. A symbolic link stays one."""
    path = path.resolve()
    if text is None:
        path.unlink(missing_ok=True)
        return
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(encoded(text))
            file.flush()
            dress(file.fileno(), path)
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise


def dress(descriptor: int, like: Path) -> None:
    """Give a new file the owner, mode and extended attributes (SELinux) of the one that it replaces."""
    if not like.exists():
        os.fchmod(descriptor, 0o644)
        return
    status = like.stat()
    os.fchown(descriptor, status.st_uid, status.st_gid)
    os.fchmod(descriptor, status.st_mode & 0o7777)
    for name in os.listxattr(like):
        # Some are the file system's own and cannot be set.
        with contextlib.suppress(OSError):
            os.setxattr(descriptor, name, os.getxattr(like, name))
