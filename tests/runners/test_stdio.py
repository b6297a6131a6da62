"""runners.stdio: whatever a handler does, Postfix reads one action per request on the socket, and nothing else."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

import postroom
from postroom import log
from postroom.runners.options import Options
from postroom.runners.service import Service
from postroom.status import ConfigurationFault

REQUEST = (
    b"request=smtpd_access_policy\nprotocol_state=RCPT\nqueue_id=4XyzQ\nsender=s@example.com\nrecipient=r@example.org\n"
    b"client_name=mail.example.com\nclient_address=192.0.2.7\n\n"
)
DUNNO = b"action=DUNNO\n\n"
DEFERRED = b"action=DEFER_IF_PERMIT 4.3.0 Temporary local problem, try again later\n\n"
MISCONFIGURED = b"action=DEFER_IF_PERMIT 4.3.5 Server configuration problem, try again later\n\n"


class Service8:
    """A program started as spawn(8) does: one socket on descriptors 0, 1 and 2; and its log."""

    def __init__(self, folder: Path) -> None:
        self.logfile = folder / "log"
        self.file = folder / "odd-policy.py"
        self.ours, self.theirs = socket.socketpair()
        self.ours.settimeout(20)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, body: str, *options: str, run: str = "run(decide)") -> "Service8":
        head = "import os, sys, time\nfrom postroom.policy import *\nfrom postroom.runners.stdio import run\n"
        code = f"def decide(request):\n{textwrap.indent(textwrap.dedent(body).strip(), '    ')}\n{run}\n"
        self.file.write_text(f'"""odd-policy - a test\n\nusage."""\n{head}{code}')
        self.process = subprocess.Popen(
            [sys.executable, str(self.file), "--log", str(self.logfile), *options],
            stdin=self.theirs,
            stdout=self.theirs,
            stderr=self.theirs,
            env={"PATH": "/usr/bin:/bin", "LANG": "C", "PYTHONPATH": os.environ["PYTHONPATH"]},
        )
        self.theirs.close()
        return self

    def ask(self, data: bytes = REQUEST) -> bytes:
        """One answer, however it is cut; what there is of it where the program closes first."""
        self.ours.sendall(data)
        return self.receive()

    def receive(self) -> bytes:
        answer = b""
        while not answer.endswith(b"\n\n") and (more := self.ours.recv(65536)):
            answer += more
        return answer

    def close(self) -> int:
        """Leave as Postfix does; what came after the last answer would be a protocol error."""
        self.ours.shutdown(socket.SHUT_WR)
        assert self.receive() == b""
        return self.wait()

    def wait(self) -> int:
        assert self.process is not None
        return self.process.wait(timeout=20)

    @property
    def log(self) -> str:
        return self.logfile.read_text() if self.logfile.exists() else ""

    def wait_for(self, text: str, times: int = 1) -> None:
        """Until the log has it so many times, and not more: a line is written after the reply."""
        for _ in range(200):
            if self.log.count(text) >= times:
                break
            time.sleep(0.05)
        assert self.log.count(text) == times, self.log


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service8]:
    monkeypatch.setenv("PYTHONPATH", str(Path(log.__file__).parents[1]))
    made = Service8(tmp_path)
    yield made
    if made.process is not None:
        made.process.kill()
        made.process.wait()
    made.ours.close()
    made.theirs.close()


def test_requests_are_answered_one_after_the_other_until_the_client_closes(service: Service8) -> None:
    service.start("return 'DUNNO' if request['sender'] else 'REJECT'")
    for _ in range(3):
        assert service.ask() == DUNNO
    assert service.ask(REQUEST.replace(b"s@example.com", b"")) == b"action=REJECT\n\n"
    assert service.close() == 0
    assert service.log == ""


def test_two_requests_in_one_write_and_one_in_many(service: Service8) -> None:
    service.start("return 'REJECT ' + request['recipient']")
    service.ours.sendall(REQUEST + REQUEST.replace(b"r@", b"q@") + REQUEST[:30])
    expected = b"action=REJECT r@example.org\n\naction=REJECT q@example.org\n\n"
    answer = b""
    while len(answer) < len(expected):
        answer += service.receive()
    assert answer == expected
    for position in range(30, len(REQUEST)):
        service.ours.sendall(REQUEST[position : position + 1])
    assert service.receive() == b"action=REJECT r@example.org\n\n"
    assert service.close() == 0


def test_whatever_is_printed_goes_to_the_log(service: Service8) -> None:
    service.start(
        """
        print("by print")
        sys.stderr.write("by stderr")
        sys.stderr.write(" in pieces\\n")
        os.write(1, b"by descriptor 1\\n")
        os.write(2, b"by descriptor 2\\n")
        os.system("echo by a child; echo by a child >&2")
        import warnings
        warnings.warn("by warning")
        assert os.read(0, 10) == b"", "a handler must not read what the client sends"
        return "DUNNO"
        """
    )
    assert service.ask() == DUNNO
    assert service.ask() == DUNNO
    assert service.close() == 0
    for said in ("by print", "by stderr in pieces", "by descriptor 1", "by descriptor 2", "by a child", "by warning"):
        assert f"output={said}" in service.log or "by warning" in said
    assert "UserWarning: by warning" in service.log
    assert "fault" not in service.log


def test_the_childrens_descriptors_do_not_hold_the_connection(service: Service8) -> None:
    service.start("os.system('sleep 3 &'); return 'DUNNO'")
    start = time.monotonic()
    assert service.ask() == DUNNO
    assert service.close() == 0
    assert time.monotonic() - start < 2.5


def test_a_child_that_falls_through_does_not_answer_too(service: Service8) -> None:
    service.start(
        """
        child = os.fork()
        if child == 0 and request["sender"]:
            raise ValueError("in the child")
        if child == 0:
            return "OK"
        os.waitpid(child, 0)
        return "DUNNO"
        """
    )
    assert service.ask() == DUNNO
    assert service.ask(REQUEST.replace(b"s@example.com", b"")) == DUNNO
    assert service.close() == 0


def test_output_is_bounded_for_a_time_not_for_a_lifetime(service: Service8) -> None:
    period = "import postroom.runners.stdio as s; s.OUTPUT_PERIOD = 0.1; run(decide)"
    service.start("print('a line\\n' * 60); return 'DUNNO'", run=period)
    assert service.ask() == DUNNO
    time.sleep(1.3)
    assert service.ask() == DUNNO
    assert service.close() == 0
    assert service.log.count("output=a line") == 100


def test_much_output_neither_blocks_nor_fills_the_log(service: Service8) -> None:
    service.start("sys.stdout.write('x' * 2_000_000); print('\\n' * 1000); return 'DUNNO'")
    assert service.ask() == DUNNO
    assert service.ask() == DUNNO
    assert service.close() == 0
    assert len(service.log) < 20_000
    assert "bytes printed past the limit" in service.log


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise ValueError('bad day')", "ValueError: bad day"),
        ("raise Fault('disk is full')", "(disk is full)"),
        ("raise Fault('store') from OSError('locked')", "(store: OSError: locked)"),
        ("return request['no_such']", "KeyError: 'no_such'"),
        ("sys.exit(3)", "SystemExit: 3"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("return None", "the handler returned NoneType"),
        ("return b'DUNNO'", "the handler returned bytes"),
        ("return ['DUNNO']", "the handler returned list"),
        ("return ''", "an empty action"),
        ("return '550'", "'550' without a text"),
        ("return 'DUNNO\\n\\naction=OK'", "control character"),
        ("return 'REJECT \\udcff'", "not UTF-8"),
        ("return 'REJCT no'", "unknown action 'REJCT'"),
        ("def f(): f()\nf()", "RecursionError"),
        ("sys.stdout = sys.stderr = None; raise ValueError('x')", "ValueError: x"),
    ],
)
def test_a_handler_that_fails_defers_is_logged_and_the_connection_goes_on(
    service: Service8, body: str, said: str
) -> None:
    service.start(f"if request['sender']:\n{textwrap.indent(body, '    ')}\nreturn 'DUNNO'")
    assert service.ask() == DEFERRED
    assert service.ask(REQUEST.replace(b"s@example.com", b"")) == DUNNO
    assert service.ask() == DEFERRED
    assert service.close() == 0
    assert said in service.log
    assert service.log.count("error: 4XyzQ: fault=handler, at=") == 2


def test_the_log_says_where_in_the_handler(service: Service8) -> None:
    service.start("return request['no_such']")
    assert service.ask() == DEFERRED
    assert service.close() == 0
    assert "in __getitem__ from odd-policy.py:8 in decide" in service.log


def test_a_fault_of_configuration_has_its_status(service: Service8) -> None:
    service.start("raise ConfigurationFault('no list')")
    assert service.ask() == MISCONFIGURED
    assert b"no list" not in MISCONFIGURED
    assert service.close() == 0
    assert "(no list)" in service.log


def test_out_of_memory_is_answered_and_makes_room(service: Service8) -> None:
    service.start("raise MemoryError")
    assert service.ask() == DEFERRED
    assert service.ours.recv(1) == b""
    assert service.wait() == 0


def test_a_handler_that_hangs_is_answered_for(service: Service8) -> None:
    service.start("time.sleep(30)", "--deadline", "0.8")
    start = time.monotonic()
    assert service.ask(REQUEST + REQUEST) == DEFERRED
    assert 0.7 < time.monotonic() - start < 3
    assert service.ours.recv(1) == b""
    assert service.wait() == 75
    assert "error: 4XyzQ: fault=deadline, at=odd-policy.py:8 in decide (not answered within 0.8 seconds)" in service.log


def test_a_handler_that_holds_the_interpreter_is_ended_by_the_kernel(service: Service8) -> None:
    start = time.monotonic()
    runaway = "import re; re.match('(?:a|aa)+b', 'a' * 200)"
    service.start(runaway, "--deadline", "0.5", run="import postroom.runners.stdio as s; s.GRACE = 1.0; run(decide)")
    assert service.ask() == b""
    assert service.wait() == -signal.SIGALRM
    assert time.monotonic() - start < 5


def test_a_handler_has_less_than_the_deadline_so_that_its_own_answer_comes_first(service: Service8) -> None:
    service.start("time.sleep(request.deadline.remaining()); return '450 4.4.3 no answer'", "--deadline", "1")
    assert service.ask() == b"action=450 4.4.3 no answer\n\n"
    assert service.ask() == b"action=450 4.4.3 no answer\n\n"
    assert service.close() == 0


def test_what_is_no_request_is_logged_and_closed_without_a_reply(service: Service8) -> None:
    service.start("return 'DUNNO'")
    assert service.ask(REQUEST + b"GET / HTTP/1.1\nHost: a\n\n") == DUNNO
    assert service.receive() == b""
    assert service.wait() == 75
    assert "warning: NOQUEUE: fault=protocol (a line without =)" in service.log


@pytest.mark.parametrize(
    "data", [REQUEST.replace(b"\n", b"\r\n"), b"\0" * 200_000, b"a=b\n" * 100_000, b"sender=" + b"x" * (1 << 20), b"\n"]
)
def test_hostile_bytes_end_the_conversation(service: Service8, data: bytes) -> None:
    service.start("return 'DUNNO'")
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it left before all was sent
        assert service.ask(data) == b""
    assert service.wait() == 75
    assert service.log.count("fault=protocol") == 1


def test_a_client_that_vanishes_within_a_request_or_before_its_reply(service: Service8) -> None:
    service.start("time.sleep(0.5); return 'DUNNO'")
    service.ours.sendall(REQUEST + REQUEST[:50])
    service.ours.close()
    assert service.wait() == 0
    assert "4XyzQ: the client closed before the reply" in service.log
    assert "error" not in service.log


def test_half_a_request_and_an_end(service: Service8) -> None:
    service.start("return 'DUNNO'")
    service.ours.sendall(REQUEST[:50])
    service.ours.shutdown(socket.SHUT_WR)
    assert service.receive() == b""
    assert service.wait() == 75
    assert "(the client closed within a request)" in service.log


def test_it_leaves_when_nothing_came_for_long(service: Service8) -> None:
    service.start("return 'DUNNO'", run="run(decide, idle=1.5)")
    for _ in range(4):
        assert service.ask() == DUNNO
        time.sleep(0.6)
    start = time.monotonic()
    service.ours.sendall(REQUEST[:20])  # a request that never ends is no reason to stay
    assert service.ours.recv(1) == b""
    assert 0.5 < time.monotonic() - start < 4
    assert service.wait() == 0


def test_it_leaves_at_the_end_of_its_lifetime_but_never_within_a_request(service: Service8) -> None:
    service.start("time.sleep(1.5); return 'DUNNO'", run="run(decide, lifetime=1.0)")
    assert service.ask() == DUNNO
    assert service.ask() == DUNNO
    assert service.ours.recv(1) == b""
    assert service.wait() == 0


def test_the_end_of_its_lifetime_comes_between_requests_too(service: Service8) -> None:
    service.start("return 'DUNNO'", run="run(decide, lifetime=1.0)")
    assert service.ask() == DUNNO
    assert service.ours.recv(1) == b""
    assert service.wait() == 0


def test_it_leaves_when_spawn_is_gone(service: Service8, tmp_path: Path) -> None:
    service.start("return 'DUNNO'")
    assert service.close() == 0
    ours, theirs = socket.socketpair()
    ours.settimeout(20)
    command = [sys.executable, str(service.file), "--log", str(service.logfile)]
    parent = subprocess.Popen(
        [sys.executable, "-c", f"import subprocess, time; subprocess.Popen({command!r}); time.sleep(60)"],
        stdin=theirs, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    theirs.close()
    ours.sendall(REQUEST)
    assert ours.recv(100) == DUNNO
    parent.kill()
    parent.wait()
    start = time.monotonic()
    assert ours.recv(1) == b""
    assert time.monotonic() - start < 4
    ours.close()


def test_help_is_the_manual_on_standard_output(service: Service8) -> None:
    service.start("return 'DUNNO'")
    done = subprocess.run(
        [sys.executable, str(service.file), "--help"], capture_output=True, stdin=subprocess.DEVNULL, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"odd-policy - a test\n\nusage.\n", b"")


def test_a_file_and_a_pipe_do_instead_of_a_socket(service: Service8) -> None:
    service.start("print('stray'); return 'DUNNO'")
    done = subprocess.run([sys.executable, str(service.file)], input=REQUEST * 2, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, DUNNO * 2, b"")


def test_a_wrong_command_line_defers_each_request_and_says_why(service: Service8) -> None:
    service.start("return 'DUNNO'", "--frobnicate", "yes")
    assert service.ask() == MISCONFIGURED
    assert service.ask() == MISCONFIGURED
    assert service.close() == 0
    assert "unknown argument '--frobnicate'" in service.log


def test_words_for_pipe_are_no_fault(service: Service8) -> None:
    service.start("return 'DUNNO'", "--", "sender=${sender}")
    assert service.ask() == DUNNO
    assert service.close() == 0
    assert "what follows -- in master.cf is not used" in service.log


def test_what_the_handler_notes_is_logged_with_the_decision(service: Service8) -> None:
    service.start("request.log['rule'] = 'one'; request.log['queue_id'] = 'x'; return '550 5.7.1 no'")
    assert service.ask() == b"action=550 5.7.1 no\n\n"
    assert service.close() == 0
    assert service.log.rstrip().endswith(
        "4XyzQ: client=mail.example.com[192.0.2.7], from=<s@example.com>, to=<r@example.org>, state=RCPT, rule=one, "
        "action=550 5.7.1 no"
    )


def test_a_program_keeps_what_it_likes_between_requests(service: Service8) -> None:
    service.start("s = request.service; s.sources = (s.sources or 0) + 1; return f'REJECT {s.sources}'")
    assert [service.ask() for _ in range(3)] == [b"action=REJECT %d\n\n" % n for n in (1, 2, 3)]
    assert service.close() == 0


def test_no_configuration_defers_until_there_is_one(service: Service8, tmp_path: Path) -> None:
    path = tmp_path / "postroom.toml"
    reader = """
from types import SimpleNamespace as Namespace
import postroom
def load(path, state):
    try:
        word = open(path).read()
    except OSError as error:
        raise ConfigurationFault(f"{path}: cannot be read") from error
    changed = lambda: open(path).read() != word
    rules = {"stages": {}}
    return Namespace(
        word=word, log="syslog", log_format="text", deadline=30.0, rules=rules, changed=changed,
        being_written=lambda: False,
    )
postroom.config = Namespace(load=load)
run(decide)
"""
    service.start("return 'REJECT ' + request.service.configuration.word", "--config", str(path), run=reader)
    assert service.ask() == MISCONFIGURED
    assert service.ask() == MISCONFIGURED
    service.wait_for(f"({path}: cannot be read: FileNotFoundError", 2)
    for word in ("one", "two"):
        path.write_text(word)
        time.sleep(1.1)
        assert service.ask() == f"action=REJECT {word}\n\n".encode()
    assert service.close() == 0


# The configuration over many requests, with a clock and a file reader of the test's own.


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Loader:
    """config.load: what it gives, how often it was asked."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.calls = 0
        self.changed = False

    def __call__(self, path: str, state: str | None) -> object:
        self.calls += 1
        if self.error is not None:
            raise self.error
        self.changed = False
        return SimpleNamespace(
            number=self.calls,
            log="syslog",
            log_format="text",
            deadline=12.5,
            rules={"stages": {}},
            changed=lambda: self.changed,
            being_written=lambda: False,
        )


@pytest.fixture
def loader(monkeypatch: pytest.MonkeyPatch) -> Loader:
    made = Loader()
    monkeypatch.setattr(postroom, "config", SimpleNamespace(load=made), raising=False)
    return made


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("postroom.runners.service.monotonic", made)
    return made


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Service]:
    options = Options()
    options.config, options.log = str(tmp_path / "postroom.toml"), str(tmp_path / "log")
    Path(options.config).write_text("one")
    log.open("test", options.log)
    yield Service(options, 30.0)
    log.open("test")


def logged(kept: Service) -> str:
    path = Path(kept._options.log or "")
    return path.read_text() if path.exists() else ""


def number(kept: Service) -> int:
    configuration: object = kept.configuration
    assert isinstance(configuration, SimpleNamespace)
    return int(configuration.number)


def test_the_configuration_is_read_once_and_checked_once_a_second(kept: Service, loader: Loader, clock: Clock) -> None:
    assert [number(kept), number(kept)] == [1, 1]
    loader.changed = True
    clock.now += 0.9
    assert number(kept) == 1
    clock.now += 0.2
    assert number(kept) == 2
    assert "has changed and is in force" in logged(kept)
    clock.now += 5
    assert number(kept) == 2
    assert loader.calls == 2


def test_a_bad_one_is_logged_once_a_change_and_the_old_one_stays(kept: Service, loader: Loader, clock: Clock) -> None:
    number(kept)
    loader.changed, loader.error = True, ConfigurationFault("line 1: nonsense")
    for _ in range(100):
        clock.now += 1
        assert number(kept) == 1
    assert logged(kept).count("line 1: nonsense; the one before stays in force") == 1
    assert loader.calls <= 1 + 100 / Service.RETRY_INTERVAL + 1, "a bad file is not read anew for each request"
    Path(kept._options.config).write_text("another")
    clock.now += 1
    assert number(kept) == 1
    assert logged(kept).count("line 1: nonsense") == 2
    loader.error = None
    clock.now += Service.RETRY_INTERVAL
    assert number(kept) == loader.calls > 1


def test_a_bad_one_that_is_put_back_is_forgotten(kept: Service, loader: Loader, clock: Clock) -> None:
    number(kept)
    for _ in range(2):
        loader.changed, loader.error = True, ConfigurationFault("nonsense")
        clock.now += 1
        assert number(kept) == 1
        loader.changed = False
        clock.now += 1
        assert number(kept) == 1
        clock.now += Service.RETRY_INTERVAL
    assert logged(kept).count("nonsense") == 2


@pytest.mark.parametrize("error", [ValueError("a bug"), OSError(5, "Input/output error")])
def test_a_bug_in_reading_it_is_a_fault_too(kept: Service, loader: Loader, clock: Clock, error: Exception) -> None:
    loader.error = error
    with pytest.raises(ConfigurationFault, match=type(error).__name__):
        number(kept)
    loader.error = None
    clock.now += Service.RETRY_INTERVAL
    assert number(kept) == 2


def test_without_a_good_one_each_request_fails_but_few_read_it(kept: Service, loader: Loader, clock: Clock) -> None:
    loader.error = ConfigurationFault("nonsense")
    for _ in range(100):
        clock.now += 0.01
        with pytest.raises(ConfigurationFault, match="nonsense"):
            number(kept)
    assert loader.calls == 1
    loader.error = None
    Path(kept._options.config).write_text("better")
    clock.now += Service.CHECK_INTERVAL
    assert number(kept) == 2


def test_the_files_deadline_counts_below_the_runners_own_and_the_options_before_it(
    tmp_path: Path, loader: Loader
) -> None:
    options = Options()
    options.config, options.log = str(tmp_path / "none"), str(tmp_path / "log")
    short, capped = Service(options, 30.0), Service(options, 5.0)
    assert [number(short), number(capped)] == [1, 2]
    assert (short.limit, capped.limit) == (12.5, 5.0)
    options.deadline = 40.0
    asked = Service(options, 30.0)
    number(asked)
    assert asked.limit == 40.0
