"""A Postfix that an administrator runs: whether it does, and making it read its configuration again (postfix(1))."""

from __future__ import annotations

import os
import subprocess

from postroom.postfix.commit import on_terminal
from postroom.postfix.postconf import COMMAND_SECONDS, Postconf, PostconfError, command, one_line


def reload_command(postconf: Postconf) -> list[str]:
    """The command, as one types it."""
    return ["postfix", "-c", str(postconf.directory), "reload"]


def allowed() -> bool:
    """postfix(1) serves root only."""
    return os.geteuid() == 0


def running(postconf: Postconf) -> bool:
    """Whether master(8) holds the lock in the queue directory that this configuration names (`postfix status`)."""
    done = subprocess.run(
        [command("postfix"), "-c", str(postconf.directory), "status"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=COMMAND_SECONDS,
    )
    return done.returncode == 0


def reload(postconf: Postconf) -> None:
    """Make it read its configuration again; PostconfError with what it says when it does not."""
    name, *arguments = reload_command(postconf)
    status, said = on_terminal([command(name), *arguments])
    if status:
        raise PostconfError(one_line(said) or f"exit status {status}, its reasons are in the mail log")
