"""A folder in memory for configuration, sockets, state and mail; and the configuration in it."""

import os
import pwd
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

USER, GROUP = "nobody", "nogroup"

# tmpfs: what is measured is the program, not the disk. docs/scaling.md says what a disk adds.
MEMORY = "/dev/shm"  # noqa: S108 - mkdtemp makes a folder in it

HEAD = """\
state = "{folder}/state"
log = "{folder}/mail/log"

[serve]
workers = {workers}
user = "{user}"
group = "{group}"
{programs}"""


@contextmanager
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="postroom-bench-", dir=MEMORY if os.path.isdir(MEMORY) else None))
    made.chmod(0o755)
    try:
        account = pwd.getpwnam(USER)
        for name in ("state", "mail"):
            (made / name).mkdir()
            os.chown(made / name, account.pw_uid, account.pw_gid)
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def head(
    folder: Path, listeners: dict[str, str], workers: int = 1, dns: str = "", programs: tuple[Path, ...] = ()
) -> str:
    """The part of postroom.toml before the rules. `listeners`: the name of each, and further settings of it."""
    paths = ", ".join(f'"{path}"' for path in programs)
    text = HEAD.format(
        folder=folder, workers=workers, user=USER, group=GROUP, programs=f"programs = [{paths}]\n" if paths else ""
    )
    for name, settings in listeners.items():
        text += f'\n[listen.{name}]\nat = "unix:{folder}/{name}"\n{settings}'
    return text + (f'\n[dns]\nservers = ["{dns}"]\n' if dns else "") + "\n"
