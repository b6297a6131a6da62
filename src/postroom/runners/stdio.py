"""Run a handler under spawn(8): a conversation on the socket that is descriptor 0, 1 and 2 at once.

`run` is for policy handlers, postroom.runners.tables for lookups; a Speech is what the two differ in.

Whatever a program writes to descriptor 1 or 2 goes to Postfix, between its replies; and Postfix waits for a reply that
does not come for 100 s, and then asks again. So this module
* takes the socket away from all three descriptors first; what the handler prints goes to the log, bounded;
* answers "later" (DEFER_IF_PERMIT, TEMP) where a handler raises, or says what Postfix would misread, and goes on;
* answers by itself when the deadline of a request passes, from a thread, and leaves; and if not even that thread gets
  to run (C code that holds the interpreter, such as a runaway pattern), the kernel ends the process by SIGALRM, and
  Postfix defers the mail by itself;
* leaves when the client has closed, when there was nothing to do for long, at the end of its lifetime, and when
  spawn(8) is gone. spawn(8) cannot be relied on: before 3.10 it fails to kill a program past its time limit, and
  `postfix stop` leaves the program behind with the socket open;
* leaves by os._exit: status 0 in each of the cases above, 75 where something went wrong.
(src/spawn/spawn.c, src/util/spawn_command.c, src/util/auto_clnt.c)
"""

from __future__ import annotations

import os
import sys
from time import monotonic

from postroom import handoff, log
from postroom.deadline import Deadline
from postroom.runners.captive import hand_over
from postroom.runners.faults import place, place_of_thread, program, words
from postroom.runners.options import Options, parse
from postroom.runners.output import Captured
from postroom.runners.service import Service
from postroom.status import EX_OK, EX_TEMPFAIL, ConfigurationFault, Fault
from postroom.wire.events import CLOSED, NEED_DATA, Malformed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn, Protocol

    from postroom.policy import PolicyRequest

    Decide = Callable[[PolicyRequest], str]

    class Reader(Protocol):
        @property
        def partial(self) -> bool: ...
        def receive_data(self, data: bytes | memoryview) -> None: ...
        def next_event(self) -> Any: ...

    class Asked(Protocol):
        """A request as the handler sees it."""

        @property
        def logged(self) -> bool: ...

    class Speech(Protocol):
        """What a protocol has of its own. `options`: of the command line; `limit`: seconds for a request."""

        options: tuple[str, ...]
        limit: float

        def configure(self, options: Options) -> None: ...
        def refuse(self, reason: str) -> None: ...
        def reader(self) -> Reader: ...
        def request(self, event: Any, service: Any, until: float) -> Any: ...
        def answer(self, request: Any) -> bytes: ...
        def failure(self, request: Any, status: str) -> bytes: ...
        def malformed(self) -> bytes: ...
        def outcome(self, answer: bytes) -> str: ...
        def queue_id(self, request: Any) -> str: ...
        def log(self, request: Any, answer: bytes) -> None: ...


__all__ = ["Service", "converse", "run"]

# A request is answered within this. Postfix waits smtpd_policy_service_timeout (100 s) and then asks a second time; an
# SMTP client waits 300 s for the reply to RCPT (RFC 5321 section 4.5.3.2.3), during which several lists may ask.
DEFAULT_DEADLINE = 30.0

# What of it a handler may use for its own waits: an answer of its own is better than ours.
HANDLER_SHARE = 0.9

# The thread that watches gets this long past a deadline before the kernel ends the process.
GRACE = 5.0

# Longer than Postfix keeps a connection without use (smtpd_policy_service_max_idle, 300 s): were we the first to
# leave, its next request would find the connection closed and wait smtpd_policy_service_retry_delay, a second.
IDLE_LIMIT = 1000.0

# Longer than Postfix uses a connection (smtpd_policy_service_max_ttl, 1000 s, and max_idle), shorter than the
# time limit of 3600 s that a spawn(8) entry for a policy service should have.
LIFETIME = 3000.0

# How often the watching thread looks, and for how long after a request it does not end a lifetime.
TICK = 1.0

# Handlers may print all through a connection's life: the log takes this allowance of output afresh.
OUTPUT_PERIOD = 60.0

# One read. A request is 700 bytes; below glibc's mmap threshold, above which each read would cost three system calls.
CHUNK = 16384


def run(
    decide: Decide, idle: float = IDLE_LIMIT, lifetime: float = LIFETIME, through_sources: bool = False
) -> NoReturn:
    """Answer the policy requests of one client by `decide`, and leave.

    `through_sources`: whatever `decide` may wait for goes through `service.sources`; it concerns the resident, which
    then answers without a thread where there is nothing to wait for.
    """
    hand_over("policy", decide, through_sources=through_sources)
    converse(lambda: _policy(decide), idle, lifetime)


def _policy(decide: Decide) -> Speech:
    from postroom.runners.decisions import Decisions  # here: programs that answer lookups do without

    return Decisions(decide, DEFAULT_DEADLINE)


def converse(make: Callable[[], Speech], idle: float = IDLE_LIMIT, lifetime: float = LIFETIME) -> NoReturn:
    """Speak with one client, and leave; or give it away to the resident, and leave."""
    handoff.offer()
    try:
        _converse(make(), Client(), idle, lifetime)
    except BaseException as error:  # whatever it is, it must not reach descriptor 2, nor end in silence
        log.error("", fault="runner", at=place(error), text=words(error))
        os._exit(EX_TEMPFAIL)


def _converse(speech: Speech, client: Client, idle: float, lifetime: float) -> NoReturn:
    options = Options()
    try:
        parse(sys.argv[1:], options, speech.options)
        speech.configure(options)
    except ConfigurationFault as error:
        # Closing would cost Postfix a second try, a second of waiting, and the administrator the reason.
        speech.refuse(str(error))
    log.open(program(), options.log or "syslog")
    if options.help:
        client.write((sys.modules["__main__"].__doc__ or "").strip().encode() + b"\n")
        os._exit(EX_OK)
    captured = client.take_away()
    if options.words:
        log.warning("", text="what follows -- in master.cf is not used: spawn(8) has no macros")
    Conversation(speech, client, Service(options, speech.limit), captured).converse(idle, lifetime)


class Client:
    """The socket, kept from the handler and its children."""

    __slots__ = ("_input", "_output")

    def __init__(self) -> None:
        # Two, so that a program can be tried by hand with a file and a terminal. Both are closed on exec.
        self._input = os.dup(0)
        self._output = os.dup(1)

    def take_away(self) -> Captured:
        """Leave nothing of the client on descriptors 0, 1 and 2."""
        captured = Captured("")
        _point_at_nothing(0)
        os.register_at_fork(after_in_child=self._forget)
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # nobody has replaced them yet
        return captured

    def _forget(self) -> None:
        """In a child that a handler forked: where its code falls through to ours, it must not answer a second time."""
        _point_at_nothing(self._input)
        _point_at_nothing(self._output)

    def read(self) -> bytes:
        """What came; empty at the end, which a client that vanished has reached too."""
        try:
            return os.read(self._input, CHUNK)
        except ConnectionError:
            return b""

    def write(self, data: bytes) -> None:
        """Raises ConnectionError where the client has gone."""
        written = os.write(self._output, data)
        while written < len(data):
            written += os.write(self._output, data[written:])


def _point_at_nothing(fd: int) -> None:
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, fd, inheritable=fd < 3)
    os.close(null)


class Conversation:
    """One client's requests, one after the other, and the thread that watches over them."""

    __slots__ = (
        "_captured", "_client", "_due", "_end", "_main", "_request", "_service", "_since", "_speech", "_turn",
    )  # fmt: skip

    def __init__(self, speech: Speech, client: Client, service: Service, captured: Captured) -> None:
        import _thread

        self._speech = speech
        self._client = client
        self._service = service
        self._captured = captured
        self._request: Any = None
        self._due = 0.0  # when the request in hand has to be answered; 0 between requests
        self._since = monotonic()  # of the last request
        self._end = 0.0  # of the lifetime
        self._main = _thread.get_ident()
        # The right to answer. The watching thread takes it and never gives it back: where the deadline passes while
        # the handler returns, Postfix gets one of the two answers, never both.
        self._turn = _thread.allocate_lock()

    def converse(self, idle: float, lifetime: float) -> NoReturn:
        import _signal  # type: ignore[import-not-found]  # signal without enum, which alone costs 8 ms at start-up
        import _thread

        self._end = monotonic() + lifetime
        _signal.signal(_signal.SIGALRM, _signal.SIG_DFL)  # it may have been inherited as ignored
        self._arm()  # the first request may be the one that holds the interpreter, before the thread has run
        _thread.start_new_thread(self._watch, (idle, os.getppid()))
        reader = self._speech.reader()
        while True:
            while (event := reader.next_event()) is not NEED_DATA:  # also before the first byte: LMTP greets
                if event is CLOSED:
                    self._leave(EX_OK)
                if event.__class__ is Malformed:
                    self._give_up(event)
                self._serve(event)
            reader.receive_data(self._client.read())

    def _give_up(self, event: Malformed) -> NoReturn:
        self._tell(self._speech.malformed())
        log.warning("", fault="protocol", text=event.reason)
        self._leave(EX_TEMPFAIL)

    def _tell(self, answer: bytes) -> bool:
        try:
            self._client.write(answer)
        except ConnectionError:
            return False
        return True

    def _serve(self, event: Any) -> None:
        now = monotonic()
        limit = self._service.limit
        request = self._request = self._speech.request(event, self._service, now + limit * HANDLER_SHARE)
        self._since = now
        self._due = now + limit
        answer, fault = self._answer(request)
        with self._turn:
            self._due = 0.0
        heard = self._tell(answer)
        if fault is not None:
            log.error(self._speech.queue_id(request), fault="handler", at=place(fault), text=words(fault))
        if not heard:
            log.info(self._speech.queue_id(request), text="the client closed before the reply")
            self._leave(EX_OK)
        if request.logged:
            self._speech.log(request, answer)
        if now >= self._end:
            self._leave(EX_OK)

    def _answer(self, request: Asked) -> tuple[bytes, BaseException | None]:
        """The answer, and what went wrong; that is logged when Postfix has the answer, since a log may be slow."""
        try:
            return self._speech.answer(request), None
        except BaseException as error:  # SystemExit included: our fault, so the mail is deferred
            if isinstance(error, MemoryError):
                self._end = 0.0  # answer, then leave room for others
            return self._speech.failure(request, error.status if isinstance(error, Fault) else Fault.status), error

    def _leave(self, status: int) -> NoReturn:
        self._captured.close()
        os._exit(status)

    def _watch(self, idle: float, parent: int) -> NoReturn:
        """The watching thread. It must not end before the process: what the handler prints would fill the pipe."""
        renewed = monotonic()
        try:
            while True:
                self._captured.pump(Deadline(self._pause()))
                self._arm()
                self._look(idle, parent)
                if monotonic() - renewed >= OUTPUT_PERIOD:
                    renewed = monotonic()
                    self._captured.renew()
        except BaseException as error:
            log.error("", fault="runner", at=place(error), text=words(error))
            os._exit(EX_TEMPFAIL)

    def _arm(self) -> None:
        """The default action of SIGALRM ends the process, whatever holds its threads. Put off as long as one runs."""
        import _signal

        _signal.setitimer(_signal.ITIMER_REAL, self._service.limit + GRACE)

    def _pause(self) -> float:
        due = self._due
        tick = min(TICK, self._service.limit / 4)
        return min(tick, due - monotonic()) if due else tick

    def _look(self, idle: float, parent: int) -> None:
        now, due = monotonic(), self._due
        if due:
            if now >= due:
                self._overdue(due)
            return
        quiet = now - self._since
        # A parent of another number is init, or who stands in for it: spawn(8) is gone.
        if quiet >= idle or (now >= self._end and quiet >= TICK) or os.getppid() != parent:
            os._exit(EX_OK)

    def _overdue(self, due: float) -> None:
        """Answer for the handler and leave: nothing can stop it, and nothing of its must follow."""
        self._turn.acquire()
        if self._due != due:
            self._turn.release()
            return
        request, at = self._request, place_of_thread(self._main)
        self._tell(self._speech.failure(request, Fault.status))
        text = f"not answered within {self._service.limit:g} seconds"
        log.error(self._speech.queue_id(request), fault="deadline", at=at, text=text)
        os._exit(EX_TEMPFAIL)
