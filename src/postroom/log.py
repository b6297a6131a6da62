"""Log lines in the manner of Postfix's maillog: one event a line, the queue id first.

    postroom/rule-deliver[4711]: 4XyzAb1Cd2: to=<a@example.com>, rule=tickets, status=sent, dsn=2.0.0 (saved)

`grep QUEUEID` then tells a mail's whole story, Postfix's part and ours. Lines go to syslog's mail facility or
are appended to a file, each with one write(2), so that programs running side by side never mix their lines.
A log that cannot be written never stops mail: the line is lost, the delivery is not.
"""

from __future__ import annotations

import os
import time

from postroom.status import clean, cut

# RFC 5424 asks receivers to take 2048 bytes; rsyslog and journald take more. A line past this is cut.
MAX_LINE = 2000
_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]

# O_NONBLOCK: a FIFO that nobody reads must not hold mail up.
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY

_program = "postroom"
_destination = "syslog"


def open(program: str, destination: str = "syslog") -> None:
    """Say who logs (`program`) and where to: "syslog", or the path of a file that is appended to."""
    global _program, _destination
    _program, _destination = program, destination
    if destination == "syslog":
        import syslog

        syslog.openlog(f"postroom/{program}", syslog.LOG_PID, syslog.LOG_MAIL)


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
    if level != "info":
        text = f"{level}: {text}"
    if _destination == "syslog":
        import syslog

        priority = {"info": syslog.LOG_INFO, "warning": syslog.LOG_WARNING, "error": syslog.LOG_ERR}[level]
        # syslog(3) takes no NUL and no text that is not UTF-8; cut() has replaced both.
        syslog.syslog(priority, cut(text, MAX_LINE).decode())
    else:
        _append(text)


def _append(text: str) -> None:
    now = time.localtime()
    stamp = f"{_MONTHS[now.tm_mon - 1]} {now.tm_mday:2} {now.tm_hour:02}:{now.tm_min:02}:{now.tm_sec:02}"
    prefix = f"{stamp} {os.uname().nodename.partition('.')[0]} postroom/{_program}[{os.getpid()}]: "
    try:
        fd = os.open(_destination, _FLAGS, 0o640)
    except OSError:
        return
    try:
        os.write(fd, cut(prefix + text, MAX_LINE) + b"\n")
    except OSError:
        pass  # a full disk must not turn into a second fault
    finally:
        os.close(fd)
