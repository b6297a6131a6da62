"""What a program says of itself when it hands off, and why it may have to run alone."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from postroom import __version__
from postroom.envelope import Envelope, parse_arguments
from postroom.handoff import ENVIRONMENT, LENGTH, MAGIC, REQUEST_LIMIT
from postroom.resident.programs import Program, name_of
from postroom.runners.options import Options, parse
from postroom.runners.pipe import DEFAULT_DEADLINE
from postroom.status import ConfigurationFault

if TYPE_CHECKING:
    from postroom.resident.worker import Worker

_HEAD = len(MAGIC) + LENGTH

# Version, encoding, environment, shipped, identity, program; behind them the arguments.
_FIELDS = 2 + len(ENVIRONMENT) + 3


class Unclear(ValueError):
    """What came is no offer, or one of another version: nothing else of it is believed."""


class Offer:
    """A program's own account. `program`, `options`, `envelope`, `seconds` and `most` are filled in by `objection`.

    `seconds`: until the handler reads the configuration, which may say another deadline; `most`: whatever it says.
    """

    __slots__ = (
        "arguments", "encoding", "envelope", "environment", "identity", "most", "name", "options", "program", "seconds",
        "shipped",
    )  # fmt: skip

    program: Program
    envelope: Envelope

    def __init__(self, fields: list[bytes]) -> None:
        pairs = [field.partition(b"=") for field in fields[2 : 2 + len(ENVIRONMENT)] if field]
        self.encoding = fields[1].decode("ascii", "replace")
        self.environment = {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}
        shipped, identity, program = fields[2 + len(ENVIRONMENT) : _FIELDS]
        self.shipped = shipped == b"shipped"
        self.identity = identity.decode("ascii", "replace")
        self.name = name_of(program.decode("utf-8", "surrogateescape"))
        self.arguments = [word.decode("utf-8", "surrogateescape") for word in fields[_FIELDS:]]
        self.options = Options()
        self.seconds = self.most = DEFAULT_DEADLINE


def read(data: bytes) -> Offer | None:
    """The offer that starts there; None where it is not whole yet. Raises Unclear."""
    if data[: len(MAGIC)] != MAGIC[: len(data)]:
        raise Unclear("not understood")
    if len(data) < _HEAD:
        return None
    length = int.from_bytes(data[len(MAGIC) : _HEAD], "big")
    if length > REQUEST_LIMIT or len(data) > _HEAD + length:
        raise Unclear("not understood")
    if len(data) < _HEAD + length:
        return None
    fields = data[_HEAD:].split(b"\0")
    if fields[0] != __version__.encode():
        version = fields[0][:20].decode("ascii", "replace")
        raise Unclear(f"a program of version {version}, where the service is of {__version__}")
    if len(fields) < _FIELDS:
        raise Unclear("not understood")
    return Offer(fields)


def objection(offer: Offer, worker: Worker) -> str:
    """Why the program has to run alone; "" where nothing speaks against taking it."""
    return (
        ("the service is about to end" if worker.draining else "")
        or _surroundings(offer)
        or _program(offer, worker.programs)
        or _options(offer, worker.options)
        or _mail(offer, worker)
    )


def _surroundings(offer: Offer) -> str:
    if offer.encoding != sys.getfilesystemencoding():
        return f"its locale's encoding is {offer.encoding[:20]}"
    zone = offer.environment.get("TZ")
    return "" if zone == os.environ.get("TZ") else f"its time zone is {zone}, ours {os.environ.get('TZ')}"


def _program(offer: Offer, programs: dict[str, Program]) -> str:
    program = programs.get(offer.name)
    if program is None:
        return f"{offer.name[:60]} is no program that is loaded"
    if offer.identity != program.identity and not (offer.shipped and program.shipped):
        return f"{offer.name[:60]} is another file than {program.path}"
    offer.program = program
    return ""


def _options(offer: Offer, ours: Options) -> str:
    """Options that are wrong, or mean something else here, are the program's to deal with."""
    options = offer.options
    try:
        parse(offer.arguments, options, ("--table",) if offer.program.protocol == "tcp_table" else ())
    except ConfigurationFault as error:
        return f"{offer.name}: {error}"
    if options.help:
        return "asked for its manual"
    if options.config != os.path.abspath(ours.config):
        return f"{offer.name}: --config {options.config[:200]}, ours is {os.path.abspath(ours.config)}"
    for name in ("state", "log"):
        theirs, here = getattr(options, name), getattr(ours, name)
        if not (_same(theirs, here) or (name == "log" and theirs == here == "syslog")):
            return f"{offer.name}: --{name} {str(theirs)[:200]}, ours is {here}"
    return ""


def _same(theirs: str | None, here: str | None) -> bool:
    """Whether they name one place. What is relative is another in each folder, even if it is spelt alike."""
    if theirs is None or here is None:
        return theirs == here
    return os.path.isabs(theirs) and theirs == os.path.abspath(here)


def _mail(offer: Offer, worker: Worker) -> str:
    """Of a program of pipe(8), envelope and deadline; one of spawn(8) has neither."""
    options = offer.options
    if offer.program.kind != "pipe":
        return f"{offer.name}: has a --deadline or words of its own" if options.words or options.deadline else ""
    try:
        offer.envelope = parse_arguments(options.words)
    except ConfigurationFault as error:
        return f"{offer.name}: {error}"
    if options.deadline:
        offer.seconds = offer.most = options.deadline
        return ""
    with suppress(ConfigurationFault):  # the handler will meet it, where it needs a configuration
        offer.most = max(offer.seconds, worker.service.configuration.deadline)
    return ""
