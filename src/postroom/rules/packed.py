"""Many rules as the cache of the configuration keeps them: each in bytes of its own, made a rule when it is its turn.

A program of one mail reads all of the cache, and needs what the index finds: a rule or two. To make ten thousand rules
of their bytes takes four times what a bare start of Python does; to leave them as bytes a tenth of that.
"""

from __future__ import annotations

import marshal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

# Below this a stage is read as fast whole.
LEAST = 100


def pack(ruleset: dict[str, Any]) -> dict[str, Any]:
    """For the cache, with "packed" for the stages that are; what it was given, where none is."""
    stages, index = dict(ruleset["stages"]), dict(ruleset["index"])
    packed = tuple(stage for stage, rules in stages.items() if len(rules) >= LEAST and index[stage] is not None)
    if not packed:
        return ruleset
    for stage in packed:
        stages[stage] = tuple(marshal.dumps(rule) for rule in stages[stage])
        index[stage] = marshal.dumps(index[stage])
    return {**ruleset, "packed": packed, "stages": stages, "index": index}


def unpack(ruleset: dict[str, Any]) -> dict[str, Any]:
    """What pack() made, which marshal has read back and the digest of the cache has vouched for."""
    stages = dict(ruleset["stages"])
    for stage in ruleset["packed"]:
        stages[stage] = Rules(stages[stage])
    return {**ruleset, "stages": stages, "index": Indexes(ruleset["index"])}


class Rules:
    """The rules of a stage, in their order."""

    __slots__ = ("_rules",)

    def __init__(self, packed: tuple[bytes, ...]) -> None:
        self._rules: list[Any] = list(packed)

    def __len__(self) -> int:
        return len(self._rules)

    def __getitem__(self, number: int) -> Any:
        rule = self._rules[number]
        if rule.__class__ is bytes:
            rule = self._rules[number] = marshal.loads(rule)  # noqa: S302 - our own, see unpack()
        return rule

    def __iter__(self) -> Iterator[Any]:
        return map(self.__getitem__, range(len(self._rules)))


class Indexes(dict[str, "Any"]):
    """The indexes by stage; a program asks for one or two of them."""

    __slots__ = ()

    def get(self, stage: str, default: Any = None) -> Any:
        index = super().get(stage, default)
        if index.__class__ is bytes:
            index = self[stage] = marshal.loads(index)  # noqa: S302 - our own, see unpack()
        return index
