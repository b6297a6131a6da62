"""`command PROGRAM [ARGUMENT ...]`: run a program with the message as its standard input. No shell, no search path.

What its end means:

    exit 0                                      sent; the first line that it printed goes to the log
    other exit, output starts "5.1.1 text"      bounced or deferred, as it said
    exit 65, 67, 68, 77 (sysexits.h)            bounced: they speak of the mail, the recipient, its host, a permission
    any other exit, a signal, no time left,     deferred: Python's 1, a shell's 127, EX_SOFTWARE, EX_CONFIG tell of a
    or it cannot be run                         program that is broken, as does "2.0.0 text" from one that failed

The message is a file, not a pipe: were we killed half-way, the program would take what came so far for the whole.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # typeshed has no stub for it; signal would import enum
import os
import select

from postroom import cpus
from postroom.actions import failed
from postroom.envelope import NAMES, domain, localpart
from postroom.message import MEMORY_LIMIT, open_spool
from postroom.status import SENT, ConfigurationFault, Fault, bounced, clean, is_status, parse, sent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from postroom.deadline import Deadline
    from postroom.delivery import Mail
    from postroom.message import Message
    from postroom.status import Outcome

# As much as pipe(8) takes. What follows is read and thrown away: a chatty program neither blocks nor fills our memory.
OUTPUT_LIMIT = 4096

# The exits of sysexits.h that state something about this mail, in Postfix's words (src/global/sys_exits.c).
STATED = {
    65: ("5.6.0", "data format error"),
    67: ("5.1.1", "user unknown"),
    68: ("5.1.2", "host unknown"),
    77: ("5.7.0", "permission denied"),
}

# This much of the time is kept back: half of it for a program to end in peace after SIGTERM, half to answer Postfix.
KEPT_SHARE = 0.1
KEPT_AT_MOST = 10.0

# _PATH_DEFPATH, which pipe(8) gives its programs; and what else of pipe(8)'s environment is handed on.
PATH = "/usr/bin:/bin"
INHERITED = ("LANG", "TZ", "MAIL_CONFIG")


def deliver(words: tuple[str, ...], mail: Mail) -> Outcome:
    arguments = [word.replace("\0", "?") for word in words[1:]]
    if not arguments or not arguments[0].startswith("/"):
        raise ConfigurationFault(f"action command: {' '.join(arguments)[:200]!r}, expected an absolute path")
    name = os.path.basename(arguments[0])
    try:
        message = _as_file(mail.message)
        try:
            child = Child(arguments, environment(mail), message)
        finally:
            os.close(message)
    except OSError as error:
        raise Fault(f"command {name}: {os.strerror(error.errno or 0)}") from error
    kept = min(KEPT_AT_MOST, mail.deadline.seconds * KEPT_SHARE)
    if child.follow(mail.deadline, kept):
        return verdict(name, os.waitstatus_to_exitcode(child.reap()), child.output)
    child.stop(kept / 2)
    return failed(f"command {name} did not finish within {mail.deadline.seconds - kept:g} seconds and was stopped")


def environment(mail: Mail) -> dict[str, str]:
    """All that the program gets to see; names as local(8) has them, and pipe(8)'s macros in capitals."""
    values = {name.upper(): str(getattr(mail.envelope, name)) for name in NAMES}
    values |= {
        "PATH": PATH,
        "RECIPIENT": mail.recipient,
        "ORIGINAL_RECIPIENT": mail.original_recipient,
        "LOCAL": localpart(mail.recipient),
        "DOMAIN": domain(mail.recipient),
    }
    # Where the resident delivers, those of the program that Postfix started.
    inherited = getattr(mail.service, "environment", os.environ)
    values |= {name: inherited[name] for name in INHERITED if name in inherited}
    return {name: value.replace("\0", "?") for name, value in values.items()}


class Child:
    """A running program in a process group of its own, and what it prints."""

    def __init__(self, arguments: list[str], environment: dict[str, str], message: int) -> None:
        self.output = b""
        self._reader, writer = os.pipe()
        os.set_blocking(self._reader, False)
        try:
            with cpus.Everywhere():
                self._pid = os.posix_spawn(
                    arguments[0],
                    arguments,
                    environment,
                    file_actions=[(os.POSIX_SPAWN_DUP2, message, 0)]
                    + [(os.POSIX_SPAWN_DUP2, writer, descriptor) for descriptor in (1, 2)],
                    setpgroup=0,
                    # Python ignores these two, and a program would inherit that: `yes | head` would never end.
                    setsigdef=[_signal.SIGPIPE, _signal.SIGXFSZ],
                )
        except OSError:
            os.close(self._reader)
            raise
        finally:
            os.close(writer)
        self._end = os.pidfd_open(self._pid)

    def follow(self, deadline: Deadline, kept: float) -> bool:
        """Read its output until it ends; False where time is up before. What it left running is not waited for."""
        files = [self._end, self._reader]
        while (patience := deadline.remaining() - kept) > 0:
            readable = _readable(files, patience)
            if self._end in readable:
                while len(self.output) < OUTPUT_LIMIT and self._read():
                    pass
                return True
            if readable and not self._read():
                files = [self._end]
        return False

    def stop(self, grace: float) -> None:
        """End it and all of its group."""
        os.killpg(self._pid, _signal.SIGTERM)
        _readable([self._end], grace)
        os.killpg(self._pid, _signal.SIGKILL)  # its pid is not free for others before reap()
        _readable([self._end], grace)
        self.reap(os.WNOHANG)  # one that sleeps in the kernel, on a dead file server, does not even hear SIGKILL

    def reap(self, options: int = 0) -> int:
        os.close(self._reader)
        os.close(self._end)
        return os.waitpid(self._pid, options)[1]

    def _read(self) -> bool:
        """Whether there was something to read."""
        try:
            data = os.read(self._reader, OUTPUT_LIMIT)
        except BlockingIOError:
            return False
        self.output = (self.output + data)[:OUTPUT_LIMIT]
        return bool(data)


def _readable(files: list[int], seconds: float) -> list[int]:
    """Which of them have something to read, or their end. Not select(2): the resident has more than its 1024 files."""
    poll = select.poll()
    for one in files:
        poll.register(one, select.POLLIN)
    return [one for one, _ in poll.poll(seconds * 1000)]


def verdict(name: str, status: int, output: bytes) -> Outcome:
    """The outcome for an exit status, or a negative signal number, and what was printed."""
    first = clean(output.partition(b"\n")[0].decode("utf-8", "replace"))
    said = f": {first}" if first else ""
    if status == 0:
        return sent(f"delivered to command {name}{said}")
    if status < 0:
        return failed(f"command {name} died with signal {-status}{said}")
    stated = _stated(name, output)
    if stated is not None and stated.kind != SENT:
        return stated
    if stated is None and status in STATED:
        code, meaning = STATED[status]
        return bounced(first or meaning, code)
    return failed(f"command {name} failed with exit status {status}{said}")


def _stated(name: str, output: bytes) -> Outcome | None:
    """What the output says, where it starts with an enhanced status code, as pipe(8) reads it (dsn_util.c)."""
    text = clean(output.decode("utf-8", "replace"))
    if output[:1].isspace() or not is_status(text.partition(" ")[0]):
        return None
    return parse(text) or parse(f"{text} command {name} gave no reason")


def _as_file(message: Message) -> int:
    """A descriptor at the start of a copy of the message, which nobody else sees."""
    fd = os.memfd_create("message") if message.size <= MEMORY_LIMIT else open_spool()
    try:
        for chunk in message.chunks():
            view = memoryview(chunk)
            while view:
                view = view[os.write(fd, view) :]
        os.lseek(fd, 0, os.SEEK_SET)
    except OSError:
        os.close(fd)
        raise
    return fd
