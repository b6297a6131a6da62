"""master.cf, read and edited as text: master(5), Postfix's src/master/master_ent.c."""

from __future__ import annotations

from dataclasses import dataclass

from postroom.postfix.logical import Block, SyntaxFault, appended, parse, replaced, unbraced, without, words

TYPES = ("inet", "unix", "fifo", "pass", "unix-dgram")
FIELDS = 8


@dataclass(frozen=True)
class Service:
    """One entry of master.cf. `arguments` are what the daemon gets, braces taken off, empty `{}` kept."""

    name: str
    type: str
    private: str
    unprivileged: str
    chroot: str
    wakeup: str
    process_limit: str
    command: str
    arguments: tuple[str, ...]

    @property
    def key(self) -> str:
        """name/type, by which Postfix tells services apart."""
        return f"{self.name}/{self.type}"

    @property
    def options(self) -> dict[str, str]:
        """The main.cf parameters that -o sets for this service."""
        return dict(self.option_list())

    def option_list(self) -> list[tuple[str, str]]:
        """-o name=value in the order of the entry; the daemon's own words start at the first that is no option."""
        found, rest = [], iter(self.arguments)
        for word in rest:
            if not word.startswith("-"):
                break
            if word.startswith("-o"):
                setting = word[2:] or next(rest, "")
                name, _, value = setting.partition("=")
                found.append((name.strip(), value.strip()))
        return found

    @property
    def own_arguments(self) -> tuple[str, ...]:
        """The words behind the options: for pipe(8) and spawn(8) attributes, then argv= and what follows."""
        position = 0
        while position < len(self.arguments) and self.arguments[position].startswith("-"):
            position += 2 if self.arguments[position] in ("-o", "-n", "-t", "-s") else 1
        return self.arguments[position:]


def service(logical: str) -> Service:
    """Read one logical line; SyntaxFault when master(8) would refuse it."""
    fields = words(logical)
    if len(fields) < FIELDS:
        raise SyntaxFault(f"master.cf: {logical[:60]!r}: {len(fields)} fields, expected at least {FIELDS}")
    if fields[1] not in TYPES:
        raise SyntaxFault(f"master.cf: {fields[0]}/{fields[1]}: unknown type, expected one of {', '.join(TYPES)}")
    arguments = tuple(unbraced(word) for word in fields[FIELDS:])
    return Service(*fields[:FIELDS], arguments)  # type: ignore[call-arg,arg-type]  # eight words for eight fields


class MasterFile:
    """A master.cf; every edit gives a new one."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.blocks: list[Block] = parse(text)

    def services(self) -> list[Service]:
        """Every service, in the order of the file."""
        return [service(block.logical) for block in self.blocks if block.entry]

    def index(self, key: str) -> int | None:
        """The block of the service; the last of several, since that is the one that master(8) uses."""
        for number in range(len(self.blocks) - 1, -1, -1):
            if self.blocks[number].entry and "/".join(words(self.blocks[number].logical)[:2]) == key:
                return number
        return None

    def get(self, key: str) -> Service | None:
        """The service "name/type", or None."""
        number = self.index(key)
        return None if number is None else service(self.blocks[number].logical)

    def added(self, text: str) -> MasterFile:
        """With whole lines (an entry, comments above it) at the end."""
        return MasterFile(appended(self.text, text))

    def replaced(self, key: str, text: str) -> MasterFile:
        """With another text for the entry `key`, which must be there."""
        return MasterFile(replaced(self.blocks, self._index(key), text))

    def removed(self, key: str, comments: int = 0) -> MasterFile:
        """Without the entry and as many comment lines directly above it."""
        number = self._index(key)
        return MasterFile(without(self.blocks, number - comments, number + 1))

    def _index(self, key: str) -> int:
        number = self.index(key)
        if number is None:
            raise SyntaxFault(f"master.cf: no service {key}")
        return number

    def line_above(self, key: str) -> str:
        """The line directly above an entry, without its newline."""
        number = self._index(key)
        return self.blocks[number - 1].text.rstrip("\n") if number else ""
