"""pipe(8) without Postfix: run a program as pipe(8) runs it, and say what Postfix would then do with the mail.

Source: Postfix's src/global/pipe_command.c; the tests run the same odd programs under the real pipe(8) and demand
the same verdicts.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import select
import signal
import time
from dataclasses import dataclass, field

from postroom.postfix.pipe_request import Refused, Request
from postroom.postfix.pipe_verdict import CAPTURE, EX_TEMPFAIL, Run, Verdict, judge
from postroom.postfix.postconf import Postconf

COMMAND_TIME_LIMIT = 1000.0
# _PATH_DEFPATH, to which pipe(8) resets PATH.
DEFAULT_PATH = "/usr/bin:/bin"
DEFAULT_QUEUE_DIRECTORY = "/var/spool/postfix"
DEFAULT_ENVIRONMENT = {"MAIL_CONFIG": "/etc/postfix", "LANG": "C"}


@dataclass(frozen=True)
class Surroundings:
    """What the program finds: identity, working directory, environment."""

    uid: int
    gid: int
    directory: str
    environment: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of_pipe(cls, user: str, postconf: Postconf | None = None) -> Surroundings:
        """What pipe(8) gives a program with `user=USER`, in the Postfix of that configuration where there is one."""
        account, group = identity(user)
        directory, environment = DEFAULT_QUEUE_DIRECTORY, dict(DEFAULT_ENVIRONMENT)
        if postconf is not None:
            directory = postconf.expanded("queue_directory")
            environment = exported(postconf)
        return cls(account.pw_uid, group, directory if os.path.isdir(directory) else "/", environment)

    def enter(self) -> None:
        """In a child of fork(): become that user. Only the one group stays, as set_ugid() does."""
        os.setsid()
        os.umask(0o077)
        os.chdir(self.directory)
        if os.geteuid() == 0:
            os.setgroups([self.gid])
            os.setresgid(self.gid, self.gid, self.gid)
            os.setresuid(self.uid, self.uid, self.uid)


def identity(user: str) -> tuple[pwd.struct_passwd, int]:
    """The account and group of `user=NAME[:GROUP]`; Refused where pipe(8) refuses them."""
    name, _, group = user.partition(":")
    try:
        account = pwd.getpwnam(name)
        gid = grp.getgrnam(group).gr_gid if group else account.pw_gid
    except KeyError:
        raise unusable(f"no such user or group: {user}") from None
    if account.pw_uid == 0 or gid == 0:
        raise unusable(f"pipe(8) refuses to run a program as {user}: uid {account.pw_uid}, gid {gid}")
    return account, gid


def unusable(reason: str) -> Refused:
    """An error that ends pipe(8) itself: the mail waits, and the transport rests for transport_retry_time."""
    return Refused("deferred", "4.3.0", f"unknown mail transport error ({reason})")


def exported(postconf: Postconf) -> dict[str, str]:
    """The environment by export_environment: names from Postfix's own environment, or name=value."""
    own = {"MAIL_CONFIG": str(postconf.directory), "LANG": "C"}
    if "TZ" in os.environ:
        own["TZ"] = os.environ["TZ"]
    pairs = [word.partition("=") for word in postconf.expanded("export_environment").replace(",", " ").split()]
    return {name: value if equals else own[name] for name, equals, value in pairs if equals or name in own}


def attempt(
    words: list[str], request: Request, message: bytes, surroundings: Surroundings, time_limit: float, service: str
) -> Verdict:
    """One delivery attempt: expand the words, run the command, judge its end."""
    try:
        arguments = request.arguments(words)
        request.check(message)
    except Refused as refused:
        return not_run(refused)
    run = execute(arguments, surroundings, request.content(message), time_limit)
    return judge(run, arguments[0], service)


def not_run(refused: Refused) -> Verdict:
    """The verdict where pipe(8) does not come to run the program."""
    warning = f"the program was not run: {refused.why}" if refused.why else "the program was not run"
    return Verdict(refused.status, refused.dsn, refused.text, (warning,))


# Running


def execute(arguments: list[str], surroundings: Surroundings, content: bytes, time_limit: float) -> Run:
    """Run the command over the content; each wait for it may last `time_limit` seconds, as in pipe(8)."""
    started = time.monotonic()
    stdin, to_program = os.pipe()
    from_program, stdout = os.pipe()
    # Postfix's stream sets this on the end that the program inherits; print() of a lot then fails, not blocks.
    os.set_blocking(stdout, False)
    pid = os.fork()
    if pid == 0:
        become(arguments, surroundings, stdin, stdout)
    os.close(stdin)
    os.close(stdout)
    waits = Waits(time_limit)
    write(to_program, content, waits)
    output, unread = capture(from_program, waits)
    code = finish(pid, waits)
    return Run(output, code, waits.expired, time.monotonic() - started, unread)


def become(arguments: list[str], surroundings: Surroundings, stdin: int, stdout: int) -> None:
    """In the child: descriptors 0, 1 and 2, nothing else open, then the program. Does not return."""
    try:
        os.dup2(stdin, 0)
        os.dup2(stdout, 1)
        os.dup2(stdout, 2)
        os.closerange(3, 65536)
        # Postfix's daemons ignore these two, and what they start inherits that.
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        surroundings.enter()
        execute_path(arguments, {"PATH": DEFAULT_PATH, **surroundings.environment})
    except OSError as error:
        os.write(2, f"pipe: fatal: pipe_command: execvp {arguments[0]}: {error.strerror}\n".encode("utf-8", "replace"))
    finally:
        os._exit(EX_TEMPFAIL)


def execute_path(arguments: list[str], environment: dict[str, str]) -> None:
    """execvp(3), which also gives a file without "#!" to the shell."""
    try:
        os.execvpe(arguments[0], arguments, environment)  # noqa: S606  no shell is the point
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise
        os.execve("/bin/sh", ["sh", *arguments], environment)  # noqa: S606  as above


class Waits:
    """The time limit: each wait gets all of it, and once one has run out the others get nothing."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.expired = False

    def ready(self, descriptor: int, event: int) -> bool:
        """Wait for the descriptor; False when the limit is over."""
        poll = select.poll()
        poll.register(descriptor, event)
        if not poll.poll(0.0 if self.expired else self.limit * 1000):
            self.expired = True
            return False
        return True


def write(descriptor: int, content: bytes, waits: Waits) -> None:
    """Give the program its message; one that does not read it is no error."""
    os.set_blocking(descriptor, False)
    left = memoryview(content)
    with contextlib.suppress(BrokenPipeError):
        while left and waits.ready(descriptor, select.POLLOUT):
            left = left[os.write(descriptor, left[:CAPTURE]) :]
    os.close(descriptor)


def capture(descriptor: int, waits: Waits) -> tuple[bytes, int]:
    """Up to CAPTURE bytes of output, or less when everybody who could write has closed; then close the pipe."""
    output = b""
    while len(output) < CAPTURE and waits.ready(descriptor, select.POLLIN):
        data = os.read(descriptor, CAPTURE - len(output))
        if not data:
            break
        output += data
    os.set_blocking(descriptor, False)
    unread = b""
    with contextlib.suppress(BlockingIOError):
        unread = os.read(descriptor, 1 << 20)
    os.close(descriptor)
    return output, len(unread)


def finish(pid: int, waits: Waits) -> int:
    """Wait for the program to end; past the limit SIGKILL to its process group."""
    handle = os.pidfd_open(pid)
    try:
        if waits.expired or not waits.ready(handle, select.POLLIN):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
    finally:
        os.close(handle)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
