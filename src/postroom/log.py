"""Log lines in the manner of Postfix's maillog: one event a line, the queue id first.

    postroom/rule-deliver[4711]: 4XyzAb1Cd2: to=<a@example.com>, rule=tickets, status=sent, dsn=2.0.0 (saved)

`log_format = "json"` makes it one JSON object (RFC 8259):

    {"time":"2026-11-22T15:37:52.123+01:00","program":"rule-deliver","pid":4711,"level":"info","queue_id":"4XyzAb1Cd2",
     "to":"<a@example.com>","rule":"tickets","status":"sent","dsn":"2.0.0","text":"saved"}

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
from _thread import _local, allocate_lock
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

# What every JSON line has; a field of the same name goes under another.
_FIXED = frozenset(("time", "program", "pid", "level", "queue_id", "cut"))

# How a JSON line ends that had to leave something out.
_CUT = b',"cut":true}'

_program = "postroom"
_destination = "syslog"
_format = "text"
_names = _local()  # .program: a thread that works for another program
_turn = allocate_lock()
_lost = 0


def open(program: str, destination: str = "syslog", format: str = "text") -> None:
    """Say who logs (`program`), where to ("syslog", or the path of a file that is appended to), "text" or "json"."""
    global _program, _destination, _format
    _program, _destination, _format = program, destination, format


def format(name: str) -> None:
    """Write "text" or "json" from now on."""
    global _format
    _format = name


def speaking_as(program: str) -> str:
    """Let the calling thread log as this program; the name it had before is returned, to be given back.

    "" is the name that `open` was told: what a thread has that never asked for another.
    """
    before: str = getattr(_names, "program", "")
    _names.program = program
    return before


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
    _put(_record(level, queue_id, fields))


def _put(record: bytes) -> None:
    """Write a line, or count it; one at a time, since a thread may close the socket that another is about to use."""
    global _lost
    with _turn:
        if _lost and _written(_record("warning", "", {"lost": _lost, "text": "lines that could not be written"})):
            _lost = 0
        if not _written(record):
            _lost += 1


def _forked() -> None:
    """In a child: the thread that was writing as it was forked is not there to give the turn back."""
    global _turn
    _turn = allocate_lock()


def _record(level: str, queue_id: str, fields: dict[str, object]) -> bytes:
    """The whole line, for the destination as it is now."""
    seconds, fraction = divmod(time.time_ns(), 1_000_000_000)
    now = time.localtime(seconds)
    program = getattr(_names, "program", "") or _program
    stamp = f"{_MONTHS[now.tm_mon - 1]} {now.tm_mday:2} {now.tm_hour:02}:{now.tm_min:02}:{now.tm_sec:02}"
    tag = f"postroom/{program}[{os.getpid()}]: "
    if _destination == "syslog":
        # As glibc has it (misc/syslog.c): RFC 3164 without the host's name.
        head = f"<{_MAIL | _LEVELS[level]}>{stamp} {tag}"
    else:
        head = "" if _format == "json" else f"{stamp} {os.uname().nodename.partition('.')[0]} {tag}"
    if _format == "json":
        begun = head.encode()
        fixed = {"time": _iso(now, fraction), "program": program, "pid": os.getpid(), "level": level}
        return begun + _json({**fixed, "queue_id": queue_id or "NOQUEUE"}, fields, MAX_LINE - len(begun))
    text = line(queue_id, fields)
    return cut(head + (text if level == "info" else f"{level}: {text}"), MAX_LINE)


def _iso(now: time.struct_time, nanoseconds: int) -> str:
    """RFC 3339, in milliseconds: 2026-11-22T15:37:52.123+01:00."""
    minutes = abs(now.tm_gmtoff) // 60
    offset = f"{'-' if now.tm_gmtoff < 0 else '+'}{minutes // 60:02}:{minutes % 60:02}"
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', now)}.{nanoseconds // 1_000_000:03}{offset}"


def _json(fixed: dict[str, object], fields: dict[str, object], limit: int) -> bytes:
    """One object of at most `limit` bytes. As in text, a line that is too long loses its end.

    By hand: the module json takes a program some milliseconds to import.
    """
    named = {f"{name}_" if name in _FIXED else name: value for name, value in fields.items() if value is not None}
    named["text"] = named.pop("text", None) or None  # the last, so that it is what a long line loses
    data = b"{"
    for name, value in (fixed | named).items():
        if value is None:
            continue
        key = (b"," if len(data) > 1 else b"") + _string(name) + b":"
        room = limit - len(data) - len(key) - len(_CUT)
        whole = _json_value(value)
        if len(whole) > room:
            return data + (key + _beginning(str(value), room) if room > 2 else b"") + _CUT
        data += key + whole
    return data + b"}"


def _json_value(value: object) -> bytes:
    if isinstance(value, bool):
        return b"true" if value else b"false"
    if isinstance(value, int) or (isinstance(value, float) and value - value == 0):  # JSON has no infinity, and no NaN
        return str(value).encode()
    return _string(str(value))


def _beginning(text: str, room: int) -> bytes:
    """As much of it as makes a string of so many bytes; no character and no escape is cut in two."""
    found, taken = b"", 0
    while taken < len(text) and len(found) + len(more := _string(text[taken])[1:-1]) <= room - 2:
        found, taken = found + more, taken + 1
    return b'"' + found + b'"'


def _string(text: str) -> bytes:
    """A JSON string: what is printable as UTF-8, control characters escaped, bytes that were no UTF-8 as U+FFFD.

    (An escaped lone surrogate is JSON by its grammar, and refused by most that read it: RFC 8259 section 8.2.)
    """
    text = text.replace("\\", "\\\\").replace('"', '\\"')
    if not text.isprintable():
        text = "".join(c if c.isprintable() else _escaped(ord(c)) for c in text)
    return f'"{text}"'.encode()


def _escaped(code: int) -> str:
    if 0xD800 <= code <= 0xDFFF:
        return "\\ufffd"
    if code > 0xFFFF:  # two units of UTF-16: RFC 8259 section 7
        code -= 0x10000
        return f"\\u{0xD800 | code >> 10:04x}\\u{0xDC00 | code & 0x3FF:04x}"
    return f"\\u{code:04x}"


def _written(record: bytes) -> bool:
    return _syslog.put(record) if _destination == "syslog" else _appended(record + b"\n")


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
