"""What pipe(8) gives a program: another user, two pipes, few descriptors; and a place to deliver to."""

import json
import os
import subprocess
from functools import cache
from pathlib import Path

from postroom.lab.place import choose_python

python = cache(choose_python)

Words = tuple[str, ...]

USER = "nobody"
NOBODY = 65534
MAIL = b"Received: by m; Sun, 22 Nov 2026 15:04:54 +0000\nSubject: hello\n\nbody\n"
DELIVERED = (0, "delivered to maildir")


def opened(folder: Path) -> Path:
    """pytest's own temporary folders are closed to other users."""
    folder.chmod(0o755)
    return folder


class Desk:
    """A configuration, a state directory and a place for mail, all the unprivileged user's."""

    def __init__(self, folder: Path, house: Path) -> None:
        self.folder = folder
        self.house = house
        self.started: list[subprocess.Popen[bytes]] = []
        self.library = house / "lib"
        self.box = folder / "box"
        self.state = folder / "state"
        self.state.mkdir()
        self.configure(f"maildir {self.box}")
        for path in (folder, self.state):
            os.chown(path, NOBODY, NOBODY)
        self.locked = folder / "locked"  # as the queue directory is for this user: it can be in it, and not read it
        self.locked.mkdir(mode=0o711)

    def configure(self, action: str, more: str = "") -> None:
        (self.folder / "postroom.toml").write_text(
            f'state = "{self.state}"\nlog = "{self.folder}/log"\n{more}\n[[rule]]\nid = "one"\nat = "deliver"\n'
            f'match = {{ recipient = "example.org" }}\naction = {json.dumps(action)}\n'
        )

    def start(
        self, *options: str, words: Words = (), stdin: int = subprocess.PIPE, before: Words = ()
    ) -> "subprocess.Popen[bytes]":
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        words = words or ("sender=s@example.com", "recipient=bob@example.org", "queue_id=4XyzQ")
        process = subprocess.Popen(
            [*before, python(USER)[0], "-s", self.house / "rule-deliver",
             "--config", self.folder / "postroom.toml", *options, "--", *words],
            stdin=stdin, stdout=writer, stderr=writer,
            env={"PATH": "/usr/bin:/bin", "LANG": "C", "PYTHONPATH": str(self.library)},
            cwd=self.locked, user=NOBODY, group=NOBODY, extra_groups=[], umask=0o077, start_new_session=True,
        )  # fmt: skip
        os.close(writer)
        process.stdout = os.fdopen(reader, "rb")
        self.started.append(process)
        return process

    def close(self) -> None:
        for process in self.started:
            process.kill()
            process.wait(timeout=10)
            for stream in (process.stdin, process.stdout):
                if stream:
                    stream.close()

    def run(self, *options: str, words: Words = (), data: bytes = MAIL) -> tuple[int, str]:
        """Exit status and what it said, which is one line."""
        output, _ = (process := self.start(*options, words=words)).communicate(data, timeout=60)
        assert output.endswith(b"\n") and output.count(b"\n") == 1 and len(output) <= 500, output
        return process.returncode, output.decode().rstrip("\n")

    def to(self, recipient: str, sender: str = "s@example.com") -> tuple[int, str]:
        return self.run(words=(f"sender={sender}", f"recipient={recipient}", "queue_id=4XyzQ"))

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    @property
    def mails(self) -> list[bytes]:
        return [path.read_bytes() for path in self.box.glob("new/*")] if self.box.exists() else []
