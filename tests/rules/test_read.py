"""TOML in, and the line of every key."""

import tomllib
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroom.rules.read import Scan, Unreadable, parse

# One that uses every form of TOML, with brackets, hashes and quotes where they mean nothing.
EVERYTHING = '''\
# [not.a.table] = "x"
a = 1
"quoted key" = 'literal # [ { \\'
dotted . "inner.name" = """
multi [[line]] # = "
\\""" still """""
'literal' = \'\'\'
x = 2 \'\'\'
list = [ 1, # one ]
  "two]", [3, 4], { five = 5, six.seven = [6, 7] },
]

[table]   # comment ]
date = 1979-05-27 07:32:00   # a blank in a value
inline = { b = true, "c d" = "}" }
[table.sub]
x = -0.5e3
[[many]]
y = 1
[many.inner]
z = 1
[[many.deep]]
q = 1
[[many]]
y = 2
[[many.deep]]
q = 2
'''
LINES = {
    ("a",): 2,
    ("quoted key",): 3,
    ("dotted", "inner.name"): 4,
    ("literal",): 7,
    ("list", 0): 9,
    ("list", 1): 10,
    ("list", 2, 1): 10,
    ("list", 3, "six", "seven", 1): 10,
    ("table",): 13,
    ("table", "date"): 14,
    ("table", "inline", "c d"): 15,
    ("table", "sub", "x"): 17,
    ("many", 0): 18,
    ("many", 0, "inner", "z"): 21,
    ("many", 0, "deep", 0, "q"): 23,
    ("many", 1, "y"): 25,
    ("many", 1, "deep", 0, "q"): 27,
}


def paths(value: Any, path: tuple[str | int, ...] = ()) -> set[tuple[str | int, ...]]:
    """Every place in a document."""
    inner: list[tuple[str | int, Any]] = []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    return {path}.union(*(paths(one, (*path, name)) for name, one in inner))


@pytest.mark.parametrize(("path", "line"), LINES.items(), ids=str)
def test_every_key_has_its_line(path: tuple[str | int, ...], line: int) -> None:
    assert parse(EVERYTHING.encode(), "f").line(path) == line


def test_carriage_returns_change_nothing() -> None:
    document = parse(EVERYTHING.replace("\n", "\r\n").encode(), "f")
    assert {path: document.line(path) for path in LINES} == LINES


def test_no_place_is_forgotten() -> None:
    assert set(Scan(EVERYTHING).run()) | {()} >= paths(tomllib.loads(EVERYTHING))


def test_a_place_without_a_line_has_that_of_its_table() -> None:
    document = parse(EVERYTHING.encode(), "f")
    assert document.line(("many", 1, "nothing", "here")) == 24
    assert document.line(("nothing",)) == 0


bare = st.text("abcXYZ019_-", min_size=1, max_size=8)
key = bare | st.text(min_size=0, max_size=6).filter(lambda text: text.isprintable())
scalar = (
    st.integers(-9, 9)
    | st.booleans()
    | st.text("ab #[]{}=,\"'\\\n\t.é", max_size=8)
    | st.just(date(2026, 1, 2))
    | st.just(1.5)
)
value = st.recursive(
    scalar, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(key, inner, max_size=3), max_leaves=6
)


def quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in escaped) + '"'


def written(item: Any, gap: str) -> str:
    if isinstance(item, dict):
        return "{" + ", ".join(f"{quoted(name)}={written(one, ' ')}" for name, one in item.items()) + "}"
    if isinstance(item, list):
        return "[" + gap + f",{gap}".join(written(one, gap) for one in item) + gap + "]"
    if isinstance(item, str) and "'" not in item and item.isprintable():
        return f"'{item}'"
    if isinstance(item, str) and "\\" not in item and '"' not in item:
        return f'"""\n{item}"""'
    return quoted(item) if isinstance(item, str) else str(item).lower()


@given(
    st.dictionaries(key, value, max_size=5),
    st.dictionaries(key, value, max_size=3),
    st.sampled_from([" ", "\n", " # ]\n"]),
)
def test_whatever_toml_is_written_all_its_places_are_found(top: Any, inner: Any, gap: str) -> None:
    name = "section"
    top.pop(name, None)
    lines = [f"{quoted(one)} = {written(item, gap)}" for one, item in top.items()]
    lines += [f"[[{name}]]", *(f"{quoted(one)} = {written(item, gap)}" for one, item in inner.items())]
    text = "\n".join(lines)
    data = tomllib.loads(text)
    found = Scan(text).run()
    assert set(found) | {()} >= paths(data)
    for path, line in found.items():
        if path and isinstance(path[-1], str) and path[0] != name and len(path) == 1:
            assert text.split("\n")[line - 1].startswith(quoted(path[-1]))


@given(st.text(max_size=40))
def test_no_text_breaks_the_scan(text: str) -> None:
    Scan(text).run()


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [
        (b"a = 1\nb = \n", 2, "is not TOML: Invalid value"),
        (b"a = 1\na = 2\n", 2, "Cannot overwrite a value"),
        (b"[rule]\n[[rule]]\n", 2, "is not TOML"),
        (b"a = 1\n\xff\n", 2, "is not text in UTF-8"),
        (b"\x7fELF\x02\x01\x01\0\0\0", 1, "is not TOML"),
        (b"a = " + b"[" * 5000, 0, "nested too deeply"),
        (b"a = " + b"9" * 5000, 0, "cannot be read"),
        (b"a = 1\nb = '", 2, "is not TOML"),
        (b"m = {\n a = 1 }\n", 1, "; an inline table { } stands on one line, or write [rule.match]"),
        (b"m = { # c\n a = 1 }\n", 1, "; an inline table { } stands on one line, or write [rule.match]"),
        (b"m = { a = 1,\n b = 1 }\n", 1, "; an inline table { } stands on one line, or write [rule.match]"),
        (b"m = { a = 1\n}\n", 1, "; an inline table { } stands on one line, or write [rule.match]"),
        (b"match = { recipient = ann@example.com }", 1, 'Invalid value (column 23); a text stands in quotes, "..."'),
        (b"deadline = 5m", 1, 'after a statement (column 13); a text stands in quotes, "..."'),
        (b'a = "re:a\\.b"', 1, "; in single quotes, 're:^a\\.b', a backslash stands for itself"),
        (b"[[rule]]\n[rule]\n", 2, "; each rule begins with [[rule]], in two brackets"),
        (b"[rule]\n[[rule]]\n", 2, "; each rule begins with [[rule]], in two brackets"),
        (b"[[rule]]\nid = 'a'\nid = 'b'\n", 3, "; this key stands here twice"),
        (b"a = 2026-02-31", 0, "is not TOML|cannot be read"),
    ],
)
def test_what_is_not_toml_is_refused_with_its_line(content: bytes, line: int, words: str) -> None:
    with pytest.raises(Unreadable) as caught:
        parse(content, "postroom.toml")
    assert any(word in caught.value.problem.text for word in words.split("|"))
    assert caught.value.problem.line == line or not line
