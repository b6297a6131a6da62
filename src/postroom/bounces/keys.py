"""The key file of signed envelope senders.

    # ID HEXSECRET: the first signs, all verify
    b 8f0c...
    a 51d2...

A new key goes to the top, the old one stays until the last mail signed with it can have bounced. Who can read the file
can suppress any address.
"""

from __future__ import annotations

import os
import stat

from postroom.status import ConfigurationFault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# 128 bits are past guessing; more than 64 bytes BLAKE2b does not take (RFC 7693 section 2.1).
SHORTEST_SECRET = 16
LONGEST_SECRET = 64
# One digit of the tag; the digits of base32, so that the whole tag is of one alphabet.
IDS = "abcdefghijklmnopqrstuvwxyz234567"
_FILE_LIMIT = 65536


class Key:
    __slots__ = ("id", "secret")

    def __init__(self, id: str, secret: bytes) -> None:
        self.id = id
        self.secret = secret


def load(path: str) -> list[Key]:
    """The keys in `path`, the signing one first. Raises ConfigurationFault."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            mode = os.fstat(fd).st_mode
            data = os.read(fd, _FILE_LIMIT)
        finally:
            os.close(fd)
    except OSError as error:
        raise ConfigurationFault("the key file of [bounces] cannot be read") from error
    if mode & stat.S_IRWXO:
        raise ConfigurationFault("the key file of [bounces] is open to everybody") from PermissionError(
            f"{path}: mode {stat.S_IMODE(mode):03o}, expected 600 or 640"
        )
    return parse(data.decode("ascii", "replace"), path)


def parse(text: str, path: str) -> list[Key]:
    keys: list[Key] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        key = _key(words)
        if key is None:
            raise _wrong(path, number, f"expected ID HEXSECRET: a letter or 2-7, and {2 * SHORTEST_SECRET} hex digits")
        if key.id in [other.id for other in keys]:
            raise _wrong(path, number, f"key {key.id} is there twice")
        keys.append(key)
    if not keys:
        raise _wrong(path, 1, "no key in it; `postroom verp key` makes one")
    return keys


def fresh(keys: Sequence[Key]) -> Key:
    """A new key with an id that none of `keys` has."""
    taken = [key.id for key in keys]
    free = [id for id in IDS if id not in taken]
    if not free:
        raise ConfigurationFault("all key ids are taken; remove keys that are no longer needed")
    return Key(free[0], os.urandom(32))


def line(key: Key) -> str:
    return f"{key.id} {key.secret.hex()}\n"


def _key(words: Sequence[str]) -> Key | None:
    try:
        secret = bytes.fromhex(words[1]) if len(words) == 2 else b""
    except ValueError:
        return None
    good = len(words[0]) == 1 and words[0] in IDS and SHORTEST_SECRET <= len(secret) <= LONGEST_SECRET
    return Key(words[0], secret) if good else None


def _wrong(path: str, number: int, text: str) -> ConfigurationFault:
    # The line itself is a secret: it is never shown.
    fault = ConfigurationFault("the key file of [bounces] is not right")
    fault.__cause__ = ValueError(f"{path}: line {number}: {text}")
    return fault
