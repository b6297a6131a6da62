"""main.cf and master.cf as text: logical lines that can be changed one at a time, every other byte left alone.

postconf(1) can edit both files, but -M, -F and -P lose empty `{}` arguments and move comments, and its edits cannot be
looked at before they are made. What a logical line is: postconf(5) and Postfix's src/util/readlline.c.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# isspace(3) without the newline: what a continuation line starts with.
SPACE = " \t\r\v\f"
PHYSICAL = re.compile(r"[^\n]*\n|[^\n]+")


class SyntaxFault(ValueError):
    """Text that Postfix would not accept either; the message says which line."""


@dataclass(frozen=True)
class Block:
    """A logical line with its continuation lines (and comments between them), or one comment or empty line."""

    text: str
    entry: bool

    @property
    def logical(self) -> str:
        """The logical line on one line, comments left out; empty for a comment."""
        lines = [line.rstrip("\n") for line in PHYSICAL.findall(self.text)]
        return "".join(line for line in lines if not is_comment(line)).strip(SPACE) if self.entry else ""

    @property
    def comments(self) -> list[str]:
        """Comment lines between the first line and the last of an entry, each with its newline."""
        return [line for line in PHYSICAL.findall(self.text) if line.strip(SPACE + "\n") and is_comment(line)]


def is_comment(line: str) -> bool:
    """A comment or an empty line: readlline() drops both, also between continuation lines."""
    stripped = line.strip(SPACE + "\n")
    return not stripped or stripped.startswith("#")


def parse(text: str) -> list[Block]:
    """The blocks of a file; their texts joined are the file again."""
    blocks: list[Block] = []
    head: list[str] = []
    pending: list[str] = []
    for line in PHYSICAL.findall(text):
        if is_comment(line):
            # Part of the entry only if a continuation line follows.
            pending.append(line)
        elif line[0] in SPACE and head:
            head += [*pending, line]
            pending = []
        else:
            blocks += finished(head, pending)
            head, pending = [line], []
    return blocks + finished(head, pending)


def finished(head: list[str], pending: list[str]) -> list[Block]:
    """The entry that has ended, and the comments behind it."""
    entry = [Block("".join(head), entry=True)] if head else []
    return entry + [Block(line, entry=False) for line in pending]


def joined(blocks: list[Block]) -> str:
    """The text of the file."""
    return "".join(block.text for block in blocks)


def appended(text: str, block: str) -> str:
    """The text with whole lines at its end. Without a last newline it stays without, so that `without` undoes this."""
    if not text or text.endswith("\n"):
        return text + block
    return text + "\n" + block.removesuffix("\n")


def without(blocks: list[Block], start: int, end: int) -> str:
    """The text without blocks[start:end]."""
    removed, rest = joined(blocks[start:end]), joined(blocks[:start] + blocks[end:])
    if end == len(blocks) and not removed.endswith("\n"):
        return rest.removesuffix("\n")
    return rest


def replaced(blocks: list[Block], index: int, text: str) -> str:
    """The text with another logical line in place of one; its last newline is left out where the old one had none."""
    if not blocks[index].text.endswith("\n"):
        text = text.removesuffix("\n")
    return joined(blocks[:index]) + text + joined(blocks[index + 1 :])


def words(text: str, separators: str = SPACE + "\n") -> list[str]:
    """mystrtokq(): split at separators that are not inside braces."""
    found: list[str] = []
    start, level = None, 0
    for index, letter in enumerate(text):
        if start is None:
            if letter in separators:
                continue
            start, level = index, 0
        if letter == "{":
            level += 1
        elif letter == "}" and level:
            level -= 1
        elif not level and letter in separators:
            found.append(text[start:index])
            start = None
    return [*found, text[start:]] if start is not None else found


def unbraced(word: str) -> str:
    """`{ text }` without its braces and the blanks inside them; other words as they are (extpar())."""
    if not word.startswith("{"):
        return word
    level = 0
    for index, letter in enumerate(word):
        level += {"{": 1, "}": -1}.get(letter, 0)
        if level == 0:
            if index + 1 < len(word):
                raise SyntaxFault(f"syntax error after '}}' in {word!r}")
            return word[1:index].strip(SPACE + "\n")
    raise SyntaxFault(f"missing '}}' in {word!r}")
