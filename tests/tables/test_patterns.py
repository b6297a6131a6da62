"""regexp and pcre tables against postmap(1): flags, `!`, if and endif, $1, over generated rules and keys."""

import random
import re
import string
import sys
import time
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tables.conftest import Postmap

from postroom.rules.problems import Refused
from postroom.status import ConfigurationFault, Fault
from postroom.tables import perl, posix, table
from postroom.tables.lines import rules
from postroom.tables.patterns import Patterns

ATOMS = {
    "regexp": [
        "a", "b", "B", "ab", ".", "[ab]", "[^a]", "[[:digit:]]", "[]x]", "[a\\]", "(a)", "(ab|b)", "(a|)", "@",
        "\\.", "\\d",
        "\\w", "\\W", "\\s", "\\<", "\\b", "1", "x+", "é", "[é]", "\\@", "{", "[b-]", "[[.a.]]", "(.)", "\\/",
    ],
    "pcre": [
        "a", "b", "B", "ab", ".", "[ab]", "[^a]", "[[:digit:]]", "[]x]", "[a\\]]", "(a)", "(ab|b)", "(a|)", "@",
        "\\.", "\\d",
        "\\w", "\\W", "\\s", "\\b", "1", "x+?", "é", "[é]", "\\@", "{", "[b-]", "(?:b)", "(?=a)", "(?!b)", "(?<=a)",
        "(?i:B)",
        "(?-i:B)", "\\x61", "\\Qa.b\\E", "(?#c)", "(?<n>a)", "[\\w.]", "[\\D]", "\\h", "\\N", "[[:^alpha:]]", "(.)",
        "\\/",
    ],
}  # fmt: skip
ENDS = {"regexp": ["", "", "$", "b$"], "pcre": ["", "", "$", "\\z", "\\Z"]}
FLAGS = {"regexp": ["", "", "i", "m", "im", "ii"], "pcre": ["", "", "i", "m", "s", "x", "A", "E", "U", "is"]}
REPEATS = ["", "", "", "*", "+", "?", "{2}", "{1,2}", "{0,}"]


def pattern(source: random.Random, kind: str) -> str:
    body = source.choice(["", "", "^"])
    for _ in range(source.randint(1, 4)):
        atom = source.choice(ATOMS[kind])
        body += atom + (source.choice(REPEATS) if atom[-1] not in "+?{E" and atom not in ("\\<", "\\b") else "")
        body += "|" if source.random() < 0.1 else ""
    delimiter = source.choice("///,%")
    body += source.choice(ENDS[kind])
    if delimiter in body.replace("\\/", ""):
        delimiter = "/"
    return f"{source.choice(['', '', '', '!'])}{delimiter}{body}{delimiter}{source.choice(FLAGS[kind])}"


def rule_lines(source: random.Random, kind: str, depth: int = 0) -> list[str]:
    lines = []
    for number in range(source.randint(1, 4)):
        one = pattern(source, kind)
        groups = sum(one[i] == "(" and one[i + 1] != "?" and one[i - 1] != "\\" for i in range(len(one) - 1))
        if depth < 2 and source.random() < 0.2:
            lines += [f"if {one}", *rule_lines(source, kind, depth + 1), "endif"]
            continue
        if kind == "regexp" and source.random() < 0.15:
            one += "!/" + source.choice("ab1") + "/"
        text = f"text {depth}.{number}"
        if groups and not one.startswith("!") and "|" not in one:
            text += source.choice([" $1", " ${1}x", " <$(1)>", "$$1"])
        lines.append(f"{one} {text}")
    return lines


def keys(source: random.Random) -> list[str]:
    letters = "aabbB1x@.- {é]\\_/"
    return ["".join(source.choice(letters) for _ in range(source.randint(1, 6))).strip() + "a" for _ in range(120)]


def one_rule(kind: str, line: str) -> Patterns | None:
    try:
        return Patterns(kind, rules(line, "t"))
    except ConfigurationFault:
        return None


@pytest.mark.parametrize("kind", ["regexp", "pcre"])
@pytest.mark.parametrize("seed", range(40))
def test_postfix_finds_the_same(kind: str, seed: int, tmp_path: Path, postmap: Postmap) -> None:
    """Tables that either refuses are made anew: see the share of them below."""
    source = random.Random(f"{seed}{kind}")
    while True:
        content = "\n".join(rule_lines(source, kind)) + "\n"
        (tmp_path / "table").write_text(content)
        asked = keys(source)
        ours = one_rule(kind, content)
        if ours is None:
            continue
        theirs = postmap(f"{kind}:{tmp_path}/table", asked)
        break
    found = {key: ours.find("text", key, "+") for key in asked}
    assert {key: text for key, text in found.items() if text is not False} == theirs, content


@pytest.mark.parametrize("kind", ["regexp", "pcre"])
def test_most_patterns_are_read(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without RE2; refused is what starts with a repetition, repeats an anchor, or could run away."""
    monkeypatch.setitem(sys.modules, "re2", None)
    source = random.Random(kind)
    read = sum(one_rule(kind, pattern(source, kind) + " x") is not None for _ in range(400))
    assert read > 280


RULES = {
    "regexp": [
        "/a/!/b/ a-not-b", "!/c/ noc $$ x", "/g(h)?/ [$1]", "/m\\/m/ slash", "+q(u)+ plus $1", "|n| bar", "! /z/ blank",
        "/^$/ empty", "/[[:alpha:]]@[[:alnum:].]*$/ address $$", "/\\(a\\)\\{2\\}/x basic $1", "/a*\\+b\\|c/x b2 $$",
        "/^*a$/x star", "/a\\{1,2\\}$/x times", "/(a+)+b$/ nested $1", "IF /a/\n/b/ in\nENDIF", "/x{,2}y/ z",
        "/[a-z](.)/ $1$(1)${1}$$", "/a/ text  with   blanks ",
    ],
    "pcre": [
        "!/c/ noc $$ x", "/g(h)?/ [$1]", "/m\\/m/ slash", "+q(u)+ plus $1", "/^$/ empty", "/(?<l>[^@]+)@(.+)/ $2 $1",
        "/a b/x verbose", "/a.b/s dot", "/b/A anchored", "/(a+?)(a*)/U $1,$2", "/(?i)A(?-i:B)/i mixed",
        "/\\bc\\b/ word",
        "/a++b/ possessive", "/(?>a+)b/ atomic", "/[\\]\\-a]/ set", "/a{,2}/ literal", "/\\$/ dollar",
    ],
}  # fmt: skip
KEYS = [
    "a", "b", "ab", "aab", "aaab", "c", "cc", "gh", "g", "m/m", "q", "quuu", "n", "z", "x@b.c", "(a){2}", "aa",
    "a+b", "*a",
    "AB", "Ab", "a b", "a\\", "a.b", "]", "-", "a{,2}", "y", "xxy", "xxxy", "x{,2}y", "$", "a@b@c", "é", "É", "@",
]  # fmt: skip


@pytest.mark.parametrize(("kind", "rule"), [(kind, rule) for kind in RULES for rule in RULES[kind]])
def test_each_kind_of_rule(kind: str, rule: str, tmp_path: Path, postmap: Postmap) -> None:
    (tmp_path / "table").write_text(rule + "\n")
    ours = one_rule(kind, rule)
    if ours is None:
        assert rule in ("/x{,2}y/ z",), "only this is refused: what it means is not for POSIX to say"
        return
    found = {key: ours.find("text", key, "+") for key in KEYS}
    assert {key: text for key, text in found.items() if text is not False} == postmap(f"{kind}:{tmp_path}/table", KEYS)


@pytest.mark.parametrize("kind", ["regexp", "pcre"])
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("/a/", "text behind the pattern"),
        ("/a text", "expected /pattern/"),
        ("/a/q text", "expected the flags"),
        ("/a/ $1", "0 groups"),
        ("/(a)/ $2", "1 groups"),
        ("/(a)/ ${1", "dollar sign"),
        ("/(a)/ $x", "dollar sign"),
        ("/a/ $", "dollar sign"),
        ("!/(a)/ $1", "has no groups"),
        ("a text", "expected /pattern/ text"),
        ("if /a/", "if without endif"),
        ("endif", "endif without if"),
        ("if /a/ text", "expected nothing"),
        ("/(a/ x", "does not close"),
        ("/a)/ x", "is not open"),
        ("/*a/ x", "repeats nothing"),
        ("/[a/ x", "not closed"),
        ("/[b-a]/ x", "ends before it begins"),
        ("/[[:nope:]]/ x", "not known"),
        ("/a{2,1}/ x", "ends before it begins"),
        ("/(a)\\1/ x", "\\1|group 1"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(kind: str, line: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "table").write_text(f"/ok/ fine\n{line}\n")
    with pytest.raises(ConfigurationFault) as caught:
        table(kind, str(tmp_path / "table"))
    said = str(caught.value)
    assert said.startswith(f"{tmp_path}/table, line 2: ")
    assert any(word in said for word in words.split("|")), said
    assert "\n" not in said


@pytest.mark.parametrize("line", ["/(a+)+$/ x", "/(a|ab)*c/ x", "/.*a.*b.*c.*d/ x"])
@pytest.mark.parametrize("kind", ["regexp", "pcre"])
def test_what_can_run_away_needs_re2(kind: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = one_rule(kind, line)
    assert quick is not None
    start = time.process_time()
    assert quick.find("text", "a" * 60000 + "!", "+") is False
    assert time.process_time() - start < 1
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "re2", None)
        assert one_rule(kind, line) is None


@pytest.mark.parametrize(
    "feature",
    ["\\K", "\\G", "\\R", "\\X", "\\pL", "(?R)", "(?1)", "(?|a)", "(*FAIL)", "(?(1)a)", "\\k<a>", "\\g1", "a(?i)b"],
)
def test_what_pythons_engine_does_not_have_is_refused(feature: str) -> None:
    with pytest.raises(Refused):
        perl.translate(f"a{feature}b", False, False, False)


def test_a_value_too_long_for_a_pattern_is_unknown() -> None:
    found = one_rule("regexp", "/^a@b$/ x")
    assert found is not None
    with pytest.raises(Fault, match=r"t, line 1: the pattern takes up to \d+ bytes, the value has 1000000"):
        found.find("address", "a" * 1_000_000, "+")


def test_half_a_letter_in_the_text_is_unknown_as_it_is_to_postfix(tmp_path: Path, postmap: Postmap) -> None:
    (tmp_path / "table").write_text("/(.)$/ <$1>\n")
    with pytest.raises(Fault, match="not UTF-8"):
        table("regexp", str(tmp_path / "table")).find("text", "é", "+")
    with pytest.raises(ValueError, match="non-UTF-8 value"):
        postmap(f"regexp:{tmp_path}/table", ["é"])


def test_a_pattern_is_put_to_the_whole_address_and_to_nothing_less() -> None:
    found = one_rule("regexp", "/^(.*)$/ <$1>")
    assert found is not None
    assert found.find("address", "bob+x@sub.example", "+") == "<bob+x@sub.example>"
    assert found.find("address", "", "+") == "<<>>"
    assert found.find("address", "\udcff\0\n", "+") == "<\udcff\0\n>"
    narrow = one_rule("regexp", "/^bob@sub.example$/ x")
    assert narrow is not None
    assert narrow.find("address", "bob+x@sub.example", "+") is False


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=string.ascii_letters + "()[]{}*+?|^$.\\-,:=<>!#PQEKz01 é", max_size=14), st.booleans())
@example("(?i", True)
@example("[[:", True)
@example("\\x{", False)
@example("[^\\", False)
def test_any_text_is_a_pattern_or_refused(text: str, extended: bool) -> None:
    raw = text.encode().decode("latin-1")
    for read in (
        lambda: posix.translate(raw, extended, False),
        lambda: perl.translate(raw, extended, False, False),
    ):
        try:
            written = read()
        except Refused:
            continue
        assert written.isascii()
        try:
            re.compile(written.encode("ascii"))
        except re.error as error:
            assert "look-behind" in str(error) or "large" in str(error), written
