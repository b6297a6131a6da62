"""The file names of what is attached to a message, for the key `attachment`."""

from __future__ import annotations

from email.errors import HeaderParseError
from email.header import decode_header, make_header
from email.message import Message as Parsed
from email.parser import BytesFeedParser

from postroom.message import Message
from postroom.rules import Unknown

# The parser holds the whole message in memory, and reads some 20 MB a second.
MESSAGE_LIMIT = 64 * 1024 * 1024

# A message of so many parts was made to be looked at for long.
PARTS_LIMIT = 1000


def names(message: Message) -> list[str] | Unknown:
    """The names, decoded (RFC 2231, RFC 2047), in their order; of a part that is a message, those in it as well.

    A name stands in Content-Disposition, or as `name` of Content-Type, where user agents look for it, too.
    """
    if message.size > MESSAGE_LIMIT:
        return Unknown(f"a message of {message.size} bytes is too large to look for attachments in")
    parser = BytesFeedParser()
    try:
        for chunk in message.chunks():
            parser.feed(chunk)
        return _names(parser.close())
    except (RecursionError, ValueError, LookupError, AttributeError, TypeError, AssertionError, IndexError) as error:
        # The parser was not made for those who want to break it: what it cannot read is not "no attachment".
        return Unknown(f"the parts of the message cannot be read: {error.__class__.__name__}")


def _names(message: Parsed) -> list[str] | Unknown:
    found = []
    for number, part in enumerate(message.walk()):
        if number >= PARTS_LIMIT:
            return Unknown(f"the message has more than {PARTS_LIMIT} parts")
        name = part.get_filename() or part.get_param("name")
        if isinstance(name, tuple):
            charset, _, text = name
            name = text.encode("latin-1", "replace").decode(charset or "utf-8", "replace")
        if name:
            found.append(_decoded(str(name)))
    return found


def _decoded(name: str) -> str:
    """Encoded words do not belong into a parameter (RFC 2047 section 5), and are read there by everybody."""
    try:
        return str(make_header(decode_header(name)))
    except (HeaderParseError, UnicodeError, LookupError, ValueError):
        return name
