"""What the connections of one listener have in common: the handler, and how its answers are counted and told."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any

from postroom import log
from postroom.resident.pool import Late
from postroom.resident.recent import LENGTH_LIMIT, Recent
from postroom.resident.service import Quick, WouldWait
from postroom.runners.faults import place, place_of_thread, words
from postroom.runners.stdio import HANDLER_SHARE
from postroom.runners.tables import Lookups
from postroom.status import Fault

if TYPE_CHECKING:
    from postroom.resident.worker import Worker
    from postroom.runners.stdio import Speech
    from postroom.wire.events import Malformed

    # A request, its answer, and what went wrong.
    Told = tuple[Any, bytes, BaseException | None]

# Replies whose word is known. Most are the same few; texts may hold what strangers sent.
WORDS_LIMIT = 256

# Of a queue that is full, one line in so many seconds: there is no time to log each.
BUSY_INTERVAL = 10.0

_NEVER = float("inf")


class Line:
    """`recent` is None where no two questions are the same."""

    __slots__ = (
        "_busy", "_rule", "_told", "_words", "lent", "program", "protocol", "quick", "recent", "speech",
        "worker",
    )  # fmt: skip

    def __init__(self, worker: Worker, protocol: str, program: str, speech: Speech, through_sources: bool) -> None:
        self.worker = worker
        self.protocol = protocol
        self.program = program
        self.renew(speech, through_sources)
        self._words: dict[bytes, str] = {}
        self._rule = ""  # of the answer that was counted last
        self._busy = 0
        self._told = -_NEVER

    def renew(self, speech: Speech, through_sources: bool) -> None:
        """Requests from now on are for this handler."""
        self.speech = speech
        self.lent = self.worker.service.lend(speech.limit)
        self.quick = Quick(self.worker.service) if through_sources else None
        # Of policy requests no two are the same.
        self.recent = Recent() if through_sources and isinstance(speech, Lookups) else None

    def request(self, event: Any, begun: float) -> Any:
        return self.speech.request(event, self.quick or self.lent, begun + self.lent.limit * HANDLER_SHARE)

    def again(self, question: bytes, now: float) -> bytes | None:
        """The answer that the same bytes had just now."""
        entry = self.recent.get(question, now, self.quick.in_force) if self.recent and self.quick else None
        if entry is None:
            return None
        answer = entry[2]
        word = self._words.get(answer) or self._word(answer)
        self.worker.metrics.request(self.protocol, self.program, entry[3], word, monotonic() - now)
        return answer

    def keep(self, question: bytes, now: float, answer: bytes) -> None:
        """The answer that was just given to these bytes is that of the next second."""
        if self.recent and self.quick:
            self.recent.put(question, now, self.quick.in_force, answer, self._rule)

    def at_once(self, request: Any, begun: float, told: list[Told]) -> bytes | None:
        """The answer, where nothing has to be waited for; what the log is to have of it goes to `told`."""
        if self.quick is None:
            return None
        fault = None
        try:
            answer = self.speech.answer(request)
        except WouldWait:
            return None
        except BaseException as error:  # SystemExit included: our fault, so the mail is deferred
            fault = error
            answer = self.failed(request, error)
        logged = request.logged
        self.count(request.log if logged else None, answer, begun)
        if logged or fault is not None:
            told.append((request, answer, fault))
        return answer

    def in_thread(self, request: Any) -> bytes:
        before = log.speaking_as(self.program)
        try:
            return self.speech.answer(request)
        finally:
            log.speaking_as(before)

    def count(self, logged: dict[str, object] | None, answer: bytes, begun: float) -> None:
        rule = self._rule = str(logged.get("rule") or "") if logged else ""
        word = self._words.get(answer) or self._word(answer)
        self.worker.metrics.request(self.protocol, self.program, rule, word, monotonic() - begun)

    def _word(self, answer: bytes) -> str:
        word = self._words.get(answer)
        if word is None:
            word = self.speech.outcome(answer)
            if len(self._words) < WORDS_LIMIT and len(answer) <= LENGTH_LIMIT:
                self._words[answer] = word
        return word

    def failed(self, request: Any, error: BaseException) -> bytes:
        """The answer in place of the handler's."""
        if isinstance(error, MemoryError):
            self.worker.retire("out of memory")
        kind = "deadline" if isinstance(error, Late) else "configuration" if _status(error) == "4.3.5" else "handler"
        self.worker.metrics.fault(self.protocol, kind)
        return self.speech.failure(request, _status(error))

    def tell(self, request: Any, answer: bytes, fault: BaseException | None, heard: bool = True) -> None:
        """Into the log, when Postfix has its answer, since a log may be slow."""
        before = log.speaking_as(self.program)
        queue_id = self.speech.queue_id(request)
        if isinstance(fault, Late):
            at = place_of_thread(fault.thread) if fault.thread else None
            log.error(queue_id, fault="deadline", at=at, text=f"not answered within {self.lent.limit:g} seconds")
        elif fault is not None:
            log.error(queue_id, fault="handler", at=place(fault), text=words(fault))
        if not heard:
            log.info(queue_id, text="the client closed before the reply")
        elif request.logged:
            self.speech.log(request, answer)
        log.speaking_as(before)

    def malformed(self, event: Malformed) -> None:
        self.worker.metrics.fault(self.protocol, "protocol")
        before = log.speaking_as(self.program)
        log.warning("", fault="protocol", text=event.reason)
        log.speaking_as(before)

    def busy(self, request: Any, begun: float) -> bytes:
        """The answer where no thread is free and the queue is full."""
        self.worker.metrics.fault(self.protocol, "busy")
        self._busy += 1
        now = monotonic()
        if now - self._told >= BUSY_INTERVAL:
            before = log.speaking_as(self.program)
            log.error("", fault="busy", requests=self._busy, text="put off: all threads are at work, the queue is full")
            log.speaking_as(before)
            self._told, self._busy = now, 0
        answer = self.speech.failure(request, Fault.status)
        self.count(None, answer, begun)
        return answer


def _status(error: BaseException) -> str:
    return error.status if isinstance(error, Fault) else Fault.status
