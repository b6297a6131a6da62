"""The real service, its file wrong: who is started then begins with the last configuration that was good."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from resident.supervised import alive, children, until
from resident.test_serve_cli import COMMAND, ENVIRON, USER, Place

from postroom.postfix.instance import free_port

WAITING = """
import threading
from postroom.runners.stdio import run

def decide(request):
    if request["recipient"] == "hang@example.com":
        threading.Event().wait()
    return "DUNNO"

run(decide)
"""


class Service(Place):
    """With a health page, which knows its workers."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.health = free_port()
        self.odd = folder / "odd"
        program = folder / "odd-policy.py"
        program.write_text(WAITING)
        self.serve = f'threads = 2\nprograms = ["{program}"]'
        self.listen = (
            f'[listen.policy]\nat = "unix:{self.socket}"\n[listen.health]\nat = "127.0.0.1:{self.health}"\n'
            f'[listen.odd]\nprotocol = "policy"\nprogram = "odd-policy"\nat = "unix:{self.odd}"\n'
        )
        self.rules("one")

    def rules(self, text: str, top: str = "", listen: str = "") -> None:
        draft = self.folder / "draft"
        draft.write_text(
            f'state = "{self.folder}/state"\nlog = "{self.log}"\ndeadline = "1s"\n{top}\n[serve]\nworkers = 1\n'
            f"{self.serve}\n{self.listen}{listen}\n"
            f'[[rule]]\nid = "no"\nat = "rcpt"\naction = "REJECT {text}"\nmatch.sender = "a@example.com"\n'
        )
        draft.rename(self.config)

    @contextmanager
    def running(self) -> Iterator[subprocess.Popen[bytes]]:
        with subprocess.Popen([*COMMAND, "--config", str(self.config), *USER], env=ENVIRON) as process:
            try:
                until(lambda: "serving: " in self.logged(), 40, self.logged)
                yield process
                process.terminate()
                assert process.wait(10) == 0
            finally:
                process.kill()

    def status(self) -> dict[str, object]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.health}/status", timeout=20) as page:
            told: dict[str, object] = json.load(page)
            return told

    def worker(self) -> int:
        """Of the children, the one that has the policy socket in use."""
        told = self.status()["workers"]
        assert isinstance(told, list) and told, "no worker was heard of"
        return int(told[-1]["pid"])

    def problems(self) -> str:
        return str(self.status()["problems"])


@pytest.fixture
def service(tmp_path: Path) -> Service:
    (tmp_path / "state").mkdir(exist_ok=True)
    os.chown(tmp_path / "state", 65534, 65534)
    return Service(tmp_path)


def says(text: str) -> str:
    return f"action=REJECT {text}\n\n"


def test_a_worker_that_is_killed_while_the_file_is_wrong_leaves_the_rules_in_force(service: Service) -> None:
    with service.running() as process:
        until(lambda: bool(service.status()["workers"]))
        old = service.worker()
        service.rules("two")
        until(lambda: service.ask() == says("two"))
        until(lambda: service.problems() == "[]")
        service.rules("three", "nonsense = [")
        until(lambda: service.logged().count("fault=configuration") == 1)
        os.kill(old, signal.SIGKILL)
        assert service.ask() == says("two")
        until(lambda: service.worker() != old)
        assert service.ask() == says("two")
        until(lambda: service.logged().count("the one before stays in force") == 2)
        assert "the configuration was refused, the one before is in force: postroom.toml" in service.problems()
        service.rules("four")
        until(lambda: service.ask() == says("four"))
        until(lambda: "refused" not in service.problems())
        assert service.logged().count("the one before stays in force") == 2, "each worker says it once"
        assert len(children(process.pid)) == 2


def test_rules_that_came_with_a_refused_address_are_in_force_and_the_rest_is_not(service: Service) -> None:
    with service.running() as process, socket.create_server(("127.0.0.1", 0)) as taken:
        until(lambda: bool(service.status()["workers"]))
        more = f'[listen.taken]\nprotocol = "policy"\nat = "127.0.0.1:{taken.getsockname()[1]}"'
        service.rules("two", listen=more)
        process.send_signal(signal.SIGHUP)
        until(lambda: "[serve] and [listen] stay as before, all else of the new one is in force" in service.logged())
        until(lambda: service.ask() == says("two"))
        until(lambda: "those before and all else of it are in force: " in service.problems())
        os.kill(service.worker(), signal.SIGKILL)
        assert service.ask() == says("two")


def test_a_worker_whose_threads_are_stuck_is_replaced_and_nobody_finds_nobody(service: Service) -> None:
    with service.running():
        until(lambda: bool(service.status()["workers"]))
        old = service.worker()
        answers: list[str] = []
        stop = threading.Event()

        def traffic() -> None:
            while not stop.is_set():
                try:
                    answers.append(service.ask())
                except ConnectionResetError:  # closed with the request unread: Postfix asks anew
                    answers.append("")

        asking = threading.Thread(target=traffic)
        asking.start()
        hanging = socket.socket(socket.AF_UNIX)
        hanging.connect(str(service.odd))
        hanging.sendall(b"request=smtpd_access_policy\nprotocol_state=RCPT\nrecipient=hang@example.com\n\n")
        until(lambda: not alive(old), 30, service.logged)
        assert service.ask() == says("one")
        stop.set()
        asking.join()
        hanging.close()
        assert set(answers) <= {says("one"), ""}, "an idle connection may be closed; another one is answered"
        assert answers.count("") <= 1
        assert "has asked for another in its place" in service.logged()
        assert "killed by" not in service.logged()
