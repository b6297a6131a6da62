"""The health process, asked as Prometheus, load balancers and strangers ask it."""

import http.client
import json
import marshal
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from postroom import log
from postroom.config import Listen
from postroom.resident import health, report, web
from postroom.resident.board import Board
from postroom.resident.health import Health
from postroom.resident.listeners import Listener
from postroom.resident.metrics import BUCKETS, Metrics

ROOT = Path(__file__).parents[2]


class Served:
    """A health process of its own, on a free port of the loopback; and the workers that it is told of."""

    def __init__(self, folder: Path) -> None:
        self.board = Board(2)
        self.metrics = [Metrics(), Metrics()]
        self.about: dict[str, Any] = {
            "version": "1.2.3",
            "pid": 4711,
            "since": time.time() - 100,
            "configuration": "/etc/postroom/postroom.toml",
            "workers": 2,
            "listeners": [{"name": "policy", "protocol": "policy", "at": "unix:/run/postroom/policy"}],
            "reloads": [3, 1],
        }
        self.log = folder / "log"
        self.beats, self._beat = os.pipe()
        self.pid = 0

    def work(self, requests: int = 0) -> None:
        for metrics in self.metrics:
            for _ in range(requests):
                metrics.request("policy", "rule-policy", "no-mx", "REJECT", 0.00007)
            self.board.write(self.metrics.index(metrics), metrics.snapshot())

    def start(self) -> None:
        listening = socket.create_server(("127.0.0.1", 0), backlog=200)
        self.port = listening.getsockname()[1]
        self.pid = os.fork()
        if self.pid == 0:
            log.open("postroom", str(self.log))
            listener = Listener(Listen("health", "health", f"127.0.0.1:{self.port}"), listening)
            health.run([listener], self.board, self.about, lambda: os.write(self._beat, b".") and None)
        listening.close()

    def stop(self) -> int:
        os.kill(self.pid, signal.SIGTERM)
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.pid = 0
        return status

    def ask(self, path: str, method: str = "GET") -> tuple[int, str, dict[str, str]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.request(method, path)
        response = connection.getresponse()
        body = response.read().decode()
        connection.close()
        return response.status, body, dict(response.getheaders())

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), 20)

    def samples(self) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
        """What /metrics says: name -> labels -> value."""
        found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
        for family in text_string_to_metric_families(self.ask("/metrics")[1]):
            for sample in family.samples:
                found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
        return found


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path)
    made.work()
    made.start()
    yield made
    if made.pid:
        made.stop()
    os.close(made.beats)
    os.close(made._beat)


def eventually(true: Callable[[], bool], seconds: float = 10) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_metrics_are_what_prometheus_reads(served: Served) -> None:
    served.metrics[0].opened("policy")
    served.metrics[0].fault("policy", "busy")
    served.metrics[1].fault("policy", "handler")
    served.metrics[1].facts["loaded"] = 1_700_000_000.0
    served.work(requests=50)
    eventually(lambda: "postroom_request_duration_seconds_sum" in served.samples())
    status, body, headers = served.ask("/metrics")
    assert (status, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    found = served.samples()
    key = (("decision", "REJECT"), ("program", "rule-policy"), ("protocol", "policy"), ("rule", "no-mx"))
    assert found["postroom_requests_total"] == {key: 100}
    buckets = found["postroom_request_duration_seconds_bucket"]
    assert [number for _, number in buckets.items()] == [0, *[100] * len(BUCKETS)]
    policy = (("protocol", "policy"),)
    assert found["postroom_request_duration_seconds_count"][policy] == 100
    assert found["postroom_request_duration_seconds_sum"][policy] == pytest.approx(0.007)
    assert found["postroom_busy_total"][policy] == 1
    assert found["postroom_faults_total"] == {(("kind", "handler"), ("protocol", "policy")): 1}
    assert found["postroom_connections_open"][policy] == 1
    assert found["postroom_reloads_total"] == {(("result", "good"),): 3, (("result", "refused"),): 1}
    assert found["postroom_configuration_loaded_timestamp_seconds"] == {(): 1_700_000_000}
    assert found["postroom_workers"] == {(): 2}
    assert all(f"# HELP {name} " in body for name in re.findall(r"^# TYPE (\S+)", body, re.MULTILINE))


def test_status(served: Served) -> None:
    served.metrics[0].opened("policy")
    served.metrics[0].facts.update(programs=["rule-policy"], loaded=time.time() - 7)
    served.work(requests=20)
    eventually(lambda: bool(json.loads(served.ask("/status")[1])["requests"]))
    told = json.loads(served.ask("/status")[1])
    assert (told["version"], told["pid"], told["requests"], told["problems"]) == ("1.2.3", 4711, 40, [])
    assert 100 <= told["uptime"] < 130
    assert told["configuration"]["path"] == "/etc/postroom/postroom.toml"
    assert 7 <= told["configuration"]["age"] < 30
    assert [worker["pid"] for worker in told["workers"]] == [os.getpid()] * 2
    assert told["listeners"] == [
        {"name": "policy", "protocol": "policy", "address": "unix:/run/postroom/policy", "connections": 1}
    ]
    assert told["programs"] == ["rule-policy"]


def test_what_is_wrong_comes_with_what_to_do(served: Served) -> None:
    assert served.ask("/healthz")[0] == 200  # what comes from now on is of the last minute
    served.metrics[0]._stuck = lambda: 2
    served.metrics[0].facts["fault"] = 'postroom.toml: line 3: rule "x": no'
    served.metrics[0].fault("lmtp", "handler")
    served.metrics[0].fault("policy", "protocol")
    served.work()
    told = {"restarts": 1, "reloaded": [time.time(), 'postroom.toml: line 3: rule "x": no']}
    served.board.write(served.board.supervisor, marshal.dumps(told))
    eventually(lambda: len(json.loads(served.ask("/status")[1])["problems"]) == 4)
    assert json.loads(served.ask("/status")[1])["problems"] == [
        "workers that died in the last minute: 1; the mail log says why",
        'the configuration was refused, the one before is in force: postroom.toml: line 3: rule "x": no',
        "threads held by handlers that are past their deadline: 2",
        "1 in the last minute: a handler failed: the mail log says where (fault=handler)",
    ]
    assert served.ask("/healthz")[0] == 200, "somebody answers Postfix all the same"


def test_an_address_that_was_refused_leaves_the_rules_of_the_same_file_in_force(served: Served) -> None:
    served.work()
    told = {"reloaded": [time.time(), "127.0.0.1:9: Address already in use"]}
    served.board.write(served.board.supervisor, marshal.dumps(told))
    eventually(lambda: bool(json.loads(served.ask("/status")[1])["problems"]))
    assert json.loads(served.ask("/status")[1])["problems"] == [
        "[serve] and [listen] of the configuration were refused, those before and all else of it are in force: "
        "127.0.0.1:9: Address already in use"
    ]


def test_healthz_says_when_nobody_beats(served: Served) -> None:
    assert served.ask("/healthz")[:2] == (200, "ok: 2 of 2 workers\n")
    stale = marshal.loads(served.metrics[0].snapshot())
    stale["beat"] -= report.BEAT_LIMIT + 1
    for slot in range(2):
        served.board.write(slot, marshal.dumps(stale))
    eventually(lambda: served.ask("/healthz")[0] == 503)
    assert served.ask("/healthz")[1] == "no worker has been heard of within 10 s\n"
    assert json.loads(served.ask("/status")[1])["problems"][0].startswith("none of 2 workers ")
    assert served.samples()["postroom_workers"] == {(): 0}
    served.work()
    eventually(lambda: served.ask("/healthz")[0] == 200)


def test_a_board_without_a_word_and_a_broken_one(tmp_path: Path) -> None:
    board = Board(2)
    page = Health(board, {}).page
    assert page("/healthz")[:1] + page("/healthz")[2:] == (503, b"no worker yet\n")
    made = Health(board, {})
    metrics = Metrics()
    metrics.request("policy", "p", "r", "OK", 0.1)
    for _ in range(2):
        board.write(0, metrics.snapshot())
    made.look()
    assert made.page("/healthz")[0] == 200
    board._memory[:] = os.urandom(len(board._memory))
    made.look()
    assert made.page("/healthz")[0] == 200, "what was known is known until it is too old"
    assert b'postroom_requests_total{decision="OK"' in made.page("/metrics")[2]
    assert [Health(board, {}).page(path)[0] for path in ("/metrics", "/status", "/healthz")] == [200, 200, 503]


def test_only_get_and_head(served: Served) -> None:
    status, body, headers = served.ask("/metrics", "HEAD")
    assert (status, body) == (200, "")
    assert int(headers["Content-Length"]) > 1000
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "BREW"):
        assert served.ask("/metrics", method)[:2] == (405, "405 only GET and HEAD\n")
    assert served.ask("/metrics?x=1")[0] == 200
    assert served.ask("/../etc/passwd")[:2] == (404, "there are /healthz, /metrics, /status\n")


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"GET /metrics" + b"x" * 100_000 + b" HTTP/1.0\r\n\r\n", b" 431 "),
        (b"GET /metrics HTTP/1.0\r\n" + b"X: y\r\n" * 50_000 + b"\r\n", b" 431 "),
        (b"\0\xff" * 100_000, b" 431 "),
        (b"nonsense\r\n\r\n", b"400 "),
        (b"GET /metrics HTTP/9.9\r\n\r\n", b"505 "),
        (b"GET /healthz HTTP/1.1\nHost: x\n\n", b" 200 "),
        (b"POST /healthz HTTP/1.0\r\nContent-Length: 200000\r\n\r\n" + b"x" * 200_000, b" 405 "),
    ],
)
def test_requests_that_are_none(served: Served, sent: bytes, answer: bytes) -> None:
    with served.connect() as client:
        client.sendall(sent)
        data = b""
        while more := client.recv(65536):
            data += more
    assert answer in data.partition(b"\n")[0]
    assert served.ask("/healthz")[0] == 200


def test_a_head_in_pieces(served: Served) -> None:
    with served.connect() as client:
        for byte in b"GET /healthz HTTP/1.0\r\n\r\n":
            client.send(bytes([byte]))
        assert client.recv(65536).startswith(b"HTTP/1.0 200 ")


def test_a_client_that_never_finishes_is_closed(served: Served) -> None:
    begun = time.monotonic()
    with served.connect() as client:
        client.settimeout(0.5)
        for _ in range(40):
            try:
                client.send(b"G")
                if client.recv(1) == b"":
                    break
            except TimeoutError:
                pass
            except OSError:
                break
    assert web.PATIENCE - 0.5 < time.monotonic() - begun < web.PATIENCE + 3


def test_hundreds_that_say_nothing_do_not_shut_prometheus_out(served: Served) -> None:
    silent = [served.connect() for _ in range(150)]
    begun = time.monotonic()
    assert served.ask("/metrics")[0] == 200
    assert time.monotonic() - begun < 15
    for client in silent:
        client.close()


def test_a_client_that_does_not_read_holds_nobody_up(served: Served) -> None:
    for number in range(900):
        served.metrics[0].request("policy", "rule-policy", f"{'r' * 90}{number}", "REJECT", 0.1)
    served.work()
    eventually(lambda: len(served.ask("/metrics")[1]) > 100_000)
    deaf = []
    for _ in range(web.THREADS + 4):
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        client.connect(("127.0.0.1", served.port))
        client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        deaf.append(client)
    assert served.ask("/healthz")[0] == 200
    for client in deaf:
        client.close()


def test_a_hundred_scrapes_at_once(served: Served) -> None:
    served.work(requests=10)
    answers: list[int] = []
    threads = [threading.Thread(target=lambda: answers.append(served.ask("/metrics")[0])) for _ in range(100)]
    begun = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200] * 100
    assert time.monotonic() - begun < 15


def test_it_beats_while_it_is_busy_and_ends_when_told(served: Served) -> None:
    clients = [served.connect() for _ in range(30)]
    os.read(served.beats, 1000)
    time.sleep(3.5)
    assert 2 <= len(os.read(served.beats, 1000)) <= 8
    for client in clients:
        client.close()
    for ignored in (signal.SIGHUP, signal.SIGINT):
        os.kill(served.pid, ignored)
    assert served.ask("/healthz")[0] == 200
    assert served.stop() == 0
    assert not served.log.exists(), served.log.read_text()


def test_it_ends_with_the_supervisor(tmp_path: Path) -> None:
    """Where the kernel does not see to it."""
    program = f"""\
import os, socket, time
from postroom.resident import health
from postroom.resident.board import Board
from postroom.resident.listeners import Listener
from postroom.config import Listen
listening = socket.create_server(("127.0.0.1", 0))
board = Board(1)
child = os.fork()
if child == 0:
    health.run([Listener(Listen("health", "health", "x"), listening)], board, {{}}, lambda: None)
open({str(tmp_path / "pid")!r}, "w").write(str(child))
time.sleep(0.5)
os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", program], env={"PYTHONPATH": str(ROOT / "src")}, timeout=60, check=False)
    child = (tmp_path / "pid").read_text()
    eventually(lambda: not Path(f"/proc/{child}").exists() or "Z (" in Path(f"/proc/{child}/status").read_text())


def test_workers_do_not_pay_for_http() -> None:
    """The supervisor imports this before it forks: what a page needs is imported where pages are made."""
    code = (
        "import sys, postroom.resident.health; print(sorted({'http.server', 'prometheus_client'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
