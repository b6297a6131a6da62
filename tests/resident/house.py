"""A whole mail house: a private Postfix, `postroom serve` as user nobody, a name server, and a mailbox for each mail.

Half of the mail comes to the resident by lmtp(8), half by pipe(8) through programs that hand off to it; of each half
one part needs DNS to be decided, and one has an outside effect, a command, instead of a maildir. The address of a mail
says which it is (`address_of`), and its number is in it, so that each can be found again: in the queue, in a box.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

from readable import python
from resident.house_files import CLOCKED, EFFECT, KINDS, PARAMETERS, PLAIN, RULES, TRANSPORTS, USER, WORKERS

from postroom.postfix.instance import Instance, free_port

ROOT = Path(__file__).parents[2]


def address_of(number: int) -> str:
    """e... has an effect outside, m... a mailbox; the domain is its own, so that DNS is asked for each."""
    kind = KINDS[number % 4]
    return f"{'e' if number % 8 in (4, 5) else 'm'}{number}@d{number}.{kind}.test"


def number_of(name: str) -> int:
    return int(re.match(r"[em](\d+)", name)[1])  # type: ignore[index]  # there are no others


class House:
    """A folder with everything in it, Postfix running; the resident is started by `start`."""

    def __init__(self, folder: Path, installed: Path, dns: str) -> None:
        self.folder = folder
        self.installed = installed
        self.account = pwd.getpwnam(USER)
        self.python = python()
        self.process: subprocess.Popen[bytes] | None = None
        self.health = free_port()
        self._dns = dns
        for name in ("bin", "run", "state", "box"):
            (folder / name).mkdir()
        for path in (folder, folder / "run", folder / "state", folder / "box"):
            path.chmod(0o755)
            os.chown(path, self.account.pw_uid, self.account.pw_gid)
        self.configure()
        self._program("rule-deliver", f'exec {self.python} {installed}/agents/rule-deliver.py "$@"')
        (folder / "bin" / "effect").write_text(EFFECT.format(folder=folder))
        (folder / "bin" / "effect").chmod(0o755)
        self.set_clock(0)
        parameters = {name: text.replace("{folder}", str(folder)) for name, text in PARAMETERS.items()}
        self.postfix = Instance(parameters, TRANSPORTS.format(folder=folder, user=USER), folder / "postfix")
        self.postfix.start()

    def _program(self, name: str, words: str) -> None:
        path = self.folder / "bin" / name
        path.write_text(f"#!/bin/sh\nPYTHONPATH={self.installed}/src {words}\n")
        path.chmod(0o755)

    def configure(self, more: str = "") -> None:
        """Write the configuration, whole at once."""
        text = RULES.format(folder=self.folder, dns=self._dns, workers=WORKERS, health=self.health)
        (self.folder / "draft").write_text(more + text)
        os.rename(self.folder / "draft", self.folder / "postroom.toml")

    def set_clock(self, seconds: int) -> None:
        """So far ahead of ours is the resident's, where it is `clocked`."""
        (self.folder / "set").write_text(str(seconds))
        os.rename(self.folder / "set", self.folder / "clock")

    # The resident.

    def start(self, files: int = 20000, clocked: bool = False) -> None:
        """Start the resident, and wait until it is well; `clocked`: by a clock that can be set (`set_clock`)."""
        assert self.process is None
        main = [CLOCKED, str(self.folder / "clock")] if clocked else [PLAIN]
        words = [*main, "serve", "--config", str(self.folder / "postroom.toml"), "--user", USER]
        with (self.folder / "said").open("ab") as said:
            self.process = subprocess.Popen(
                ["/bin/sh", "-c", f'ulimit -n {files}; exec "$@"', "sh", self.python, "-c", *words],
                env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(self.installed / "src")},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
            )
        self.wait_until_well()

    def wait_until_well(self, seconds: float = 40) -> None:
        """All workers are there, and nothing is wrong but what was a moment ago."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with contextlib.suppress(OSError, ValueError):
                if len(self.workers()) == WORKERS:
                    return
            assert self.process is not None and self.process.poll() is None, (self.folder / "said").read_text()
            time.sleep(0.1)
        raise TimeoutError(f"the resident is not well: {self.log[-3000:]}")

    def status(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.health}/status", timeout=3) as answer:
            found: dict[str, Any] = json.load(answer)
            return found

    def workers(self) -> list[int]:
        """The workers' pids, of those that live."""
        children = self.children()
        return [one["pid"] for one in self.status()["workers"] if one["pid"] in children]

    def worker(self, seconds: float = 30) -> int:
        """The pid of a worker that lives and has been heard of."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with contextlib.suppress(OSError, ValueError):
                if found := self.workers():
                    return found[0]
            time.sleep(0.1)
        raise TimeoutError(f"no worker: {self.log[-3000:]}")

    def children(self) -> list[int]:
        assert self.process is not None
        pid = self.process.pid
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def tell(self, number: int) -> None:
        """A signal to the supervisor."""
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self, number: int = signal.SIGTERM, seconds: float = 70) -> int:
        """End it, and all of it."""
        if self.process is None:
            return 0
        process, self.process = self.process, None
        process.send_signal(number)
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            raise

    def memory(self) -> float:
        """The most that one of its processes ever had in memory, in MB."""
        assert self.process is not None
        peaks = [0]
        for pid in (self.process.pid, *self.children()):
            with contextlib.suppress(OSError, IndexError):
                text = Path(f"/proc/{pid}/status").read_text()
                peaks.append(int(text.split("VmHWM:")[1].split()[0]))
        return max(peaks) / 1024

    @property
    def log(self) -> str:
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def connect(self, name: str, seconds: float = 10) -> socket.socket:
        """A connection to the listener of that name."""
        if name == "health":
            return socket.create_connection(("127.0.0.1", self.health), seconds)
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(seconds)
        try:
            client.connect(str(self.folder / "run" / name))
        except BaseException:
            client.close()
            raise
        return client

    def ask(self, sender: str, recipient: str) -> str:
        """The action of the policy service."""
        request = f"request=smtpd_access_policy\nprotocol_state=RCPT\nsender={sender}\nrecipient={recipient}\n\n"
        with self.connect("policy") as client:
            client.sendall(request.encode())
            return client.recv(4096).decode().removeprefix("action=").strip()

    # Where mail is.

    def queued(self) -> set[int]:
        """What Postfix has."""
        found = set()
        for mail in self.postfix.queue():
            found |= {number_of(recipient["address"]) for recipient in mail["recipients"]}
        return found

    def delivered(self) -> Counter[int]:
        """How often each was: files of boxes, whose mail is looked into, and effects."""
        counts: Counter[int] = Counter()
        for box in (self.folder / "box").iterdir():
            for path in box.glob("new/*"):
                text = path.read_bytes()
                number = number_of(box.name)
                assert text.count(b"\nX-Number: %d\n" % number) == 1 and text.endswith(b"end of %d\n" % number)
                counts[number] += 1
        return counts + self.effects()

    def effects(self) -> Counter[int]:
        path = self.folder / "effects"
        return Counter(map(number_of, path.read_text().split())) if path.exists() else Counter()

    def close(self) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.stop(signal.SIGKILL)
        self.postfix.close()
        shutil.rmtree(self.folder, ignore_errors=True)
