"""resident.worker: a worker as a process, from its first connection to its end."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from resident.serving import Served, request
from resident.talking import DEFERRED

DUNNO = b"action=DUNNO\n\n"
ANSWER = b"action=REJECT ANSWER\n\n"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path)
    yield made
    made.end()


def test_each_protocol_is_answered_by_its_program(served: Served) -> None:
    served.start()
    assert served.ask() == DUNNO
    assert served.ask("policy", request(sender="bad@x.test")) == b"action=REJECT one\n\n"
    assert served.ask("odd") == ANSWER
    assert served.ask("socketmap", b"17:route a@slow.test,") == b"8:OK slow:,"
    assert served.ask("socketmap", b"19:suppressed a@x.test,") == b"9:NOTFOUND ,"
    assert served.ask("tcp", b"get a@slow.test\n") == b"200 slow:\n"
    assert served.ask("gone") == b"action=DEFER_IF_PERMIT 4.3.5 Server configuration problem, try again later\n\n"
    served.wait_for("no-such-program: is not loaded")
    assert "postroom/rule-policy[" in served.log and "rule=bad" in served.log


def test_what_a_handler_prints_goes_to_the_log_and_there_is_nothing_to_read(served: Served) -> None:
    served.start()
    assert served.ask("odd", request("print@x")) == b"action=OK\n\n"
    served.wait_for("output=printed by print")
    served.wait_for("output=printed by a child")


def test_requests_that_wait_do_not_hold_up_others(served: Served) -> None:
    served.start()
    slow = [served.connect("odd") for _ in range(4)]
    for client in slow:
        client.sendall(request("sleep@1.5"))
    time.sleep(0.2)
    begun = time.monotonic()
    assert served.ask() == DUNNO
    assert time.monotonic() - begun < 1
    assert [client.recv(4096) for client in slow] == [ANSWER] * 4


def test_a_full_queue_says_later_at_once(served: Served) -> None:
    served.start()
    clients = [served.connect("odd") for _ in range(10)]
    for client in clients:
        client.sendall(request("sleep@0.3"))
    answers = sorted(client.recv(4096) for client in clients)
    assert answers == [DEFERRED] * 4 + [ANSWER] * 6
    served.wait_for("fault=busy")


def test_a_request_that_hangs_is_answered_for_and_when_half_of_the_threads_do_a_new_worker_is_due(
    served: Served,
) -> None:
    served.start()
    first = served.connect("odd")
    first.sendall(request("hang@x"))
    assert first.recv(4096) == DEFERRED
    served.wait_for("fault=deadline, at=threading.py")
    assert served.ask("odd") == ANSWER
    second = served.connect("odd")
    second.sendall(request("hang@x"))
    assert second.recv(4096) == DEFERRED
    served.wait_for("2 of 4 threads do not come back: another worker has to come in its place")
    assert (served.folder / "beats").read_bytes().count(b"~") == 1
    assert served.ask("odd") == ANSWER, "it goes on until there is another"
    served.signal(signal.SIGTERM)
    assert served.wait() == 0


def test_memory_that_is_used_up_is_no_reason_to_leave_before_another_worker_is_there(served: Served) -> None:
    program = served.folder / "loose-policy.py"
    program.write_text(program.read_text().replace("1 / 0", "bytes(1 << 60)"))
    served.start()
    assert served.ask("loose") == DUNNO
    served.wait_for("out of memory: another worker has to come in its place")
    assert (served.folder / "beats").read_bytes().count(b"~") == 1
    assert served.ask("loose") == DUNNO
    served.signal(signal.SIGTERM)
    assert served.wait() == 0


def test_a_terminated_worker_answers_what_is_in_hand_closes_the_rest_and_leaves(served: Served) -> None:
    served.start()
    busy, idle, partial = served.connect("odd"), served.connect(), served.connect()
    busy.sendall(request("sleep@1"))
    partial.sendall(request()[:20])
    time.sleep(0.3)
    begun = time.monotonic()
    served.signal(signal.SIGTERM)
    assert idle.recv(4096) == b"" and partial.recv(4096) == b""
    assert time.monotonic() - begun < 0.6, "an idle connection does not wait for a busy one"
    assert busy.recv(4096) == ANSWER and busy.recv(4096) == b""
    assert served.wait() == 0


def test_what_hangs_is_put_off_at_its_deadline_while_draining(served: Served) -> None:
    served.start()
    busy = served.connect("odd")
    busy.sendall(request("hang@x"))
    time.sleep(0.2)
    served.signal(signal.SIGTERM)
    assert busy.recv(4096) == DEFERRED
    assert served.wait() == 0


def test_a_reload_is_in_force_at_once_and_drops_no_connection(served: Served) -> None:
    served.start()
    client = served.connect()
    client.sendall(request(sender="bad@x.test"))
    assert client.recv(4096) == b"action=REJECT one\n\n"
    served.configure("two")
    served.signal(signal.SIGHUP)
    served.wait_for("in force")
    client.sendall(request(sender="bad@x.test"))
    assert client.recv(4096) == b"action=REJECT two\n\n"
    served.configure("three", "nonsense = [")
    served.signal(signal.SIGHUP)
    served.wait_for("fault=configuration")
    client.sendall(request(sender="bad@x.test"))
    assert client.recv(4096) == b"action=REJECT two\n\n"


def test_a_changed_program_answers_on_connections_that_are_there(served: Served) -> None:
    served.start()
    client = served.connect("odd")
    client.sendall(request())
    assert client.recv(4096) == ANSWER
    program = served.folder / "odd-policy.py"
    program.write_text(program.read_text().replace("ANSWER", "ANOTHER"))
    served.signal(signal.SIGHUP)
    end = time.monotonic() + 10
    answer = ANSWER
    while answer == ANSWER and time.monotonic() < end:
        client.sendall(request())
        answer = client.recv(4096)
    assert answer == b"action=REJECT ANOTHER\n\n"


def test_a_storm_of_reloads_under_load_loses_no_request(served: Served) -> None:
    served.start()
    stop = threading.Event()
    counts: list[int] = []

    def load(name: str, wanted: bytes) -> None:
        client, count = served.connect(name), 0
        while not stop.is_set():
            client.sendall(request())
            assert client.recv(4096) == wanted
            count += 1
        counts.append(count)

    loads = [threading.Thread(target=load, args=one) for one in (("policy", DUNNO), ("odd", ANSWER))]
    for one in loads:
        one.start()
    for number in range(20):
        served.configure(str(number))
        served.signal(signal.SIGHUP)
        time.sleep(0.05)
    stop.set()
    for one in loads:
        one.join()
    assert len(counts) == 2 and min(counts) > 10
    served.configure("last")
    served.signal(signal.SIGHUP)
    served.wait_for("in force")
    end = time.monotonic() + 10
    while served.ask("policy", request(sender="bad@x.test")) != b"action=REJECT last\n\n":
        assert time.monotonic() < end


def test_silent_connections_do_not_shut_out_who_has_a_request(served: Served) -> None:
    served.start("200")  # descriptors: room for 100 connections
    silent = [served.connect() for _ in range(400)]
    dripping = served.connect()
    dripping.sendall(request()[:10])
    for _ in range(5):
        assert served.ask() == DUNNO
    closed = 0
    for client in silent[:150]:
        client.setblocking(False)
        try:
            closed += client.recv(1) == b""
        except BlockingIOError:
            continue
    assert closed == 150, "the oldest go first"


def test_busy_connections_are_not_closed_for_new_ones(served: Served) -> None:
    served.start("200")
    busy = served.connect("odd")
    busy.sendall(request("sleep@1"))
    time.sleep(0.2)
    for _ in range(300):
        served.connect()
    assert busy.recv(4096) == ANSWER


def test_descriptors_that_are_used_up_are_waited_for(served: Served) -> None:
    served.start("60")
    clients = [served.connect() for _ in range(100)]
    for _ in range(3):
        assert served.ask() == DUNNO
    for client in clients:
        client.close()
    assert served.ask() == DUNNO


def test_a_fault_in_the_loop_ends_the_worker_with_a_status_of_its_own(served: Served) -> None:
    served.start()
    assert served.ask("loose") in (DUNNO, b"")
    assert served.wait() == 75
    assert "ZeroDivisionError" in served.log and "fault=resident" in served.log


def test_a_client_that_resets_its_connection_is_no_trouble(served: Served) -> None:
    served.start()
    for _ in range(50):
        client = served.connect("odd")
        client.sendall(request("sleep@0.01") * 3)
        client.close()
    assert served.ask("odd") in (ANSWER, DEFERRED)
    time.sleep(1)
    assert served.ask("odd") == ANSWER
    assert "fault=resident" not in served.log


def test_a_client_that_never_reads_takes_no_memory_and_no_time_of_others(served: Served) -> None:
    served.start()
    deaf = served.connect()
    deaf.setblocking(False)
    sent = 0
    with pytest.raises(BlockingIOError):
        while sent < 64 << 20:
            sent += deaf.send(request() * 100)
    assert served.ask() == DUNNO
    assert served.process is not None
    status = Path(f"/proc/{served.process.pid}/status").read_text()
    resident = int(status.partition("VmRSS:")[2].split()[0])
    assert sent < 4 << 20 and resident < 100_000, (sent, resident)


def fill(client: socket.socket) -> None:
    """Ask until nobody takes any more of it for a while: the answers fill all that there is, up to the worker."""
    client.settimeout(1)
    with pytest.raises(TimeoutError):
        while True:
            client.send(request() * 100)


def test_who_does_not_read_neither_keeps_others_out_nor_holds_up_the_end(served: Served) -> None:
    served.start("200")  # descriptors: room for 100 connections
    deaf = [served.connect() for _ in range(2)]
    for one in deaf:
        fill(one)
    silent = [served.connect() for _ in range(190)]
    for _ in range(5):
        assert served.ask() == DUNNO
    assert served.process is not None
    open_ones = len(list(Path(f"/proc/{served.process.pid}/fd").iterdir()))
    assert open_ones < 140, f"{open_ones} descriptors for 100 connections, of {len(silent)} that came"
    fill(served.connect())
    began = time.monotonic()
    served.signal(signal.SIGTERM)
    assert served.wait(40) == 0
    assert time.monotonic() - began < 15


def test_large_requests_from_many_at_once(served: Served) -> None:
    served.start()
    answers = []

    def send() -> None:
        client = served.connect()
        try:
            client.sendall(b"a=" + b"x" * (1 << 20))
            answers.append(client.recv(4096))
        except ConnectionError:
            answers.append(b"")

    threads = [threading.Thread(target=send) for _ in range(20)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert answers == [b""] * 20
    assert served.ask() == DUNNO


def test_it_says_each_second_that_it_is_alive(served: Served) -> None:
    served.start()
    before = (served.folder / "beats").read_bytes().count(b".")
    time.sleep(2.5)
    assert 1 <= (served.folder / "beats").read_bytes().count(b".") - before <= 3


def test_a_worker_comes_up_without_a_configuration_and_defers(served: Served) -> None:
    served.configure("x", "nonsense = [")
    served.start()
    assert b"DEFER_IF_PERMIT 4.3.5" in served.ask()
    served.configure("x")
    served.signal(signal.SIGHUP)
    end = time.monotonic() + 10
    while served.ask() != DUNNO:
        assert time.monotonic() < end
    assert isinstance(served.connect("odd"), socket.socket)


def test_busy_threads_keep_to_one_cpu_until_they_are_idle(served: Served) -> None:
    served.start()
    every = os.sched_getaffinity(0)
    assert cpus_of(served) == [every]
    client = served.connect("odd")
    end = time.monotonic() + 20
    while cpus_of(served) != [{min(every)}] and time.monotonic() < end:
        for _ in range(50):  # to a handler that runs in a thread
            client.sendall(request())
            assert client.recv(100) == ANSWER
    assert cpus_of(served) == [{min(every)}]
    while cpus_of(served) != [every] and time.monotonic() < end:
        time.sleep(0.05)
    assert cpus_of(served) == [every]


def cpus_of(served: Served) -> list[set[int]]:
    """Of all threads, each set once."""
    assert served.process is not None
    found: list[set[int]] = []
    for thread in os.listdir(f"/proc/{served.process.pid}/task"):
        cpus = os.sched_getaffinity(int(thread))
        if cpus not in found:
            found.append(cpus)
    return found
