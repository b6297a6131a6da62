"""runners.pipe: whatever a handler does, Postfix gets one line and a status that does not bounce by accident."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

ENVELOPE = ["sender=s@example.com", "recipient=r@example.org", "original_recipient=o@example.org", "queue_id=4XyzQ"]
MESSAGE = b"Subject: hello\n\nbody\n"


class Program:
    """A handler written to a file, and its log."""

    def __init__(self, folder: Path, body: str) -> None:
        self.file = folder / "odd-handler.py"
        self.logfile = folder / "log"
        head = "from postroom.delivery import *\nfrom postroom.runners.pipe import run\n"
        self.file.write_text(
            '"""odd-handler - a test\n\nusage."""\n' + head + textwrap.dedent(body) + "\nrun(deliver)\n"
        )

    def start(self, *options: str, envelope: list[str] = ENVELOPE) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [sys.executable, str(self.file), "--log", str(self.logfile), *options, "--", *envelope],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={"PATH": "/usr/bin:/bin", "LANG": "C", "PYTHONPATH": os.environ.get("PYTHONPATH", "")},
        )

    def run(self, *options: str, envelope: list[str] = ENVELOPE, data: bytes = MESSAGE) -> tuple[int, bytes]:
        process = self.start(*options, envelope=envelope)
        output, _ = process.communicate(data, timeout=60)
        return process.returncode, output

    @property
    def log(self) -> str:
        return self.logfile.read_text()


def deliver(body: str) -> str:
    return "def deliver(mail):\n" + textwrap.indent(textwrap.dedent(body).strip(), "    ")


def test_sent_bounced_and_deferred_are_said_in_the_line_and_the_status(tmp_path: Path) -> None:
    assert Program(tmp_path, deliver("return sent('kept')")).run() == (0, b"kept\n")
    assert Program(tmp_path, deliver("return bounced('no such user', '5.1.1')")).run() == (67, b"5.1.1 no such user\n")
    assert Program(tmp_path, deliver("return deferred('full', '4.2.2')")).run() == (75, b"4.2.2 full\n")


def test_the_log_line_holds_both_addresses_and_what_the_handler_added(tmp_path: Path) -> None:
    program = Program(tmp_path, deliver("mail.log['rule'] = 'one'; return sent('kept')"))
    program.run()
    assert program.log.rstrip().endswith(
        "4XyzQ: to=<r@example.org>, orig_to=<o@example.org>, rule=one, status=sent, dsn=2.0.0 (kept)"
    )


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise ValueError('bad day')", "ValueError: bad day"),
        ("import sys; sys.exit(1)", "SystemExit: 1"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("return None", "the handler returned NoneType"),
        ("return 0", "the handler returned int"),
        ("return bounced('no', '4.1.1')", "not an enhanced status code of that kind"),
        ("def f(): f()\nf()", "RecursionError"),
        ("raise MemoryError", "MemoryError"),
    ],
)
def test_a_handler_that_fails_defers_and_the_log_says_where(tmp_path: Path, body: str, said: str) -> None:
    program = Program(tmp_path, deliver(body))
    status, output = program.run()
    assert status == 75
    assert output.startswith(b"4.3.0 internal error (")
    assert output.count(b"\n") == 1
    assert said in program.log
    assert "fault=handler, at=" in program.log


def test_a_fault_defers_with_its_own_status_and_words(tmp_path: Path) -> None:
    program = Program(tmp_path, deliver("raise ConfigurationFault('postroom.toml: line 3: no')"))
    assert program.run() == (75, b"4.3.5 postroom.toml: line 3: no\n")
    assert "fault=handler" in program.log


def test_what_the_handler_prints_goes_to_the_log_bounded(tmp_path: Path) -> None:
    body = """
    import os, sys
    print('5.1.1 not a verdict')
    os.write(2, b'from the descriptor\\n')
    os.system('echo from a child')
    print('x' * 100_000); sys.stderr.write('y\\n' * 50_000)
    return sent('kept')
    """
    program = Program(tmp_path, deliver(body))
    assert program.run() == (0, b"kept\n")
    for text in ("output=5.1.1 not a verdict", "output=from the descriptor", "output=from a child", "output_dropped="):
        assert text in program.log
    assert len(program.log) < 20_000


def test_a_child_that_keeps_running_does_not_hold_postfix(tmp_path: Path) -> None:
    program = Program(tmp_path, deliver("import os\nos.system('sleep 5 &')\nreturn sent('kept')"))
    before = time.monotonic()
    assert program.run() == (0, b"kept\n")
    assert time.monotonic() - before < 4, "the child holds the descriptors that Postfix waits for"


def test_a_handler_slower_than_its_deadline_is_answered_for(tmp_path: Path) -> None:
    program = Program(tmp_path, deliver("import time\ntime.sleep(60)\nreturn sent('kept')"))
    assert program.run("--deadline", "1") == (75, b"4.3.0 not finished within 1 seconds\n")
    assert "fault=deadline" in program.log


def test_a_handler_that_swallows_every_exception_still_meets_the_deadline(tmp_path: Path) -> None:
    body = """
    import time
    while True:
        try:
            time.sleep(60)
        except BaseException:
            pass
    """
    assert Program(tmp_path, deliver(body)).run("--deadline", "0.5")[0] == 75


def test_code_that_never_lets_go_of_the_interpreter_is_ended_by_a_signal(tmp_path: Path) -> None:
    body = """
    import postroom.runners.pipe
    import ctypes
    ctypes.PyDLL(None).sleep(60)  # PyDLL keeps the interpreter's lock, as a runaway regular expression does
    return sent('kept')
    """
    program = Program(tmp_path, "import postroom.runners.pipe\npostroom.runners.pipe.GRACE = 0.5\n" + deliver(body))
    status, output = program.run("--deadline", "0.5")
    assert (status, output) == (-signal.SIGALRM, b""), "pipe(8) defers when a signal ends the command"


def test_a_stop_in_the_middle_says_nothing(tmp_path: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        program = Program(tmp_path, deliver("import os, time\nos.system('echo begun')\ntime.sleep(60)"))
        process = program.start()
        assert process.stdin is not None
        process.stdin.write(MESSAGE)
        process.stdin.close()
        while not program.logfile.exists() or "begun" not in program.log:
            time.sleep(0.02)
        process.send_signal(number)
        assert process.wait(10) == -number
        assert process.stdout is not None
        assert process.stdout.read() == b""
        process.stdout.close()
        program.logfile.unlink()


@pytest.mark.parametrize(
    ("options", "envelope", "said"),
    [
        ([], ["sender=", "queue_id=1"], b"recipient=${recipient}"),
        ([], [], b"sender=${sender} queue_id=${queue_id} recipient=${recipient}"),
        (["--colour"], ENVELOPE, b"unknown argument '--colour'"),
        (["--deadline", "soon"], ENVELOPE, b"--deadline 'soon', expected seconds"),
        (["--config"], [], b"missing"),
    ],
)
def test_a_slip_in_master_cf_defers_and_is_named(
    tmp_path: Path, options: list[str], envelope: list[str], said: bytes
) -> None:
    program = Program(tmp_path, deliver("return sent('kept')"))
    status, output = program.run(*options, envelope=envelope)
    assert status == 75
    assert output.startswith(b"4.3.5 master.cf: ")
    assert said in output
    assert said.decode() in program.log


def test_recipients_that_differ_are_deferred_since_one_status_cannot_say_it(tmp_path: Path) -> None:
    two = ["sender=", "queue_id=1", "recipient=a@x", "recipient=b@x"]
    same = Program(tmp_path, deliver("return bounced('no ' + mail.recipient, '5.1.1')"))
    assert same.run(envelope=two) == (67, b"5.1.1 no a@x\n")
    differ = Program(tmp_path, deliver("return sent('kept') if mail.recipient == 'a@x' else bounced('no', '5.1.1')"))
    status, output = differ.run(envelope=two)
    assert (status, output[:6]) == (75, b"4.3.5 ")
    assert b"recipient_limit = 1" in output
    waits = Program(tmp_path, deliver("return sent('kept') if mail.recipient == 'a@x' else deferred('later', '4.2.2')"))
    assert waits.run(envelope=two) == (75, b"4.2.2 later\n")


def test_the_null_sender_a_leading_dash_and_8_bit_arrive_as_they_are(tmp_path: Path) -> None:
    body = "import os\nreturn sent(ascii([mail.sender, mail.recipient, mail.envelope.client_helo]))"
    program = Program(tmp_path, deliver(body))
    envelope = ["sender=", "queue_id=1", "recipient=-f two words@x", "client_helo=--config=caf\udce9"]
    assert program.run(envelope=envelope)[1] == rb"['', '-f two words@x', '--config=caf\udce9']" + b"\n"


def test_postfix_gone_before_the_answer_is_no_bounce(tmp_path: Path) -> None:
    program = Program(tmp_path, deliver("import time\ntime.sleep(0.5)\nreturn bounced('no', '5.1.1')"))
    process = program.start()
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(MESSAGE)
    process.stdin.close()
    process.stdout.close()
    assert process.wait(20) == 75


def test_help_is_the_manual_in_short(tmp_path: Path) -> None:
    status, output = Program(tmp_path, deliver("return sent('kept')")).run("--help", envelope=[])
    assert (status, output) == (0, b"odd-handler - a test\n\nusage.\n")


def test_a_message_without_bytes_is_a_message(tmp_path: Path) -> None:
    assert Program(tmp_path, deliver("return sent(str(mail.message.size))")).run(data=b"") == (0, b"0\n")


def test_a_hundred_megabytes_do_not_fill_the_memory(tmp_path: Path) -> None:
    body = """
    n = sum(len(chunk) for chunk in mail.message.chunks())
    peak = next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM'))
    return sent(f'{n} {int(peak) < 40_000}')
    """
    data = b"0123456789abcdef" * (100 * 65536)
    assert Program(tmp_path, deliver(body)).run(data=data) == (0, f"{len(data)} True\n".encode())


def test_half_a_message_is_not_delivered_when_postfix_is_stopped(tmp_path: Path) -> None:
    """What `postfix stop` does: pipe(8) dies while it hands the message over, and its end of the pipe closes."""
    program = Program(tmp_path, deliver("import os\nos.system('echo delivered')\nreturn sent('kept')"))
    stand_in = f"""
import os, subprocess, sys
process = subprocess.Popen({[sys.executable, str(program.file), "--log", str(program.logfile), "--", *ENVELOPE]!r},
    stdin=subprocess.PIPE, stdout=open({str(tmp_path / "answer")!r}, "wb"), stderr=subprocess.STDOUT)
process.stdin.write(b"Subject: half\\n\\n" + b"x" * 200_000)
process.stdin.flush()
os.kill(os.getpid(), 9)
"""
    for _ in range(5):
        done = subprocess.run([sys.executable, "-c", stand_in], stdin=subprocess.DEVNULL, check=False)
        assert done.returncode == -signal.SIGKILL
        end = time.monotonic() + 20
        while not (answer := (tmp_path / "answer").read_bytes()) and time.monotonic() < end:
            time.sleep(0.02)
        assert answer == b"4.3.0 Postfix has stopped in the middle of the message\n"
        assert "delivered" not in program.log


def test_a_child_that_only_forks_neither_answers_nor_holds_the_answer_up(tmp_path: Path) -> None:
    body = """
    import os, time
    if os.fork():
        return sent('by the parent')
    time.sleep(3)
    return bounced('by the child', '5.1.1')
    """
    program = Program(tmp_path, deliver(body))
    before = time.monotonic()
    assert program.run() == (0, b"by the parent\n")
    assert time.monotonic() - before < 2.5


def test_a_child_that_never_stops_printing_does_not_hold_the_answer_up(tmp_path: Path) -> None:
    body = "import os, time\nif os.fork(): time.sleep(0.3); return sent('kept')\n"
    program = Program(tmp_path, deliver(body + "while True: os.write(1, b'y' * 1000)"))
    assert program.run("--deadline", "20") == (0, b"kept\n")


@pytest.mark.parametrize("closed", [(1,), (0, 1, 2)])
def test_descriptors_that_are_not_there_defer(tmp_path: Path, closed: tuple[int, ...]) -> None:
    program = Program(tmp_path, deliver("return sent('kept')"))
    redirections = " ".join(f"{fd}>&-" for fd in closed)
    command = f'exec "$@" {redirections}'
    words = [sys.executable, str(program.file), "--log", str(program.logfile), "--", *ENVELOPE]
    done = subprocess.run(["/bin/sh", "-c", command, "sh", *words], check=False, timeout=60, stdin=subprocess.DEVNULL)
    assert done.returncode == 75


def test_help_in_master_cf_does_not_throw_mail_away(tmp_path: Path) -> None:
    status, output = Program(tmp_path, deliver("return sent('kept')")).run("--help", envelope=[*ENVELOPE])
    assert status == 75
    assert output.startswith(b"4.3.5 master.cf: --help")


def test_addresses_are_utf8_whatever_the_locale(tmp_path: Path) -> None:
    program = Program(tmp_path, deliver("return sent(ascii(mail.recipient))"))
    process = subprocess.run(
        [sys.executable, str(program.file), "--log", str(program.logfile), "--", "sender=", "queue_id=1",
         "recipient=jörg@x".encode()],
        input=MESSAGE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=60,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0",
             "PYTHONPATH": os.environ.get("PYTHONPATH", "")},
    )  # fmt: skip
    assert process.stdout == b"'j\\xf6rg@x'\n"


def test_an_answer_that_nobody_waits_for_is_not_worked_for(tmp_path: Path) -> None:
    """Also where the parent that died was never seen alive: its end of the answer's pipe is closed, too."""
    program = Program(tmp_path, deliver("import os\nos.system('echo delivered')\nreturn sent('kept')"))
    process = program.start()
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.close()
    process.stdin.write(MESSAGE)
    process.stdin.close()
    assert process.wait(20) == 75
    assert "delivered" not in program.log
