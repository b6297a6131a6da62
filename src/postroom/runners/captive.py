"""Programs' files, run by the resident for the sake of their handlers.

    handed = capture(lambda: exec(code, namespace))

Every `run` of a runner first calls `hand_over`. In a program that Postfix has started that does nothing. While the
resident runs the file, `hand_over` keeps what `run` was given and ends the file there, by Held.
"""

from __future__ import annotations

from _thread import get_ident

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Held(BaseException):
    """Ends a program's file at its `run`; no Exception, which a program might catch."""


class Handed:
    """What `run` was given. `kind`: pipe, policy, lookup, lmtp; `wire`: the protocol's module, of a lookup.

    `through_sources`: all that the handler may wait for goes through `service.sources`.
    """

    __slots__ = ("handler", "kind", "through_sources", "wire")

    def __init__(self, kind: str, handler: Callable[..., Any], wire: Any, through_sources: bool) -> None:
        self.kind = kind
        self.handler = handler
        self.wire = wire
        self.through_sources = through_sources


_capturing = 0  # the thread that runs a file; 0: none
_handed: list[Handed] = []


def capture(execute: Callable[[], object]) -> Handed | None:
    """What the `run` of a file was given; None where it came to no `run`. Raises what the file raised before that."""
    global _capturing
    _capturing = get_ident()
    try:
        execute()
    except BaseException:
        if not _handed:
            raise
    finally:
        _capturing = 0
        found = _handed[:]
        _handed.clear()
    return found[0] if found else None


def hand_over(kind: str, handler: Callable[..., Any], wire: Any = None, through_sources: bool = False) -> None:
    """Come back, unless this file is being run for its handler."""
    if _capturing == get_ident():
        _handed.append(Handed(kind, handler, wire, through_sources))
        raise Held
