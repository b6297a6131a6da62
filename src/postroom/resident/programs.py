"""The programs whose handlers the resident runs: their files, executed for what they give to `run`.

Those of Postroom lie beside the `postroom` command, or in a checkout beside src/; others are named by `programs` in
[serve]. A file that cannot be executed takes nothing from the others: its program runs alone, as without a resident.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from _thread import get_ident
from collections.abc import Callable, Mapping
from typing import Any

import postroom
from postroom import handoff, log
from postroom.runners.captive import Handed, capture
from postroom.runners.faults import place, words

# All that are installed (pyproject.toml), in the order of the documentation.
SHIPPED = (
    "rule-deliver", "rule-policy", "socketmap-lookup", "tcp-lookup", "lmtp-deliver", "bounce-record", "notify-record",
)  # fmt: skip

_CHECKOUT = ("agents", "spawn", "bounce")


class Program:
    """A handler, and the file that it is from. `kind`: pipe, policy, lookup or lmtp; `wire`: of a lookup, its protocol.

    `through_sources`: all that the handler may wait for goes through `service.sources`. `shipped`: one of Postroom's
    own, known by name and version; of any other, `identity` tells whether a caller's file is this very one.
    """

    __slots__ = ("handler", "identity", "kind", "name", "path", "shipped", "through_sources", "wire")

    def __init__(self, name: str, path: str, identity: str, handed: Handed, shipped: bool = False) -> None:
        self.name = name
        self.path = path
        self.identity = identity
        self.shipped = shipped
        self.kind = handed.kind
        self.handler: Callable[..., Any] = handed.handler
        self.wire = handed.wire
        self.through_sources = handed.through_sources

    @property
    def protocol(self) -> str:
        """What is spoken on a connection of its, by the name of [listen.NAME]."""
        return str(self.wire.__name__).rpartition(".")[2] if self.kind == "lookup" else self.kind


class Ended(BaseException):
    """A program's file has called os._exit, as their guards do where an import fails."""


def name_of(path: str) -> str:
    return os.path.basename(path).removesuffix(".py")


def load(more: tuple[str, ...] = (), before: Mapping[str, Program] | None = None) -> dict[str, Program]:
    """Every program by its name; `more` are paths of files. Those of `before` whose files are as they were are kept.

    What cannot be loaded is logged and left out; where an earlier form of it was, that is out too, since alone the
    program would be what its file says now.
    """
    handoff.inside = True
    found = {}
    for path, shipped in (*((path, True) for path in _shipped()), *((path, False) for path in more)):
        program = _one(path, shipped, before or {})
        if program is not None:
            found[program.name] = program
    return found


def _shipped() -> list[str]:
    """Files of Postroom's own programs, in the first folder that has them."""
    checkout = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(postroom.__file__))))
    candidates = [
        [os.path.dirname(os.path.abspath(sys.argv[0]))],
        [sysconfig.get_path("scripts")],
        [os.path.join(checkout, name) for name in _CHECKOUT],
    ]
    for folders in candidates:
        places = [os.path.join(folder, name) for folder in folders for name in SHIPPED]
        found = [path for place in places for path in (place, f"{place}.py") if os.path.isfile(path)]
        if found:
            return found
    return []


def _one(path: str, shipped: bool, before: Mapping[str, Program]) -> Program | None:
    name = name_of(path)
    try:
        identity = handoff.identity(path)
        known = before.get(name)
        if known is not None and (known.path, known.identity) == (path, identity):
            return known
        if not shipped:
            _add_folder(os.path.dirname(os.path.abspath(path)))
        handed = capture(lambda: _execute(path))
    except BaseException as error:  # SystemExit included: somebody else's code
        cause = (error.__context__ or error) if isinstance(error, Ended) else error
        log.error("", fault="program", at=place(cause), text=f"{path}: {words(cause)}; it runs alone")
        return None
    if handed is None:
        log.error("", fault="program", text=f"{path}: calls none of the runners; it runs alone")
        return None
    return Program(name, path, identity, handed, shipped)


def _add_folder(folder: str) -> None:
    """Python finds modules beside a program that it starts; last here, so that none of them hides one of ours."""
    if folder not in sys.path:
        sys.path.append(folder)


def _execute(path: str) -> None:
    """Run the file as Python would, but for an os._exit of its: that ends the file, not the worker."""
    with open(path, "rb") as file:
        code = compile(file.read(), path, "exec")
    leave, here = os._exit, get_ident()

    def end(status: int) -> None:
        if get_ident() != here:
            leave(status)
        raise Ended(f"it left with status {status}")

    os._exit = end  # type: ignore[assignment]  # as long as the file runs, and for this thread
    try:
        exec(code, {"__name__": "__main__", "__file__": path, "__doc__": None, "__builtins__": __builtins__})  # noqa: S102 - what Postfix would run
    finally:
        os._exit = leave
