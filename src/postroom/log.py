"""Log lines in the manner of Postfix's maillog: one event a line, the queue id first.

    postroom/rule-deliver[4711]: 4XyzAb1Cd2: to=<a@example.com>, rule=tickets, status=sent, dsn=2.0.0 (saved)

`grep QUEUEID` then tells a mail's whole story, Postfix's part and ours. Lines go to syslog's mail facility or
are appended to a file, each with one write(2), so that programs running side by side never mix their lines.
A log that cannot be written never stops mail: the line is lost, the delivery is not. The next line that can be written
stands below one that says how many were.

Syslog is spoken here and not by syslog(3), which waits without end for a syslogd that has stopped reading: a mail
delivered long since would be put off, and delivered again.
"""

from __future__ import annotations

import os
import sys
import time
from _thread import allocate_lock
from errno import EBADF, ENOTSOCK, EPROTOTYPE
from time import monotonic

from postroom.status import clean, cut

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket

# RFC 5424 asks receivers to take 2048 bytes; rsyslog and journald take more. A line past this is cut.
MAX_LINE = 2000

# Where syslogd listens (paths.h: _PATH_LOG).
DEVICE = "/dev/log" if sys.platform == "linux" else "/var/run/log"

# Seconds that a process waits for syslogd in each PERIOD, all lines together. A syslogd that is busy reads on within
# milliseconds; for one that has stopped, neither a delivery nor the client of an smtpd(8) has to wait.
WAIT_LIMIT = 0.5
PERIOD = 60.0

# What a line costs without any waiting; it does not count.
_AT_ONCE = 0.01

_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]

# syslog.h: LOG_MAIL, and the levels LOG_INFO, LOG_WARNING, LOG_ERR.
_MAIL = 2 << 3
_LEVELS = {"info": 6, "warning": 4, "error": 3}

# O_NONBLOCK: a FIFO that nobody reads must not hold mail up.
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY

_program = "postroom"
_destination = "syslog"
_turn = allocate_lock()
_lost = 0


def open(program: str, destination: str = "syslog") -> None:
    """Say who logs (`program`) and where to: "syslog", or the path of a file that is appended to."""
    global _program, _destination
    _program, _destination = program, destination


def info(queue_id: str, **fields: object) -> None:
    _write("info", queue_id, fields)


def warning(queue_id: str, **fields: object) -> None:
    _write("warning", queue_id, fields)


def error(queue_id: str, **fields: object) -> None:
    _write("error", queue_id, fields)


def line(queue_id: str, fields: dict[str, object]) -> str:
    """`QUEUEID: key=value, key=value (text)`; the field named `text` closes the line, in brackets."""
    pairs = [f"{name}={_value(value)}" for name, value in fields.items() if name != "text" and value is not None]
    body = ", ".join(pairs)
    if fields.get("text"):
        text = clean(str(fields["text"]))
        body = f"{body} ({text})" if body else text
    return f"{clean(queue_id) or 'NOQUEUE'}: {body}"


def _value(value: object) -> str:
    text = clean(str(value))
    # A value that could pass for the next field would let a stranger write into our log line.
    return text.replace(", ", ",") if "=" in text.partition(", ")[2] else text


def _write(level: str, queue_id: str, fields: dict[str, object]) -> None:
    text = line(queue_id, fields)
    _put(level, text if level == "info" else f"{level}: {text}")


def _put(level: str, text: str) -> None:
    """Write a line, or count it; one at a time, since a thread may close the socket that another is about to use."""
    global _lost
    with _turn:
        if _lost and _written("warning", f"warning: NOQUEUE: lost={_lost} (lines that could not be written)"):
            _lost = 0
        if not _written(level, text):
            _lost += 1


def _forked() -> None:
    """In a child: the thread that was writing as it was forked is not there to give the turn back."""
    global _turn
    _turn = allocate_lock()


def _written(level: str, text: str) -> bool:
    now = time.localtime()
    stamp = f"{_MONTHS[now.tm_mon - 1]} {now.tm_mday:2} {now.tm_hour:02}:{now.tm_min:02}:{now.tm_sec:02}"
    tagged = f"postroom/{_program}[{os.getpid()}]: {text}"
    if _destination == "syslog":
        # As glibc has it (misc/syslog.c): RFC 3164 without the host's name.
        return _syslog.put(cut(f"<{_MAIL | _LEVELS[level]}>{stamp} {tagged}", MAX_LINE))
    return _appended(cut(f"{stamp} {os.uname().nodename.partition('.')[0]} {tagged}", MAX_LINE) + b"\n")


def _appended(data: bytes) -> bool:
    try:
        fd = os.open(_destination, _FLAGS, 0o640)
    except OSError:
        return False
    try:
        os.write(fd, data)
    except OSError:
        return False  # a full disk must not turn into a second fault
    finally:
        os.close(fd)
    return True


class Syslog:
    """The connection to syslogd, and the patience that is left with it."""

    __slots__ = ("_left", "_since", "_socket")

    def __init__(self) -> None:
        self._socket: socket | None = None
        self._left = WAIT_LIMIT
        self._since = monotonic()  # when the period began

    def put(self, data: bytes) -> bool:
        """Whether syslogd has taken it. A connection of before is worth a second try: syslogd may have begun anew."""
        again = self._socket is not None
        begun = monotonic()
        if begun - self._since >= PERIOD:
            self._since, self._left = begun, WAIT_LIMIT
        try:
            self._send(data)
        except (BlockingIOError, TimeoutError):
            return False  # it is there, and does not read
        except OSError as error:  # it is not there, or no longer
            self._close(error.errno)
            return again and self.put(data)
        finally:
            spent = monotonic() - begun
            if spent > _AT_ONCE:
                self._left = max(0.0, self._left - spent)
        return True

    def _send(self, data: bytes) -> None:
        from _socket import SOCK_STREAM

        if self._socket is None:
            self._socket = _connected(self._left)
        self._socket.settimeout(self._left)
        if self._socket.type != SOCK_STREAM:
            self._socket.send(data)
            return
        try:
            self._socket.sendall(data + b"\0")  # which ends a line there
        except (BlockingIOError, TimeoutError):
            self._close(None)  # a part of it may have gone: what came next would be read as its rest
            raise

    def _close(self, errno: int | None) -> None:
        taken, self._socket = self._socket, None
        if taken is None:
            return
        if errno in (EBADF, ENOTSOCK):
            taken.detach()  # closed by a handler that closes whatever is open; it may have got the number since
        else:
            taken.close()


def _connected(patience: float) -> socket:
    """A connection to syslogd, which listens for datagrams, or (syslog-ng, of old) for connections."""
    from _socket import SOCK_DGRAM, SOCK_STREAM

    try:
        return _connection(SOCK_DGRAM, patience)
    except OSError as error:
        if error.errno != EPROTOTYPE:
            raise
    return _connection(SOCK_STREAM, patience)


def _connection(kind: int, patience: float) -> socket:
    from _socket import AF_UNIX, socket

    made = socket(AF_UNIX, kind)  # closed on exec, as all of Python's
    try:
        made.settimeout(patience)
        made.connect(DEVICE)
    except BaseException:
        made.close()
        raise
    return made


_syslog = Syslog()
os.register_at_fork(after_in_child=_forked)
