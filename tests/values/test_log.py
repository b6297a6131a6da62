"""The log line: one event, greppable by queue id, not to be forged by what it quotes; and it never holds mail up."""

import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroom import log


@pytest.fixture(autouse=True)
def anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A process that has not logged yet, on a host without syslogd."""
    monkeypatch.setattr(log, "DEVICE", str(tmp_path / "dev-log"))
    monkeypatch.setattr(log, "_syslog", log.Syslog())
    monkeypatch.setattr(log, "_lost", 0)
    monkeypatch.setattr(log, "_destination", "syslog")
    monkeypatch.setattr(log, "_program", "test")
    monkeypatch.setattr(log, "_format", "text")
    yield
    log._syslog._close(None)


class Syslogd:
    """Listens where /dev/log would be; `read` is what it does when it does anything."""

    def __init__(self, kind: int = socket.SOCK_DGRAM) -> None:
        self.kind = kind
        self.start()

    def start(self) -> None:
        self.socket = socket.socket(socket.AF_UNIX, self.kind)
        self.socket.bind(log.DEVICE)
        self.socket.settimeout(5)
        self.connection = self.socket
        if self.kind == socket.SOCK_STREAM:
            self.socket.listen()

    def stop(self) -> None:
        os.unlink(log.DEVICE)
        self.socket.close()
        self.connection.close()

    def accept(self) -> None:
        self.connection, _ = self.socket.accept()
        self.connection.settimeout(5)

    def read(self) -> bytes:
        return self.connection.recv(1 << 20)

    def drain(self) -> list[bytes]:
        """All there is."""
        found = []
        self.socket.setblocking(False)
        while True:
            try:
                found.append(self.read())
            except BlockingIOError:
                self.socket.settimeout(5)
                return found

    def fill(self) -> None:
        """As many lines of others as it can hold unread."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            other.setblocking(False)
            other.connect(log.DEVICE)
            try:
                while True:
                    other.send(b"other")
            except BlockingIOError:
                pass


@pytest.fixture
def syslogd() -> Iterator[Syslogd]:
    made = Syslogd()
    yield made
    made.socket.close()


def seconds(lines: int = 1) -> float:
    begun = time.monotonic()
    for number in range(lines):
        log.info("4Xy", text=f"line {number}")
    return time.monotonic() - begun


@given(st.text(), st.dictionaries(st.sampled_from(["to", "rule", "text", "status"]), st.text() | st.none()))
def test_one_event_is_one_printable_line(queue_id: str, fields: dict[str, object]) -> None:
    assert log.line(queue_id, fields).isprintable()


def test_a_value_cannot_pass_for_the_next_field() -> None:
    line = log.line("4Xy", {"to": "<a, status=sent@x>", "status": "bounced"})
    assert line == "4Xy: to=<a,status=sent@x>, status=bounced"


def test_lines_look_like_postfix_own(tmp_path: Path) -> None:
    log.open("rule-deliver", str(tmp_path / "log"))
    log.info("4XyzAb", to="<a@b>", orig_to=None, status="sent", text="delivered\nto maildir")
    log.error("", fault="runner", text="x" * 5000)
    first, second = (tmp_path / "log").read_text().splitlines()
    assert " postroom/rule-deliver[" in first
    assert first.endswith("]: 4XyzAb: to=<a@b>, status=sent (delivered to maildir)")
    assert "error: NOQUEUE: fault=runner (xxx" in second
    assert len(second) <= log.MAX_LINE


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    log.open("rule-deliver", str(tmp_path / "no" / "such" / "folder"))
    log.info("4Xy", text="lost, and nothing raised")


def test_a_line_for_syslog_is_as_glibc_writes_it(syslogd: Syslogd) -> None:
    log.open("rule-deliver")
    log.info("4Xy", text="a")
    log.warning("4Xy", text="b %s %n")
    log.error("", text="c\0d\ne\udcff" + "x" * 5000)
    lines = [syslogd.read() for _ in range(3)]
    stamp = rb"[A-Z][a-z]{2} [ 123][0-9] [0-2][0-9]:[0-5][0-9]:[0-6][0-9] "
    tag = b"postroom/rule-deliver\\[%d\\]: " % os.getpid()
    for line, priority, text in zip(
        lines, (22, 20, 19), (b"4Xy: a", b"warning: 4Xy: b %s %n", b"error: NOQUEUE: c"), strict=True
    ):
        assert re.fullmatch(b"<%d>" % priority + stamp + tag + re.escape(text) + rb"[^\0\n]*", line)
    assert [len(line) <= log.MAX_LINE for line in lines] == [True] * 3
    assert re.search(rb"c\?d e\?x+$", lines[2]) and len(lines[2]) == log.MAX_LINE


def test_a_syslogd_that_has_stopped_reading_holds_nobody_up(syslogd: Syslogd) -> None:
    syslogd.fill()
    assert 0.4 < seconds(1) < 1.5, "a syslogd that is only busy gets its time"
    assert seconds(1000) < 1.5, "but once"
    syslogd.drain()
    assert seconds(1) < 0.3
    notice, line = syslogd.read(), syslogd.read()
    assert notice.startswith(b"<20>")
    assert notice.endswith(b": warning: NOQUEUE: lost=1001 (lines that could not be written)")
    assert line.endswith(b"4Xy: line 0")
    seconds(1)
    assert syslogd.read().endswith(b"4Xy: line 0")


def test_a_syslogd_that_is_busy_loses_nothing(syslogd: Syslogd) -> None:
    syslogd.fill()
    found: list[bytes] = []
    reader = threading.Timer(0.2, lambda: found.extend(syslogd.drain()))
    reader.start()
    assert 0.1 < seconds(1) < 1.5
    reader.join()
    assert found[-1].endswith(b"4Xy: line 0") or syslogd.read().endswith(b"4Xy: line 0")


def test_patience_returns(syslogd: Syslogd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "PERIOD", 1.0)
    syslogd.fill()
    assert seconds(1) > 0.4
    assert seconds(1) < 0.3
    time.sleep(1.0)
    assert seconds(1) > 0.4


def test_a_syslogd_that_was_started_anew_gets_the_next_line(syslogd: Syslogd) -> None:
    for _ in range(3):
        seconds(1)
        assert syslogd.read().endswith(b"4Xy: line 0")
        syslogd.stop()
        syslogd.start()


@pytest.mark.parametrize("left", [True, False])
def test_without_a_syslogd_the_program_goes_on(left: bool) -> None:
    """Its socket may be left behind, or not."""
    if left:
        made = Syslogd()
        made.socket.close()
    assert seconds(100) < 1.0
    if left:
        os.unlink(log.DEVICE)
    made = Syslogd()
    seconds(1)
    assert b"lost=100 " in made.read()
    assert made.read().endswith(b"4Xy: line 0")
    made.socket.close()


def test_a_syslogd_that_takes_connections() -> None:
    made = Syslogd(socket.SOCK_STREAM)
    seconds(2)
    made.accept()
    data = made.read()
    assert [line.rpartition(b": ")[2] for line in data.split(b"\0")] == [b"line 0", b"line 1", b""]
    made.stop()
    made.start()
    seconds(1)
    made.accept()
    assert made.read().endswith(b": line 0\0")
    made.stop()


def test_a_connection_that_is_full_is_given_up_so_that_no_line_is_torn() -> None:
    made = Syslogd(socket.SOCK_STREAM)
    seconds(1)
    made.accept()
    begun = time.monotonic()
    while not log._lost:
        log.info("4Xy", text="x" * 1500)
    assert 0.4 < time.monotonic() - begun < 5
    data = b""
    while more := made.read():
        data += more
    *whole, torn = data.split(b"\0")
    assert len(whole) > 10
    assert all(re.search(rb"^<22>[^<]*: 4Xy: (line 0|x{1500})$", line) for line in whole)
    assert not torn.endswith(b"x" * 1500)
    made.connection.close()
    seconds(1)
    made.accept()
    notice, line, end = made.read().split(b"\0")
    assert b": lost=1 (" in notice
    assert line.endswith(b": line 0") and not end
    made.stop()


def test_a_handler_that_closes_whatever_is_open(syslogd: Syslogd, tmp_path: Path) -> None:
    seconds(1)
    held = log._syslog._socket
    assert held is not None
    number = held.fileno()
    os.close(number)
    seconds(1)
    assert [syslogd.read().endswith(b": line 0") for _ in range(2)] == [True, True]
    assert log._syslog._socket is not None
    number = log._syslog._socket.fileno()
    file = os.open(tmp_path / "of the handler", os.O_WRONLY | os.O_CREAT)
    os.dup2(file, number)
    seconds(1)
    assert syslogd.read().endswith(b": line 0")
    assert os.write(number, b"still open") == 10
    assert (tmp_path / "of the handler").read_bytes() == b"still open"
    os.close(number)
    os.close(file)


def test_threads_and_forked_children_write_whole_lines(syslogd: Syslogd) -> None:
    def write(name: str) -> None:
        for number in range(50):
            log.info(name, text=f"{number} " + "x" * 500)

    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.extend(syslogd.read() for _ in range(200)))
    reader.start()
    threads = [threading.Thread(target=write, args=(f"thread{n}",)) for n in range(3)]
    for thread in threads:
        thread.start()
    child = os.fork()
    if child == 0:
        write("child")
        os._exit(0)
    for thread in threads:
        thread.join()
    os.waitpid(child, 0)
    reader.join(20)
    said = [re.search(rb": ([a-z0-9]+): ([0-9]+) x{500}$", line) for line in found]
    assert len({one.groups() for one in said if one}) == 200


def test_a_child_that_was_forked_in_the_middle_of_a_line_goes_on(syslogd: Syslogd) -> None:
    with log._turn:
        child = os.fork()
        if child == 0:
            signal.alarm(5)
            seconds(1)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert syslogd.read().endswith(b": line 0")


def test_a_full_disk_stops_nothing_and_is_told(tmp_path: Path) -> None:
    log.open("rule-deliver", "/dev/full")
    seconds(3)
    log.open("rule-deliver", str(tmp_path / "log"))
    seconds(1)
    notice, line = (tmp_path / "log").read_text().splitlines()
    assert notice.endswith(": warning: NOQUEUE: lost=3 (lines that could not be written)")
    assert line.endswith(": 4Xy: line 0")


@pytest.mark.parametrize("reader", [False, True])
def test_a_fifo_as_log_stops_nothing(tmp_path: Path, reader: bool) -> None:
    os.mkfifo(tmp_path / "log")
    fd = os.open(tmp_path / "log", os.O_RDONLY | os.O_NONBLOCK) if reader else None
    log.open("rule-deliver", str(tmp_path / "log"))
    assert seconds(5000) < 5.0
    if fd is not None:
        os.close(fd)


def test_json_for_syslog(syslogd: Syslogd) -> None:
    log.open("rule-deliver", "syslog", "json")
    log.warning("4Xy", text="x" * 5000)
    line = syslogd.read()
    head, brace, rest = line.partition(b"{")
    assert re.fullmatch(rb"<20>[A-Z][a-z]{2} .{11} postroom/rule-deliver\[\d+\]: ", head)
    assert json.loads(brace + rest)["level"] == "warning"
    assert len(line) <= log.MAX_LINE


def test_a_thread_may_speak_for_another_program(tmp_path: Path) -> None:
    log.open("serve", str(tmp_path / "log"))

    def work(name: str) -> None:
        assert log.speaking_as(name) == ""
        for _ in range(50):
            log.info("4Xy", text=name)
        before = log.speaking_as("inner")
        log.info("4Xy", text="inner")
        assert (before, log.speaking_as(before)) == (name, "inner")
        log.info("4Xy", text=name)
        log.speaking_as("")
        log.info("4Xy", text="serve")

    threads = [threading.Thread(target=work, args=(f"program{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    log.info("4Xy", text="serve")
    for thread in threads:
        thread.join()
    said = re.findall(r"postroom/(\w+)\[\d+\]: 4Xy: (\w+)$", (tmp_path / "log").read_text(), re.MULTILINE)
    assert len(said) == 1 + 4 * 53
    assert all(name == text for name, text in said)
