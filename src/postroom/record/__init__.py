"""The record: what was asked of the rules, what they asked, what they decided. One line of JSON for each decision.

    record = Record("/var/lib/postroom/record", hashed=False, delimiter="+")
    record.write("rcpt", attributes, asked, decision)

A line, in one piece here:

    {"format": 1, "version": "0.1.0", "time": 1795363200.123, "stage": "rcpt", "attributes": {...}, "asked": [{"kind":
    "mx", "argument": "example.com", "answer": {...}, "ms": 12.3}], "action": "HANGUP", "rule": "shady", "on_error":
    false, "reason": "", "shadow": [["watch", "WARN ..."]], "hashed": false, "cut": []}

Rules for this file
* What goes wrong here never changes a decision and never holds mail up: it is logged once, and the mail goes on.
* A line is one write(2) on a descriptor opened with O_APPEND, so that programs side by side never mix their lines.
* It runs for mail: no json, no re. `cut` names what was too long to be kept, so that a replay knows.
"""

from __future__ import annotations

import os
import time
from errno import ENOSPC
from stat import S_ISREG

from postroom import __version__, log
from postroom.record.answers import encode
from postroom.rules import Unknown

try:
    from _json import encode_basestring_ascii as quote
except ImportError:  # a Python without the C part of json
    from json.encoder import py_encode_basestring_ascii as quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from postroom.record.mask import Mask
    from postroom.rules import Decision, Question

    # A question, its answer, and how many seconds that took.
    Asked = tuple[Question, Any, float]

# Goes up when a reader of the old lines would misread the new.
FORMAT = 1

# Postfix's own lines are no longer than line_length_limit (2048); what is longer is no mail's.
VALUE_LIMIT = 4096

# A hundred MX hosts with names of 255 bytes; a mail with thousands of headers of one name has no use in a replay.
ANSWER_LIMIT = 32768

# Of an action, a reason, what a shadow rule says. Far above Postfix's 510 bytes.
TEXT_LIMIT = 2048

# A request of 64 KB, all of it escaped as \uNNNN, would take six times as much. Past this only its outlines are kept.
LINE_LIMIT = 131072
_OUTLINE = 256
_OUTLINED = ("queue_id", "instance", "client_address", "sender", "recipient", "protocol_state")
_SHADOW_KEPT = 20

# O_NONBLOCK: a FIFO that nobody reads must not hold mail up. 0600: whom everybody writes to is nobody's business.
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_MODE = 0o600

_CONSTANTS = {None: "null", True: "true", False: "false"}


class Record:
    """A file that decisions are appended to. Threads may share it."""

    __slots__ = ("_delimiter", "_fd", "_hashed", "_inode", "_lock", "_torn", "_trouble", "path")

    def __init__(self, path: str, hashed: bool = False, delimiter: str = "") -> None:
        from _thread import allocate_lock

        self.path = path
        self._hashed = hashed
        self._delimiter = delimiter
        self._fd = -1
        self._inode = (0, 0)
        self._torn = False
        self._trouble = ""
        self._lock = allocate_lock()

    def write(self, stage: str, attributes: Mapping[str, str], asked: Sequence[Asked], decision: Decision) -> None:
        """Append one decision. Never raises."""
        try:
            self._append(self._line(stage, attributes, asked, decision).encode("ascii") + b"\n")
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path, or no regular file there
            self._tell((os.strerror(error.errno) if isinstance(error, OSError) and error.errno else "") or str(error))
        else:
            self._trouble = ""

    def _tell(self, trouble: str) -> None:
        """Once for each trouble, and again when it comes back."""
        if trouble != self._trouble:
            self._trouble = trouble
            log.warning("", record=self.path, text=f"decisions are not recorded: {trouble}")

    def _line(self, stage: str, attributes: Mapping[str, str], asked: Sequence[Asked], decision: Decision) -> str:
        whole = getattr(attributes, "attributes", None)
        if whole is not None:
            attributes = whole()  # a PolicyRequest, which looks up one at a time at ten times the cost
        mask = None
        if self._hashed:
            from postroom.record.mask import Mask

            mask = Mask(attributes, self._delimiter)
        line = _whole(stage, attributes, asked, decision, mask)
        return line if len(line) < LINE_LIMIT else _outline(stage, attributes, decision, mask)

    def _append(self, line: bytes) -> None:
        with self._lock:
            fd = self._open()
            if self._torn:
                line = b"\n" + line  # what a full disk cut short must not swallow this one, too
            written = os.write(fd, line)
            self._torn = written < len(line)
            if self._torn:
                raise OSError(ENOSPC, "")

    def _open(self) -> int:
        """The descriptor; a new one where the file was renamed, removed or replaced, as logrotate(8) does."""
        try:
            found = os.stat(self.path)
            if self._fd >= 0 and (found.st_dev, found.st_ino) == self._inode:
                return self._fd
        except FileNotFoundError:
            pass
        self._close()
        fd = os.open(self.path, _FLAGS, _MODE)
        found = os.fstat(fd)
        if not S_ISREG(found.st_mode):
            os.close(fd)
            raise ValueError("is not a regular file")
        self._fd, self._inode, self._torn = fd, (found.st_dev, found.st_ino), False
        return fd

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _whole(
    stage: str, attributes: Mapping[str, str], asked: Sequence[Asked], decision: Decision, mask: Mask | None
) -> str:
    cut: list[str] = []
    pairs = []
    for name, value in attributes.items():
        if len(value) > VALUE_LIMIT:
            value = value[:VALUE_LIMIT]
            cut.append(name)
        pairs.append(f"{quote(name)}:{quote(mask.attribute(name, value) if mask else value)}")
    questions = ",".join([_asked(one, mask, cut) for one in asked])
    return _framed(stage, "{" + ",".join(pairs) + "}", questions, decision, mask, cut)


def _outline(stage: str, attributes: Mapping[str, str], decision: Decision, mask: Mask | None) -> str:
    """Of a request that is too long: what a person finds it by, and its decision."""
    kept = {}
    for name in _OUTLINED:
        value = (attributes.get(name) or "")[:_OUTLINE]
        kept[name] = mask.attribute(name, value) if mask else value
    return _framed(stage, dumps(kept), "", decision, mask, ["*"], _OUTLINE)


def _asked(one: Asked, mask: Mask | None, cut: list[str]) -> str:
    question, answer, seconds = one
    kind, argument = question.kind, question.argument
    if mask is not None:
        argument = mask.argument(kind, argument)
    if answer.__class__ is Unknown:
        found = '"unknown":' + quote(answer.reason[:TEXT_LIMIT])
    else:
        data = encode(kind, answer)
        found = '"answer":' + dumps(data if mask is None else mask.answer(kind, data))
        if len(found) > ANSWER_LIMIT:
            cut.append(f"{kind}:")
            return f'{{"kind":{quote(kind)},"ms":{seconds * 1000:.3f}}}'
    return f'{{"kind":{quote(kind)},"argument":{dumps(argument)},{found},"ms":{seconds * 1000:.3f}}}'


def _framed(
    stage: str,
    attributes: str,
    asked: str,
    decision: Decision,
    mask: Mask | None,
    cut: list[str],
    limit: int = TEXT_LIMIT,
) -> str:
    action, reason = decision.action, decision.reason
    shadow = decision.shadow
    if mask is not None:
        action, reason = _masked(action, mask), mask.text(reason)
        shadow = tuple([(rule, _masked(text, mask)) for rule, text in shadow])
    if len(shadow) > _SHADOW_KEPT:
        shadow = shadow[:_SHADOW_KEPT]
        cut.append("shadow")
    told = [(rule, text[:limit]) for rule, text in shadow]
    return (
        f'{{"format":{FORMAT},"version":"{__version__}","time":{time.time():.3f},"stage":{quote(stage)},'
        f'"attributes":{attributes},"asked":[{asked}],"action":{quote(action[:limit])},'
        f'"rule":{dumps(decision.rule)},"on_error":{_CONSTANTS[decision.on_error]},"reason":{quote(reason[:limit])},'
        f'"shadow":{dumps(told)},"hashed":{_CONSTANTS[mask is not None]},"cut":{dumps(cut)}}}'
    )


def _masked(action: str, mask: Mask) -> str:
    """The first word is the rule's own: `command`, `550`, `slow:`. No local part of a stranger's makes it another."""
    word, blank, rest = action.partition(" ")
    return mask.text(word, frozenset()) + blank + mask.text(rest)


def dumps(value: Any) -> str:
    """JSON in ASCII of what answers and arguments are made of; what they are not is shown as a text."""
    kind = value.__class__
    if kind is str:
        return quote(value)
    if value is None or kind is bool:
        return _CONSTANTS[value]
    if kind is int or kind is float:
        return repr(value)
    if kind is tuple or kind is list:
        return "[" + ",".join([dumps(item) for item in value]) + "]"
    if kind is dict:
        return "{" + ",".join([f"{quote(name)}:{dumps(item)}" for name, item in value.items()]) + "}"
    return quote(repr(value))
