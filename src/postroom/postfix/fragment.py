"""The fragments in master.cf.d: a program's master.cf entry and, as comment lines of a fixed form, its main.cf lines.

    # main.cf: NAME = VALUE      must be so
    # main.cf: NAME >= TIME      a time limit: this, or more where the program's deadline asks for it
    # main.cf: NAME += ITEM      an item at the end of a restriction list
    # to do: TEXT                what the administrator does himself

A fragment is complete: pasted by hand it works, once path, user and configuration are right.
"""

from __future__ import annotations

import re
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import postroom
from postroom.postfix.logical import SyntaxFault, parse
from postroom.postfix.mastercf import Service, service

SHARE = Path("share") / "postroom" / "master.cf.d"
REQUIREMENT = re.compile(r"# main\.cf: (?P<name>\S+) (?P<operator>=|>=|\+=) (?P<value>.+)\n?")
TODO = re.compile(r"# to do: (?P<text>.+)\n?")
# Program and, where it is started by postroom/thin.py, what stands in front of it.
ARGV = re.compile(r"(?<=\s)argv=(?P<start>\S+\s+-I\s+-S\s+\S+/thin\.py\s+)?\S+")
# What pipe(8) and master(8) would read as something else: blanks and braces split words, $ starts a macro.
UNSAFE = re.compile(r"[\s{}$,#]")


class NoFragment(Exception):
    """There is no program of this name; the text lists those there are."""


@dataclass(frozen=True)
class Requirement:
    """One main.cf line that a program needs."""

    name: str
    operator: str
    value: str


@dataclass(frozen=True)
class Fragment:
    """What master.cf.d/PROGRAM.cf says."""

    program: str
    title: str
    requirements: tuple[Requirement, ...]
    todo: tuple[str, ...]
    entry: str

    @property
    def service(self) -> Service:
        """The entry, read."""
        return service(parse(self.entry)[0].logical)


def folder() -> Path:
    """Where the fragments are: beside the source in a checkout, else installed with the package."""
    checkout = Path(postroom.__file__).parents[2] / "master.cf.d"
    return checkout if checkout.is_dir() else Path(sysconfig.get_path("data")) / SHARE


def read(program: str) -> Fragment:
    """The fragment of a program; NoFragment with the known names when there is none."""
    path = folder() / f"{program}.cf"
    known = sorted(file.stem for file in folder().glob("*.cf"))
    if program not in known:
        raise NoFragment(f"{program}: no such program; {folder()} has {', '.join(known) or 'none'}")
    return understood(program, path.read_text())


def understood(program: str, text: str) -> Fragment:
    """A fragment from its text."""
    blocks = parse(text)
    entries = [block for block in blocks if block.entry]
    if len(entries) != 1 or not blocks[0].text.startswith(f"# {program} - "):
        raise SyntaxFault(f"{program}.cf: expected a first line '# {program} - ...' and one entry")
    comments = [block.text for block in blocks if not block.entry]
    requirements = [Requirement(**found.groupdict()) for line in comments if (found := REQUIREMENT.fullmatch(line))]
    todo = [found["text"] for line in comments if (found := TODO.fullmatch(line))]
    return Fragment(program, blocks[0].text[2:].rstrip("\n"), tuple(requirements), tuple(todo), entries[0].text)


def thin_start() -> tuple[str, ...]:
    """What stands in front of a program that is to be started by postroom/thin.py, with this Python."""
    return (sys.executable, "-I", "-S", str(Path(postroom.__file__).with_name("thin.py")))


def start_of(entry: str) -> tuple[str, ...]:
    """The same, of an entry; nothing where its program is started by itself."""
    found = ARGV.search(entry)
    return tuple(found["start"].split()) if found and found["start"] else ()


def filled(entry: str, path: str, user: str, config: str, start: tuple[str, ...] = ()) -> str:
    """An entry with this program path, user and configuration file; all its other text as it was."""
    for value in (*start, path, user, config):
        if UNSAFE.search(value):
            raise SyntaxFault(f"{value!r} cannot stand in master.cf: no blanks, braces, $, comma, #")
    entry = re.sub(r"(?<=\s)user=\S+", lambda _: f"user={user}", entry, count=1)
    entry = ARGV.sub(lambda _: f"argv={' '.join((*start, path))}", entry, count=1)
    return re.sub(r"(?<=\s)--config([ =]+)\S+", lambda found: f"--config{found[1]}{config}", entry, count=1)
