"""Tables of entries that are looked up as they are: values, a file of one value a line, texthash, inline."""

from __future__ import annotations

from postroom.envelope import unquoted
from postroom.rules.lookup import in_nets, parse_ip
from postroom.status import ConfigurationFault
from postroom.tables.keys import BLANK, fold_key, table_keys
from postroom.tables.lines import key_and_text, logical_lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from postroom.deadline import Deadline

Nets = tuple[tuple[int, int, frozenset[int]], ...]


class Entries:
    """The entries of a list, folded, with the text that stands beside each (True where there is none)."""

    __slots__ = ("_nets", "entries")

    def __init__(self, entries: dict[str, bool | str]) -> None:
        self.entries = entries
        self._nets: Nets | None = None
        for key in [key for key in entries if key[:1] == '"']:
            entries.setdefault(unquoted(key), entries[key])

    def __len__(self) -> int:
        return len(self.entries)

    def find(self, kind: str, value: str, delimiter: str, deadline: Deadline | None = None) -> bool | str:
        """access(5)'s order: the value, then ever less of it. A host's address is also looked up in networks."""
        for key in table_keys(kind, value, delimiter):
            if key in self.entries:
                return self.entries[key]
        return kind == "ip" and in_networks(value, self.nets)

    @property
    def nets(self) -> Nets:
        if self._nets is None:
            self._nets = networks(self.entries)
        return self._nets


def in_networks(value: str, nets: Nets) -> bool:
    address = parse_ip(value) if nets else None
    return address is not None and in_nets(address, nets)


def networks(entries: dict[str, bool | str]) -> Nets:
    """The entries that are networks, or addresses in another spelling than Postfix's, by the length of the prefix."""
    found: dict[tuple[int, int], set[int]] = {}
    for entry in entries:
        if "/" not in entry and ":" not in entry:
            continue
        host, slash, length = entry.partition("/")
        parsed = parse_ip(host)
        if parsed is None or not ((length.isascii() and length.isdigit()) or not slash):
            continue
        version, number = parsed
        host_bits = (32 if version == 4 else 128) - int(length[:4]) if slash else 0
        if host_bits >= 0:
            found.setdefault((version, host_bits), set()).add(number >> host_bits)
    return tuple((version, host_bits, frozenset(numbers)) for (version, host_bits), numbers in found.items())


def plain(content: str, path: str) -> dict[str, bool | str]:
    """One value a line. Empty lines do not count, nor does what follows a `#` at the start or behind a blank."""
    entries: dict[str, bool | str] = {}
    for number, line in enumerate(content.split("\n"), 1):
        # The usual line, quickly: a list may have a million of them.
        value = line.strip(BLANK)
        if '"' in value or "#" in value or " " in value or "\t" in value:
            value = _value(value, f"{path}, line {number}")
        # Of what begins as an address only: a login may hold a slash, too.
        if "/" in value and parse_ip(value.partition("/")[0]) is not None and not networks({value: True}):
            raise ConfigurationFault(f"{path}, line {number}: expected a network as 192.0.2.0/24, found {value[:60]}")
        if value:
            entries[fold_key(value).removesuffix(".")] = True
    return entries


def _value(line: str, place: str) -> str:
    """The one value of a line, without a comment; blanks inside quotes belong to it."""
    value, rest = key_and_text(line)
    if not value and line[0] != "#":
        raise ConfigurationFault(f"{place}: has a quote that is not closed")
    if line[0] == "#" or (rest and rest[0] != "#"):
        words = rest.split()
        if line[0] == "#":
            return ""
        count = 1 + next((index for index, word in enumerate(words) if word[0] == "#"), len(words))
        raise ConfigurationFault(f"{place}: expected one value, found {count}")
    return value


def texthash(content: str, path: str) -> dict[str, bool | str]:
    """postmap(1), INPUT FILE FORMAT: the key, white space, the text. The first of several equal keys counts.

    A line that Postfix passes over with a warning makes the list unusable here: it was meant to say something.
    """
    entries: dict[str, bool | str] = {}
    for number, line in logical_lines(content):
        key, text = key_and_text(line)
        if not key or not text:
            raise ConfigurationFault(f"{path}, line {number}: expected a key, white space and a text")
        entries.setdefault(fold_key(key), text)
    return entries
