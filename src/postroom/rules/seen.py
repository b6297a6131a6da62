"""What the values of attributes came to in the index of a stage, kept by a process that decides many requests.

    ruleset = remember(ruleset)             # once, when the configuration is read
    seen = ruleset["seen"]["rcpt"]
    if seen.passes(attributes): ...         # a look at the values is enough: the decision is seen.nothing

Clients, their names, senders and recipients come again and again, each with others. What one value says of the rules
does not depend on them (index.py): so it is looked up once, and from then on found by the bytes that Postfix sent. The
usual request, which no rule is for, is then decided by four or five looks into a dict.
"""

from __future__ import annotations

from postroom.rules import Decision

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from postroom.rules import Ruleset
    from postroom.rules.facts import Facts

    Index = tuple[Any, ...]
    Numbers = Iterable[int]

# For each attribute of a stage. Strangers choose the values: a full one is emptied, and fills again with those that
# come now. 4096 of 256 bytes are a megabyte; no address that is accepted is longer (RFC 5321 section 4.5.3.1).
VALUES_LIMIT = 4096
VALUE_LIMIT = 256

_MISSING: Any = object()


def remember(ruleset: Ruleset) -> Ruleset:
    """The same rules with a memory for each stage, empty still."""
    return {**ruleset, "seen": {stage: Seen(ruleset, stage) for stage in ruleset["stages"]}}


class Seen:
    """`nothing` is what is decided where no rule matches, the same object each time."""

    __slots__ = ("_all", "_sources", "nothing")

    def __init__(self, ruleset: Ruleset, stage: str) -> None:
        words = ruleset["otherwise"][stage]
        index = ruleset["index"].get(stage)
        rest, texts, nets, hosts = index or ((), (), (), ())
        self.nothing = Decision(" ".join(words), words, reason="no rule matched")
        # Whether every rule stands in the index, under an attribute.
        self._all = not rest and not hosts if index is not None else not ruleset["stages"][stage]
        tables: dict[str, tuple[list[Any], list[Any]]] = {}
        for table in texts:
            tables.setdefault(table[1], ([], []))[0].append(table)
        for table in nets:
            tables.setdefault(table[0], ([], []))[1].append(table)
        self._sources = tuple(
            (source, b"\n%b=" % source.encode(), *both, _nothing_yet()) for source, both in tables.items()
        )

    def passes(self, attributes: Mapping[str, str]) -> bool:
        """Whether each value is known to be in no rule."""
        if not self._all:
            return False
        wire = getattr(attributes, "wire", None)
        block = None if wire is None else wire.block
        for source, needle, _, _, known in self._sources:
            value: Any
            if block is None:
                value = attributes.get(source, _MISSING)
            else:  # a value of it, written out: this is most of what a request costs
                start = block.find(needle)
                if start < 0:
                    continue
                start += len(needle)
                value = block[start : block.find(b"\n", start)]
            if value is not _MISSING and known.get(value, _MISSING):
                return False
        return True

    def find(
        self, attributes: Mapping[str, str], facts: Facts, found: list[Numbers], look_up: Callable[..., list[Numbers]]
    ) -> None:
        """Add to `found` the numbers that the values stand for. `look_up` tells them of tables."""
        wire = getattr(attributes, "wire", None)
        block = None if wire is None else wire.block
        for source, needle, texts, nets, known in self._sources:
            value = _value(block, needle) if block is not None else attributes.get(source)
            if value is None:
                continue
            numbers = known.get(value)
            if numbers is None:
                numbers = tuple(look_up(texts, nets, facts))
                # An empty sender of VRFY is another one than that of MAIL (facts.py).
                if len(value) <= VALUE_LIMIT and (value or not facts.nothing_known):
                    if len(known) >= VALUES_LIMIT:
                        known.clear()
                    known[value] = numbers
            if numbers:
                found += numbers


def _nothing_yet() -> dict[bytes | str, tuple[Numbers, ...]]:
    return {}


def _value(block: bytes, needle: bytes) -> bytes | None:
    start = block.find(needle)
    if start < 0:
        return None
    start += len(needle)
    return block[start : block.find(b"\n", start)]
