"""Files that the items of a postfwd rule name: file:PATH has an entry a line, table:PATH an entry and a word."""

from __future__ import annotations

import re

from postroom.convert import Conversion
from postroom.convert.items import Untranslated
from postroom.convert.source import read
from postroom.status import ConfigurationFault

# Files may name files, and postfwd itself does not find out where they go in a circle.
FILES_LIMIT = 100

# Those with an l are read again when they change.
FILE = re.compile(r"^(cfile|file|ctable|table|lfile|ltable):(.+)$", re.IGNORECASE)


class Lists:
    """Files that items name: each becomes a list where its entries mean the same there."""

    def __init__(self, conversion: Conversion) -> None:
        self._conversion = conversion
        self._names: dict[tuple[str, str], str] = {}
        self._read = 0

    def entries(self, kind: str, path: str) -> list[str]:
        """What postfwd takes from a file; it goes on without one that it cannot read."""
        self._read += 1
        if self._read > FILES_LIMIT:
            raise Untranslated("its files name files that name files, without end")
        try:
            lines = read(path).split("\n")
        except ConfigurationFault as fault:
            raise Untranslated(f"a file cannot be read: {fault}") from None
        bare = (re.sub(r"#.*", "", line).rstrip("\r") for line in lines)
        if kind.lower().endswith("table"):
            bare = (re.sub(r"\s+\S+$", "", line) for line in bare)
        return [line.strip() for line in bare if line.strip()]

    def name(self, kind: str, path: str) -> str:
        """The [list.NAME] for a file."""
        if (kind, path) not in self._names:
            wished = re.sub(r"\W+", "-", path.rpartition("/")[2].partition(".")[0]).strip("-") or "list"
            name, number = wished, 2
            while name in self._conversion.lists:
                name, number = f"{wished}-{number}", number + 1
            as_table = kind.lower().endswith("table")
            self._conversion.lists[name] = {"table": f"texthash:{path}"} if as_table else {"file": path}
            self._names[kind, path] = name
        return self._names[kind, path]
