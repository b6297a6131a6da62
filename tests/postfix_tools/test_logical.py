"""main.cf and master.cf as text: nothing is lost, and the logical lines are the ones that Postfix sees."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postroom.postfix.logical import SyntaxFault, appended, joined, parse, replaced, unbraced, without, words
from postroom.postfix.postconf import settle

# Characters that str.splitlines() would take for line ends.
ODD = "\x1c\x85\u2028y\n"
LINES = st.sampled_from(
    ["a = b\n", "  c\n", "\tc,\n", "# comment\n", "  # inner\n", "\n", " \n", "x\r\n", "\f\n", "=", "\v z\n", ODD]
)
TEXT = st.one_of(st.lists(LINES).map("".join), st.text())


@given(TEXT)
def test_the_blocks_joined_are_the_file(text: str) -> None:
    assert joined(parse(text)) == text


@given(TEXT)
def test_a_block_is_an_entry_or_one_comment_line(text: str) -> None:
    for block in parse(text):
        if block.entry:
            assert block.logical
        else:
            assert block.text.count("\n") <= 1 and (not block.text.strip() or block.text.strip().startswith("#"))


@given(TEXT, st.sampled_from(["a = 1\n", "# mark\na = 1\n", "e\n  f\n"]))
def test_what_is_appended_goes_again_without_a_trace(text: str, block: str) -> None:
    longer = appended(text, block)
    blocks = parse(longer)
    first = len(parse(text))
    assert without(blocks, first, len(blocks)) == text


@given(st.lists(st.sampled_from(["a = 1\n", "# mark\nb\n", "e\n  f\n"]), min_size=1), st.booleans(), st.randoms())
def test_several_appended_blocks_go_in_any_order(added: list[str], newline: bool, random: object) -> None:
    text = "first = 1" + ("\n" if newline else "")
    longer = text
    for number, block in enumerate(added):
        longer = appended(longer, block.replace("\n", f" tag{number}\n", 1))
    order = list(range(len(added)))
    random.shuffle(order)  # type: ignore[attr-defined]  # hypothesis' Random
    for number in order:
        blocks = parse(longer)
        start = next(n for n, block in enumerate(blocks) if block.text.split("\n")[0].endswith(f" tag{number}"))
        end = start + (1 if blocks[start].entry else 2)
        longer = without(blocks, start, end)
    assert longer == text


@given(TEXT, st.data())
def test_replacing_an_entry_touches_no_other_byte(text: str, data: st.DataObject) -> None:
    blocks = parse(text)
    entries = [number for number, block in enumerate(blocks) if block.entry]
    if not entries:
        return
    number = data.draw(st.sampled_from(entries))
    before, after = joined(blocks[:number]), joined(blocks[number + 1 :])
    new = replaced(blocks, number, "new = 1\n")
    assert new.startswith(before) and new.endswith(after)
    assert new[len(before) : len(new) - len(after) or None].rstrip("\n") == "new = 1"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["h{n} = v{n}\n", "  c{n}\n", "# x\n", "  # y\n", "\n", " \t\n"]), min_size=1))
def test_postconf_sees_the_same_settings(lines: list[str]) -> None:
    text = "first = 0\n" + "".join(line.replace("{n}", str(number)) for number, line in enumerate(lines))
    mine = [" ".join(block.logical.split()) for block in parse(text) if block.entry]
    with tempfile.TemporaryDirectory() as folder:
        # A name that Postfix does not know counts as a parameter where another value uses it.
        names = [line.split(" ")[0] for line in mine]
        main = Path(folder) / "main.cf"
        main.write_text(text + "\nmyhostname = " + "".join(f"${{{name}}}" for name in names) + "\n")
        settle(main)
        done = subprocess.run(["/usr/sbin/postconf", "-c", folder, *names], capture_output=True, text=True, check=True)
    assert sorted(" ".join(line.split()) for line in done.stdout.splitlines()) == sorted(mine)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a b\tc", ["a", "b", "c"]),
        ("{ a b } c", ["{ a b }", "c"]),
        ("argv=x {} y", ["argv=x", "{}", "y"]),
        ("-o { a = {b c} } d", ["-o", "{ a = {b c} }", "d"]),
        ("a${x y}b c", ["a${x y}b", "c"]),
        ("}a }", ["}a", "}"]),
        ("", []),
    ],
)
def test_words_keep_braces_together(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@pytest.mark.parametrize(("word", "expected"), [("{ a b }", "a b"), ("{}", ""), ("a{b}", "a{b}"), ("{{a}}", "{a}")])
def test_braces_come_off(word: str, expected: str) -> None:
    assert unbraced(word) == expected


@pytest.mark.parametrize("word", ["{a", "{a}b", "{{a}"])
def test_odd_braces_are_refused_as_postfix_does(word: str) -> None:
    with pytest.raises(SyntaxFault):
        unbraced(word)
