"""Policy requests, as the runner for spawn(8) speaks of them (stdio.py)."""

from __future__ import annotations

from postroom import log
from postroom.policy import PolicyRequest
from postroom.status import ConfigurationFault
from postroom.wire.policy import RequestReader, reply

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from postroom.runners.options import Options

    Decide = Callable[[PolicyRequest], str]


class Decisions:
    """A handler that decides, and the protocol round it."""

    __slots__ = ("_decide", "limit")

    options: tuple[str, ...] = ()
    reader = RequestReader
    request = PolicyRequest

    def __init__(self, decide: Decide, limit: float) -> None:
        self._decide = decide
        self.limit = limit

    def configure(self, options: Options) -> None:
        """There is nothing of its own on the command line."""

    def refuse(self, reason: str) -> None:
        def decide(request: PolicyRequest) -> str:
            raise ConfigurationFault(reason)

        self._decide = decide

    def answer(self, request: PolicyRequest) -> bytes:
        action = self._decide(request)
        if not isinstance(action, str):
            raise TypeError(f"the handler returned {type(action).__name__}, expected the text of an action")
        return reply(action, request.wire)

    def failure(self, request: PolicyRequest | None, status: str) -> bytes:
        """Our fault, in words for strangers; the log has the rest. A rejection by another restriction still counts."""
        text = "Server configuration problem" if status == ConfigurationFault.status else "Temporary local problem"
        return reply(f"DEFER_IF_PERMIT {status} {text}, try again later")

    def malformed(self) -> bytes:
        """No reply: Postfix asks once more then, and defers."""
        return b""

    def outcome(self, answer: bytes) -> str:
        """What a reply of this protocol says, in a word, for counting: that of the action."""
        return answer[7:].split(None, 1)[0].decode("ascii", "replace")

    def queue_id(self, request: PolicyRequest | None) -> str:
        return "" if request is None else request.get("queue_id", "")

    def log(self, request: PolicyRequest, answer: bytes) -> None:
        fields: dict[str, object] = {
            "client": f"{request.get('client_name', '')}[{request.get('client_address', '')}]",
            "from": f"<{request.get('sender', '')}>",
            "to": f"<{request.get('recipient', '')}>",
            "state": request.get("protocol_state", ""),
            **request.log,
            "action": answer.decode().removeprefix("action=").rstrip(),
        }
        fields.pop("queue_id", None)
        log.info(request.get("queue_id", ""), **fields)
