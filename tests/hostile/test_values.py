"""Addresses and names as strangers write them: in a condition and in a list they come to the same."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from postroom.rules import Unknown
from postroom.rules.check import check
from postroom.rules.compile import compile_model
from postroom.rules.evaluate import decide
from postroom.rules.read import parse
from postroom.tables import table

U, A = "bücher.example", "xn--bcher-kva.example"


def ruleset(conditions: str) -> Any:
    text = f'[[rule]]\nid = "r"\nat = "rcpt"\naction = "550 no"\nmatch = {{ {conditions} }}\n[list.l]\nvalues = ["x"]\n'
    model, report = check(parse(text.encode(), "f"), "/")
    assert model, report.problems
    return compile_model(model)["rules"]


def matches(conditions: str, attributes: dict[str, str], entries: tuple[str, ...] = ()) -> bool:
    steps = decide(ruleset(conditions), "rcpt", attributes)
    try:
        question = next(steps)
        while True:
            _, value, kind = question.argument
            question = steps.send(table("values", entries).find(kind, value, "+"))
    except StopIteration as end:
        assert not end.value.on_error
        return bool(end.value.rule)


def entries(text: str) -> tuple[str, ...]:
    model, _ = check(parse(f"[list.l]\nvalues = ['{text}']\n".encode(), "f"), "/")
    assert model
    return model.lists[0].values


def both(key: str, value: str, given_: str) -> bool:
    """Whether a condition and a list of one entry say the same, and what."""
    attribute = key.removesuffix("_domain")
    inline = matches(f"{key} = '{value}'", {attribute: given_})
    assert matches(f'{key} = "list:l"', {attribute: given_}, entries(value)) == inline
    return inline


SPELLINGS = [U, A, "BÜCHER.Example", "Xn--Bcher-KVA.EXAMPLE", U + ".", A + "."]


@pytest.mark.parametrize("written", SPELLINGS)
@pytest.mark.parametrize("came", SPELLINGS)
def test_a_domain_is_the_same_in_each_of_its_spellings(written: str, came: str) -> None:
    for key in ("sender_domain", "recipient_domain", "sender", "recipient"):
        assert both(key, written, f"ann@{came}"), key
        assert both(key, f"ann@{written}" if "_" not in key else written, f"ann@{came}"), key
        assert both(key, f".{written}", f"ann@mail.{came}"), key
        assert not both(key, f".{written}", f"ann@{came}"), key
        assert not both(key, written, f"ann@not-{came}"), key
    assert both("helo_name", written, came)
    assert both("client_name", written, came)


ADDRESSES = [
    # what the file says, what comes, whether that is the same
    ('"a b"@x.example', "a b@x.example", True),
    ('"a@b"@x.example', "a@b@x.example", True),
    ('"a,b"@x.example', "a,b@x.example", True),
    ('"a b"@', "a b@y.example", True),
    ('"ann"@x.example', "ann@x.example", True),
    ("x.example", "a@y.example@x.example", True),
    ("y.example", "a@y.example@x.example", False),
    ("a@y.example", "a@y.example@x.example", False),
    ("x.example", "@x.example", True),
    ("x.example", "a@.x.example", False),
    ("x.example", "a@x.example..", False),
    ("x.example", "a@", False),
    ("x.example", "a@x.example\0", False),
    ("x.example", "a\n@x.example", True),
    ("x.example", "\udcff\udc00@x.example", True),
    ("ann@x.example", "ANN+ex+tra@X.Example.", True),
    ("postmaster", "postmaster", True),
    ("postmaster@x.example", "postmaster+x@x.example", True),
    ("<>", "", True),
    ("x.example", "", False),
]


@pytest.mark.parametrize(("written", "came", "same"), ADDRESSES)
def test_an_address_that_is_odd(written: str, came: str, same: bool) -> None:
    assert both("sender", written, came) is same


STRANGE = st.text(
    st.sampled_from('aA@.+-"\\ <>[]:/*\0\n\r\t\xfc\xdf\u0307\u200d\udc80\udcff\ud800x\u0130') | st.characters(),
    max_size=40,
)
KEYS = ("sender", "sender_domain", "sender_localpart", "sender_user", "sender_extension", "helo_name", "client_address")


@settings(max_examples=300, deadline=None)
@given(STRANGE | st.builds("{}@{}".format, STRANGE, STRANGE))
@example("@" * 40)
@example("." * 300)
@example("a@" + "." * 300)
def test_nothing_that_comes_breaks_a_condition_or_a_list(text: str) -> None:
    for conditions in EVERYTHING:
        steps = decide(conditions, "rcpt", dict.fromkeys((*KEYS, "sasl_username", "size", "protocol_state"), text))
        try:
            question = next(steps)
            while True:
                question = steps.send(answer(question.kind, question.argument))
        except StopIteration as end:
            assert end.value.action


def answer(kind: str, argument: Any) -> object:
    if kind != "list":
        return Unknown("not asked")
    _, value, its = argument
    return table("values", ("x.example", ".x.example", "a@", "10.0.0.0/8", U)).find(its, value, "+-")


EVERYTHING = [
    ruleset(f"{key} = ['{value}', \"list:l\"]" if "1" not in value else f"{key} = ['{value}', '::/0']")
    for key, value in [
        ("sender", "a@x.example"), ("sender", "*x*a*"), ("sender", "re:^a+@x"), ("sender", "attr:helo_name"),
        ("sender_domain", ".x.example"), ("sender_extension", ""), ("sender_user", "a"), ("helo_name", "*.x.*"),
        ("client_address", "10.0.0.0/8"), ("sasl_username", "a"), ("protocol_state", "RCPT"), ("sender_localpart", U),
    ]
] + [ruleset('size = ">5"'), ruleset("null_sender = true"), ruleset("client_is_literal = true")]  # fmt: skip

MEGABYTE = 1 << 20
LONG = {
    "one label": "a" * MEGABYTE,
    "dots": "." * MEGABYTE,
    "labels": "a." * (MEGABYTE // 2),
    "ats": "@" * MEGABYTE,
    "pluses": "+" * MEGABYTE + "@x.example",
    "a local part of 70 KB": "a" * 70_000 + "@x.example",
    "a domain of 70 KB": "a@" + "a." * 35_000 + "x.example",
    "beyond ASCII": "ü" * (MEGABYTE // 2) + "@" + "ü." * (MEGABYTE // 4),
    "A-labels": "a@" + "xn--bcher-kva." * (MEGABYTE // 14),
    "digits": "1" * MEGABYTE,
    "colons": ":" * MEGABYTE,
    "stars": "*x" * (MEGABYTE // 2),
}


@pytest.mark.parametrize("name", LONG)
def test_a_megabyte_takes_milliseconds(name: str) -> None:
    started = time.process_time()
    attributes = dict.fromkeys((*KEYS, "sasl_username", "size", "protocol_state"), LONG[name])
    for conditions in EVERYTHING:
        steps = decide(conditions, "rcpt", attributes)
        try:
            question = next(steps)
            while True:
                question = steps.send(answer(question.kind, question.argument))
        except StopIteration as end:
            assert end.value.action
    taken = time.process_time() - started
    assert taken < 0.2 * len(EVERYTHING), taken


@pytest.fixture
def listed(tmp_path: Path) -> Iterator[Path]:
    file = tmp_path / "list"
    yield file


@pytest.mark.parametrize("line", [U, A, f"ann@{U}", f"ann@{A}", '"ann"@' + A])
def test_a_list_in_a_file_says_the_same(listed: Path, line: str) -> None:
    listed.write_text(f"# a comment\n{line}\n")
    for came in (U, A, U.upper(), A.upper()):
        assert table("file", str(listed)).find("address", f"ann@{came}", "+") is True
