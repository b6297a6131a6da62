"""Which handler answers on which connection: the lines of a worker, one for each protocol, program and table."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from postroom.resident.conversation import Conversation
from postroom.resident.handoff import HandoffProtocol
from postroom.resident.line import Line
from postroom.resident.lmtp import LmtpProtocol
from postroom.runners.decisions import Decisions
from postroom.runners.stdio import DEFAULT_DEADLINE
from postroom.runners.tables import Lookups
from postroom.wire import socketmap, tcp_table

if TYPE_CHECKING:
    from collections.abc import Callable

    from postroom.config import Listen
    from postroom.resident.worker import Worker
    from postroom.runners.stdio import Speech

    Factory = Callable[[Worker, Listen], asyncio.BaseProtocol]

_WIRES: dict[str, Any] = {"socketmap": socketmap, "tcp_table": tcp_table}

# What a program's handler is for, where its connection speaks this.
_KINDS = {"policy": "policy", "socketmap": "lookup", "tcp_table": "lookup"}


class Lines:
    """Made when they are first needed, and kept: connections of an earlier reload have theirs from here, too."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._lines: dict[tuple[str, str, str], Line] = {}

    def line(self, protocol: str, program: str, table: str) -> Line:
        key = (protocol, program, table)
        if key not in self._lines:
            self._lines[key] = Line(self._worker, protocol, program, *self._speech(*key))
        return self._lines[key]

    def renew(self) -> None:
        """The programs of the worker are others now."""
        for key, line in self._lines.items():
            line.renew(*self._speech(*key))

    def _speech(self, protocol: str, name: str, table: str) -> tuple[Speech, bool]:
        """And whether the handler goes through sources for all that it may wait for."""
        program = self._worker.programs.get(name)
        good = program is not None and program.kind == _KINDS[protocol]
        handler: Any = program.handler if program is not None and good else None
        speech: Speech
        if protocol == "policy":
            speech = Decisions(handler, DEFAULT_DEADLINE)
        else:
            speech = Lookups(handler, _WIRES[protocol], table or "route")
        if program is None or not good:
            speech.refuse(f"{name}: " + (f"answers no {protocol}" if program is not None else "is not loaded"))
            return speech, False
        return speech, program.through_sources


def _conversation(worker: Worker, listen: Listen) -> asyncio.BaseProtocol:
    return Conversation(worker.lines.line(listen.protocol, listen.program, listen.table))


PROTOCOLS: dict[str, Factory] = {
    "policy": _conversation,
    "socketmap": _conversation,
    "tcp_table": _conversation,
    "lmtp": LmtpProtocol,
    "handoff": HandoffProtocol,
}
