"""`postroom` as a person runs it: a process of its own, with what it took."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

# Of what the kernel counts for a child, ru_maxrss begins with its parent's; VmHWM is the program's own.
PROGRAM = """
import atexit, sys
memory = sys.argv.pop(1)
atexit.register(lambda: open(memory, "w").write(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0]))
from postroom.cli import main
main()
"""


@dataclass(frozen=True)
class Ran:
    """`cpu` in seconds, `memory` in megabytes at the most."""

    status: int
    lines: list[str]
    errors: str
    cpu: float
    memory: float


def postroom(folder: Path, *arguments: str) -> Ran:
    out, errors = folder / "stdout", folder / "stderr"
    flags = os.O_CREAT | os.O_TRUNC | os.O_WRONLY
    process = os.posix_spawn(
        sys.executable,
        [sys.executable, "-c", PROGRAM, str(folder / "memory"), *arguments],
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 1, str(out), flags, 0o600),
            (os.POSIX_SPAWN_OPEN, 2, str(errors), flags, 0o600),
        ],
    )
    _, status, used = os.wait4(process, 0)
    code = os.waitstatus_to_exitcode(status)
    cpu = used.ru_utime + used.ru_stime
    return Ran(code, out.read_text().splitlines(), errors.read_text(), cpu, int((folder / "memory").read_text()) / 1024)
