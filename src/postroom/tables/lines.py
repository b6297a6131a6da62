"""Lines of Postfix's text tables: logical lines, key and text, tables written inside braces."""

from __future__ import annotations

from postroom.status import ConfigurationFault
from postroom.tables.keys import BLANK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_SEPARATORS = ", \t\r\n"


def logical_lines(content: str) -> Iterator[tuple[int, str]]:
    """Lines joined with those that start with white space; comments and empty lines in between do not part them."""
    start, parts = 0, ""
    for number, line in enumerate(content.split("\n"), 1):
        stripped = line.strip(BLANK)
        if not stripped or stripped[0] == "#":
            continue
        if line[0] in BLANK and parts:
            parts += line
            continue
        if parts:
            yield start, parts
        start, parts = number, line
    if parts:
        yield start, parts


def key_and_text(line: str) -> tuple[str, str]:
    """At the first white space outside quotes; a backslash takes the next character (src/util/dict_thash.c)."""
    quoted = False
    position = 0
    while position < len(line):
        character = line[position]
        if character == "\\":
            position += 1
        elif character == '"':
            quoted = not quoted
        elif character in BLANK and not quoted:
            break
        position += 1
    return ("", "") if quoted else (line[:position].strip(BLANK), line[position:].strip(BLANK))


def rules(content: str, path: str) -> Iterator[tuple[str, str]]:
    """(place for messages, line) of a table of rules, whose first line must not begin with white space."""
    for number, line in logical_lines(content):
        if line[0] in BLANK:
            raise ConfigurationFault(f"{path}, line {number}: begins with white space, but continues nothing")
        yield f"{path}, line {number}", line.strip(BLANK)


def inline_rules(text: str, kind: str) -> Iterator[tuple[str, str]]:
    """The same of `{ {rule}, {rule} }` (cidr_table(5), INLINE SPECIFICATION)."""
    for number, word in enumerate(words(text, kind), 1):
        place = f"{kind}, rule {number}"
        if word[0] != "{":
            raise ConfigurationFault(f"{place}: expected {{rule}}, found {word[:60]}")
        yield place, word[1:-1].strip(BLANK)


def inline(text: str) -> dict[str, bool | str]:
    """`{ {key = text with blanks}, key=text }`: inline of DATABASE_README. The last of several equal keys counts."""
    entries: dict[str, bool | str] = {}
    for number, word in enumerate(words(text, "inline"), 1):
        name, equals, value = (word[1:-1] if word[0] == "{" else word).partition("=")
        name, value = name.strip(BLANK), value.strip(BLANK)
        if not equals or not name or not value:
            raise ConfigurationFault(f"inline, entry {number}: expected key=text or {{key = text}}, found {word[:60]}")
        entries[name] = value
    return entries


def words(text: str, kind: str) -> list[str]:
    """What stands in the outer braces, split at commas and white space outside inner braces."""
    text = text.strip(BLANK)
    if len(text) < 2 or text[0] != "{" or _closing(text, 0) != len(text) - 1:
        raise ConfigurationFault(f"{kind}: expected {{ ... }}, found {text[:60]}")
    inside = text[1:-1]
    found: list[str] = []
    position = 0
    while position < len(inside):
        if inside[position] in _SEPARATORS:
            position += 1
            continue
        end = _end(inside, position)
        found.append(inside[position:end])
        if inside[position] == "{" and _closing(inside, position) != end - 1:
            raise ConfigurationFault(f"{kind}: expected a comma or a blank after }} in {found[-1][:60]}")
        position = end
    if not found:
        raise ConfigurationFault(f"{kind}: holds nothing")
    return found


def _end(text: str, position: int) -> int:
    level = 0
    while position < len(text) and (level or text[position] not in _SEPARATORS):
        level += (text[position] == "{") - (text[position] == "}" and level > 0)
        position += 1
    return position


def _closing(text: str, start: int) -> int:
    """The place of the brace that closes the one at `start`; -1 where there is none."""
    level = 0
    for position in range(start, len(text)):
        level += (text[position] == "{") - (text[position] == "}")
        if not level:
            return position
    return -1
