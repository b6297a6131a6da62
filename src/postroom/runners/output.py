"""What a handler prints, led away from Postfix's descriptors and into the log, bounded.

A stray print() would otherwise be read by Postfix as the status of a delivery (pipe(8)), or by a client as part of
its conversation (spawn(8), where descriptors 0, 1 and 2 are one socket).
"""

from __future__ import annotations

import os
import select

from postroom import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from postroom.deadline import Deadline

# A chatty handler must not fill the log disk: this much a delivery is kept, the rest is counted.
MAX_LINES = 50
MAX_BYTES = 8192
_CHUNK = 65536

# Reads at the end: what a pipe can hold, and a little of what comes meanwhile.
DRAIN = 64


class Captured:
    """Descriptors 1 and 2 as a pipe of our own, whose lines are logged."""

    def __init__(self, queue_id: str) -> None:
        import _thread

        self._queue_id = queue_id
        self._reader, writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.dup2(writer, 1, inheritable=True)
        os.dup2(writer, 2, inheritable=True)
        os.close(writer)
        self._lock = _thread.allocate_lock()
        self._rest = b""
        self._lines = 0
        self._bytes = 0
        self._dropped = 0

    def pump(self, deadline: Deadline) -> None:
        """Log what is printed, until the deadline. Runs in a thread of its own."""
        watched = [self._reader]
        while not deadline.expired:
            # A second at most: the deadline may have been set anew meanwhile.
            if select.select(watched, [], [], deadline.remaining(1.0))[0] and not self._read_some():
                watched = []  # its end: there is nothing left but the deadline to wait for

    def renew(self) -> None:
        """Give a fresh allowance: for a program that lives through many requests."""
        with self._lock:
            self._report_dropped()
            self._lines = self._bytes = self._dropped = 0

    def close(self) -> None:
        """Log the rest. Descriptors 1 and 2 lead nowhere afterwards."""
        import sys

        for stream in (sys.stdout, sys.stderr):
            try:  # noqa: SIM105 - contextlib costs 4 ms at start-up
                stream.flush()
            except (OSError, ValueError, AttributeError):
                pass  # closed or replaced by the handler
        null = os.open("/dev/null", os.O_RDWR)
        os.dup2(null, 1)
        os.dup2(null, 2)
        for _ in range(DRAIN):  # a child that goes on printing must not hold the answer up
            if not self._read_some():
                break
        with self._lock:
            self._line(self._rest)
            self._report_dropped()

    def _report_dropped(self) -> None:
        if self._dropped:
            log.warning(self._queue_id, output_dropped=self._dropped, text="bytes printed past the limit")

    def _read_some(self) -> bool:
        """Whether there was something, and may be more."""
        with self._lock:
            try:
                data = os.read(self._reader, _CHUNK)
            except BlockingIOError:
                return False
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                self._line(line)
            if len(self._rest) > MAX_BYTES:
                self._line(self._rest)
                self._rest = b""
            return bool(data)

    def _line(self, line: bytes) -> None:
        if not line.strip():
            return
        if self._lines >= MAX_LINES or self._bytes >= MAX_BYTES:
            self._dropped += len(line)
            return
        self._lines += 1
        self._bytes += len(line)
        log.info(self._queue_id, output=line[:1000].decode("utf-8", "replace"))
