"""Addresses without their local parts, for a record that others may read: h3f1c0de5a77b@example.com.

A local part becomes a short hash of itself in lower case, an extension a hash of its own beside the delimiter; the
domain stays, so that rules about domains, MX hosts and extensions can be replayed. The same local part always becomes
the same hash, on every machine: that is what makes records comparable, and also the limit of what this protects.
It hides addresses from who reads over a shoulder or greps; who has a guess, or a list of names, hashes that and looks.

Only addresses are hidden. A display name in a header, a subject, a HELO name stay as they are.
"""

from __future__ import annotations

from _blake2 import blake2b

from postroom.rules.lookup import without_extension

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Set as AbstractSet
    from typing import Any

# Attributes that are an address, or the name of a user, as a whole.
ADDRESSES = ("sender", "recipient", "original_recipient", "sasl_username", "sasl_sender", "bounce.recipient")

# 48 bits: among a million addresses two share a hash once in 500 records.
_DIGEST = 6

# What stands round an address in a header, a path or a reply.
_SEPARATORS = str.maketrans(dict.fromkeys("\t\r\n<>()[],;:\"'/\\|{}", " "))


def hashed(local: str) -> str:
    """Letters and digits only: nothing that could be taken for a delimiter, or not stand in a template's slot."""
    return "h" + blake2b(local.lower().encode("utf-8", "surrogatepass"), digest_size=_DIGEST).hexdigest()


def local_part(local: str, delimiter: str) -> str:
    """`bob+news` as two hashes with the delimiter between; nothing stays nothing."""
    user = without_extension(local, delimiter)
    rest = local[len(user) :]
    return (hashed(user) if user else "") + rest[:1] + (hashed(rest[1:]) if rest[1:] else "")


def address(text: str, delimiter: str) -> str:
    local, at, domain = text.rpartition("@")
    return local_part(local, delimiter) + "@" + domain if at else local_part(text, delimiter)


class Mask:
    """Hides the addresses of one request, wherever they turn up in what is recorded of it."""

    def __init__(self, attributes: Mapping[str, str], delimiter: str) -> None:
        self._delimiter = delimiter
        self._whole: dict[str, str] = {}
        self._locals: set[str] = set()
        for name in ADDRESSES:
            if value := attributes.get(name):
                self._know(value)

    def _know(self, value: str) -> None:
        self._whole[value] = self._whole[value.lower()] = address(value, self._delimiter)
        local = (value.rpartition("@")[0] or value).lower()
        user = without_extension(local, self._delimiter)
        self._locals.update(filter(None, (local, user, local[len(user) + 1 :])))

    def attribute(self, name: str, value: str) -> str:
        """A local part alone is looked for only where it can stand: `esmtp@` must not touch protocol_name=ESMTP."""
        return address(value, self._delimiter) if name in ADDRESSES else self.text(value, frozenset())

    def text(self, text: str, alone: AbstractSet[str] | None = None) -> str:
        """Whatever looks like an address in it, and the local parts of this request where they stand as words."""
        alone = self._locals if alone is None else alone
        for whole, masked in self._whole.items():
            if "@" in whole and whole in text:
                text = text.replace(whole, masked)
        for word in set(text.translate(_SEPARATORS).split(" ")):
            masked = self._word(word, alone)
            if masked != word:
                text = _replace(text, word, masked)
        return text

    def _word(self, word: str, alone: AbstractSet[str]) -> str:
        if "@" in word[1:]:
            # What is hashed already hashes again: leave it.
            return word if word in self._whole.values() else address(word, self._delimiter)
        return local_part(word, self._delimiter) if word.lower() in alone else word

    def argument(self, kind: str, argument: Any) -> Any:
        """Of a question. Names of hosts and domains are no secret."""
        if kind == "suppressed":
            return address(argument, self._delimiter)
        if kind == "list":
            name, value, form = argument
            return name, self.text(value, self._locals if form in ("fold", "text") else frozenset()), form
        return self._parts(argument) if kind in ("seen", "greylist", "rate") else argument

    def _parts(self, argument: Any) -> Any:
        if argument.__class__ is tuple:
            return tuple(map(self._parts, argument))
        return self.text(argument) if argument.__class__ is str else argument

    def answer(self, kind: str, data: Any) -> Any:
        """An answer as it is encoded."""
        if kind == "suppressed" and data is not None:
            texts = {name: self.text(data[name]) for name in ("why", "source")}
            return {**data, **texts, "address": address(data["address"], self._delimiter)}
        if kind in ("header", "attachments"):
            return [self.text(item, frozenset()) for item in data]
        return self.text(data) if kind == "list" and data.__class__ is str else data


def _replace(text: str, word: str, masked: str) -> str:
    """`word` where it stands alone; `bob` stays in `bobby`."""
    spaced = f" {text.translate(_SEPARATORS)} "
    found, place = [], 0
    start = spaced.find(f" {word} ")
    while start >= 0:
        found += [text[place:start], masked]
        place = start + len(word)
        start = spaced.find(f" {word} ", place)
    return "".join([*found, text[place:]])
