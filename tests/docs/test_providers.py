"""The list of providers in postroom.toml(5) against the catalogue, in both directions."""

from __future__ import annotations

import re

from docs.mdoc import items, page, plain, section

from postroom.rules.providers import CATALOGUE

TEXT = section(page("postroom.toml.5"), "PROVIDERS")


def documented() -> dict[str, tuple[str, tuple[str, ...]]]:
    """name -> (who that is, hosts), in the order of the page."""
    found = {}
    for block in TEXT.partition("\n.El")[0].split("\n.It Cm ")[1:]:
        name, title, *lines = block.split("\n")
        words = re.sub(r"^\.(?:Pq Li|Po|Pc|Li)\b", "", "\n".join(lines), flags=re.MULTILINE).split()
        found[name] = (plain(title), tuple(word for word in words if word != ","))
    return found


def test_the_page_lists_what_is_shipped() -> None:
    assert items(TEXT, "Cm") == list(CATALOGUE)
    assert documented() == CATALOGUE
