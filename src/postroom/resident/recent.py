"""Answers to lookups of the last second, by the bytes of the question.

Of one mail, Postfix asks for each recipient three times and more, by several processes. What the loop answers out of
memory may be a second old in any case: the file of rules and those of lists are looked at once a second. So the same
question within a second has the same answer, without a look at the rules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from postroom.config import Configuration

    # When it ends, of which configuration it is, the reply, the rule.
    Entry = tuple[float, Configuration | None, bytes, str]

SECONDS = 1.0

# Strangers choose the keys: a full memory is emptied. With replies it is some two megabytes for each listener.
ANSWERS_LIMIT = 4096
LENGTH_LIMIT = 512


class Recent:
    __slots__ = ("_entries",)

    def __init__(self) -> None:
        self._entries: dict[bytes, Entry] = {}

    def get(self, question: bytes, now: float, configuration: Configuration | None) -> Entry | None:
        entry = self._entries.get(question)
        return entry if entry is not None and now < entry[0] and entry[1] is configuration else None

    def put(self, question: bytes, now: float, configuration: Configuration | None, reply: bytes, rule: str) -> None:
        if len(question) + len(reply) > LENGTH_LIMIT:
            return
        if len(self._entries) >= ANSWERS_LIMIT:
            self._entries.clear()
        self._entries[question] = (now + SECONDS, configuration, reply, rule)
