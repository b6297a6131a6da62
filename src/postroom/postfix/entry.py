"""A program's entry in master.cf against the one it needs: what it lacks, and the smallest edit that mends it.

What an administrator added (an -o, an attribute, an argument, a process limit, comments) is never taken away.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from postroom.postfix.logical import parse
from postroom.postfix.mastercf import Service, service

# The eight fields at the start of an entry, where they stand on one line.
HEAD = re.compile(r"\S+(?:[ \t]+\S+){7}")
ARGV = re.compile(r"(?<=\s)argv=")


@dataclass(frozen=True)
class Command:
    """The words behind the daemon's name: attributes such as user=, the program, its options, and what follows "--"."""

    attributes: dict[str, str]
    program: str
    words: tuple[str, ...]

    @property
    def config(self) -> str:
        """The file that --config names; empty without one."""
        return self.option("--config")

    def option(self, name: str) -> str:
        """The value of an option of the program, written `--name value` or `--name=value`."""
        for position, word in enumerate(self.words):
            if word == "--":
                break
            if word.startswith(name + "="):
                return word[len(name) + 1 :]
            if word == name:
                return self.words[position + 1] if position + 1 < len(self.words) else ""
        return ""


def command(entry: Service) -> Command:
    """Take an entry of pipe(8) or spawn(8) apart."""
    attributes: dict[str, str] = {}
    for position, word in enumerate(entry.own_arguments):
        name, _, value = word.partition("=")
        if name == "argv":
            return Command(attributes, value, entry.own_arguments[position + 1 :])
        attributes[name] = value
    return Command(attributes, "", ())


@dataclass(frozen=True)
class Lack:
    """What an entry lacks against the wanted one. `conflicts` are differences that no addition mends."""

    conflicts: tuple[str, ...]
    options: tuple[tuple[str, str], ...]
    attributes: tuple[tuple[str, str], ...]
    words: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.conflicts or self.options or self.attributes or self.words)

    def __str__(self) -> str:
        missing = [f"-o {name}={value}" for name, value in self.options]
        missing += [f"{name}={value}" for name, value in self.attributes] + list(self.words)
        return "; ".join([*self.conflicts, *([f"without {' '.join(missing)}"] if missing else [])])


def lack(present: Service, wanted: Service) -> Lack:
    """Compare two entries of one program."""
    have, want = command(present), command(wanted)
    options = present.options
    return Lack(
        conflicts=(*field_conflicts(present, wanted), *command_conflicts(have, want, options, wanted.options)),
        options=tuple((name, value) for name, value in wanted.options.items() if name not in options),
        attributes=tuple((name, value) for name, value in want.attributes.items() if name not in have.attributes),
        words=tuple(word for word in want.words if word not in have.words and word not in (want.config, "--config")),
    )


def field_conflicts(present: Service, wanted: Service) -> list[str]:
    """Differences in the fields that must be so. Wake-up time and process limit are the administrator's."""
    defaults = {"private": "y", "unprivileged": "y", "chroot": "n"}
    found = []
    for field in ("private", "unprivileged", "chroot", "command"):
        have, want = getattr(present, field), getattr(wanted, field)
        default = defaults.get(field, "")
        if (have if have != "-" else default) != (want if want != "-" else default):
            found.append(f"{field} is {have}, not {want}")
    return found


def command_conflicts(have: Command, want: Command, options: dict[str, str], wanted: dict[str, str]) -> list[str]:
    """Settings that are there with another value."""
    pairs = [(f"-o {name}", options.get(name), value) for name, value in wanted.items()]
    pairs += [(name, have.attributes.get(name), value) for name, value in want.attributes.items()]
    pairs += [("argv", have.program, want.program), ("--config", have.config, want.config)]
    return [f"{name} is {have!r}, not {want!r}" for name, have, want in pairs if have is not None and have != want]


def mended(text: str, missing: Lack) -> str:
    """The text of an entry with what it lacks added; conflicts are not for this function."""
    if missing.options:
        settings = "".join(f"\n  -o {name}={value}" for name, value in missing.options)
        head = HEAD.match(text)
        text = text[: head.end()] + settings + text[head.end() :] if head else text
    if missing.attributes:
        given = "".join(f"{name}={value} " for name, value in missing.attributes)
        text = ARGV.sub(lambda found: given + found[0], text, count=1)
    if missing.words:
        body = text.rstrip()
        text = f"{body}\n  {' '.join(missing.words)}{text[len(body) :]}"
    return text


def read(text: str) -> Service:
    """The entry in a text of its own."""
    return service(parse(text)[0].logical)
