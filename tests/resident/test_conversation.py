"""resident.conversation: the same answers as runners.stdio, however the bytes come; and clients that do not behave."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from resident.talking import DEFERRED, DUNNO, LOOKUP, POLICY, REQUEST, Talk, handler, log_of

from postroom import log
from postroom.resident import conversation
from postroom.resident.conversation import Conversation
from postroom.resident.service import Service
from postroom.runners.options import Options
from postroom.wire import socketmap, tcp_table
from postroom.wire.policy import REQUEST_LIMIT

ROOT = Path(__file__).parents[2]
_followed: list[Service] = []
LATER = "local problem, see the log of postroom"


def to(recipient: str) -> bytes:
    return REQUEST.replace(b"r@example.org", recipient.encode())


def netstring(text: str) -> bytes:
    return b"%d:%b," % (len(text), text.encode())


STREAMS = {
    "policy": [
        REQUEST,
        REQUEST * 3,
        REQUEST.replace(b"sender=s@example.com", b"sender="),
        to("boom@x") + to("config@x") + to("empty@x") + to("none@x") + to("exit@x") + REQUEST,
        to("log@x") + REQUEST + to("log@x"),
        REQUEST + REQUEST[:40],
        REQUEST + b"\n" + REQUEST,
        b"no request\n\n" + REQUEST,
        REQUEST.replace(b"\n", b"\r\n"),
        REQUEST + REQUEST.replace(b"smtpd_access", b"other_access"),
        b"\n\n",
        b"",
        REQUEST.replace(b"s@example.com", b"s\0@example.com"),
        REQUEST.replace(b"s@example.com", "ü\udcff@example.com".encode("utf-8", "surrogateescape")),
    ],
    "socketmap": [
        netstring("route a@x") + netstring("list a@x") + netstring("t t"),
        netstring("route boom@x") + netstring("route fall@x") + netstring("route odd@x") + netstring("route big@x"),
        netstring("route log@x") * 3,
        netstring("route a@x") + b"5:ab",
        netstring("route"),
        b"x:route,",
        b"999999:",
        b"",
    ],
    "tcp_table": [
        b"get a@x\nget log%20@x\nget t\n",
        b"get boom@x\nget fall@x\nget odd@x\nget big@x\nget a@x\n",
        b"put a b\nget a@x\n",
        b"get a\tb\n",
        b"get a@x\nget b",
        b"",
    ],
}
CASES = [(protocol, stream) for protocol, streams in STREAMS.items() for stream in streams]


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same handlers as programs for spawn(8)."""
    folder = tmp_path_factory.mktemp("programs")
    found = {}
    for protocol in STREAMS:
        if protocol == "policy":
            body = f"from postroom.policy import *\nfrom postroom.runners.stdio import run\n{POLICY}\nrun(decide)\n"
        else:
            head = "from postroom.lookup import *\nfrom postroom.runners.tables import run\n"
            body = f"{head}from postroom.wire import {protocol}\n{LOOKUP}\nrun(lookup, {protocol})\n"
        found[protocol] = folder / f"odd-{protocol}.py"
        found[protocol].write_text(body)
    return found


@pytest.fixture(autouse=True)
def logfile(tmp_path: Path) -> Iterator[Path]:
    before = log._program, log._destination, log._format
    log.open("serve", str(tmp_path / "log"))
    yield tmp_path / "log"
    while _followed:
        _followed.pop().stop()
    log.open(*before)


def alone(program: Path, stream: bytes, logfile: Path) -> bytes:
    """What a process of its own answers to a client that sends this and closes its side."""
    ours, theirs = socket.socketpair()
    ours.settimeout(20)
    command = [sys.executable, str(program), "--log", str(logfile), "--handoff", "no"]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT / "src")}
    with ours, subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as process:
        theirs.close()
        ours.sendall(stream)
        ours.shutdown(socket.SHUT_WR)
        answer = b""
        while more := ours.recv(65536):
            answer += more
        process.wait(20)
    return answer


def lines(text: str) -> list[str]:
    """Without time and process, and where in which file: the handlers are the same, their files are not."""
    bodies = [line.partition("]: ")[2] for line in text.splitlines()]
    return [", ".join(part for part in body.split(", ") if not part.startswith("at=")) for body in bodies]


@pytest.mark.parametrize(("protocol", "stream"), CASES)
def test_answers_and_log_are_those_of_a_program_at_every_split(
    protocol: str, stream: bytes, programs: dict[str, Path], tmp_path: Path, logfile: Path
) -> None:
    expected = alone(programs[protocol], stream, tmp_path / "alone")
    code = POLICY if protocol == "policy" else LOOKUP
    said = lines(log_of(tmp_path / "alone"))
    step = max(1, len(stream) // 150)
    for quick in (True, False):
        for split in range(0, len(stream) + 1, step):
            logfile.unlink(missing_ok=True)
            talk = Talk(protocol, code, quick)
            for piece in (stream[:split], stream[split:]):
                talk.worker.pool.run()
                if not talk.transport.closed:
                    talk.hear(piece)
            talk.worker.pool.run()
            if not talk.transport.closed:
                talk.end()
            assert talk.transport.sent == expected, (quick, split)
            assert talk.transport.closed
            assert lines(log_of(logfile)) == said, (quick, split)
            assert all(f"postroom/odd-{protocol}[" in line for line in log_of(logfile).splitlines())


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(CASES), st.lists(st.integers(1, 300), max_size=12), st.booleans())
def test_any_cuts_give_the_same(case: tuple[str, bytes], sizes: list[int], quick: bool) -> None:
    protocol, stream = case
    code = POLICY if protocol == "policy" else LOOKUP
    whole, cut = Talk(protocol, code), Talk(protocol, code, quick)
    whole.hear(stream)
    place = 0
    for size in [*sizes, len(stream)]:
        cut.worker.pool.run()
        if not cut.transport.closed:
            cut.hear(stream[place : place + size])
        place += size
    for talk in (whole, cut):
        talk.worker.pool.run()
        if not talk.transport.closed:
            talk.end()
    assert cut.transport.sent == whole.transport.sent


def test_several_requests_of_one_read_are_answered_by_one_write() -> None:
    talk = Talk("policy", POLICY)
    talk.hear(REQUEST * 5)
    assert (talk.transport.sent, talk.transport.writes) == (DUNNO * 5, 1)


def test_what_comes_while_a_request_is_in_hand_waits_and_is_answered_in_order() -> None:
    talk = Talk("policy", POLICY, quick=False)
    talk.hear(to("log@x") + REQUEST)
    assert talk.transport.sent == b"" and len(talk.worker.pool.jobs) == 1
    talk.hear(REQUEST)
    assert not talk.transport.reading, "one read is kept, the rest stays in the kernel"
    talk.worker.pool.run()
    assert talk.transport.sent.startswith(b"action=REJECT xxx") and talk.transport.sent.endswith(DUNNO * 2)
    assert talk.transport.reading


def test_a_client_that_does_not_read_is_not_read_from() -> None:
    talk = Talk("policy", POLICY)
    talk.conversation.pause_writing()
    talk.hear(REQUEST * 2)
    assert talk.transport.sent == b"" and not talk.transport.reading
    talk.conversation.resume_writing()
    assert talk.transport.sent == DUNNO * 2 and talk.transport.reading


def test_a_request_too_large_ends_the_connection_with_little_kept() -> None:
    talk = Talk("policy", POLICY)
    sent = 0
    while not talk.transport.closed and sent < 1 << 20:
        talk.hear(b"a=" + b"x" * 4094)
        sent += 4096
    assert talk.transport.closed and sent <= REQUEST_LIMIT + 8192
    assert talk.transport.sent == b""


@pytest.mark.parametrize(("protocol", "first"), [("policy", b"r"), ("socketmap", b"1"), ("tcp_table", b"g")])
def test_a_request_has_to_be_whole_in_time(protocol: str, first: bytes, logfile: Path) -> None:
    talk = Talk(protocol, POLICY if protocol == "policy" else LOOKUP)
    assert talk.worker.timers == [], "an idle connection may stay"
    talk.hear(first)
    (timer,) = talk.worker.running
    assert timer.seconds == conversation.REQUEST_SECONDS
    talk.hear(REQUEST[1:20] if protocol == "policy" else b"")
    assert talk.worker.running == [timer], "a byte a second must not put it off"
    timer.action()
    assert talk.transport.closed
    assert "fault=protocol (a request that was not whole after 100 seconds)" in log_of(logfile)


def test_a_whole_request_ends_the_wait_for_it() -> None:
    talk = Talk("policy", POLICY)
    talk.hear(REQUEST[:50])
    talk.hear(REQUEST[50:])
    assert talk.transport.sent == DUNNO and talk.worker.running == []


def test_a_thread_that_is_late_is_answered_for_and_the_connection_goes_on(logfile: Path) -> None:
    talk = Talk("policy", POLICY, quick=False)
    talk.hear(REQUEST)
    assert talk.conversation.idle_since == conversation.NEVER
    work = talk.worker.pool.late()
    assert talk.transport.sent == DEFERRED
    assert "4XyzQ: fault=deadline (not answered within 30 seconds)" in log_of(logfile)
    work()
    talk.hear(REQUEST)
    talk.worker.pool.run()
    assert talk.transport.sent == DEFERRED + DUNNO


def test_a_late_lookup_has_the_fallback_that_its_handler_has_named() -> None:
    code = """
    def lookup(table, key):
        table.fallback = notfound()
        return table.service.sources.wait()
    """
    talk = Talk("tcp_table", code, quick=False)
    talk.line.lent.sources = None
    talk.hear(b"get a@x\n")
    work = talk.worker.pool.jobs[0][0]
    with pytest.raises(AttributeError):
        work()  # it got as far as that, and would hang now
    talk.worker.pool.late()
    assert talk.transport.sent == b"500 not%20found\n"


@pytest.mark.parametrize(
    ("protocol", "sent", "answer"),
    [
        ("policy", REQUEST, DEFERRED),
        ("socketmap", netstring("route a@x"), socketmap.reply("temporary", LATER)),
        ("tcp_table", b"get a@x\n", tcp_table.reply("temporary", LATER)),
    ],
)
def test_a_full_queue_is_told_at_once_and_logged_once(protocol: str, sent: bytes, answer: bytes, logfile: Path) -> None:
    talk = Talk(protocol, POLICY if protocol == "policy" else LOOKUP, quick=False)
    talk.worker.pool.full = True
    for _ in range(50):
        talk.hear(sent)
    assert talk.transport.sent == answer * 50
    assert log_of(logfile).count("fault=busy") == 1
    talk.worker.pool.full = False
    talk.hear(sent)
    talk.worker.pool.run()
    assert talk.worker.metrics._faults[protocol, "busy"] == 50


def test_out_of_memory_is_answered_and_the_worker_retires() -> None:
    talk = Talk("policy", "def decide(request):\n    raise MemoryError", quick=False)
    talk.hear(REQUEST)
    talk.worker.pool.run()
    assert talk.transport.sent == DEFERRED and talk.worker.retired == "out of memory"


# The end of a connection, and of the worker.


def test_a_client_that_vanishes_with_a_request_in_hand(logfile: Path) -> None:
    talk = Talk("policy", POLICY, quick=False)
    talk.hear(to("log@x"))
    talk.conversation.connection_lost(ConnectionResetError())
    talk.worker.pool.run()
    assert talk.transport.sent == b"" and talk.worker.connections == set()
    assert lines(log_of(logfile)) == ["4XyzQ: the client closed before the reply"]


def test_a_client_that_vanishes_within_a_request(logfile: Path) -> None:
    talk = Talk("policy", POLICY)
    talk.hear(REQUEST[:30])
    talk.conversation.connection_lost(ConnectionResetError())
    assert talk.worker.running == []
    assert "fault=protocol (the client closed within a request)" in log_of(logfile)


def test_a_client_that_has_closed_its_side_gets_its_answer() -> None:
    talk = Talk("policy", POLICY, quick=False)
    talk.hear(REQUEST)
    assert talk.conversation.eof_received() is True
    assert not talk.transport.closed
    talk.worker.pool.run()
    assert talk.transport.sent == DUNNO and talk.transport.closed


def drained(talk: Talk) -> None:
    """And the loop has come round once, in which nothing was to be read."""
    talk.conversation.drain()
    talk.worker.timers.pop().action()


def test_draining_reads_what_has_come_already() -> None:
    talk = Talk("policy", POLICY, quick=True)
    talk.worker.draining = True
    talk.conversation.drain()
    talk.hear(REQUEST)
    assert (talk.transport.sent, talk.transport.closed) == (DUNNO, False)
    talk.worker.timers.pop().action()
    assert talk.transport.closed


def test_what_has_come_is_read_before_the_timer_of_a_drain() -> None:
    async def meet() -> tuple[bytes, bytes]:
        talk = Talk("policy", POLICY, quick=True)
        loop = talk.worker.loop = asyncio.get_running_loop()  # type: ignore[assignment]  # in its place
        ours, theirs = socket.socketpair()
        with theirs:
            ours.setblocking(False)
            made = Conversation(talk.line)
            await loop.connect_accepted_socket(lambda: made, ours)
            theirs.sendall(REQUEST)
            made.drain()
            await asyncio.sleep(0.1)
            return theirs.recv(4096), theirs.recv(4096)

    assert asyncio.run(meet()) == (DUNNO, b"")


def test_draining_closes_what_is_idle_and_answers_what_is_in_hand() -> None:
    talk = Talk("policy", POLICY, quick=False)
    drained(talk)
    assert talk.transport.closed
    talk.begin()
    talk.hear(REQUEST[:30])
    drained(talk)
    assert talk.transport.closed and talk.worker.running == []
    talk.begin()
    talk.hear(REQUEST * 2)
    talk.worker.draining = True
    drained(talk)
    assert not talk.transport.closed
    talk.worker.pool.run()
    assert (talk.transport.sent, talk.transport.closed) == (DUNNO, True), "the second is asked for again elsewhere"


def test_at_the_end_of_all_patience_later_is_said() -> None:
    talk = Talk("policy", POLICY, quick=False)
    talk.hear(REQUEST)
    talk.conversation.close_now()
    assert (talk.transport.sent, talk.transport.closed) == (DEFERRED, True)
    talk.worker.pool.run()
    assert talk.transport.sent == DEFERRED


def test_nothing_is_kept_of_a_connection_that_has_ended() -> None:
    talk = Talk("policy", POLICY)
    talk.hear(REQUEST + REQUEST[:20])
    talk.conversation.connection_lost(None)
    talk.worker.timers.clear()
    here, talk.conversation = id(talk.conversation), None  # type: ignore[assignment]  # nobody else's either
    gc.collect()
    assert not [one for one in gc.get_objects() if id(one) == here and isinstance(one, Conversation)]


# Without a thread.


def test_only_handlers_that_promise_it_run_in_the_loop() -> None:
    talk = Talk("policy", POLICY, quick=True)
    talk.hear(REQUEST)
    assert talk.transport.sent == DUNNO and talk.worker.pool.jobs == []
    talk = Talk("policy", POLICY, quick=False)
    talk.hear(REQUEST)
    assert talk.transport.sent == b"" and len(talk.worker.pool.jobs) == 1


RULES = """
state = "{folder}"
record = "{folder}/record"
[list.bad]
values = ["bad.test"]
[[rule]]
id = "bad"
at = "rcpt"
match = {{ sender_domain = "list:bad" }}
action = "REJECT bad"
[[rule]]
id = "gray"
at = "rcpt"
match = {{ recipient_domain = "gray.test", greylist = {{}} }}
action = "DEFER_IF_PERMIT 4.7.1 later"
[[rule]]
id = "many"
at = "rcpt"
match = {{ recipient_domain = "many.test", rate = {{ key = "client_address", limit = "2/1h" }} }}
action = "DEFER_IF_PERMIT 4.7.1 enough"
"""


def shipped(folder: Path, rules: str) -> Talk:
    """rule-policy's own handler, on these rules."""
    options = Options()
    options.config, options.log = str(folder / "postroom.toml"), str(folder / "log")
    (folder / "postroom.toml").write_text(rules.format(folder=folder))
    talk = Talk("policy", "def decide(request): pass", options=options)
    from postroom.resident import programs

    talk.line.speech._decide = programs.load()["rule-policy"].handler  # type: ignore[attr-defined]  # of Decisions
    talk.worker.service.start()
    _followed.append(talk.worker.service)
    return talk


def test_what_counts_is_counted_once_though_it_is_tried_twice(tmp_path: Path) -> None:
    talk = shipped(tmp_path, RULES.replace('record = "{folder}/record"\n', ""))
    answers = []
    for number in range(4):
        talk.transport.sent = b""
        talk.hear(to("a@many.test").replace(b"4XyzQ", b"4Xyz%d" % number))
        assert len(talk.worker.pool.jobs) == 1, "a rate is not for the loop"
        talk.worker.pool.run()
        answers.append(talk.transport.sent)
    assert answers == [DUNNO, DUNNO, *[b"action=DEFER_IF_PERMIT 4.7.1 enough\n\n"] * 2]


def test_what_is_recorded_is_recorded_once(tmp_path: Path) -> None:
    talk = shipped(tmp_path, RULES)
    for recipient in ("a@many.test", "a@x.test"):
        talk.hear(to(recipient))
        talk.worker.pool.run()
    assert (tmp_path / "record").read_text().count("\n") == 2


def test_lists_in_memory_are_looked_up_in_the_loop(tmp_path: Path) -> None:
    talk = shipped(tmp_path, RULES.replace('record = "{folder}/record"\n', ""))
    from_bad = REQUEST.replace(b"s@example.com", b"s@bad.test")
    talk.hear(from_bad)
    talk.worker.pool.run()  # the first makes the table
    talk.transport.sent = b""
    talk.hear(from_bad)
    assert talk.worker.pool.jobs == [] and talk.transport.sent == b"action=REJECT bad\n\n"


def test_a_list_file_is_looked_at_by_a_thread_once_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from postroom.tables import files

    (tmp_path / "bad").write_text("bad.test\n")
    os.utime(tmp_path / "bad", (1, 1))
    rules = RULES.replace('record = "{folder}/record"\n', "").replace('values = ["bad.test"]', 'file = "{folder}/bad"')
    talk = shipped(tmp_path, rules)
    from_bad = REQUEST.replace(b"s@example.com", b"s@bad.test")
    threads = []
    now = [files.monotonic()]
    monkeypatch.setattr(files, "monotonic", lambda: now[0])
    for _ in range(4):
        talk.hear(from_bad)
        threads.append(len(talk.worker.pool.jobs))
        talk.worker.pool.run()
        now[0] += 0.4
    assert threads == [1, 0, 0, 1]
    assert talk.transport.sent == b"action=REJECT bad\n\n" * 4


def test_each_thread_and_the_loop_have_sources_of_their_own(tmp_path: Path) -> None:
    talk = shipped(tmp_path, RULES.replace('record = "{folder}/record"\n', ""))
    talk.hear(to("a@many.test"))
    talk.worker.pool.run()
    assert talk.line.quick is not None
    loop, thread = talk.line.quick.sources, talk.line.lent.sources
    assert loop is not thread and (loop.quick, thread.quick) == (True, False)


def test_a_handler_is_handed_what_it_needs() -> None:
    seen: list[Any] = []
    talk = Talk("policy", POLICY, quick=False)
    talk.line.renew(talk.line.speech, False)
    decide = handler("def decide(request):\n    return 'OK' if request.deadline.remaining() > 20 else 'HOLD'", "decide")
    talk.line.speech._decide = lambda request: seen.append(request.service) or decide(request)  # type: ignore[attr-defined,func-returns-value]  # of Decisions
    talk.hear(REQUEST)
    talk.worker.pool.run()
    assert talk.transport.sent == b"action=OK\n\n" and seen == [talk.line.lent]
