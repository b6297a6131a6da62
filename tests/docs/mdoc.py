"""Reading our own manual pages: their sections, lists and displays, and the blocks of code in Markdown files."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
MAN = ROOT / "man"
PAGES = sorted(MAN.glob("*.[0-9]"))

_ESCAPES = {r"\e": "\\", r"\&": "", r"\(dq": '"', r"\-": "-"}


def no_library(folder: Path) -> Path:
    """A folder for PYTHONPATH in which the library is as good as missing, also where it is installed."""
    (folder / "postroom").mkdir()
    (folder / "postroom" / "__init__.py").write_text("raise ModuleNotFoundError(\"No module named 'postroom'\")\n")
    return folder


def plain(text: str) -> str:
    """roff's escapes as the characters that a reader sees."""
    return re.sub(r"\\(?:e|&|\(dq|-)", lambda found: _ESCAPES[found[0]], text)


def page(name: str) -> str:
    return (MAN / name).read_text()


def section(text: str, title: str, level: str = "Sh") -> str:
    """What stands under a heading, up to the next one of its level or above."""
    lines = text.split("\n")
    start = lines.index(f".{level} {title}") + 1
    ends = (".Sh ",) if level == "Sh" else (".Sh ", ".Ss ")
    end = next((n for n in range(start, len(lines)) if lines[n].startswith(ends)), len(lines))
    return "\n".join(lines[start:end])


def displays(text: str) -> list[str]:
    """The contents of each literal display."""
    return [plain(block) for block in re.findall(r"^\.Bd -literal.*\n((?s:.*?))^\.Ed$", text, re.MULTILINE)]


def items(text: str, macro: str) -> list[str]:
    """The first argument after `.It MACRO` of each item, nested ones included."""
    return [plain(word) for word in re.findall(rf"^\.It {macro} (\S+)", text, re.MULTILINE)]


def words(text: str, macro: str) -> list[str]:
    """All arguments of a macro, wherever it stands at the start of a line."""
    found = re.findall(rf"^\.{macro} (.*)$", text, re.MULTILINE)
    return [plain(word) for line in found for word in line.split() if word not in (",", ".", ";", ")")]


def prose(text: str) -> str:
    """The text as one line, macros taken off where they open a line, so that a sentence can be looked for."""
    lines = [re.sub(r"^\.[A-Z][a-z] ", "", line) for line in text.split("\n")]
    return re.sub(r"\s+", " ", plain(" ".join(lines)))


def fenced(path: Path, language: str) -> list[str]:
    """The code blocks of a language in a Markdown file."""
    return re.findall(rf"^```{language}\n((?s:.*?))^```$", path.read_text(), re.MULTILINE)


def indented(path: Path) -> list[str]:
    """The code blocks that are made by four blanks."""
    blocks = re.findall(r"(?:^    .*\n|^\n(?=    ))+", path.read_text(), re.MULTILINE)
    return [re.sub(r"^    ", "", block, flags=re.MULTILINE).strip("\n") + "\n" for block in blocks]
