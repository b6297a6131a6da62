"""The processes of one private Postfix: master, its daemons, and the programs that pipe(8) and spawn(8) ran.

`postfix stop` ends the daemons only: programs run in sessions of their own and live on, with the queue folder as their
working directory and perhaps a socket in their hands. They are recognised by MAIL_CONFIG, which postfix(1) puts into
the environment of everything it starts and which pipe(8) and spawn(8) export (export_environment), so no process is
ever picked by its name.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from pathlib import Path

# Enough for a program to see SIGTERM and leave; after that SIGKILL.
TERM_SECONDS = 2.0
KILL_SECONDS = 5.0
# Fields of /proc/PID/stat behind the name in parentheses (proc(5) counts from 1, these from the state).
PARENT, SESSION, TERMINAL = 1, 3, 4


def stat_fields(pid: int) -> list[str]:
    """/proc/PID/stat from the state on; empty for a process that is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def environment(pid: int) -> list[bytes]:
    """What the process was started with; empty for one that is gone, a zombie, or another user's."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def family() -> set[int]:
    """This process and its ancestors, which are never ours to end: they may have MAIL_CONFIG from a person."""
    pids, pid = set(), os.getpid()
    while pid > 0:
        pids.add(pid)
        fields = stat_fields(pid)
        pid = int(fields[PARENT]) if fields else 0
    return pids


def of_postfix(config_directory: Path) -> list[int]:
    """The living processes of the Postfix with this configuration, their children and whoever is in their sessions."""
    mark = b"MAIL_CONFIG=" + os.fsencode(config_directory)
    own = family()
    # A process on a terminal is a person's shell with MAIL_CONFIG exported; Postfix's have none.
    living = {
        pid: fields
        for pid in map(int, filter(str.isdigit, os.listdir("/proc")))
        if pid not in own and (fields := stat_fields(pid)) and fields[0] != "Z" and fields[TERMINAL] == "0"
    }
    found = {pid for pid in living if mark in environment(pid)}
    more = found
    while more:
        sessions = {living[pid][SESSION] for pid in more} - {str(os.getsid(0))}
        parents = {str(pid) for pid in more}
        # One that a program started with an environment of its own has no mark.
        more = {pid for pid, is_in in living.items() if is_in[SESSION] in sessions or is_in[PARENT] in parents} - found
        found |= more
    return sorted(found)


def handles(pids: list[int]) -> list[int]:
    """A pidfd for each that still lives: it names the process even if its number is used again."""
    opened = []
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            opened.append(os.pidfd_open(pid))
    return opened


def end(opened: list[int]) -> None:
    """SIGTERM to each, then SIGKILL to those that stay; closes the handles."""
    try:
        for number, patience in ((signal.SIGTERM, TERM_SECONDS), (signal.SIGKILL, KILL_SECONDS)):
            for handle in opened:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(handle, number)
            if gone(opened, patience):
                return
    finally:
        for handle in opened:
            os.close(handle)


def gone(handles: list[int], seconds: float) -> bool:
    """Wait until every process has ended (a pidfd is readable then); False when one has not in that time."""
    end_time = time.monotonic() + seconds
    left = set(handles)
    while left:
        poll = select.poll()
        for handle in left:
            poll.register(handle, select.POLLIN)
        ready = poll.poll(max(0.0, end_time - time.monotonic()) * 1000)
        left -= {handle for handle, _ in ready}
        if not ready and left:
            return False
    return True
