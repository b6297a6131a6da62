"""A process of the service, seen from both sides: what it is given, and what the supervisor knows of it.

A child writes a byte into its pipe once a second. It dies with its supervisor: the kernel kills it (prctl(2),
PR_SET_PDEATHSIG), since children that outlive a killed supervisor would hold the sockets against the next one. What is
in hand then is as after any kill: Postfix tries again.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from socket import socket
from typing import TYPE_CHECKING, NoReturn

from postroom import log
from postroom.resident.board import Board

if TYPE_CHECKING:
    from postroom.config import Configuration

# What the supervisor listens to; children begin with all of these as they were before it did.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)

_BEAT, _READY, _RETIRE, _FRESH = b".", b"!", b"~", b"*"

# linux/prctl.h
_PR_SET_PDEATHSIG = 1

Main = Callable[["Slot"], object]


class Slot:
    """The place of a child: its number, the board that all write to, and its word to the supervisor.

    `configuration`: what to begin with, read at `loaded` (Unix time).
    """

    __slots__ = ("_parent", "_pipe", "board", "configuration", "loaded", "number")

    def __init__(self, number: int, board: Board, pipe: int, parent: int) -> None:
        self.number = number
        self.board = board
        self._pipe = pipe
        self._parent = parent
        self.configuration: Configuration | None = None
        self.loaded = 0.0

    def alive(self) -> None:
        """To be called from the loop, once a second: whoever does not call for long is killed as stuck."""
        if os.getppid() != self._parent:
            os._exit(os.EX_TEMPFAIL)  # where the kernel does not see to it (prctl below)
        self._say(_BEAT)

    def ready(self) -> None:
        """It accepts connections now."""
        self._say(_READY)

    def retire(self) -> None:
        """It asks for another in its place, and goes on until that one is ready: then it gets its SIGTERM."""
        self._say(_RETIRE)

    def fresh(self) -> None:
        """It has read a newer configuration, which is good. From any thread."""
        self._say(_FRESH)

    def _say(self, what: bytes) -> None:
        # Full: the supervisor is stopped, and has enough to read. Broken: it is gone, and so are we, in a moment.
        with suppress(BlockingIOError, BrokenPipeError):
            os.write(self._pipe, what)


class Child:
    """A running child. Times are of the monotonic clock; `beat` is when it was last heard of."""

    __slots__ = (
        "beat", "born", "fresh", "killed", "mute", "name", "number", "pid", "pipe", "ready", "reload", "retiring",
    )  # fmt: skip

    def __init__(self, name: str, number: int, pid: int, pipe: int) -> None:
        self.name = name
        self.number = number
        self.pid = pid
        self.pipe = pipe
        self.born = self.beat = time.monotonic()
        self.ready = False
        self.reload = False  # it is to be told to, as soon as it can take a signal
        self.killed = False
        self.fresh = False  # it has read a newer configuration since this was last set to False
        self.retiring = False  # it asked for another in its place
        self.mute = False  # it has closed its end, dying or by a slip: there is nothing more to wait for

    def hear(self, now: float) -> bool:
        """Read what it said. Whether it has become ready by that."""
        try:
            said = os.read(self.pipe, 65536)
        except BlockingIOError:
            return False
        self.mute = not said
        if said:
            self.beat = now
        self.fresh = self.fresh or _FRESH in said
        self.retiring = self.retiring or _RETIRE in said
        became = not self.ready and _READY in said
        self.ready = self.ready or became
        return became

    def signal(self, number: int) -> None:
        """Not reaped yet, it is there to be signalled, dead or alive."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        if not self.killed:
            self.killed = True
            self.signal(signal.SIGKILL)

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid})"


def start(name: str, number: int, board: Board, main: Main, closing: Iterable[int | socket]) -> Child:
    """Fork a child that runs `main`, and closes what is the supervisor's, `closing`. Raises OSError."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    parent = os.getpid()
    # Until the child has its own handlers a signal has to wait: the supervisor's, run in the child, would lose it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        pid = os.fork()
        if not pid:
            _live(main, Slot(number, board, writer, parent), (reader, *closing), before)
    except OSError:
        os.close(reader)
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(writer)
    return Child(name, number, pid, reader)


def _live(main: Main, slot: Slot, closing: Iterable[int | socket], mask: Iterable[int]) -> NoReturn:
    status = os.EX_SOFTWARE
    try:
        die_with(slot._parent)
        signal.set_wakeup_fd(-1)
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        # A terminal sends ^C and its end to all of them; it is for the supervisor to say what is to be done. Not
        # SIG_IGN, which the program of a `command` would inherit.
        signal.signal(signal.SIGINT, _nothing)
        signal.signal(signal.SIGHUP, _nothing)
        for one in closing:
            os.close(one) if isinstance(one, int) else one.close()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        main(slot)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-1:]
        place = f"{where[0].filename}:{where[0].lineno} in {where[0].name}" if where else None
        log.error("", fault="resident", at=place, text=f"{type(error).__name__}: {error}")
    finally:
        os._exit(status)


def _nothing(number: int, frame: object) -> None:
    """Neither ends the process nor is passed on by exec."""


def die_with(parent: int) -> None:
    """Have the kernel kill this process when `parent` is gone; it may be so already."""
    with suppress(OSError, AttributeError):  # no such call: Slot.alive() finds out within a second
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(os.EX_TEMPFAIL)


def ending(status: int) -> str:
    """How a process ended, from what waitpid(2) says of it."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        try:
            return f"killed by {signal.Signals(number).name}"
        except ValueError:
            return f"killed by signal {number}"
    return f"ended with status {os.WEXITSTATUS(status)}"
