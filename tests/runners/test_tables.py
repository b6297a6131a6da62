"""runners.tables: whatever a lookup handler does, Postfix reads one reply per request, and nothing else."""

import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from postroom import log
from postroom.lookup import Table, found, notfound, permanent, temporary
from postroom.wire.events import Lookup

LATER = b"TEMP local problem, see the log of postroom"


class Program:
    """A program with a handler of the test's, one socket on descriptors 0, 1 and 2."""

    def __init__(self, folder: Path) -> None:
        self.logfile = folder / "log"
        self.file = folder / "odd-lookup.py"
        self.ours, self.theirs = socket.socketpair()
        self.ours.settimeout(20)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, body: str, *options: str, wire: str = "socketmap", run: str = "") -> "Program":
        head = "import os, sys, time\nfrom postroom.lookup import *\nfrom postroom.runners.tables import run\n"
        code = f"def lookup(table, key):\n{textwrap.indent(textwrap.dedent(body).strip(), '    ')}\n"
        end = run or f"run(lookup, {wire})"
        self.file.write_text(f"{head}from postroom.wire import {wire}\n{code}{end}\n")
        self.process = subprocess.Popen(
            [sys.executable, str(self.file), "--log", str(self.logfile), *options],
            stdin=self.theirs,
            stdout=self.theirs,
            stderr=self.theirs,
            env={"PATH": "/usr/bin:/bin", "LANG": "C", "PYTHONPATH": str(Path(log.__file__).parents[1])},
        )
        self.theirs.close()
        return self

    def ask(self, key: bytes = b"a@x.test", table: bytes = b"t") -> bytes:
        """The payload of the one reply that comes."""
        self.ours.sendall(b"%d:%b %b," % (len(table) + 1 + len(key), table, key))
        data = self.ours.recv(200_000)
        length, _, rest = data.partition(b":")
        assert rest[-1:] == b"," and len(rest) == int(length) + 1, data
        return rest[:-1]

    def wait(self) -> int:
        assert self.process is not None
        return self.process.wait(timeout=20)

    @property
    def log(self) -> str:
        return self.logfile.read_text() if self.logfile.exists() else ""


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    made = Program(tmp_path)
    yield made
    if made.process is not None:
        made.process.kill()
        made.process.wait()
    made.ours.close()
    made.theirs.close()


def test_table_and_key_reach_the_handler_and_each_kind_of_answer_the_client(program: Program) -> None:
    program.start(
        """
        assert table == "t" and table.key == key
        return {"f": found("x:" + key), "n": notfound(), "t": temporary("later"), "p": permanent("never")}[key[0]]
        """
    )
    assert program.ask(b"f ") == b"OK x:f "
    assert program.ask(b"n") == b"NOTFOUND "
    assert program.ask(b"t") == b"TEMP later"
    assert program.ask(b"p") == b"PERM never"
    program.ours.close()
    assert program.wait() == 0
    assert program.log == ""


def test_whatever_is_printed_goes_to_the_log(program: Program) -> None:
    program.start('print("by print")\nos.write(2, b"by descriptor 2\\n")\nreturn notfound()')
    assert program.ask() == b"NOTFOUND "
    program.ours.close()
    assert program.wait() == 0
    assert "by print" in program.log and "by descriptor 2" in program.log


@pytest.mark.parametrize(
    ("body", "logged"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("sys.exit(0)", "SystemExit"),
        ("raise Fault('the disk is full')", "the disk is full"),
        ("return None", "the handler returned NoneType, expected an Answer"),
        ("return 'slow:'", "the handler returned str, expected an Answer"),
        ("return found('')", "an empty result: to Postfix that is an error in the table"),
        ("return found(' \\t')", "an empty result"),
        ("return found('a\\nb')", "control character"),
        ("return found('a\\udcff')", "not UTF-8"),
        ("return found('x' * 100_000)", "Postfix reads 100000"),
    ],
)
def test_a_handlers_mistake_puts_off_and_the_next_lookup_is_answered(program: Program, body: str, logged: str) -> None:
    program.start(f"if key == 'good': return found('y')\n{body}")
    assert program.ask() == LATER
    assert program.ask(b"good") == b"OK y"
    assert logged in program.log


def test_the_fallback_is_what_is_said_instead(program: Program) -> None:
    program.start("table.fallback = notfound()\nraise ValueError(key)")
    assert program.ask() == b"NOTFOUND "
    program.ours.close()
    assert program.wait() == 0
    assert "ValueError: a@x.test" in program.log


@pytest.mark.parametrize(("fallback", "answer"), [("None", LATER), ("found('z')", b"OK z")])
def test_a_handler_that_is_too_slow_is_answered_for(program: Program, fallback: str, answer: bytes) -> None:
    program.start(f"table.fallback = {fallback}\ntime.sleep(30)", "--deadline", "0.5")
    begin = time.monotonic()
    assert program.ask() == answer
    assert time.monotonic() - begin < 5
    assert program.wait() == 75
    assert "fault=deadline" in program.log and "not answered within 0.5 seconds" in program.log


def test_the_deadline_of_the_handler_ends_before_that_of_the_runner(program: Program) -> None:
    program.start("return found(f'{table.deadline.remaining():.1f}')", "--deadline", "5")
    assert program.ask() in (b"OK 4.5", b"OK 4.4")


def test_what_the_handler_logs_is_logged_once_for_each_answer(program: Program) -> None:
    program.start("table.log['rule'] = 'r'\nreturn found(key)")
    for key in (b"a", b"a", b"b", b"a"):
        program.ask(key)
    program.ours.close()
    program.wait()
    assert [line.partition("NOQUEUE: ")[2] for line in program.log.splitlines()] == [
        "table=t, key=<a>, rule=r, answer=a",
        "table=t, key=<b>, rule=r, answer=b",
    ]


def test_without_use_it_leaves(program: Program) -> None:
    program.start("return notfound()", run="run(lookup, socketmap, idle=0.2)")
    assert program.wait() == 0


def test_a_child_of_the_handlers_does_not_hold_the_connection(program: Program) -> None:
    program.start("os.system('sleep 30 &')\nreturn notfound()")
    assert program.ask() == b"NOTFOUND "
    assert program.process is not None
    program.process.kill()
    assert program.ours.recv(1) == b""


# The values


def test_a_table_is_its_name() -> None:
    table = Table("route", "a@x.test")
    assert (table == "route", table.key, table.fallback, table.logged) == (True, "a@x.test", None, False)
    assert 0 < table.deadline.remaining() <= 10
    table.log["rule"] = "r"
    assert table.logged


def test_answers_are_values() -> None:
    assert found("x") == found("x") != found("y")
    assert len({notfound(), notfound(), temporary("x"), permanent("x")}) == 3
    assert temporary("a\nb\0c").text == "a b?c"
    assert temporary("").text and permanent(" ").text
    assert repr(Lookup(b"t", b"k")) == "Lookup(b't', b'k')"
