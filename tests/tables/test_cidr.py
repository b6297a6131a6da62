"""cidr tables against postmap(1): order, `!`, if and endif, over generated networks and addresses."""

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tables.conftest import Postmap

from postroom.status import ConfigurationFault
from postroom.tables import table
from postroom.tables.cidr import Cidr
from postroom.tables.lines import rules

FIRST = ["10.1.2.3", "10.1.0.0", "10.255.255.255", "192.0.2.1", "192.0.2.128", "0.0.0.0", "255.255.255.255"]
SIXTH = ["2001:db8::1", "2001:db8:1::", "::", "::1", "ffff::", "::ffff:10.1.2.3", "fe80::1"]
NOT_ADDRESSES = [
    "",
    "10.1",
    "unknown",
    "10.1.2.3.4",
    "[10.1.2.3]",
    "10.1.2.3/32",
    "010.1.2.3",
    "::g",
    "a@10.1.2.3",
    "é",
]


def network(source: random.Random) -> str:
    if source.random() < 0.75:
        length, number = source.choice([0, 1, 8, 15, 16, 24, 25, 31, 32]), source.choice([10, 192]) << 24
        number = (
            (number | source.choice([0, 0x10203, 0x10000, 0xFF0000, 0x201, 0x280])) >> (32 - length) << (32 - length)
        )
        host = ".".join(str(number >> shift & 255) for shift in (24, 16, 8, 0))
        return host if length == 32 and source.random() < 0.5 else f"{host}/{length}"
    return source.choice(
        ["2001:db8::/32", "::/0", "2001:db8::1", "[2001:db8::]/48", "::1/128", "fe80::/10", "::ffff:0:0/96"]
    )


def rule_lines(source: random.Random, depth: int = 0) -> list[str]:
    lines = []
    for number in range(source.randint(1, 6)):
        negated = source.choice(["", "", "", "!", "! ", "!!"])
        if depth < 2 and source.random() < 0.25:
            lines += [
                f"{source.choice(['if', 'IF'])} {negated}{network(source)}",
                *rule_lines(source, depth + 1),
                "endif",
            ]
        else:
            lines.append(f"{negated}{network(source)}{source.choice([' ', chr(9), '   '])}text {depth}.{number}")
        if source.random() < 0.1:
            lines.append(source.choice(["# comment", "", "   "]))
    return lines


@pytest.mark.parametrize("seed", range(40))
def test_postfix_finds_the_same(seed: int, tmp_path: Path, postmap: Postmap) -> None:
    source = random.Random(seed)
    (tmp_path / "table").write_text("\n".join(rule_lines(source)) + "\n")
    some = [f"{source.choice([10, 192])}.{source.randrange(256)}.{source.randrange(256)}.1" for _ in range(30)]
    keys = [*FIRST, *SIXTH[:5], "fe80::1", *NOT_ADDRESSES[1:], *some]
    ours = table("cidr", str(tmp_path / "table"))
    found = {key: ours.find("ip", key, "+") for key in keys}
    assert {key: text for key, text in found.items() if text is not False} == postmap(f"cidr:{tmp_path}/table", keys)


def test_there_is_something_to_find(tmp_path: Path, postmap: Postmap) -> None:
    hits = 0
    for seed in range(40):
        (tmp_path / "table").write_text("\n".join(rule_lines(random.Random(seed))) + "\n")
        hits += len(postmap(f"cidr:{tmp_path}/table", FIRST))
    assert 40 < hits < 40 * len(FIRST)


def test_inside_braces(postmap: Postmap) -> None:
    for where in ("{ {10.0.0.0/8 a b}, {192.0.2.0/24 c} }", "{{if 10.0.0.0/8} {10.1.2.3 x}, {endif}}"):
        found = {key: table("cidr", where).find("ip", key, "+") for key in FIRST}
        assert {key: text for key, text in found.items() if text is not False} == postmap(f"cidr:{where}", FIRST)


@pytest.mark.parametrize(
    "line",
    [
        "10.0.0.1/8 hostbits", "10.0.0.0/33 long", "10.0.0.0/8", "10.0.0/8 short", "if 10.0.0.0/8 more", "endif",
        "name x",
        "10.0.0.0/-1 x", "10.0.0.0/x y", "if", "if 10.0.0.0/8", "if x\nendif", "if 1.2.3.4\nendif more", "/24 x", "! x",
    ],
)  # fmt: skip
def test_what_postfix_passes_over_is_refused(line: str, tmp_path: Path, postmap: Postmap) -> None:
    (tmp_path / "table").write_text(line + "\n")
    with pytest.raises(ConfigurationFault, match=r"table, line \d"):
        table("cidr", str(tmp_path / "table"))
    with pytest.raises(ValueError, match="warning"):
        postmap(f"cidr:{tmp_path}/table", ["10.1.2.3"])


def test_a_first_line_that_continues_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "table").write_text(" 10.0.0.0/8 x\n")
    with pytest.raises(ConfigurationFault, match="continues nothing"):
        table("cidr", str(tmp_path / "table"))


def test_an_ipv4_address_mapped_into_ipv6_is_the_ipv4_address() -> None:
    """Postfix does not look there: it never asks for such an address. Rules treat both as one."""
    nets = Cidr(rules("192.0.2.0/24 four\n", "x"))
    assert nets.find("ip", "::ffff:192.0.2.1", "+") == "four"
    assert Cidr(rules("::ffff:0:0/96 six\n192.0.2.0/24 four\n", "x")).find("ip", "::ffff:192.0.2.1", "+") == "six"


def test_ten_thousand_networks_are_not_tried_one_by_one() -> None:
    import timeit

    lines = "".join(f"10.{n >> 8}.{n & 255}.0/24 net {n}\n" for n in range(10_000))
    many = Cidr(rules(lines, "x"))
    assert many.find("ip", "10.39.15.9", "+") == "net 9999"
    assert timeit.timeit(lambda: many.find("ip", "11.1.1.1", "+"), number=1000) < 0.2


@given(st.text(max_size=40))
def test_any_text_is_looked_up(text: str) -> None:
    assert Cidr(rules("0.0.0.0/0 all\n", "x")).find("ip", text, "+") in (False, "all")
