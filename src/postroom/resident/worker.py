"""A worker: the loop, the connections that it has, and its end.

    run(slot, listeners, options)            # in a process that the supervisor has forked; does not return

All workers listen on the same sockets (doors.py). What a connection says is its protocol's (lines.py); what may wait is
for the threads of the pool.

It ends on SIGTERM: what is in hand is answered; connections without a request are closed at once, since Postfix opens
another when it has one. Where its threads are stuck or memory is used up it asks for another worker in its place, and
goes on until the supervisor has that one and sends SIGTERM.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

from postroom import cpus, log, store
from postroom.config import Listen
from postroom.deadline import Deadline
from postroom.resident import programs
from postroom.resident.doors import Doors
from postroom.resident.lines import PROTOCOLS, Lines
from postroom.resident.metrics import Metrics
from postroom.resident.pool import Pool
from postroom.resident.service import Service
from postroom.runners.faults import place, words
from postroom.runners.output import Captured
from postroom.runners.stdio import OUTPUT_PERIOD
from postroom.status import EX_OK, EX_TEMPFAIL
from postroom.store import grouped

if TYPE_CHECKING:
    from postroom.resident.child import Slot
    from postroom.resident.listeners import Listener
    from postroom.resident.programs import Program
    from postroom.runners.options import Options

# One read, of whatever connection: what it brings is taken over before the next. A usual request has 700 bytes.
BUFFER = 65536

# The supervisor hears of us this often, and the board is written.
TICK = 1.0

# How often it is seen how much the threads have to do: from so many requests on since the last time, they keep to one
# CPU (cpus.py); with few, to none.
LOOK = 0.25
BUSY, QUIET = 50, 12

# After a call to end. Below what the supervisor waits for (DRAIN_LIMIT there): who is not answered by then is told
# "later", and not nothing.
DRAIN_LIMIT = 50.0
DRAIN_TICK = 0.02

# Meanwhile, who has not read for so long what he was told is not waited for: Postfix reads at once.
UNREAD_SECONDS = 5.0

# For program files to be executed; they import what they need. What hangs in one for longer is reported.
LOAD_SECONDS = 15.0

# With this share of the threads stuck, in handlers that nothing can stop, the rest will follow: a new worker has all of
# its threads. With fewer there would be a new one for little.
STUCK_SHARE = 0.5


class Worker:
    """`connections`: protocols with `drain()`, `abort()`, `close_now()` and, where they may be idle, `idle_since`."""

    def __init__(
        self, slot: Slot, listeners: list[Listener], options: Options, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.loop = loop
        self.slot = slot
        self.options = options
        self.draining = False
        self.connections: set[Any] = set()
        self.buffer = memoryview(bytearray(BUFFER))
        self.service = Service(options)
        self.service.start(slot.configuration, slot.loaded, slot.fresh)
        serve = self.service.serve
        self.pool = Pool(loop, serve.threads, serve.queue)
        self.metrics = Metrics(lambda: self.pool.waiting, lambda: self.pool.stuck)
        self.programs: dict[str, Program] = programs.load(serve.programs)
        self.lines = Lines(self)
        self._doors = Doors(self, listeners, self._enter)
        self._entering: set[asyncio.Task[Any]] = set()
        self._reloading = False
        self._again = False
        self._loading: asyncio.TimerHandle | None = None  # while a thread executes program files
        self._retiring = False
        self._end_by = 0.0
        self._submitted = 0  # to the pool, by the last look

    @property
    def open_connections(self) -> int:
        return len(self.connections) + len(self._entering)

    def start(self) -> None:
        for number, action in ((signal.SIGTERM, self.drain), (signal.SIGHUP, self.reload)):
            self.loop.add_signal_handler(number, action)
        self.loop.set_exception_handler(self._uncaught)
        self.metrics.facts.update(programs=sorted(self.programs), draining=False)
        self._doors.open()
        self._tick()
        self._choose_cpus()
        self.slot.ready()

    # Connections.

    def adopt(self, sock: socket.socket, protocol: str, program: str, table: str = "") -> None:
        """Have a connected socket served as one that was accepted."""
        self._enter(sock, Listen(protocol, protocol, "", program=program, table=table))

    def _enter(self, sock: socket.socket, listen: Listen) -> None:
        sock.setblocking(False)
        make = PROTOCOLS[listen.protocol]
        task = self.loop.create_task(self.loop.connect_accepted_socket(lambda: make(self, listen), sock))
        self._entering.add(task)
        task.add_done_callback(self._entered)

    def _entered(self, task: asyncio.Task[Any]) -> None:
        self._entering.discard(task)
        error = task.exception()
        if error is not None and not isinstance(error, OSError):  # the client may have gone
            raise error
        if self.draining and error is None:
            task.result()[1].drain()

    # Signals.

    def reload(self) -> None:
        """Read the configuration and changed program files anew, in threads; once more where asked for meanwhile."""
        if self._reloading:
            self._again = True
            return
        self._reloading, self._again = True, False
        threading.Thread(target=self._reload, name="reload", daemon=True).start()

    def _reload(self) -> None:
        try:
            reason = self.service.reload()
        except Exception as error:  # a bug in reading it must not leave us deaf to the next call
            reason = words(error)
            log.error("", fault="configuration", at=place(error), text=reason)
        with suppress(RuntimeError):  # the loop is closed
            self.loop.call_soon_threadsafe(self._configured, reason)

    def _configured(self, reason: str) -> None:
        """The configuration is in force: have program files executed, but never two at a time."""
        if reason:
            self._reloaded(reason, self.programs)
        elif self._loading is not None:
            self._overdue()
            self._again = True
        else:
            self._loading = self.loop.call_later(LOAD_SECONDS, self._overdue)
            threading.Thread(target=self._load, name="programs", daemon=True).start()

    def _load(self) -> None:
        reason, found = "", self.programs
        try:
            found = programs.load(self.service.serve.programs, self.programs)
        except Exception as error:  # as above
            reason = words(error)
            log.error("", fault="program", at=place(error), text=reason)
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self._loaded, reason, found)

    def _loaded(self, reason: str, found: dict[str, Program]) -> None:
        if self._loading is not None:
            self._loading.cancel()
            self._loading = None
        self._reloaded(reason, found)

    def _overdue(self) -> None:
        """Whatever hangs in a program's file: the next call is heard. What comes of it in the end is taken then."""
        reason = f"a program file has not come to its end within {LOAD_SECONDS:g} s: programs stay as they are"
        log.error("", fault="program", text=reason)
        self._reloaded(reason, self.programs)

    def _reloaded(self, reason: str, found: dict[str, Program]) -> None:
        self._reloading = False
        self.programs = found
        self.lines.renew()
        self.metrics.facts.update(reloaded=[time.time(), reason], programs=sorted(found))
        if self._again:
            self.reload()

    def drain(self) -> None:
        """Accept no more, answer what is in hand, and leave."""
        if self.draining:
            return
        self.draining = self.metrics.facts["draining"] = True
        self._end_by = time.monotonic() + DRAIN_LIMIT
        self._doors.close()
        for one in list(self.connections):
            one.drain()
        self.loop.call_later(UNREAD_SECONDS, self._abort_unread)
        self._drained()

    def _abort_unread(self) -> None:
        for one in list(self.connections):
            one.abort()
        self.loop.call_later(UNREAD_SECONDS, self._abort_unread)

    def retire(self, why: str) -> None:
        """Have another worker started; this one goes on until that is ready, so that somebody always answers."""
        if self._retiring or self.draining:
            return
        self._retiring = True
        self.slot.retire()
        log.error("", fault="resident", text=f"{why}: another worker has to come in its place")

    def _drained(self) -> None:
        idle = not (self.open_connections or self.pool.unanswered)
        if not idle and time.monotonic() < self._end_by:
            self.loop.call_later(DRAIN_TICK, self._drained)
            return
        if not idle:
            log.warning("", text=f"{len(self.connections)} connections are closed with something in hand")
            for one in list(self.connections):
                one.close_now()
        self.loop.call_later(0 if idle else DRAIN_TICK, self._leave)  # what was written last goes out meanwhile

    def _leave(self) -> None:
        """The last word on the board is all that was counted: who comes after counts from nothing."""
        self.slot.board.write(self.slot.number, self.metrics.snapshot())
        self.loop.stop()

    # Each second, and when all fails.

    def _tick(self) -> None:
        self.slot.alive()
        self.metrics.facts.update(fault=self.service.fault, loaded=self.service.loaded)
        self.slot.board.write(self.slot.number, self.metrics.snapshot())
        if self.pool.stuck >= max(1, self.pool.threads * STUCK_SHARE):
            self.retire(f"{self.pool.stuck} of {self.pool.threads} threads do not come back")
        self.loop.call_later(TICK, self._tick)

    def _choose_cpus(self) -> None:
        before, self._submitted = self._submitted, self.pool.submitted
        if self._submitted - before >= BUSY and not cpus.settled():
            cpus.settle(self.slot.number)
        elif self._submitted - before < QUIET:
            cpus.spread()
        self.loop.call_later(LOOK, self._choose_cpus)

    def _uncaught(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A connection whose own code fails has been closed by its transport; anything else may have broken more."""
        error = context.get("exception")
        if isinstance(error, MemoryError):  # for what was asked for just now; there may be enough for the next
            self.retire("out of memory")
            return
        if "transport" in context and "protocol" in context:
            protocol = type(context["protocol"]).__name__
            log.error("", fault="resident", at=_place(error), text=f"{protocol}: {_words(error, context)}")
            return
        log.error("", fault="resident", at=_place(error), text=_words(error, context))
        os._exit(EX_TEMPFAIL)


def _place(error: BaseException | None) -> str | None:
    return None if error is None else place(error)


def _words(error: BaseException | None, context: dict[str, Any]) -> str:
    return str(context.get("message")) if error is None else words(error)


def run(slot: Slot, listeners: list[Listener], options: Options) -> NoReturn:
    """Serve until told to end."""
    status = EX_TEMPFAIL
    try:
        captured = _quiet()
        loop = asyncio.new_event_loop()
        store.share(grouped.open)
        worker = Worker(slot, listeners, options, loop)
        _warm()
        worker.start()
        loop.run_forever()
        captured.close()
        status = EX_OK
    except BaseException as error:
        log.error("", fault="resident", at=place(error), text=words(error))
    finally:
        os._exit(status)


def _quiet() -> Captured:
    """What handlers print goes to the log; there is nothing for them to read."""
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.close(null)
    captured = Captured("")
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # nobody has replaced them yet
    threading.Thread(target=_pump, args=(captured,), name="output", daemon=True).start()
    return captured


def _pump(captured: Captured) -> None:
    while True:
        captured.pump(Deadline(OUTPUT_PERIOD))
        captured.renew()


def _warm() -> None:
    """What requests would wait for at first. What is there by now is not looked through for garbage again."""
    import dns.message  # noqa: F401 - half a second on a slow machine

    gc.collect()
    gc.freeze()
