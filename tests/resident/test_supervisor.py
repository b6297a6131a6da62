"""The supervisor as a process, with workers of a few lines: what it survives, what it refuses, how it ends."""

from __future__ import annotations

import os
import re
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from resident.supervised import Supervised, alive, until

from postroom.resident.supervisor import LEAST_SLOTS

Start = Callable[..., Supervised]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    made: list[Supervised] = []

    def one(*settings: str, **given: object) -> Supervised:
        made.append(Supervised(tmp_path, *settings, **given))  # type: ignore[arg-type]  # handed through
        return made[-1]

    yield one
    for each in made:
        each.close()


def asked(service: Supervised, count: int = 60) -> set[int]:
    return {service.ask()[0] for _ in range(count)}


def test_all_workers_answer_at_one_socket(start: Start) -> None:
    service = start().up()
    assert asked(service) <= service.children()
    until(lambda: asked(service) == service.children())


def test_a_killed_worker_is_started_again_ever_later_and_the_other_goes_on(start: Start) -> None:
    service = start("LAST_PAUSE=0.4").up()
    first, other = sorted(service.children())
    victim = first
    for count in range(1, 6):
        os.kill(victim, signal.SIGKILL)
        service.await_log("is started again", count)
        assert service.ask()[0] != victim
        until(lambda: len(service.children()) == 2)
        (victim,) = service.children() - {other}
    assert re.findall(r"started again in ([\d.]+) s", service.logged()) == ["0.1", "0.2", "0.4", "0.4", "0.4"]
    assert "killed by SIGKILL" in service.logged()
    assert other in asked(service)


def test_the_pause_is_short_again_after_a_long_life(start: Start) -> None:
    service = start("SETTLED_AFTER=0.5", workers=1).up()
    for count in range(1, 4):
        time.sleep(0.7)
        os.kill(service.ask()[0], signal.SIGKILL)
        service.await_log("is started again in 0.1 s", count)


def test_nobody_outlives_a_killed_supervisor_and_the_next_one_starts_at_once(start: Start, tmp_path: Path) -> None:
    service = start().up()
    busy = service.connected()
    busy.sendall(b"stuck\n")  # in no state to notice anything
    orphans = service.children()
    service.signal(signal.SIGKILL)
    begun = time.monotonic()
    second = start().up()
    assert second.ask()[0] in second.children()
    assert time.monotonic() - begun < 10
    until(lambda: not any(map(alive, orphans)), 2)
    busy.close()


def test_sigterm_lets_what_is_in_hand_be_finished(start: Start) -> None:
    service = start().up()
    with service.connected() as slow:
        slow.sendall(b"slow 1\n")
        time.sleep(0.3)
        service.signal(signal.SIGTERM)
        until(lambda: not service.path.exists(), 1)
        with pytest.raises(OSError):
            service.connected()
        assert slow.recv(100)
    assert service.process.wait(5) == 0
    assert "SIGTERM: finishing what is in hand" in service.logged()


def test_what_does_not_end_is_killed(start: Start) -> None:
    service = start("DRAIN_LIMIT=0.5", workers=1)
    service.write(serve='programs = ["/no/end"]')
    service.up()
    service.signal(signal.SIGTERM)
    assert service.process.wait(5) == 0
    assert "has not finished within 0.5 s: killed" in service.logged()


def test_a_second_interrupt_waits_for_nobody(start: Start) -> None:
    service = start(workers=1)
    service.write(serve='programs = ["/no/end"]')
    service.up()
    service.signal(signal.SIGINT)
    service.await_log("SIGINT")
    service.signal(signal.SIGINT)
    assert service.process.wait(5) == 0


def test_a_stuck_worker_is_killed_and_named_and_the_other_goes_on(start: Start) -> None:
    service = start("WATCHDOG=1").up()
    with service.connected() as stuck:
        stuck.sendall(b"stuck\n")
        service.await_log("has not been heard of for 1 s: killed")
        assert stuck.recv(10) == b""
    (named,) = re.findall(r"worker \d \(pid (\d+)\) has not been heard of", service.logged())
    until(lambda: len(service.children()) == 2 and int(named) not in service.children())
    until(lambda: asked(service) == service.children())


def test_a_worker_that_closes_its_pipe_costs_no_processor(start: Start) -> None:
    service = start("WATCHDOG=2", workers=1).up()
    before = cpu(service.process.pid)
    with service.connected() as mute:
        mute.sendall(b"mute\n")
        service.await_log("has not been heard of for 2 s")
    assert cpu(service.process.pid) - before < 0.5
    until(lambda: service.ask()[0] in service.children())


def cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_all_stopped_for_longer_than_the_watchdog_is_no_fault_of_the_workers(start: Start) -> None:
    service = start("WATCHDOG=1", "STOPPED_AFTER=0.5").up()
    before = service.children()
    everybody = [*before, service.process.pid]
    for pid in everybody:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(2)
    for pid in reversed(everybody):
        os.kill(pid, signal.SIGCONT)
    time.sleep(1.5)
    assert service.children() == before
    assert "killed" not in service.logged()


# Reload


def test_sighup_reaches_all_workers(start: Start) -> None:
    service = start().up()
    service.signal(signal.SIGHUP)
    service.await_log("is in force: 2 workers, 1 listener")
    until(lambda: {tuple(service.ask()) for _ in range(40)} == {(pid, 1) for pid in service.children()})


def test_sighups_that_come_fast_are_few_and_disturb_nobody(start: Start) -> None:
    service = start("RELOAD_INTERVAL=0.5").up()
    before, end = service.children(), time.monotonic() + 2
    while time.monotonic() < end:
        service.signal(signal.SIGHUP)
        assert service.ask()[0] in before
    time.sleep(0.7)
    count = service.logged().count("is in force")
    assert 3 <= count <= 6
    time.sleep(1)
    assert service.logged().count("is in force") == count, "nothing was piled up"
    assert service.children() == before


def test_a_bad_configuration_is_refused_and_nobody_disturbed(start: Start) -> None:
    service = start().up()
    before = service.children()
    service.config.write_text("rules = maybe")
    service.signal(signal.SIGHUP)
    assert "the one before stays in force" in service.await_log("fault=configuration")
    assert asked(service) <= before == service.children()


def test_new_workers_take_over_and_no_connection_is_lost(start: Start) -> None:
    service = start(workers=1).up()
    (old,) = service.children()
    lost: list[BaseException] = []
    stop = threading.Event()

    def traffic() -> None:
        while not stop.is_set():
            try:
                assert service.ask()
            except BaseException as error:
                lost.append(error)

    threads = [threading.Thread(target=traffic) for _ in range(3)]
    for thread in threads:
        thread.start()
    inode = service.path.stat().st_ino
    service.write(workers=3)
    service.signal(signal.SIGHUP)
    service.await_log("is in force: 3 workers, 1 listener")
    until(lambda: not alive(old))
    time.sleep(0.3)
    stop.set()
    for thread in threads:
        thread.join()
    assert lost == []
    assert len(service.children()) == 3
    assert service.path.stat().st_ino == inode


def test_an_old_worker_finishes_what_it_has(start: Start) -> None:
    service = start(workers=1).up()
    (old,) = service.children()
    with service.connected() as slow:
        slow.sendall(b"slow 2\n")
        time.sleep(0.3)
        service.write(workers=2)
        service.signal(signal.SIGHUP)
        service.await_log("2 workers, 1 listener")
        assert service.ask()[0] != old
        assert slow.recv(100).split()[0] == b"%d" % old
    until(lambda: len(service.children()) == 2)


def test_a_listener_comes_and_goes(start: Start, tmp_path: Path) -> None:
    service = start().up()
    second = tmp_path / "second"
    service.write(f'[listen.second]\nprotocol = "policy"\nat = "unix:{second}"')
    service.signal(signal.SIGHUP)
    service.await_log("2 workers, 2 listeners")
    assert service.ask(path=second)[0] in service.children()
    service.write()
    service.signal(signal.SIGHUP)
    service.await_log("in force: 2 workers, 1 listener\n")
    assert not second.exists()
    assert service.ask()


def test_an_address_that_cannot_be_had_is_refused_whole(start: Start, tmp_path: Path) -> None:
    service = start().up()
    before = service.children()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        service.write(
            f'[listen.fresh]\nprotocol = "policy"\nat = "unix:{tmp_path}/fresh"\n'
            f'[listen.taken]\nprotocol = "policy"\nat = "127.0.0.1:{taken.getsockname()[1]}"'
        )
        service.signal(signal.SIGHUP)
        service.await_log("Address already in use; [serve] and [listen] stay as before")
    assert not (tmp_path / "fresh").exists()
    assert service.children() == before
    assert service.ask()[0] in before


def test_more_workers_than_there_is_room_for_are_refused_and_modes_are_as_before(start: Start, tmp_path: Path) -> None:
    service = start().up()
    before = service.children()
    mode = service.path.stat().st_mode
    service.write(
        f'mode = "0600"\n[listen.fresh]\nprotocol = "policy"\nat = "unix:{tmp_path}/fresh"', workers=LEAST_SLOTS + 20
    )
    service.signal(signal.SIGHUP)
    service.await_log("start the service again; [serve] and [listen] stay as before")
    assert service.path.stat().st_mode == mode
    assert not (tmp_path / "fresh").exists()
    assert service.children() == before


def test_workers_that_do_not_come_up_are_taken_back(start: Start, tmp_path: Path) -> None:
    service = start().up()
    before = service.children()
    mode = service.path.stat().st_mode
    service.write(
        f'mode = "0600"\n[listen.fresh]\nprotocol = "policy"\nat = "unix:{tmp_path}/fresh"', 'programs = ["/no/such"]'
    )
    service.signal(signal.SIGHUP)
    service.await_log("before it was ready: the log says why; [serve] and [listen] stay as before")
    assert "told not to start" in service.logged()
    until(lambda: service.children() == before)
    assert not (tmp_path / "fresh").exists()
    assert service.path.stat().st_mode == mode
    assert service.ask()[0] in before


def test_workers_that_never_say_that_they_are_ready_are_taken_back(start: Start) -> None:
    service = start("START_LIMIT=1").up()
    before = service.children()
    service.write(serve='programs = ["/no/word"]')
    service.signal(signal.SIGHUP)
    service.await_log("was not ready within 1 s; [serve] and [listen] stay as before")
    until(lambda: service.children() == before)


def test_a_path_that_somebody_took_is_bound_anew_by_sighup(start: Start) -> None:
    service = start().up()
    service.path.unlink()
    service.signal(signal.SIGHUP)
    service.await_log("is in force")
    until(service.path.exists)
    assert service.ask()[0] in service.children()


def test_a_path_that_is_another_services_by_now_is_left_at_the_end(start: Start) -> None:
    service = start().up()
    service.path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(service.path))
        other.listen()
        service.signal(signal.SIGTERM)
        assert service.process.wait(5) == 0
        service.connected().close()


# The start, and want


@pytest.mark.parametrize(
    ("manner", "reason"),
    [("/no/such", "ended 3 times before it was ready"), ("/no/word", "was not ready within 1 s")],
)
def test_a_start_that_comes_to_nothing_ends(start: Start, manner: str, reason: str) -> None:
    service = start("START_LIMIT=1" if manner == "/no/word" else "START_LIMIT=20", workers=1)
    service.write(serve=f'programs = ["{manner}"]')
    assert reason in service.said()
    assert service.process.wait(10) == 75
    assert not service.path.exists()


def test_without_descriptors_a_worker_comes_back_when_there_are_some_again(start: Start) -> None:
    service = start("FIRST_PAUSE=0.1", "LAST_PAUSE=0.4", workers=1).up()
    pid = service.process.pid
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, limits[1]))
    os.kill(service.ask()[0], signal.SIGKILL)
    # The log is a file, which cannot be opened either: that there is no worker has to do.
    until(lambda: not service.children())
    time.sleep(0.5)
    assert not service.children()
    assert service.process.poll() is None
    resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
    until(lambda: len(service.children()) == 1)
    assert service.ask()[0] in service.children()
    service.signal(signal.SIGHUP)
    assert "is in force" in service.await_log("lost=")


def test_descriptors_do_not_grow(start: Start) -> None:
    service = start("LAST_PAUSE=0.1", "RELOAD_INTERVAL=0").up()
    folder = Path(f"/proc/{service.process.pid}/fd")
    before = len(list(folder.iterdir()))
    for count in range(1, 6):
        until(lambda: len(service.children()) == 2 + (count - 1) % 2)  # noqa: B023 - called at once
        os.kill(min(service.children()), signal.SIGKILL)
        service.await_log("is started again", count)
        service.write(workers=2 + count % 2)
        service.signal(signal.SIGHUP)
        service.await_log("is in force", count)
    service.write(workers=2)
    service.signal(signal.SIGHUP)
    service.await_log("is in force", 6)
    until(lambda: len(service.children()) == 2)
    until(lambda: len(list(folder.iterdir())) == before)


def test_a_worker_keeps_no_descriptor_of_others(start: Start, tmp_path: Path) -> None:
    service = start()
    service.write(f'[listen.health]\nat = "unix:{tmp_path}/health"')
    service.up()
    page, worker = service.ask(path=tmp_path / "health")[0], service.ask()[0]
    for pid in (page, worker):
        until(lambda: sockets(pid) == 1)  # noqa: B023 - called at once; the connection is closed after the answer


def sockets(pid: int) -> int:
    return sum("socket:" in os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir() if os.path.lexists(fd))


# systemd


class Systemd:
    def __init__(self, folder: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.path = str(folder / "notify")
        self.socket.bind(self.path)
        self.socket.settimeout(10)

    def heard(self) -> dict[str, str]:
        return dict(line.split("=", 1) for line in self.socket.recv(4096).decode().split("\n"))

    def silent(self, seconds: float) -> bool:
        self.socket.settimeout(seconds)
        try:
            self.socket.recv(4096)
        except TimeoutError:
            return True
        finally:
            self.socket.settimeout(10)
        return False


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    one = Systemd(tmp_path)
    yield one
    one.socket.close()


def test_systemd_is_told(start: Start, systemd: Systemd) -> None:
    service = start(NOTIFY_SOCKET=systemd.path)
    ready = systemd.heard()
    assert ready == {"READY": "1", "MAINPID": str(service.process.pid), "STATUS": "2 workers, 1 listener"}
    before = time.clock_gettime(time.CLOCK_MONOTONIC)
    service.signal(signal.SIGHUP)
    reloading = systemd.heard()
    assert reloading["RELOADING"] == "1"
    assert before * 1e6 <= int(reloading["MONOTONIC_USEC"]) <= (before + 10) * 1e6
    assert systemd.heard()["READY"] == "1"
    service.config.write_text("rules = maybe")
    service.signal(signal.SIGHUP)
    assert "RELOADING" in systemd.heard()
    assert systemd.heard()["STATUS"] == "2 workers, 1 listener; the last change was refused"
    service.signal(signal.SIGTERM)
    assert systemd.heard()["STOPPING"] == "1"
    assert service.process.wait(5) == 0


def test_the_watchdog_is_fed_only_while_a_worker_is_heard_of(start: Start, systemd: Systemd) -> None:
    service = start("LAST_PAUSE=0.3", workers=1, NOTIFY_SOCKET=systemd.path, WATCHDOG_USEC="400000")
    heard = [systemd.heard() for _ in range(6)]
    assert sum(one == {"WATCHDOG": "1"} for one in heard) >= 4
    service.write(serve='programs = ["/no/such"]')  # for the one that is started in its place
    os.kill(service.ask()[0], signal.SIGKILL)
    service.await_log("told not to start")
    until(lambda: systemd.silent(1.0), 10)
    service.write()
    until(lambda: systemd.heard() == {"WATCHDOG": "1"})
    assert service.ask()[0] in service.children()
