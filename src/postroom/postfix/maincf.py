"""main.cf, read and edited as text: postconf(5)."""

from __future__ import annotations

import re
from collections.abc import Callable

from postroom.postfix.logical import SPACE, Block, SyntaxFault, appended, parse, replaced, without

# postconf(5): values are lists separated by commas and white space.
LAST_WORD = re.compile(r"(?:^|(?<=[\s,=]))(?P<word>[^\s,=]+)[\s,]*\Z")


class MainFile:
    """A main.cf; every edit gives a new one."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.blocks: list[Block] = parse(text)

    def index(self, name: str) -> int | None:
        """The block that sets the parameter; the last of several, since that is the one in force."""
        for number in range(len(self.blocks) - 1, -1, -1):
            if self.blocks[number].entry and assignment(self.blocks[number])[0] == name:
                return number
        return None

    def get(self, name: str) -> str | None:
        """The value as written, on one line; None when main.cf does not set it."""
        number = self.index(name)
        return None if number is None else assignment(self.blocks[number])[1]

    def names(self) -> list[str]:
        """Every parameter that is set."""
        return [assignment(block)[0] for block in self.blocks if block.entry]

    def line_above(self, name: str) -> str:
        """The line directly above a setting, without its newline."""
        number = self._index(name)
        return self.blocks[number - 1].text.rstrip("\n") if number else ""

    def added(self, text: str) -> MainFile:
        """With whole lines at the end."""
        return MainFile(appended(self.text, text))

    def replaced(self, name: str, text: str) -> MainFile:
        """With another text for the setting."""
        return MainFile(replaced(self.blocks, self._index(name), text))

    def removed(self, name: str, comments: int = 0) -> MainFile:
        """Without the setting and as many comment lines directly above it."""
        number = self._index(name)
        return MainFile(without(self.blocks, number - comments, number + 1))

    def _index(self, name: str) -> int:
        number = self.index(name)
        if number is None:
            raise SyntaxFault(f"main.cf: {name} is not set")
        return number

    # Lists

    def last_word(self, name: str) -> str:
        """The last word of a list; empty for an empty list."""
        match = LAST_WORD.search(self.get(name) or "")
        return match["word"] if match else ""

    def with_item(self, name: str, item: str) -> MainFile:
        """With an item at the end of the list, on a line of its own; `without_item` takes out exactly that."""
        return self._edited(name, lambda text: text.rstrip(SPACE + "\n") + at_end(item) + blanks(text))

    def with_item_before_last(self, name: str, item: str) -> MainFile:
        """With an item before the last word of the list."""

        def edit(text: str) -> str:
            match = LAST_WORD.search(text)
            if match is None:
                raise SyntaxFault(f"main.cf: {name} is empty")
            return text[: match.start("word")] + before_last(item) + text[match.start("word") :]

        return self._edited(name, edit)

    def without_item(self, name: str, item: str) -> MainFile:
        """Without what with_item or with_item_before_last put in; unchanged where neither did."""

        def edit(text: str) -> str:
            # In this order: with four blanks before the item, the other form stands there as well.
            for put in (before_last(item), at_end(item)):
                if text.count(put) == 1:
                    return text.replace(put, "")
            return text

        return self._edited(name, edit) if self.index(name) is not None else self

    def _edited(self, name: str, edit: Callable[[str], str]) -> MainFile:
        number = self._index(name)
        blocks = list(self.blocks)
        blocks[number] = Block(edit(blocks[number].text), entry=True)
        return MainFile("".join(block.text for block in blocks))


def at_end(item: str) -> str:
    """How an item looks at the end of a list: no comma, so that the line can go again without a trace."""
    return f"\n    {item}"


def before_last(item: str) -> str:
    """How an item looks before the last word of a list."""
    return f"{item},\n    "


def blanks(text: str) -> str:
    """The blanks and the newline that an entry ends in."""
    return text[len(text.rstrip(SPACE + "\n")) :]


def assignment(block: Block) -> tuple[str, str]:
    """Name and value of a setting."""
    name, equals, value = block.logical.partition("=")
    if not equals:
        raise SyntaxFault(f"main.cf: {block.logical[:60]!r}: no '='")
    return name.strip(SPACE), value.strip(SPACE)
