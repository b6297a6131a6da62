"""The request that `postroom explain` is about: words of the command line, a file as Postfix sends it, or a record."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import IO

import click

from postroom.record.read import Line, lines
from postroom.rules import STAGE_OF_STATE, keys
from postroom.rules.problems import Refused
from postroom.rules.testcase import Given, no_header
from postroom.status import clean
from postroom.wire.policy import REQUEST_LIMIT

_STATES = {"connect": "CONNECT", "helo": "EHLO", "mail": "MAIL", "rcpt": "RCPT", "data": "DATA", "etrn": "ETRN"}

# Other lines of the same mail that are named.
_OTHERS_SHOWN = 10


@dataclass
class Requested:
    """`attributes` as they are decided by; `given` what a person says in place of DNS, state and message.

    `number` and `line` where it was recorded; `others` are the numbers of further lines of the same mail.
    """

    stage: str
    attributes: dict[str, str]
    given: Given
    number: int = 0
    line: Line | None = None
    others: list[int] = field(default_factory=list)


def requested(
    words: tuple[str, ...], stage: str | None, request: str | None, record: str | None, queue_id: str | None
) -> Requested:
    """What the options say, each of them checked. Raises click.UsageError."""
    if request is not None and record is not None:
        raise click.UsageError("expected one of --request and --record")
    if queue_id is not None and record is None:
        raise click.UsageError("--queue-id looks for a line of --record")
    if record is not None:
        found = _recorded(record, queue_id)
    elif request is not None:
        attributes = _sent(request)
        found = Requested(STAGE_OF_STATE.get(attributes.get("protocol_state", ""), "rcpt"), attributes, Given())
    elif words:
        found = Requested("rcpt", {}, Given())
    else:
        raise click.UsageError("expected what is known of the mail, such as recipient=user@example.com")
    found.stage = stage or found.stage
    found.given = given(words, found.stage)
    found.attributes.update(found.given.attributes)
    if found.stage in _STATES:
        found.attributes.setdefault("protocol_state", _STATES[found.stage])
    return found


def _sent(path: str) -> dict[str, str]:
    """`name=value` lines up to an empty one, as in SMTPD_POLICY_README; of a repeated name the first counts."""
    with _opened(path) as file:
        data = file.read(REQUEST_LIMIT + 1)
    if len(data) > REQUEST_LIMIT:
        raise click.UsageError(f"{clean(path)}: is longer than {REQUEST_LIMIT} bytes, expected one request")
    found: dict[str, str] = {}
    for number, line in enumerate(data.decode("utf-8", "surrogateescape").split("\n"), 1):
        name, equals, value = line.removesuffix("\r").partition("=")
        if not name and not equals:
            if found:
                break
        elif not name or not equals:
            raise click.UsageError(f"{clean(path)}: line {number}: expected NAME=VALUE, found {clean(line)[:60]!r}")
        else:
            found.setdefault(name, value)
    if not found:
        raise click.UsageError(f"{clean(path)}: holds no request, expected lines of NAME=VALUE")
    found.pop("request", None)
    return found


def _opened(path: str) -> IO[bytes]:
    try:
        return open(0, "rb", closefd=False) if path == "-" else open(path, "rb")
    except OSError as error:
        raise click.UsageError(f"{clean(path)}: {os.strerror(error.errno or 0)}") from None


def _recorded(place: str, queue_id: str | None) -> Requested:
    """A line by its number, the last one of a mail, or the last of all."""
    path, wanted = _place(place)
    last: tuple[int, Line] | None = None
    others: list[int] = []
    with _opened(path) as file:
        for number, _, line in lines(file, keys.STAGES):
            if wanted and number != wanted:
                continue
            if isinstance(line, str):
                if wanted:
                    raise click.UsageError(f"{clean(path)}: line {number}: {line}")
            elif queue_id is None or line.attributes.get("queue_id") == queue_id:
                if last and queue_id is not None:
                    others.append(last[0])
                last = number, line
            if wanted:
                break
    if last is None:
        what = f"line {wanted}" if wanted else f"line with queue id {clean(queue_id)}" if queue_id else "decision"
        raise click.UsageError(f"{clean(path)}: has no {what}")
    number, line = last
    return Requested(line.stage, dict(line.attributes), Given(), number, line, others[-_OTHERS_SHOWN:])


def _place(place: str) -> tuple[str, int]:
    """FILE or FILE:N; a file of that very name goes first."""
    path, colon, number = place.rpartition(":")
    if colon and path and number.isascii() and number.isdigit() and int(number[:18]) > 0 and not os.path.exists(place):
        return path, int(number[:18])
    return place, 0


def given(words: tuple[str, ...], stage: str) -> Given:
    """The words of the command line as facts."""
    given = Given()
    records: dict[str, list[str]] = {}
    seen: set[str] = set()
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise click.UsageError(f"expected NAME=VALUE, found {clean(word)!r}")
        if name in ("mx", "sender_mx") and value[:1].isdigit():
            records.setdefault(name, []).append(value)
            continue
        if name.startswith(keys.HEADER_PREFIX):
            _header(given, name, value, stage)
            continue
        if name in seen and name not in _REPEATED:
            raise click.UsageError(f"{clean(name)}: is given twice")
        seen.add(name)
        if name in _REPEATED:
            records.setdefault(name, []).append(value)
        else:
            _add(given, name, _value(name, value))
    for name, values in records.items():
        if name in seen and name not in _REPEATED:
            raise click.UsageError(f"{name}: is given twice")
        _add(given, name, values)
    return given


# Answers that are lists, and answers that are true or false, or a number.
_REPEATED = ("mx_address", "ns", "dnsbl", "attachment")
_TYPED = ("suppressed", "fcrdns", "seen", "greylist", "rate")


def _value(name: str, value: str) -> object:
    if name in _TYPED and value in ("true", "false"):
        return value == "true"
    return int(value) if name in _TYPED and value.isascii() and value.isdigit() and len(value) < 12 else value


def _header(given: Given, name: str, value: str, stage: str) -> None:
    """A message may have several headers of one name."""
    if misplaced := no_header(stage):
        raise click.UsageError(f"{clean(name)}: {misplaced}")
    header = name.removeprefix(keys.HEADER_PREFIX).lower()
    before = given.headers.get(header, ())
    _add(given, name, value)
    given.headers[header] = before + given.headers[header]


def _add(given: Given, name: str, value: object) -> None:
    try:
        given.add(name, value)
    except Refused as refused:
        raise click.UsageError(f"{clean(name)}: {refused}") from None
