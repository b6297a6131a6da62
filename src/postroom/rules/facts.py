"""What is known about one request while it is decided: its attributes, folded once, and the answers so far."""

from __future__ import annotations

from postroom.rules import Question
from postroom.rules.lookup import fold, keys_of, parse_ip, part_of
from postroom.rules.rewrite import resolved

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from postroom.rules.rewrite import Local


class Facts:
    """`answers` is filled by who runs the rules; a fact that is not there yet comes back as a Question."""

    __slots__ = (
        "_keys", "_local", "_values", "answers", "attributes", "delimiter", "listed", "unfilled", "waits", "zone",
    )  # fmt: skip

    def __init__(
        self, attributes: Mapping[str, str], delimiter: str, zone: str = "", local: Local | None = None
    ) -> None:
        """`local`: of a recipient that is as the client typed it, as at the SMTP stages."""
        self.attributes = attributes
        self._values: dict[tuple[str, str], str] = {}
        self._keys: dict[tuple[str, str], tuple[str, ...]] = {}
        self.answers: dict[tuple[str, object], Any] = {}
        self.delimiter = delimiter
        self.zone = zone
        self._local = local
        # Of the rule at hand: the text beside the entry of each list that held a value, the first as "reason"; and the
        # seconds to wait that its `greylist` and `rate` came to. For its templates.
        self.listed: dict[str, str] = {}
        self.waits: dict[str, int] = {}
        # Why the action of the rule at hand could not be filled in (render.py).
        self.unfilled = ""

    @property
    def nothing_known(self) -> bool:
        """VRFY is decided by the rules of rcpt, but there was no MAIL: its empty sender is not the null sender."""
        return self.attributes.get("protocol_state") == "VRFY"

    def given(self, source: str) -> bool:
        return source in self.attributes

    def text(self, source: str, part: str = "") -> str:
        """An attribute, or a part of the address in it; empty where it is absent. As it came, but for the recipient."""
        text = self.attributes.get(source) or ""
        if source == "recipient" and self._local is not None:
            if part == "typed":
                return text
            text = resolved(text, *self._local)
        return part_of(text, part, self.delimiter) if part else text

    def value(self, source: str, part: str, kind: str, known: bool) -> str | None:
        """The same in the form in which it is compared; None where it is missing."""
        value = self._values.get((source, part))
        if value is None:
            # text() and fold(), written out for what nearly every rule looks at: calls are half of the cost.
            value = self.text(source, part) if part or source == "recipient" else self.attributes.get(source) or ""
            if kind != "text":
                value = fold(kind, value)
            self._values[source, part] = value
        if value:
            return value
        if part and self.attributes.get(source):
            return value  # the address is known: it has no extension, or no domain
        return value if known and not self.nothing_known and source in self.attributes else None

    def keys(self, kind: str, value: str) -> tuple[str, ...]:
        found = self._keys.get((kind, value))
        if found is None:
            found = keys_of(kind, value, self.delimiter)
            if "" in found:
                found = tuple(filter(None, found))  # the domain of `a@` is not the null sender
            if kind in ("address", "domain") and not value.isascii():
                found += self._a_labels(kind, value)
            self._keys[kind, value] = found
        return found

    def _a_labels(self, kind: str, value: str) -> tuple[str, ...]:
        """The keys of the name as the DNS has it: letters can be put together in several ways, and look alike."""
        from postroom.mx import to_ascii

        local, at, domain = value.rpartition("@")
        try:
            return keys_of(kind, f"{local}{at}{to_ascii(domain)}", self.delimiter) if at or kind == "domain" else ()
        except UnicodeError:
            return ()  # no name at all

    def counted(self, parts: tuple[tuple[str, str, str], ...]) -> tuple[str, ...] | None:
        """What is counted by, each part folded; None where one of them is missing. `<>` is the null sender."""
        found = []
        for kind, source, part in parts:
            value = fold(kind, self.text(source, part))
            if source == "sasl_username":
                value = value.lower()  # to most servers Ann and ANN are one login, and must be one count
            elif source == "client_address" and ":" in value:
                value = _client(value)
            if not value and source == "sender" and not self.nothing_known and source in self.attributes:
                value = "<>"
            if not value:
                return None
            found.append(value)
        return tuple(found)

    def ask(self, kind: str, argument: object) -> Any:
        """The answer, or the Question to ask first."""
        answers = self.answers
        return answers[kind, argument] if (kind, argument) in answers else Question(kind, argument)

    def suppression(self, source: str) -> Any:
        """A Suppression or None, or Unknown, or the Question; of no address at all: None."""
        address = self.text(source)
        return self.ask("suppressed", address) if address else None

    def plan(self, source: str) -> Any:
        """An mx.Plan, or Unknown, or the Question; None for an address without a domain."""
        domain = fold("domain", self.text(source, "domain"))
        return self.ask("mx", domain) if domain else None


def _client(address: str) -> str:
    """Of an IPv6 address its /64, of which every customer has all addresses (RFC 6177), and could be new with each."""
    from postroom.rules.clientpool import network  # few need it

    parsed = parse_ip(address)
    return address if parsed is None else network(parsed, (32, 64))
