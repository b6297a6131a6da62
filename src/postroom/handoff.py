"""Hand a delivery or a connection over to the resident service, where one listens; else come back, and run alone.

    from postroom import handoff
    handoff.offer()                                            # the first thing that a program does

    python -I -S .../postroom/thin.py PROGRAM ARGUMENT ...     # the same without the cost of site; see thin.py

What is said, over a unix stream socket, each time by one side only:

    program    what it is and how it was called; nothing is given away yet
    resident   `pipe SECONDS` or `spawn`, what it takes it for; or `alone REASON`
    program    descriptor 0, and from here on it never touches it again
    resident   spawn: `taken`, and the program leaves; the connection is the resident's
               pipe: `read`, when it has the message to its end
    program    `go`: pipe(8) still lives, which nobody but its child can tell, so this is the whole message
    resident   `STATUS LINE`: the exit status, and what pipe(8) is told

Whatever goes wrong before descriptor 0 has been sent: the program runs alone, as if nobody listened. After that, and
unless the resident says `alone` (it has not touched the descriptor): it leaves with 75, a pipe program with a line.
The mail stays in the queue then, or the client connects again. Nothing is handled twice, nothing by nobody.

This file imports what is built into Python, and nothing else: it is most of what a program costs that is handed off.
"""

import posix
import sys

from postroom import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Sequence
    from typing import NoReturn

DEFAULT_SOCKET = "/run/postroom/handoff"
NO = "no"  # in place of the path: run alone

MAGIC = b"PRH1"
LENGTH = 4  # bytes behind it that say how long the rest is

# What comes of a delivery may hang on the encoding of the locale, by which file names are written, and on these: rules
# go by the time zone, and a `command` is given all three.
ENVIRONMENT = (b"TZ", b"LANG", b"MAIL_CONFIG")

# The kernel takes 2 MB of arguments and environment (execve(2)); a pipe(8) with a thousand recipients is far below.
REQUEST_LIMIT = 1048576

# What the resident says at a time: a word and a reason, or a line for pipe(8).
REPLY_LIMIT = 1024

# For the resident's first word, and to say "taken". It needs a millisecond; where it has stopped, mail must not wait.
PATIENCE = 2.0

# Past the resident's own deadline, which answers by itself: then it is not there any more.
GRACE = 10.0

# sysexits.h
EX_OK = 0
EX_TEMPFAIL = 75

# linux/un.h and socket.h
_AF_UNIX, _SOCK_STREAM, _SOL_SOCKET, _SCM_RIGHTS, _SO_PEERCRED = 1, 1, 1, 1, 17

# proc(5): field 9 of /proc/PID/stat, the seventh behind the name, holds the kernel's flags (include/linux/sched.h).
_FLAGS_FIELD = 6
_PF_EXITING = 0x4

# The resident itself runs the programs' files, and they offer there, too.
inside = False

_offered = False


def offer(shipped: bool = False) -> None:
    """Come back where the program is to run alone, and leave it otherwise. Only the first time counts.

    `shipped`: a program of Postroom, known by name and version. Of any other the resident wants the very file that it
    has loaded.
    """
    global _offered
    if inside or _offered:
        return
    _offered = True
    try:
        hand_off(sys.argv[0], sys.argv[1:], shipped)
    except (OSError, ValueError):  # nobody listens, or nobody who understands
        return


def hand_off(program: str, arguments: "Sequence[str]", shipped: bool) -> None:
    """Raises OSError or ValueError where nothing has been given away, and returns where nothing was wanted."""
    parent = posix.getppid()
    place = _place(arguments)
    if place == NO:
        return
    posix.stat(place)  # most often there is none: before _socket is imported
    connection = _connected(place)
    try:
        connection.sendall(_request(program, arguments, shipped))
        word, _, seconds = _line(connection).partition(b" ")
        if word == b"spawn" and _one_socket():
            _give(connection)
            _spawn(connection)
        elif word == b"pipe":
            patience = float(seconds) + GRACE
            _give(connection)
            _pipe(connection, patience, parent)
    finally:
        connection.close()


def thin() -> "NoReturn":
    """Hand off `sys.argv[1:]`, a program and its arguments, or become that program.

    What lies beside the interpreter was installed with this file; any other has to prove which one it is.
    """
    program, arguments = sys.argv[1], sys.argv[2:]
    try:  # noqa: SIM105 - contextlib costs 4 ms at start-up
        hand_off(program, arguments, program.rpartition("/")[0] == sys.executable.rpartition("/")[0])
    except (OSError, ValueError):
        pass
    # It has no reason to ask a second time. Options end at "--"; the last of a kind counts.
    end = arguments.index("--") if "--" in arguments else len(arguments)
    posix.execv(program, [program, *arguments[:end], "--handoff", NO, *arguments[end:]])


def _place(arguments: "Sequence[str]") -> str:
    """Where --handoff says; "no" for --help. Each option has a value; whatever is wrong there, the runner says it."""
    place, position = DEFAULT_SOCKET, 0
    while position < len(arguments) and arguments[position] != "--":
        name, equals, value = arguments[position].partition("=")
        if name in ("--help", "-h"):
            return NO
        if not equals:
            position += 1
            value = arguments[position] if position < len(arguments) else ""
        if name == "--handoff":
            place = value
        position += 1
    return place


def _connected(place: str) -> "socket":
    """The resident, where it is one that may take our mail: root's, our own, or whose folder the socket is in.

    Anybody could listen in /tmp. SO_PEERCRED names who called listen(2).
    """
    from _socket import socket

    connection = socket(_AF_UNIX, _SOCK_STREAM)
    connection.settimeout(PATIENCE)
    try:
        connection.connect(place)
        credentials = connection.getsockopt(_SOL_SOCKET, _SO_PEERCRED, 12)
        user = int.from_bytes(credentials[4:8], sys.byteorder)
        if user not in (0, posix.geteuid()) and user != posix.stat(place.rpartition("/")[0] or "/").st_uid:
            raise ValueError("a stranger listens there")
    except BaseException:
        connection.close()
        raise
    return connection


def _request(program: str, arguments: "Sequence[str]", shipped: bool) -> bytes:
    """Fields with a NUL between them, which neither an argument nor a path can hold."""
    encoding = sys.getfilesystemencoding()
    fields = [
        __version__.encode(),
        encoding.encode(),
        *(name + b"=" + posix.environ[name] if name in posix.environ else b"" for name in ENVIRONMENT),
        b"shipped" if shipped else b"",
        identity(program).encode(),
        *(word.encode(encoding, "surrogateescape") for word in (program, *arguments)),
    ]
    body = b"\0".join(fields)
    if len(body) > REQUEST_LIMIT:
        raise ValueError("too many arguments")
    return MAGIC + len(body).to_bytes(LENGTH, "big") + body


def identity(path: str) -> str:
    """What tells a file from another, and from itself before a change."""
    status = posix.stat(path)
    return f"{status.st_dev} {status.st_ino} {status.st_mtime_ns} {status.st_size}"


def _line(connection: "socket") -> bytes:
    """What the resident says next, without its line end. ValueError where it has gone, or makes no sense."""
    data = b""
    while not data.endswith(b"\n"):
        part = connection.recv(REPLY_LIMIT)
        data += part
        if not part or len(data) > REPLY_LIMIT:
            raise ValueError("no answer of the resident's")
    return data[:-1]


def _one_socket() -> bool:
    """Whether 0 and 1 are one connection, as spawn(8) has it; tried by hand they are a file and a terminal."""
    here, there = posix.fstat(0), posix.fstat(1)
    return here.st_mode & 0o170000 == 0o140000 and (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


def _give(connection: "socket") -> None:
    connection.sendmsg([b"\0"], [(_SOL_SOCKET, _SCM_RIGHTS, (0).to_bytes(4, sys.byteorder))])


def _spawn(connection: "socket") -> None:
    """Come back only where the resident says that it has not touched the connection."""
    try:
        answer = _line(connection)
    except (OSError, ValueError):
        answer = b""
    if not answer.startswith(b"alone"):
        posix._exit(EX_OK if answer == b"taken" else EX_TEMPFAIL)


def _pipe(connection: "socket", patience: float, parent: int) -> None:
    """Come back only where the resident says that it has not touched the message."""
    connection.settimeout(patience)
    status, line = EX_TEMPFAIL, b"4.3.0 the resident service went away\n"
    try:
        answer = _line(connection)
        if answer.startswith(b"alone"):
            return
        if answer == b"read":
            whole = lives(parent) and not unheard(1)
            connection.sendall(b"go\n" if whole else b"stopped\n")
            answer = _line(connection)
        number, _, text = answer.partition(b" ")
        status, line = int(number), text + b"\n"
    except TimeoutError:
        line = b"4.3.0 the resident service does not answer\n"
    except (OSError, ValueError):
        pass
    except BaseException:  # MemoryError: the traceback would be exit status 1, which bounces
        posix._exit(EX_TEMPFAIL)
    posix._exit(told(1, line, status))


def told(fd: int, line: bytes, status: int) -> int:
    """Tell pipe(8); the exit status to end with."""
    try:
        posix.write(fd, line)
    except OSError:
        # Postfix has gone away or reads no more. A bounce must not lose its text: without it the exit
        # status alone would speak, so leave it to the next try.
        return EX_OK if status == EX_OK else EX_TEMPFAIL
    return status


def unheard(fd: int) -> bool:
    """Whether nobody holds the other end any more. Where a pipe(8) has died before we looked for it, this tells."""
    import select

    poll = select.poll()
    poll.register(fd, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def lives(parent: int) -> bool:
    """Whether the process that started us is there, and not about to end.

    The kernel marks a process (PF_EXITING) before it closes its descriptors, and gives its children to another parent
    only after that: whoever reads the end of a pipe that a dying process held finds one of the two.
    """
    if posix.getppid() != parent or (parent == 1 and posix.getsid(0) == posix.getpid()):
        return False  # pipe(8) makes us leader of a session and is never process 1: it had died before we looked
    try:
        fd = posix.open(f"/proc/{parent}/stat", posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return posix.getppid() == parent  # no /proc, or one that hides other users' processes
    try:
        fields = posix.read(fd, 4096).rpartition(b")")[2].split()
    except OSError:
        return False  # ESRCH: it ended just now
    finally:
        posix.close(fd)
    return not int(fields[_FLAGS_FIELD]) & _PF_EXITING and posix.getppid() == parent
