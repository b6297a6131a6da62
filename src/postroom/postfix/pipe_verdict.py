"""What Postfix does with a mail when a program that pipe(8) ran has ended: the verdict on its exit and its output.

Source: Postfix's src/global/pipe_command.c, src/global/sys_exits.c, src/global/dsn_util.c, src/util/printable.c.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

# VSTREAM_BUFSIZE: Postfix reads this much of the output, once, and closes the pipe.
CAPTURE = 4096
# What reaches the log line and the success notice of a delivery (pipe.c).
SUCCESS_TEXT = 100
EX_TEMPFAIL = 75

# sys_exits.c: exit status -> enhanced status code and text. Any other status bounces with 5.3.0.
SYS_EXITS: dict[int, tuple[str, str]] = {
    64: ("5.3.0", "command line usage error"),
    65: ("5.6.0", "data format error"),
    66: ("5.3.0", "cannot open input"),
    67: ("5.1.1", "user unknown"),
    68: ("5.1.2", "host name unknown"),
    69: ("5.3.0", "service unavailable"),
    70: ("5.3.0", "internal software error"),
    71: ("4.3.0", "system resource problem"),
    72: ("5.3.0", "critical OS file missing"),
    73: ("5.2.0", "can't create user output file"),
    74: ("5.3.0", "input/output error"),
    75: ("4.3.0", "temporary failure"),
    76: ("5.5.0", "remote error in protocol"),
    77: ("5.7.0", "permission denied"),
    78: ("5.3.5", "local configuration error"),
}
# dsn_valid(): the code must be the very first thing in the output.
CODE = re.compile(r"([245]\.\d{1,3}\.\d{1,3})(?:[ \t\r\n\f\v]+|$)", re.ASCII)
# What the pipe_delivery_status_filter in master.cf.d turns into 4.3.0: ends that are our fault, never a decision.
FILTERED = re.compile(r"Command (died with status|time limit exceeded)")
CODE_AFTER_SPACE = re.compile(r"[ \t\r\n]+[245]\.\d{1,3}\.\d{1,3}\s", re.ASCII)


@dataclass(frozen=True)
class Run:
    """How one run of a program ended."""

    output: bytes
    # os.waitstatus_to_exitcode(): negative for a signal.
    exit: int
    timed_out: bool
    seconds: float
    # Output that was already in the pipe when Postfix stopped reading.
    unread: int


@dataclass(frozen=True)
class Verdict:
    """What Postfix logs about the recipient: status, enhanced status code, text; and what an author should know."""

    status: str
    dsn: str
    text: str
    warnings: tuple[str, ...] = ()
    run: Run | None = None


def judge(run: Run, program: str, service: str) -> Verdict:
    """The verdict of pipe_command.c, in its order: time limit, signal, status in the output, exit status."""
    text = printable(run.output)
    # Postfix asks whether there were bytes, not whether they show as text.
    said = f". Command output: {text}" if run.output else ""
    command = f': "{program}"{said}'
    code = CODE.match(text)
    if run.timed_out:
        verdict = ("bounced", "5.3.0", "Command time limit exceeded" + command)
    elif run.exit == 0:
        verdict = ("sent", "2.0.0", delivered(service, text))
    elif run.exit < 0:
        verdict = ("deferred", "4.3.0", f"Command died with signal {-run.exit}" + command)
    elif code:
        verdict = stated(code[1], text[code.end() :])
    elif run.exit in SYS_EXITS:
        dsn, meaning = SYS_EXITS[run.exit]
        verdict = (kind(dsn), dsn, meaning + said)
    else:
        verdict = ("bounced", "5.3.0", f"Command died with status {run.exit}" + command)
    return Verdict(*verdict, warnings=tuple(warnings(run, text)), run=run)


def filtered(verdict: Verdict) -> Verdict:
    """The verdict behind the status filter that the fragments ask for."""
    ours = verdict.dsn == "5.3.0" and FILTERED.match(verdict.text)
    return replace(verdict, status="deferred", dsn="4.3.0") if ours else verdict


def kind(dsn: str) -> str:
    """deferred for 4.x.x, bounced for the rest."""
    return "deferred" if dsn.startswith("4") else "bounced"


def stated(dsn: str, text: str) -> tuple[str, str, str]:
    """A status that the program wrote. A failure with 2.x.x is recorded as 5.0.0 (bounce_append())."""
    return kind(dsn), "5.0.0" if dsn.startswith("2") else dsn, text


def delivered(service: str, text: str) -> str:
    """What Postfix logs for exit status 0."""
    said = text.rstrip(" ")[:SUCCESS_TEXT]
    return f"delivered via {service} service" + (f" ({said})" if said else "")


def printable(output: bytes) -> str:
    """The output as Postfix shows it: it ends at a NUL, TAB and NL are spaces, other unprintable bytes "_"."""
    text = output.partition(b"\0")[0].translate(bytes.maketrans(b"\t\n", b"  "))
    shown, index = bytearray(), 0
    while index < len(text):
        length = character_length(text, index)
        shown += text[index : index + length] if length else b"_"
        index += length or 1
    return shown.decode("utf-8", "surrogateescape")


def character_length(text: bytes, index: int) -> int:
    """How many bytes printable() keeps from here; 0 for one that it replaces. It takes a UTF-8 start byte on trust."""
    byte = text[index]
    if 32 <= byte < 127:
        return 1
    end = index + 1
    while end < len(text) and 0x80 <= text[end] < 0xC0:
        end += 1
    return end - index if 194 <= byte <= 254 and end > index + 1 else 0


def warnings(run: Run, text: str) -> list[str]:
    """What an author of such a program should know, though Postfix says nothing of it."""
    code = CODE.match(text)
    found = []
    if len(run.output) >= CAPTURE or run.unread:
        found.append(f"output past {CAPTURE} bytes: Postfix stops reading there, and a later write kills the program")
    if run.timed_out:
        found.append("a time limit bounces the mail, whatever the program wrote")
    elif run.exit > 0:
        found += failure_warnings(run.exit, text, code)
    elif run.exit == 0 and code and not code[1].startswith("2"):
        found.append(f"exit status 0 means delivered: {code[1]} in the output counts for nothing")
    return found


def failure_warnings(status: int, text: str, code: re.Match[str] | None) -> list[str]:
    """Warnings about an exit status above 0."""
    found = []
    if code and not text[code.end() :].strip():
        found.append("a status code without text: some Postfix versions then show the text of another mail")
    elif code and code[1].startswith("2"):
        found.append("a 2.x.x code with a failure exit bounces the mail")
    elif not code and CODE_AFTER_SPACE.match(text):
        found.append("a status code counts only as the very first thing in the output")
    elif not code and text:
        found.append("text without a status code at its start: the exit status alone decides")
    if not code and status not in SYS_EXITS:
        found.append(f"exit status {status} bounces the mail: an uncaught error would too; defer with {EX_TEMPFAIL}")
    return found
