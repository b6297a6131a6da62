"""The handler API of programs that answer SMTPD policy requests.

    from postroom.policy import PolicyRequest

    def decide(request: PolicyRequest) -> str:
        return "DUNNO" if request["sender"] else "REJECT no bounces here"

A handler is called once per request and returns an action of access(5). It never learns how it was started. Whatever it
raises, and an action that Postfix would misread, defers the mail and is logged.
"""

from __future__ import annotations

from _collections_abc import Mapping
from time import monotonic

from postroom.deadline import Deadline
from postroom.status import ConfigurationFault, Fault
from postroom.wire.policy import Request, check_action

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Protocol, TypeVar

    from postroom.config import Configuration
    from postroom.rules import Decision

    T = TypeVar("T")

    class Service(Protocol):
        """What the runner lends to every request, the same one for all of a connection."""

        sources: Any

        @property
        def configuration(self) -> Configuration: ...


__all__ = [
    "ConfigurationFault",
    "Fault",
    "PolicyRequest",
    "check_action",
    "one_action",
    "part_of_several",
    "without_context",
]

# main.cf: smtpd_restriction_classes and policy_context of the parts of a rule with several actions (rule-policy.cf).
PART_CLASS = "postroom_action_"
PART_CONTEXT = "postroom-action-"
_PART_NEEDLE = b"\npolicy_context=" + PART_CONTEXT.encode()

# For a request that no runner has given a deadline, as in a test: below smtpd_policy_service_timeout (100 s).
DEADLINE = 30.0

# Names come from rules and programs, so that these stay few; the bound is for a program that makes them up.
_NEEDLES_KEPT = 1000
_needles: dict[str, bytes] = {}


class PolicyRequest(Mapping[str, str]):
    """What Postfix asks, as a read-only mapping by Postfix's own attribute names (SMTPD_POLICY_README).

    An attribute is absent, not empty, where Postfix is older than it, or built without SASL or TLS. Bytes that are
    not UTF-8 are kept by surrogateescape. `log` holds what the handler wants to see in the log beside the
    action, such as the rule; with nothing in it no line is written.
    """

    __slots__ = ("_deadline", "_log", "_until", "service", "wire")

    def __init__(self, wire: Request, service: Service | None = None, until: float | None = None) -> None:
        """`until`: the time.monotonic() by which the handler has to answer."""
        self.wire = wire
        self.service = service
        self._until = until
        self._deadline: Deadline | None = None
        self._log: dict[str, object] | None = None

    @classmethod
    def of(cls, attributes: Mapping[str, str], service: Service | None = None) -> PolicyRequest:
        """A request with these attributes, for trying a handler."""
        lines = [f"{name}={value}\n" for name, value in attributes.items()]
        return cls(Request("".join(("\n", *lines)).encode("utf-8", "surrogateescape")), service)

    def __getitem__(self, name: str) -> str:
        value = self.wire.find(_needles.get(name) or _needle(name))
        if value is None:
            raise KeyError(name)
        return value.decode("utf-8", "surrogateescape")

    def get(self, name: str, default: T = None) -> str | T:  # type: ignore[assignment]  # a default's default
        # Request.find, written out: rules look up eight attributes in each request, and a call more costs a tenth.
        needle = _needles.get(name) or _needle(name)
        block = self.wire.block
        start = block.find(needle)
        if start < 0:
            return default
        start += len(needle)
        value = block[start : block.find(b"\n", start)]
        return value.decode() if value.isascii() else value.decode("utf-8", "surrogateescape")

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.wire.find(_needles.get(name) or _needle(name)) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self.attributes())

    def __len__(self) -> int:
        return len(self.attributes())

    def attributes(self) -> dict[str, str]:
        """All of them, in the order sent. Costs more than looking up a few."""
        pairs = self.wire.attributes().items()
        return {
            name.decode("utf-8", "surrogateescape"): value.decode("utf-8", "surrogateescape") for name, value in pairs
        }

    @property
    def deadline(self) -> Deadline:
        """How long the handler may take; every wait of its has to stay below."""
        if self._deadline is None:
            seconds = DEADLINE if self._until is None else max(0.0, self._until - monotonic())
            self._deadline = Deadline(seconds)
        return self._deadline

    @property
    def log(self) -> dict[str, object]:
        if self._log is None:
            self._log = {}
        return self._log

    @property
    def logged(self) -> bool:
        """Whether the handler put anything into `log`."""
        return bool(self._log)


def part_of_several(request: PolicyRequest) -> int | None:
    """Which of the actions of a rule Postfix asks for, from 0; None for an ordinary request.

    A reply can name one action only (src/smtpd/smtpd_check.c, check_table_result). So several are asked for one by
    one: the first reply names as many restriction classes, and main.cf has each of them ask again in a policy_context
    of its own.
    """
    if _PART_NEEDLE not in request.wire.block:
        return None
    context = request.get("policy_context", "")
    number = context.removeprefix(PART_CONTEXT) if context.startswith(PART_CONTEXT) else ""
    return int(number) - 1 if number.isascii() and number.isdigit() and number[0] != "0" and len(number) < 4 else None


def without_context(request: PolicyRequest) -> dict[str, str]:
    """The attributes of the request that was made before; its own policy_context, had it one, cannot be known."""
    attributes = request.attributes()
    attributes.pop("policy_context", None)
    return attributes


def one_action(decision: Decision, part: int | None = None) -> str:
    """What the reply says: the action, the part of it that is asked for, or the classes that ask for each part."""
    actions = decision.actions
    if part is not None:
        return actions[part] if part < len(actions) else "DUNNO"
    if len(actions) == 1:
        return decision.action
    return ", ".join(f"{PART_CLASS}{number}" for number in range(1, len(actions) + 1))


def _needle(name: str) -> bytes:
    """What stands before an attribute's value. One that no line can hold, for a name that none can have."""
    if "=" in name or "\n" in name:
        return b"\n\n"
    if len(_needles) >= _NEEDLES_KEPT:
        _needles.clear()
    needle = _needles[name] = b"\n%b=" % name.encode("utf-8", "surrogateescape")
    return needle
