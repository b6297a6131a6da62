"""Reading what is to be converted: bounded, and with one clear line where it cannot be."""

from __future__ import annotations

from postroom.config import contents
from postroom.status import ConfigurationFault

# The largest policies known have some thousand lines, access tables some 100,000 of 40 bytes. What is made of a file
# has to fit into a postroom.toml.
SOURCE_LIMIT = 4 * 1024 * 1024


def read(path: str) -> str:
    """The text of a file. Bytes that are not UTF-8 stand for themselves (surrogateescape).

    Raises ConfigurationFault.
    """
    content, _ = contents(path, SOURCE_LIMIT)
    if b"\0" in content:
        raise ConfigurationFault(f"{path}: is no text: it holds NUL bytes")
    return content.decode("utf-8", "surrogateescape").removeprefix("\ufeff")


def is_utf8(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)
