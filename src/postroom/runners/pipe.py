"""Run a handler under pipe(8): one message on descriptor 0, one line and an exit status as the answer.

pipe(8) turns a small program's bad day into a bounce: an exit status that is not 0, 71 or 75, a byte too many on
descriptor 1 or 2 (they are one pipe, of which it reads 4096 bytes), a wait past its time limit. So this module
* takes descriptors 1 and 2 away from the handler first; what it prints goes to the log, bounded;
* turns every exception, and every result that is no Outcome, into a deferral;
* answers by itself when the deadline passes, from a thread; and if not even that thread gets to run (C code that
  holds the interpreter), the kernel ends the process by SIGALRM, which pipe(8) takes for a deferral too;
* leaves by os._exit: nothing runs after the answer.
(src/global/pipe_command.c, src/pipe/pipe.c)
"""

from __future__ import annotations

import os
import sys

from postroom import handoff, log
from postroom.deadline import Deadline
from postroom.delivery import Mail
from postroom.envelope import parse_arguments
from postroom.message import Message
from postroom.runners.captive import hand_over
from postroom.runners.faults import program, words
from postroom.runners.options import Options, parse
from postroom.runners.output import Captured
from postroom.runners.verdicts import combined, cut_short, failed, line, outcome, overdue, tell
from postroom.status import EX_OK, EX_TEMPFAIL, ConfigurationFault, Fault, Outcome

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from postroom.config import Configuration

# Below Postfix's command_time_limit (1000 s) by far, and long enough for a slow relay's answer to the final dot.
DEFAULT_DEADLINE = 250.0

# The thread that watches the deadline gets this long before the kernel ends the process.
GRACE = 5.0


def run(deliver: Callable[[Mail], Outcome]) -> NoReturn:
    """Call `deliver` for each recipient of the one mail on descriptor 0, answer pipe(8), and leave.

    In the resident it hands `deliver` over; a program that did not do so by itself offers the mail to the resident.
    """
    hand_over("pipe", deliver)
    handoff.offer()
    parent = os.getppid()
    try:
        answer = Answer()
    except BaseException:  # no descriptor 1, or none left: there is nobody to tell
        os._exit(EX_TEMPFAIL)
    try:
        _run(deliver, answer, parent)
    except BaseException as error:  # whatever it is, SystemExit included: our fault, so the mail is deferred
        answer.give(failed(error, "runner", ""))


class Service:
    """What the runner lends to the handler: the configuration, read when it is first asked for."""

    __slots__ = ("_configuration", "_deadline", "_options")

    def __init__(self, options: Options, deadline: Deadline) -> None:
        self._options = options
        self._deadline = deadline
        self._configuration: Configuration | None = None

    @property
    def configuration(self) -> Configuration:
        if self._configuration is None:
            from postroom import config

            self._configuration = config.load(self._options.config, self._options.state)
            log.open(program(), self._options.log or self._configuration.log, self._configuration.log_format)
            if self._options.deadline is None:
                self._deadline.seconds = self._configuration.deadline
                _arm(self._deadline)
        return self._configuration


class Answer:
    """The way back to Postfix: kept from the handler, used once."""

    def __init__(self) -> None:
        import _thread

        self._fd = os.dup(1)  # closed on exec, and here for a child that only forks: Postfix waits for the last one
        self._pid = os.getpid()
        self._once = _thread.allocate_lock()
        self._holder = 0  # the thread that has taken it
        os.register_at_fork(after_in_child=self._close)

    def _close(self) -> None:
        os.close(self._fd)

    def unheard(self) -> bool:
        return handoff.unheard(self._fd)

    def hold(self) -> None:
        """Take the right to answer, which is never given back: where the deadline passes meanwhile, one of the two
        threads tells Postfix, never both; and a log that is slow does not put off what has been delivered.
        """
        import _thread

        if os.getpid() != self._pid:
            os._exit(EX_TEMPFAIL)  # a handler's child that has come back from it: the answer is its parent's
        if self._holder != _thread.get_ident():
            self._once.acquire()
            self._holder = _thread.get_ident()

    def give(self, outcome: Outcome) -> NoReturn:
        self.leave(line(outcome), outcome.exit_status)

    def leave(self, output: bytes, status: int) -> NoReturn:
        self.hold()
        os._exit(handoff.told(self._fd, output, status))


def _run(deliver: Callable[[Mail], Outcome], answer: Answer, parent: int) -> NoReturn:
    options = Options()
    try:
        # Python has decoded them by the locale, which export_environment may set to anything; addresses are UTF-8.
        parse([os.fsencode(word).decode("utf-8", "surrogateescape") for word in sys.argv[1:]], options)
    finally:
        log.open(program(), options.log or "syslog")
    if options.help and options.words:
        raise ConfigurationFault("master.cf: --help before --: mail would be thrown away")
    if options.help:
        manual = sys.modules["__main__"].__doc__ or ""
        answer.leave(manual.strip().encode() + b"\n", EX_OK)
    deadline = Deadline(options.deadline or DEFAULT_DEADLINE)
    envelope = parse_arguments(options.words)
    captured = Captured(envelope.queue_id)
    _watch(deadline, answer, captured, envelope.queue_id)
    message = _read_message()
    if answer.unheard() or not handoff.lives(parent):
        raise cut_short()
    service = Service(options, deadline)
    outcomes = []
    for recipient in envelope.recipients:
        mail = Mail(envelope, recipient, message, deadline, service)
        outcomes.append(outcome(deliver, mail))
        if len(outcomes) == len(envelope.recipients):
            answer.hold()
        tell(mail, outcomes[-1])
    try:
        captured.close()
    except OSError as error:  # what has been delivered is delivered, whatever becomes of the handler's chatter
        log.warning(envelope.queue_id, fault="output", text=words(error))
    answer.give(combined(outcomes))


def _read_message() -> Message:
    """What came until the end of the pipe: all of the message only where pipe(8) still lives.

    `postfix stop` ends it in the middle of handing a message over, and what came until then looks whole.
    """
    try:
        return Message.read(0)
    except OSError as error:
        raise Fault(f"cannot take the message: {os.strerror(error.errno or 0)}") from error


def _watch(deadline: Deadline, answer: Answer, captured: Captured, queue_id: str) -> None:
    import _thread

    def watch() -> None:
        captured.pump(deadline)
        late = overdue(deadline.seconds)
        answer.hold()
        log.error(queue_id, fault="deadline", text=late.text)
        answer.give(late)

    _thread.start_new_thread(watch, ())
    _arm(deadline)


def _arm(deadline: Deadline) -> None:
    """Let the kernel end the process some time after the deadline.

    The default action of SIGALRM does, whatever the threads are at; a child does not inherit the timer.
    """
    import _signal  # type: ignore[import-not-found]  # signal without enum, which alone costs 8 ms at start-up

    _signal.setitimer(_signal.ITIMER_REAL, deadline.remaining() + GRACE)
