"""Run a lookup handler under spawn(8): the conversation of stdio.py, by one of the protocols for tables.

    run(lookup, socketmap)              # postroom.wire.socketmap: the client names the table
    run(lookup, tcp_table)              # postroom.wire.tcp_table: --table in master.cf does

Where a handler raises, answers what Postfix would misread, or is too slow, the answer is the lookup's `fallback`, and
TEMP or 400 without one: Postfix then puts the mail off, and asks again.
"""

from __future__ import annotations

from postroom import log
from postroom.lookup import Answer, Table, temporary
from postroom.runners.captive import hand_over
from postroom.runners.stdio import IDLE_LIMIT, LIFETIME, converse
from postroom.status import ConfigurationFault
from postroom.wire.events import Lookup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn, Protocol

    from postroom.lookup import Service
    from postroom.runners.options import Options
    from postroom.runners.stdio import Reader

    Handler = Callable[[Table, str], Answer]

    class Wire(Protocol):
        """postroom.wire.socketmap or postroom.wire.tcp_table."""

        @property
        def NAMES_TABLE(self) -> bool: ...
        @property
        def Reader(self) -> Callable[[], Reader]: ...
        @property
        def reply(self) -> Callable[[str, str], bytes]: ...
        @property
        def kind(self) -> Callable[[bytes], str]: ...


# A lookup is answered within this. Postfix waits 100 s for it (src/util/dict_sockmap.c, dict_tcp.c), but it may be the
# queue manager's one resolver that waits, and all mail with it.
DEFAULT_DEADLINE = 10.0

# Answers that are in the log already; what is asked after that many others is logged again.
_TOLD_KEPT = 1000

# Of a key, in the log: it may be a header of 100 KB.
_SHOWN = 200


def run(
    handler: Handler,
    wire: Wire,
    idle: float = IDLE_LIMIT,
    lifetime: float = LIFETIME,
    through_sources: bool = False,
) -> NoReturn:
    """Answer the lookups of one client by `handler`, and leave. `through_sources` is as in stdio.py."""
    hand_over("lookup", handler, wire, through_sources)
    converse(lambda: Lookups(handler, wire), idle, lifetime)


class Lookups:
    """A handler that looks up, and the protocol round it."""

    __slots__ = ("_handler", "_table", "_told", "_wire", "limit", "options", "reader")

    def __init__(self, handler: Handler, wire: Wire, table: str = "") -> None:
        """`table`: of a protocol that names none."""
        self._handler = handler
        self._wire = wire
        self._table = table
        self._told: set[tuple[str, str, bytes]] = set()
        self.limit = DEFAULT_DEADLINE
        self.reader = wire.Reader
        self.options: tuple[str, ...] = () if wire.NAMES_TABLE else ("--table",)

    def configure(self, options: Options) -> None:
        self._table = options.table or "route"

    def refuse(self, reason: str) -> None:
        def lookup(table: Table, key: str) -> Answer:
            raise ConfigurationFault(reason)

        self._handler = lookup

    def request(self, event: Lookup, service: Service, until: float) -> Table:
        name = event.table.decode("utf-8", "surrogateescape") or self._table
        return Table(name, event.key.decode("utf-8", "surrogateescape"), service, until)

    def answer(self, request: Table) -> bytes:
        answer = self._handler(request, request.key)
        if not isinstance(answer, Answer):
            raise TypeError(f"the handler returned {type(answer).__name__}, expected an Answer")
        if request.logged:
            request.log["answer"] = answer.text or answer.kind
        return self._wire.reply(answer.kind, answer.text)

    def failure(self, request: Table | None, status: str) -> bytes:
        """Our fault. The reason is for Postfix's log only; ours has all of it."""
        text = "configuration problem" if status == ConfigurationFault.status else "local problem"
        answer = (request.fallback if request is not None else None) or temporary(f"{text}, see the log of postroom")
        return self._wire.reply(answer.kind, answer.text)

    def malformed(self) -> bytes:
        """A reply all the same: without one Postfix would try again at once, by tcp_table ten times."""
        return self._wire.reply("temporary", "not understood")

    def outcome(self, answer: bytes) -> str:
        """What a reply of this protocol says, in a word, for counting."""
        return self._wire.kind(answer)

    def queue_id(self, request: Table | None) -> str:
        return ""

    def log(self, request: Table, answer: bytes) -> None:
        """Once for the same answer: of one mail, Postfix asks for each recipient three times and more."""
        told = (str(request), request.key, answer[:_SHOWN])
        if told in self._told:
            return
        if len(self._told) >= _TOLD_KEPT or len(request.key) > _SHOWN:
            self._told.clear()
        self._told.add(told)
        fields: dict[str, object] = {"table": str(request), "key": f"<{request.key[:_SHOWN]}>", **request.log}
        log.info("", **fields)
