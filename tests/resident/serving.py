"""A worker as a process of its own, with a socket for each protocol, and a policy program of the test's.

python serving.py FOLDER [NOFILE]
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]

PROGRAM = """
import asyncio, os, sys, threading, time
from postroom.policy import PolicyRequest
from postroom.runners.stdio import run

def decide(request):
    what, _, rest = request["recipient"].partition("@")
    if what == "sleep":
        time.sleep(float(rest))
    if what == "hang":
        threading.Event().wait()
    if what == "print":
        print("printed by print")
        os.system("echo printed by a child")
        return "OK" if os.read(0, 1) == b"" else "HOLD"
    return "REJECT ANSWER"

run(decide)
"""

LOOSE = """
import asyncio
from postroom.runners.stdio import run

def decide(request):
    asyncio.get_running_loop().call_soon(lambda: 1 / 0)
    return "DUNNO"

run(decide, through_sources=True)
"""

RULES = """
state = "{folder}/state"
log = "{folder}/log"
deadline = "2s"
{more}
[serve]
threads = 4
queue = 2
programs = ["{folder}/odd-policy.py", "{folder}/loose-policy.py"]
[[rule]]
id = "bad"
at = "rcpt"
match = {{ sender = "bad@x.test" }}
action = "REJECT {text}"
[[rule]]
id = "slow"
at = "route"
match = {{ recipient_domain = "slow.test" }}
action = "slow:"
"""

# Socket -> protocol, program.
SOCKETS = {
    "policy": ("policy", "rule-policy"),
    "odd": ("policy", "odd-policy"),
    "loose": ("policy", "loose-policy"),
    "gone": ("policy", "no-such-program"),
    "socketmap": ("socketmap", "socketmap-lookup"),
    "tcp": ("tcp_table", "tcp-lookup"),
}


def request(recipient: str = "r@x.test", sender: str = "s@x.test") -> bytes:
    return (
        f"request=smtpd_access_policy\nprotocol_state=RCPT\nqueue_id=4Q\nsender={sender}\nrecipient={recipient}\n\n"
    ).encode()


def main() -> None:
    folder = Path(sys.argv[1])
    if len(sys.argv) > 2:
        resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[2]), int(sys.argv[2])))
    from postroom.config import Listen
    from postroom.resident import worker
    from postroom.resident.board import Board
    from postroom.resident.child import Slot
    from postroom.resident.listeners import Listener
    from postroom.runners.options import Options

    options = Options()
    options.config = str(folder / "postroom.toml")
    listeners = []
    for name, (protocol, program) in SOCKETS.items():
        place = folder / f"{name}.sock"
        place.unlink(missing_ok=True)
        server = socket.socket(socket.AF_UNIX)
        server.bind(str(place))
        server.listen(500)
        listeners.append(Listener(Listen(name, protocol, f"unix:{place}", program=program), server))
    beats = os.open(folder / "beats", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    worker.run(Slot(0, Board(1), beats, os.getppid()), listeners, options)


class Served:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "state").mkdir()
        (folder / "odd-policy.py").write_text(PROGRAM)
        (folder / "loose-policy.py").write_text(LOOSE)
        self.configure("one")
        self.process: subprocess.Popen[bytes] | None = None
        self.clients: list[socket.socket] = []

    def configure(self, text: str, more: str = "") -> None:
        (self.folder / "draft").write_text(RULES.format(folder=self.folder, text=text, more=more))
        os.rename(self.folder / "draft", self.folder / "postroom.toml")

    def start(self, *arguments: str) -> Served:
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(self.folder), *arguments],
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT / "src"), "PYTHONDONTWRITEBYTECODE": "1"},
        )
        for _ in range(600):
            if (self.folder / "beats").exists() and b"!" in (self.folder / "beats").read_bytes():
                return self
            time.sleep(0.05)
        raise TimeoutError("the worker did not start")

    def connect(self, name: str = "policy") -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(20)
        self.clients.append(client)
        client.connect(str(self.folder / f"{name}.sock"))
        return client

    def ask(self, name: str = "policy", data: bytes = b"") -> bytes:
        client = self.connect(name)
        client.sendall(data or request())
        answer = client.recv(65536)
        client.close()
        return answer

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self, seconds: float = 20) -> int:
        assert self.process is not None
        return self.process.wait(seconds)

    @property
    def log(self) -> str:
        path = self.folder / "log"
        return path.read_text() if path.exists() else ""

    def wait_for(self, text: str) -> None:
        end = time.monotonic() + 15
        while text not in self.log and time.monotonic() < end:
            time.sleep(0.05)
        assert text in self.log, self.log

    def end(self) -> None:
        for client in self.clients:
            client.close()
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGKILL)
            self.process.wait()


if __name__ == "__main__":
    main()
