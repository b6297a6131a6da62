"""Zones with filters and weights against an obvious model of them, which tries whatever a silent zone may say."""

from __future__ import annotations

import itertools
import marshal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroom.rules import Unknown
from postroom.rules.dnsbl import WEIGHT_LIMIT, ZONES_LIMIT, judge, parse_zone, score, zone_names
from postroom.rules.problems import Refused

ANY_127 = ((127, 127),)


@pytest.mark.parametrize(
    ("text", "compiled"),
    [
        ("bl.example", ("bl.example", None, 1)),
        ("BL.Example.", ("bl.example", None, 1)),
        ("bücher.example", ("xn--bcher-kva.example", None, 1)),
        ("key_1.zen.dq.example*2", ("key_1.zen.dq.example", None, 2)),
        ("white.example*-4", ("white.example", None, -4)),
        ("bl.example*+3", ("bl.example", None, 3)),
        ("bl.example=127.0.0.2", ("bl.example", (ANY_127, ((0, 0),), ((0, 0),), ((2, 2),)), 1)),
        (
            "bl.example=127.[0..1].[0;2;4].[1..3;9]*8",
            ("bl.example", (ANY_127, ((0, 1),), ((0, 0), (2, 2), (4, 4)), ((1, 3), (9, 9))), 8),
        ),
        ("bl.example=[127.0.0.[2..3]]", ("bl.example", (ANY_127, ((0, 0),), ((0, 0),), ((2, 3),)), 1)),
        ("bl.example=[127].0.0.[2]", ("bl.example", (ANY_127, ((0, 0),), ((0, 0),), ((2, 2),)), 1)),
    ],
)
def test_what_can_be_written(text: str, compiled: tuple) -> None:
    assert parse_zone(text) == compiled
    assert marshal.loads(marshal.dumps(compiled)) == compiled


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the domain name of a list"),
        ("*2", "the domain name of a list"),
        ("=127.0.0.2", "the domain name of a list"),
        ("127.0.0.2", "the domain name of a list"),
        ("a b.example", "several are a list"),
        ("a.example, b.example", "several are a list"),
        ("https://bl.example", "the domain name of a list"),
        ("bl.example=", "a filter such as"),
        ("bl.example=127.0.0", "a filter such as"),
        ("bl.example=127.0.0.2.3", "a filter such as"),
        ("bl.example=127.0.0.256", "from 0 to 255"),
        ("bl.example=127.0.0.x", "from 0 to 255"),
        ("bl.example=127.0.0.", "from 0 to 255"),
        ("bl.example=127.0.0.2..4", "a filter such as"),  # ranges want brackets
        ("bl.example=127.0.0.[4..2]", '"4..2" runs backwards'),
        ("bl.example=127.0.0.[2", 'missing "]"'),
        ("bl.example=127.0.0.[]", "from 0 to 255"),
        ("bl.example=127.0.0.[2;]", "from 0 to 255"),
        ("bl.example=127.0.0.[2,3]", "several are a list"),
        ("bl.example=127.0.0.٢", "from 0 to 255"),
        ("bl.example=::1", "a filter such as"),
        ("bl.example*", "a whole number"),
        ("bl.example*x", "a whole number"),
        ("bl.example*1.5", "a whole number"),
        ("bl.example*--1", "a whole number"),
        (f"bl.example*{WEIGHT_LIMIT + 1}", "a whole number"),
        ("bl.example*2=127.0.0.2", "a whole number"),
    ],
)
def test_what_is_refused_and_why(text: str, said: str) -> None:
    with pytest.raises(Refused) as refused:
        parse_zone(text)
    assert said in str(refused.value)


@given(st.text(alphabet="ab.=*[];-0123456789 é\0", max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        name, _, weight = parse_zone(text)
    except Refused:
        return
    assert name
    assert abs(weight) <= WEIGHT_LIMIT


OCTETS = st.one_of(
    st.integers(0, 3).map(lambda number: (str(number), {number})),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)).map(sorted), min_size=1, max_size=3).map(
        lambda ranges: (
            "[" + ";".join(str(a) if a == b else f"{a}..{b}" for a, b in ranges) + "]",
            {number for a, b in ranges for number in range(a, b + 1)},
        )
    ),
)


@given(st.lists(OCTETS, min_size=3, max_size=3), st.lists(st.integers(0, 3), min_size=3, max_size=3))
def test_a_filter_fits_what_it_says(octets: list[tuple[str, set[int]]], address: list[int]) -> None:
    zone = parse_zone("bl.example=127." + ".".join(text for text, _ in octets))
    fits = all(number in numbers for number, (_, numbers) in zip(address, octets, strict=True))
    answers = {"bl.example": ("127." + ".".join(map(str, address)),)}
    assert judge((zone,), 1, answers) is fits


# The score

NAMES = ("a.example", "b.example", "c.example", "d.example", "e.example")
ENTRIES = st.lists(
    st.tuples(st.sampled_from(NAMES), st.sampled_from(["", "=127.0.0.2", "=127.0.0.[3..9]"]), st.integers(-3, 3)),
    min_size=1,
    max_size=6,
)
REPLIES = st.fixed_dictionaries(
    {
        name: st.one_of(
            st.none(), st.lists(st.sampled_from(["127.0.0.2", "127.0.0.5", "127.0.1.1"]), max_size=3, unique=True)
        )
        for name in NAMES
    }
)


def hits(text: str, addresses: list[str]) -> bool:
    """By comparing texts."""
    if not text:
        return bool(addresses)
    wanted = {"127.0.0.2"} if text == "=127.0.0.2" else {f"127.0.0.{number}" for number in range(3, 10)}
    return bool(wanted & set(addresses))


@given(ENTRIES, REPLIES, st.integers(-4, 6))
def test_the_verdict_is_the_one_that_stands_whatever_the_silent_zones_say(entries, replies, at_least: int) -> None:
    silent = [index for index, (name, _, _) in enumerate(entries) if replies[name] is None]
    verdicts = set()
    for readings in itertools.product((False, True), repeat=len(silent)):
        guess = dict(zip(silent, readings, strict=True))
        total = sum(
            weight
            for index, (name, text, weight) in enumerate(entries)
            if (guess[index] if index in guess else hits(text, replies[name]))
        )
        verdicts.add(total >= at_least)
    zones = tuple(parse_zone(f"{name}{text}*{weight}") for name, text, weight in entries)
    answers = {name: Unknown("silent") if found is None else tuple(found) for name, found in replies.items()}
    found = judge(zones, at_least, answers)
    assert (None if isinstance(found, Unknown) else found) is (verdicts.pop() if len(verdicts) == 1 else None)


def test_a_weight_counts_once_however_many_addresses_fit() -> None:
    zones = (parse_zone("bl.example=127.0.0.[2..9]*2"),)
    assert score(zones, {"bl.example": ("127.0.0.2", "127.0.0.3")}) == (2, 2, ())


def test_two_filters_on_one_zone_count_each_and_it_is_asked_once() -> None:
    zones = tuple(map(parse_zone, ("bl.example=127.0.0.2*2", "bl.example=127.0.0.3*3", "b.example")))
    assert zone_names(zones) == ("bl.example", "b.example")
    assert score(zones, {"bl.example": ("127.0.0.2", "127.0.0.3"), "b.example": ()}) == (5, 5, ())


def test_unknown_says_which_zone_and_why() -> None:
    zones = tuple(map(parse_zone, ("a.example", "b.example", "c.example")))
    found = judge(zones, 1, {"a.example": Unknown("no answer within 2.0 s"), "b.example": ()})
    assert isinstance(found, Unknown)
    assert found.reason == "a.example: no answer within 2.0 s; c.example: was not asked"


@pytest.mark.parametrize("address", ["127.255.255.252", "127.255.255.254", "127.255.255.255"])
@pytest.mark.parametrize("text", ["bl.example", "bl.example=127.0.0.2", "bl.example*-1"])
def test_a_list_that_does_not_serve_us_says_nothing(text: str, address: str) -> None:
    """Taken for a listing, it would refuse all mail; taken for none, it would turn the rule off without a word."""
    weight = parse_zone(text)[2]
    found = judge((parse_zone(text),), 1 if weight > 0 else 0, {"bl.example": (address,)})
    assert isinstance(found, Unknown)
    assert found.reason == f"bl.example: does not serve us ({address})"


def test_a_filter_may_ask_for_that_answer_all_the_same() -> None:
    zone = parse_zone("bl.example=127.255.255.254")
    assert judge((zone,), 1, {"bl.example": ("127.255.255.254",)}) is True


@pytest.mark.parametrize("address", ["192.0.2.80", "0.0.0.0", "10.0.0.1", "::1", "127.0.0", "", "127.0.0.2\0"])
def test_what_is_not_in_127_is_no_listing(address: str) -> None:
    """A resolver that sends whoever mistypes to its advertisements; a dead list's domain in other hands."""
    assert judge((parse_zone("bl.example"),), 1, {"bl.example": (address,)}) is False
    assert judge((parse_zone("bl.example"),), 1, {"bl.example": (address, "127.0.0.4")}) is True


def test_a_filter_decides_by_itself_what_is_a_listing() -> None:
    assert judge((parse_zone("bl.example=10.0.0.1"),), 1, {"bl.example": ("10.0.0.1",)}) is True


def test_no_more_zones_in_a_condition_than_are_asked(problems) -> None:
    def rule(count: int) -> str:
        zones = ", ".join(f'"z{number}.example"' for number in range(count))
        head = '[[rule]]\nid = "a"\nat = "rcpt"\naction = "DUNNO"\n'
        return f"{head}match = {{ dnsbl = {{ zones = [{zones}] }}, client_rhsbl = [{zones}] }}\n"

    assert problems(rule(ZONES_LIMIT)) == []
    found = problems(rule(ZONES_LIMIT + 1))
    assert [problem.key for problem in found] == ["match.dnsbl", "match.client_rhsbl"]
    assert all(f"expected up to {ZONES_LIMIT} zones" in problem.text for problem in found)
