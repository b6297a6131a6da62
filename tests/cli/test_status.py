"""`postroom status`: what is wrong comes first; nobody there is told from not well."""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from docs.mdoc import page, section, words

from postroom.cli import main
from postroom.resident.board import Board
from postroom.resident.health import Health
from postroom.resident.metrics import Metrics
from postroom.resident.web import Web


class Resident:
    """The pages of a resident with two workers, answered in a thread."""

    def __init__(self, listening: socket.socket) -> None:
        self.board = Board(2)
        self.metrics = [Metrics(), Metrics()]
        self.about: dict[str, Any] = {
            "version": "1.2.3",
            "pid": 4711,
            "since": time.time() - 7300,
            "configuration": "/etc/postroom/postroom.toml",
            "workers": 2,
            "listeners": [
                {"name": "policy", "protocol": "policy", "at": "unix:/run/postroom/policy"},
                {"name": "mx", "protocol": "socketmap", "at": "127.0.0.1:2525"},
            ],
        }
        for metrics in self.metrics:
            metrics.facts.update(loaded=time.time() - 30, programs=["rule-policy"])
            metrics.opened("policy")
        self._web = Web([listening], Health(self.board, self.about))
        self._over = False
        self._thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        while not self._over:
            self._web.serve(time.monotonic() + 0.1)

    def start(self) -> None:
        for slot, metrics in enumerate(self.metrics):
            self.board.write(slot, metrics.snapshot())
        self._thread.start()

    def stop(self) -> None:
        self._over = True
        if self._thread.is_alive():
            self._thread.join()


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "health")


@pytest.fixture
def resident(path: str) -> Iterator[Resident]:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen()
    made = Resident(listening)
    yield made
    made.stop()
    listening.close()


@pytest.fixture
def config(tmp_path: Path, path: str) -> str:
    (tmp_path / "state").mkdir()
    file = tmp_path / "postroom.toml"
    file.write_text(f'state = "state"\n[listen.health]\nat = "unix:{path}"\n')
    return str(file)


def status(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["status", *arguments])


def test_all_is_well(resident: Resident, config: str) -> None:
    for _ in range(1200):
        resident.metrics[0].request("policy", "rule-policy", "r", "OK", 0.1)
    resident.start()
    done = status("--config", config)
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert lines[0] == "All is well."
    assert "serve          1.2.3, pid 4711, up 2h" in lines
    assert "configuration  /etc/postroom/postroom.toml, read 30s ago" in lines
    assert any(line.startswith("requests       1,200; ") for line in lines)
    assert "faults         none in the last minute" in lines
    (worker,) = [line.split() for line in lines if line.startswith("  0 ")]
    assert worker[:2] + worker[3:7] == ["0", str(os.getpid()), "1", "1,200", "0", "0"]
    assert "  policy  policy     2            unix:/run/postroom/policy" in lines
    assert "programs       rule-policy" in lines
    assert len(lines) < 20


def test_what_is_wrong_comes_first(resident: Resident, config: str) -> None:
    resident.metrics[1].facts["fault"] = 'postroom.toml: line 3: rule "x": \x1b[31mno'
    resident.about["workers"] = 3
    resident.start()
    done = status("--config", config)
    assert done.exit_code == 1
    assert done.output.splitlines()[:3] == [
        "NOT WELL, 2 things are wrong:",
        "  * 2 of 3 workers have been heard of within 10 s",
        '  * the configuration was refused, the one before is in force: postroom.toml: line 3: rule "x": ?[31mno',
    ]
    assert ", its newest version refused" in done.output


def test_json_has_the_fields_that_the_manual_tells(resident: Resident, path: str) -> None:
    resident.metrics[0].fault("policy", "busy")
    resident.start()
    done = status("--address", f"unix:{path}", "--json")
    told = json.loads(done.stdout)
    blocks = section(page("postroom.1"), "JSON").split("\n.It ")
    (block,) = [block for block in blocks if block.startswith("Cm status\n")]

    def names(value: Any) -> set[str]:
        if isinstance(value, list):
            return set().union(*map(names, value))
        if not isinstance(value, dict):
            return set()
        below = (names(inner) for key, inner in value.items() if key not in ("connections", "faults", "dns", "store"))
        return set(value).union(*below)

    assert names(told) == set(words(block, "Li")) - {":"}


def test_by_address(resident: Resident) -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    other = Resident(listening)
    other.start()
    for address in (f"127.0.0.1:{listening.getsockname()[1]}", f"[127.0.0.1]:{listening.getsockname()[1]}"):
        assert status("--address", address).output.startswith("All is well.")
    other.stop()
    listening.close()
    for wrong in ("health", "127.0.0.1", "127.0.0.1:x", ":1", "127.0.0.1:99999"):
        done = status("--address", wrong)
        assert (done.exit_code, "expected unix:/PATH or HOST:PORT" in done.output) == (64, True)


@pytest.mark.parametrize("left", [True, False])
def test_nobody_answers(left: bool, config: str, path: str) -> None:
    """Its socket may be left behind, or not."""
    if left:
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(path)
        listening.close()
    done = status("--config", config)
    assert done.exit_code == 69
    assert done.output.count("\n") == 1
    assert done.output.startswith(f"postroom: unix:{path}: ")
    assert "is postroom serve running?" in done.output


@pytest.mark.parametrize(
    "answer", [b"", b"220 mx.example.com ESMTP\r\n", b"HTTP/1.0 200 OK\r\n\r\nhello", b"HTTP/1.0 200 OK\r\n\r\n[1]",
    b"HTTP/1.0 404 Not Found\r\n\r\n{}", b"HTTP/1.0 200 OK\r\n\r\n" + b"[" * 100_000],
)  # fmt: skip
def test_somebody_else_answers(answer: bytes, config: str, path: str) -> None:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen()

    def serve() -> None:
        client, _ = listening.accept()
        client.recv(65536)
        client.sendall(answer)
        client.close()

    thread = threading.Thread(target=serve)
    thread.start()
    done = status("--config", config)
    thread.join()
    listening.close()
    assert done.exit_code == 69, done.output
    assert "is this the address of [listen.health]?" in done.output or "is postroom serve running?" in done.output


@pytest.mark.parametrize("damage", ["rules = maybe\n", "[[rule]]\nid = 1\n", "[serve]\nworkers = -1\n", "= =\n[\n"])
def test_a_file_that_is_wrong_elsewhere_still_says_where_to_ask(damage: str, resident: Resident, config: str) -> None:
    file = Path(config)
    good = file.read_text()
    resident.start()
    for text in (good + damage, damage + good):
        file.write_text(text)
        done = status("--config", config)
        assert "serve  " in done.output, done.output


def test_where_to_ask_is_not_guessed(tmp_path: Path) -> None:
    file = tmp_path / "postroom.toml"
    for text in (
        '= =\n[listen.policy]\nat = "127.0.0.1:1"\n',
        '= =\nat = "127.0.0.1:1"\n',
        "= =\n[listen.health]\nat = 1\n",
    ):
        file.write_text(text)
        done = status("--config", str(file))
        assert (done.exit_code, "--address" in done.output) == (78, True), done.output


def test_without_a_listener_it_says_how_to_add_one(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    file = tmp_path / "postroom.toml"
    file.write_text('state = "state"\n')
    done = status("--config", str(file))
    assert done.exit_code == 78
    assert "no [listen.health] table" in done.output
    added = done.output.partition("[listen.health]\nat")[1:]
    file.write_text('state = "state"\n' + "".join(added))
    assert status("--config", str(file)).exit_code == 69, "what it says to add is right"
    assert status("--config", str(tmp_path / "none.toml")).exit_code == 78
