"""sd_notify(3): telling systemd how the service is; without systemd nothing at all.

The variables are taken out of the environment, as sd_notify(3) does with unset_environment: what a worker starts (the
program of a `command` action, say) must not speak for the service.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import MutableMapping


class Notify:
    """Where to tell it, and how often systemd wants to hear of us (`interval`, seconds; 0: not at all)."""

    __slots__ = ("_address", "_due", "interval")

    def __init__(self, environ: MutableMapping[str, str] | None = None) -> None:
        environ = os.environ if environ is None else environ
        self._address = _address(environ.pop("NOTIFY_SOCKET", ""))
        limit = environ.pop("WATCHDOG_USEC", "")
        pid = environ.pop("WATCHDOG_PID", "")
        # Of another process: not meant for us (sd_watchdog_enabled(3)).
        meant = self._address and limit.isascii() and limit.isdigit() and pid in ("", str(os.getpid()))
        # Half of it, as sd_watchdog_enabled(3) recommends.
        self.interval = int(limit) / 2e6 if meant else 0.0
        self._due = time.monotonic()

    def ready(self, status: str) -> None:
        # MAINPID: a service that detached itself is not the process that systemd started.
        self._tell("READY=1", f"MAINPID={os.getpid()}", f"STATUS={status}")

    def reloading(self) -> None:
        """systemd.service(5): for Type=notify-reload the time must be that of CLOCK_MONOTONIC. `ready` ends it."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self, status: str) -> None:
        self._tell("STOPPING=1", f"STATUS={status}")

    def status(self, status: str) -> None:
        self._tell(f"STATUS={status}")

    def pause(self, now: float) -> float:
        """Seconds until the watchdog wants a sign of life."""
        return max(0.0, self._due - now) if self.interval else float("inf")

    def alive(self, now: float) -> None:
        if self.interval and now >= self._due:
            self._due = now + self.interval
            self._tell("WATCHDOG=1")

    def _tell(self, *lines: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
                # A systemd that does not read must not stop mail: what it misses then is a line of status, or, where
                # it is stuck for the whole interval, a sign of life.
                out.setblocking(False)
                out.sendto("\n".join(lines).encode("utf-8", "surrogateescape"), self._address)
        except OSError:
            pass


def _address(text: str) -> str:
    """A path, or a name of Linux's abstract namespace, written with `@` in place of the NUL."""
    if text.startswith("@"):
        return "\0" + text[1:]
    return text if text.startswith("/") else ""
