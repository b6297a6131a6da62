"""A Conversion as the text of a postroom.toml, as a person would have written it."""

from __future__ import annotations

import textwrap
from typing import Any

from postroom.convert import Conversion, Finding, Rule
from postroom.status import clean

_WIDTH = 120

# A source line may be long; whoever wants all of it has its number.
_SHOWN = 300


def text(conversion: Conversion) -> str:
    """The whole file. Sections are parted by an empty line, and long comments folded."""
    parts = [comment(conversion.title)]
    parts += ["\n".join(f"{name} = {value(it)}" for name, it in conversion.settings.items())]
    parts += [_list(name, table) for name, table in conversion.lists.items()]
    parts += [_rule(entry) if isinstance(entry, Rule) else finding(entry) for entry in conversion.entries]
    return "\n\n".join(part for part in parts if part) + "\n"


def finding(one: Finding) -> str:
    """What was not carried over, at the place where it stood."""
    lines = comment(f"Line {one.line}: {one.text}")
    return f"{lines}\n#   {_one_line(one.source)}" if one.source else lines


def comment(words: str) -> str:
    return "\n".join(f"# {line}" for part in words.split("\n") for line in textwrap.wrap(_one_line(part), _WIDTH - 2))


def _one_line(words: str) -> str:
    """Text of the source for a comment: neither control characters nor half a UTF-8 character end up in the file."""
    shown = clean(" ".join(words.split())).encode("utf-8", "replace").decode()
    return shown if len(shown) <= _SHOWN else shown[: _SHOWN - 3] + "..."


def _list(name: str, table: dict[str, Any]) -> str:
    return "\n".join([f"[list.{name}]", *(f"{key} = {value(it)}" for key, it in table.items())])


def _rule(rule: Rule) -> str:
    remarks = "\n".join(comment(remark) for remark in rule.remarks)
    table = rule.table
    large = {name for name, it in table.items() if isinstance(it, dict) and len(_inline(it)) > _WIDTH - 11}
    width = max(map(len, table))
    lines = [*([remarks] if remarks else []), "[[rule]]"]
    lines += [f"{name:{width}} = {value(it)}" for name, it in table.items() if name not in large]
    for name in table:
        if name in large:
            lines += ["", f"[rule.{name}]", *(f"{key} = {value(it)}" for key, it in table[name].items())]
    return "\n".join(lines)


def value(it: Any) -> str:
    """A value of TOML; a list that is too long for a line has an entry on each."""
    if isinstance(it, dict):
        return _inline(it)
    if not isinstance(it, list):
        return _scalar(it)
    flat = f"[{', '.join(map(value, it))}]"
    if len(flat) <= _WIDTH - 22:
        return flat
    return "[\n" + "".join(f"    {value(one)},\n" for one in it) + "]"


def _inline(table: dict[str, Any]) -> str:
    """TOML 1.0 wants an inline table on one line."""
    pairs = (f"{key} = {_flat(it)}" for key, it in table.items())
    return "{ " + ", ".join(pairs) + " }"


def _flat(it: Any) -> str:
    if isinstance(it, list):
        return f"[{', '.join(map(_flat, it))}]"
    return _inline(it) if isinstance(it, dict) else _scalar(it)


def _scalar(it: Any) -> str:
    if isinstance(it, bool):
        return str(it).lower()
    if not isinstance(it, str):
        return str(it)
    odd = any(ord(character) < 32 or ord(character) == 127 for character in it)
    if ("\\" in it or '"' in it) and "'" not in it and not odd:
        return f"'{it}'"
    escaped = it.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(f"\\u{ord(c):04X}" if ord(c) < 32 or ord(c) == 127 else c for c in escaped) + '"'
