"""The health process: one child of the supervisor that answers /metrics, /status and /healthz over HTTP.

    health.run(listeners, board, about, alive)       # in the child; never returns

It reads the board once a second and asks nobody: what hangs in a worker cannot hang here, and a scrape costs no worker
anything. What it answers is at most a second old, and made once for all who ask within it. `about` is described in
report.py; `alive` is called once a second.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from threading import Lock
from typing import TYPE_CHECKING, Any, NoReturn

from postroom import log
from postroom.resident import report
from postroom.resident.board import Board
from postroom.resident.totals import Totals

if TYPE_CHECKING:
    from postroom.resident.listeners import Listener

# Seconds between two looks at the board.
TICK = 1.0

_TEXT = "text/plain; charset=utf-8"


class Health:
    """The pages, from the board as it was when it was last looked at."""

    __slots__ = ("_about", "_made", "_pages", "_turn", "totals")

    def __init__(self, board: Board, about: dict[str, Any]) -> None:
        self._about = about
        self._turn = Lock()
        self._made: dict[str, tuple[int, str, bytes]] = {}
        self._pages: dict[str, Callable[[], tuple[int, str, bytes]]] = {
            "/metrics": self._metrics,
            "/status": self._status,
            "/healthz": self._healthz,
        }
        self.totals = Totals(board)

    def look(self) -> None:
        """Read the board; what was made of it before is made anew when somebody asks."""
        with self._turn:
            self.totals.look()
            self._made.clear()

    def page(self, path: str) -> tuple[int, str, bytes]:
        """HTTP status, content type and body."""
        with self._turn:
            if path not in self._pages:
                return (404, _TEXT, f"there are {', '.join(sorted(self._pages))}\n".encode())
            if path not in self._made:
                self._made[path] = self._pages[path]()
            return self._made[path]

    def _metrics(self) -> tuple[int, str, bytes]:
        from postroom.resident import exposition  # prometheus-client, which only this process needs

        return (200, exposition.CONTENT_TYPE, exposition.page(self._about, self.totals))

    def _status(self) -> tuple[int, str, bytes]:
        told = report.status(report.merged(self._about, self.totals), self.totals)
        return (200, "application/json", json.dumps(told).encode() + b"\n")

    def _healthz(self) -> tuple[int, str, bytes]:
        well, text = report.health(report.merged(self._about, self.totals), self.totals)
        return (200 if well else 503, _TEXT, text.encode() + b"\n")


def run(sockets: list[Listener], board: Board, about: dict[str, Any], alive: Callable[[], None]) -> NoReturn:
    """Answer on these sockets until SIGTERM, or until the supervisor is gone."""
    parent = os.getppid()
    _take_signals()
    log.speaking_as("health")
    from postroom.resident.web import Web  # http.server: some megabytes that workers, forked before, do without

    try:
        web = Web([one.socket for one in sockets], Health(board, about))
        while os.getppid() == parent:
            alive()
            web.serve(until=time.monotonic() + TICK)
    except BaseException as error:
        log.error("", fault="health", text=f"{type(error).__name__}: {error}")
        os._exit(os.EX_TEMPFAIL)
    os._exit(os.EX_OK)


def _take_signals() -> None:
    """In place of the supervisor's, which were inherited: this process has nothing to finish, and nothing to reload."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, lambda _number, _frame: os._exit(os.EX_OK))
    for ignored in (signal.SIGHUP, signal.SIGINT):  # of a terminal: the supervisor sees it, too, and ends us
        signal.signal(ignored, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
