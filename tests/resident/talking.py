"""A Conversation without a loop: a transport that keeps what is written, threads and timers that the test moves."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from postroom.resident.conversation import Conversation
from postroom.resident.line import Line
from postroom.resident.metrics import Metrics
from postroom.resident.pool import Late
from postroom.resident.service import Service
from postroom.runners.decisions import Decisions
from postroom.runners.options import Options
from postroom.runners.tables import Lookups
from postroom.wire import socketmap, tcp_table

REQUEST = (
    b"request=smtpd_access_policy\nprotocol_state=RCPT\nqueue_id=4XyzQ\nsender=s@example.com\nrecipient=r@example.org\n"
    b"client_name=mail.example.com\nclient_address=192.0.2.7\n\n"
)
DUNNO = b"action=DUNNO\n\n"
DEFERRED = b"action=DEFER_IF_PERMIT 4.3.0 Temporary local problem, try again later\n\n"

POLICY = """
def decide(request):
    recipient = request.get("recipient", "")
    if recipient.startswith("boom"):
        raise KeyError("boom")
    if recipient.startswith("config"):
        raise ConfigurationFault("nothing is as it should be")
    if recipient.startswith("empty"):
        return ""
    if recipient.startswith("none"):
        return None
    if recipient.startswith("exit"):
        raise SystemExit(3)
    if recipient.startswith("log"):
        request.log["rule"] = "logged"
        return "REJECT " + "x" * 700
    return "DUNNO" if request["sender"] else "REJECT null sender"
"""

LOOKUP = """
def lookup(table, key):
    if key.startswith("boom"):
        raise KeyError("boom")
    if key.startswith("fall"):
        table.fallback = notfound()
        raise KeyError("fall")
    if key.startswith("log"):
        table.log["rule"] = "logged"
    if key.startswith("odd"):
        return "text"
    if key.startswith("big"):
        return found("x" * 200000)
    return found(table + "/" + key) if "@" in key else temporary("later") if key == "t" else notfound()
"""


def handler(code: str, name: str) -> Any:
    space: dict[str, Any] = {}
    exec(f"from postroom.policy import *\nfrom postroom.lookup import *\n{textwrap.dedent(code)}", space)
    return space[name]


class Transport:
    def __init__(self) -> None:
        self.sent = b""
        self.writes = 0
        self.closed = False
        self.reading = True

    def write(self, data: bytes) -> None:
        assert not self.closed, "written to after it was closed"
        self.sent += data
        self.writes += 1

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        assert self.reading
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading
        self.reading = True


class Threads:
    """What a pool has taken, until the test has it done."""

    def __init__(self) -> None:
        self.full = False
        self.jobs: list[tuple[Callable[[], Any], Callable[[Any], None], float]] = []

    def submit(self, work: Callable[[], Any], done: Callable[[Any], None], until: float) -> bool:
        if not self.full:
            self.jobs.append((work, done, until))
        return not self.full

    def run(self) -> None:
        while self.jobs:
            work, done, _ = self.jobs.pop(0)
            try:
                result = work()
            except BaseException as error:
                result = error
            done(result)

    def late(self, thread: int = 0) -> Callable[[], Any]:
        """The time of the first is up; its work, to be done by the test afterwards."""
        work, done, _ = self.jobs.pop(0)
        done(Late(thread))
        return work


class Timer:
    def __init__(self, seconds: float, action: Callable[[], None]) -> None:
        self.seconds = seconds
        self.action = action
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Worker:
    """As much of a worker as a Conversation touches; it is its own loop."""

    def __init__(self, options: Options) -> None:
        self.loop = self
        self.pool = Threads()
        self.service = Service(options)
        self.metrics = Metrics()
        self.connections: set[Any] = set()
        self.buffer = memoryview(bytearray(65536))
        self.draining = False
        self.timers: list[Timer] = []
        self.retired = ""

    def call_later(self, seconds: float, action: Callable[[], None]) -> Timer:
        self.timers.append(Timer(seconds, action))
        return self.timers[-1]

    def retire(self, why: str) -> None:
        self.retired = why

    @property
    def running(self) -> list[Timer]:
        return [timer for timer in self.timers if not timer.cancelled]


class Talk:
    """A worker, a line of it, and one connection."""

    def __init__(self, protocol: str, code: str, quick: bool = True, options: Options | None = None) -> None:
        self.worker = Worker(options or Options())
        speech: Any
        if protocol == "policy":
            speech = Decisions(handler(code, "decide"), 30.0)
        else:
            wire: Any = {"socketmap": socketmap, "tcp_table": tcp_table}[protocol]
            speech = Lookups(handler(code, "lookup"), wire, "route")
        self.line = Line(self.worker, protocol, f"odd-{protocol}", speech, quick)  # type: ignore[arg-type]  # see Worker
        self.begin()

    def begin(self) -> None:
        self.transport = Transport()
        self.conversation = Conversation(self.line)
        self.conversation.connection_made(self.transport)  # type: ignore[arg-type]  # stands for one

    def hear(self, data: bytes) -> None:
        """As the loop reads: not while reading is paused, and no more than there is room for."""
        while data:
            assert self.transport.reading, "the loop would not read now"
            buffer = self.conversation.get_buffer(-1)
            size = min(len(data), len(buffer))
            buffer[:size] = data[:size]
            data = data[size:]
            self.conversation.buffer_updated(size)
            buffer[:size] = b"\xff" * size  # it is another connection's next

    def end(self) -> None:
        """The client has closed its side, and all that is in hand is done."""
        self.conversation.eof_received()
        self.worker.pool.run()


def log_of(path: Path) -> str:
    return path.read_text() if path.exists() else ""
