"""What strangers wrote, as keys of the store: a digest to find them by, and a label for people to read."""

from __future__ import annotations

from _blake2 import blake2b

from postroom.status import clean

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# Two keys of one digest would be counted as one: with 128 bits nobody finds such a pair by trying.
DIGEST_SIZE = 16
# Enough for a sender and a recipient; the digest is of all of it.
MAX_LABEL = 200
# What an administrator copies from a list to name a row: its first 48 bits.
ID_SIZE = 6


def digest(kind: bytes, name: str, key: Iterable[str]) -> bytes:
    """Of any texts, stray surrogates included. Each goes in with its length: ("a", "bc") is not ("ab", "c")."""
    state = blake2b(digest_size=DIGEST_SIZE, person=kind)
    for text in (name, *key):
        data = text.encode("utf-8", "surrogatepass")
        state.update(b"%d:" % len(data))
        state.update(data)
    return state.digest()


def label(key: Iterable[str]) -> str:
    """One line: an empty text is shown as <>, a long one cut."""
    shown = ", ".join(clean(text[: 2 * MAX_LABEL]) or "<>" for text in key)
    return shown if len(shown) <= MAX_LABEL else shown[: MAX_LABEL - 3] + "..."
