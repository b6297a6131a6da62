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

from postroom import log
from postroom.deadline import Deadline
from postroom.delivery import Mail
from postroom.envelope import parse_arguments
from postroom.message import Message
from postroom.runners.faults import place, program, words
from postroom.runners.options import Options, parse
from postroom.runners.output import Captured
from postroom.status import (
    DEFERRED,
    EX_OK,
    EX_TEMPFAIL,
    MAX_LINE,
    SENT,
    ConfigurationFault,
    Fault,
    Outcome,
    cut,
    deferred,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from postroom.config import Configuration

# Below Postfix's command_time_limit (1000 s) by far, and long enough for a slow relay's answer to the final dot.
DEFAULT_DEADLINE = 250.0

# The thread that watches the deadline gets this long before the kernel ends the process.
GRACE = 5.0

# proc(5): field 9 of /proc/PID/stat, the seventh behind the name, holds the kernel's flags (include/linux/sched.h).
_FLAGS_FIELD = 6
_PF_EXITING = 0x4


def run(deliver: Callable[[Mail], Outcome]) -> NoReturn:
    """Call `deliver` for each recipient of the one mail on descriptor 0, answer pipe(8), and leave."""
    parent = os.getppid()
    try:
        answer = Answer()
    except BaseException:  # no descriptor 1, or none left: there is nobody to tell
        os._exit(EX_TEMPFAIL)
    try:
        _run(deliver, answer, parent)
    except BaseException as error:  # whatever it is, SystemExit included: our fault, so the mail is deferred
        answer.give(_failed(error, "runner", ""))


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
            if self._options.log is None:
                log.open(program(), self._configuration.log)
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
        """Whether nobody holds the other end any more. Where a pipe(8) has died before we looked for it, this tells."""
        import select

        poll = select.poll()
        poll.register(self._fd, 0)
        return any(event & select.POLLERR for _, event in poll.poll(0))

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
        if outcome.kind == SENT:
            self.leave(cut(outcome.text, MAX_LINE - 1) + b"\n", EX_OK)
        self.leave(outcome.line(), outcome.exit_status)

    def leave(self, output: bytes, status: int) -> NoReturn:
        self.hold()
        try:
            os.write(self._fd, output)
        except OSError:
            # Postfix has gone away or reads no more. A bounce must not lose its text: without it the exit
            # status alone would speak, so leave it to the next try.
            status = EX_OK if status == EX_OK else EX_TEMPFAIL
        os._exit(status)


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
    if answer.unheard() or not _lives(parent):
        raise Fault("Postfix has stopped in the middle of the message")
    service = Service(options, deadline)
    outcomes = []
    for recipient in envelope.recipients:
        mail = Mail(envelope, recipient, message, deadline, service)
        outcomes.append(_deliver(deliver, mail))
        if len(outcomes) == len(envelope.recipients):
            answer.hold()
        _log(mail, outcomes[-1])
    try:
        captured.close()
    except OSError as error:  # what has been delivered is delivered, whatever becomes of the handler's chatter
        log.warning(envelope.queue_id, fault="output", text=words(error))
    answer.give(_combined(outcomes))


def _deliver(deliver: Callable[[Mail], Outcome], mail: Mail) -> Outcome:
    try:
        outcome = deliver(mail)
        if not isinstance(outcome, Outcome):
            raise TypeError(f"the handler returned {type(outcome).__name__}, expected an Outcome")
    except BaseException as error:
        return _failed(error, "handler", mail.queue_id)
    return outcome


def _log(mail: Mail, outcome: Outcome) -> None:
    log.info(
        mail.queue_id,
        to=f"<{mail.recipient}>",
        orig_to=f"<{mail.original_recipient}>" if mail.original_recipient != mail.recipient else None,
        **mail.log,
        status=outcome.kind,
        dsn=outcome.status,
        text=outcome.text,
    )


def _failed(error: BaseException, where: str, queue_id: str) -> Outcome:
    """Log our fault with its place; the sender, who may read the text in a delay notice, is told less."""
    if isinstance(error, Fault):
        log.error(queue_id, fault=where, text=words(error))
        return deferred(str(error) or "local fault", error.status)
    log.error(queue_id, fault=where, at=place(error), text=words(error))
    if isinstance(error, ImportError):
        return deferred(f"incomplete installation ({type(error).__name__}), see the mail log", "4.3.5")
    return deferred(f"internal error ({type(error).__name__}), see the mail log", "4.3.0")


def _combined(outcomes: list[Outcome]) -> Outcome:
    """One result for all recipients of the request, since pipe(8) has only one exit status for them."""
    kinds = {outcome.kind for outcome in outcomes}
    if len(kinds) == 1:
        return outcomes[0]
    for outcome in outcomes:
        if outcome.kind == DEFERRED:
            return outcome  # asked for all again; what is delivered already is known by Mail.key()
    # Sent for one and refused for another cannot be said in one exit status: a bounce would be a lie to the
    # sender about one of them, success would lose the other.
    return deferred(
        "recipients of one request have different results; set TRANSPORT_destination_recipient_limit = 1", "4.3.5"
    )


def _read_message() -> Message:
    """What came until the end of the pipe: all of the message only where pipe(8) still lives.

    `postfix stop` ends it in the middle of handing a message over, and what came until then looks whole.
    """
    try:
        return Message.read(0)
    except OSError as error:
        raise Fault(f"cannot take the message: {os.strerror(error.errno or 0)}") from error


def _lives(parent: int) -> bool:
    """Whether the process that started us is there, and not about to end.

    The kernel marks a process (PF_EXITING) before it closes its descriptors, and gives its children to another parent
    only after that: whoever reads the end of a pipe that a dying process held finds one of the two.
    """
    if os.getppid() != parent or (parent == 1 and os.getsid(0) == os.getpid()):
        return False  # pipe(8) makes us leader of a session and is never process 1: it had died before we looked
    try:
        with open(f"/proc/{parent}/stat", "rb", 0) as file:
            fields = file.read(4096).rpartition(b")")[2].split()
    except OSError:
        return os.getppid() == parent  # no /proc, or one that hides other users' processes
    return not int(fields[_FLAGS_FIELD]) & _PF_EXITING and os.getppid() == parent


def _watch(deadline: Deadline, answer: Answer, captured: Captured, queue_id: str) -> None:
    import _thread

    def watch() -> None:
        captured.pump(deadline)
        outcome = deferred(f"not finished within {deadline.seconds:g} seconds", "4.3.0")
        answer.hold()
        log.error(queue_id, fault="deadline", text=outcome.text)
        answer.give(outcome)

    _thread.start_new_thread(watch, ())
    _arm(deadline)


def _arm(deadline: Deadline) -> None:
    """Let the kernel end the process some time after the deadline.

    The default action of SIGALRM does, whatever the threads are at; a child does not inherit the timer.
    """
    import _signal  # type: ignore[import-not-found]  # signal without enum, which alone costs 8 ms at start-up

    _signal.setitimer(_signal.ITIMER_REAL, deadline.remaining() + GRACE)
