"""Recipients as clients spell them. Whether Postfix reads them so is asked in tests/postfix/test_spellings.py."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from postroom.cli.explain import command
from postroom.mx import Plan
from postroom.rules import index
from postroom.rules.rewrite import resolved

LOCAL = frozenset({"example.com", "localhost", (4, 0xC0000201), (6, 1)})
HEAD = 'mydestination = ["Example.com", "localhost", "[192.0.2.1]", "[IPv6:2001:db8::1]"]\nmyorigin = "example.com"\n'
STAFF = "staff@example.com"
RULE = '[[rule]]\nid = "{id}"\nat = "rcpt"\nmatch = {{ {match} }}\naction = "REJECT {{recipient}}"\n'

WITHOUT_SETTINGS = {
    "example.com!staff": STAFF,
    "staff%example.com": STAFF,
    "@relay.example:staff@example.com": STAFF,
    "@relay.example:example.com!staff": STAFF,
    "staff@example.com@": STAFF,
    "a!b!staff": "b!staff@a",
    "staff": "staff",
    "staff%example.com@example.com": "staff%example.com@example.com",
    "staff@example.com@example.com": "staff@example.com@example.com",
    "": "",
}
WITH_SETTINGS = {
    "staff": STAFF,
    "staff%example.com@example.com": STAFF,
    "staff%Example.Com@EXAMPLE.com.": "staff@Example.Com",
    "staff@example.com@example.com": STAFF,
    "example.com!staff@localhost": STAFF,
    "staff%example.com@[192.0.2.1]": STAFF,
    "staff%example.com@[127.0.0.1]": "staff%example.com@[127.0.0.1]",
    "staff%example.com@[IPv6:::1]": STAFF,
    "staff%example.com@[ipv6:0:0::1]": STAFF,
    "staff@localhost": "staff@localhost",
    "staff@other.example@example.com": "staff@other.example",
    "staff%other.example@example.com": "staff@other.example",
    "staff%example.com@other.example": "staff%example.com@other.example",
    "staff@example.com@other.example": "staff@example.com@other.example",
    "staff@exam\\ple.com@example.com": STAFF,
    "@example.com": "MAILER-DAEMON@example.com",
}


@pytest.mark.parametrize(("typed", "read"), WITHOUT_SETTINGS.items())
def test_what_every_host_does(typed: str, read: str) -> None:
    assert resolved(typed, frozenset(), "") == read


@pytest.mark.parametrize(("typed", "read"), WITH_SETTINGS.items())
def test_what_a_host_does_for_its_own_domains(typed: str, read: str) -> None:
    assert resolved(typed, LOCAL, "example.com") == read


@pytest.mark.parametrize(
    "address", [STAFF, "Staff+x@EXAMPLE.com", "o'neil/x=y@sub.example.com", "\u00e9\udcff@x", "a@"]
)
def test_a_plain_address_is_only_looked_at(address: str) -> None:
    assert resolved(address, LOCAL, "example.com") is address


@given(st.lists(st.sampled_from([*'@%!:."\\()[] \t\0<>,;', "staff", "example.com", "localhost", "\udcff", "x"])))
@settings(max_examples=500, deadline=None)
def test_whatever_strangers_write_comes_to_an_end(parts: list[str]) -> None:
    read = resolved("".join(parts), LOCAL, "example.com")
    assert not any("\ud800" <= character <= "\ud804" for character in read)


@pytest.mark.parametrize(
    "part", ["%example.com", "@example.com", "!", "\\!", '"', "(", "@a:", "example.com!", " ", "x@"]
)
def test_as_long_as_a_request_may_be_it_takes_no_time(part: str) -> None:
    for address in ("staff" + part * (8192 // len(part)), part * (8192 // len(part)) + "staff"):
        begun = time.monotonic()
        resolved(address, LOCAL, "example.com")
        assert time.monotonic() - begun < 2


# Rules.


@pytest.mark.parametrize("typed", [typed for typed, read in WITH_SETTINGS.items() if read == STAFF])
@pytest.mark.parametrize(
    "match",
    [
        'recipient = "staff@example.com"',
        'recipient = "Staff@"',
        'recipient_domain = "example.com"',
        'recipient_localpart = "staff"',
        'recipient = "re:^staff@example"',
        'recipient = "*@example.com"',
        'sender = "attr:recipient"',
    ],
)
def test_every_key_sees_the_same(rules: Callable[[str], Any], typed: str, match: str) -> None:
    file = rules(HEAD + RULE.format(id="one", match=match))
    decision = file.decide("rcpt", {"recipient": typed, "sender": STAFF})
    assert (decision.rule, decision.action) == ("one", f"REJECT {STAFF}")


def test_lists_dns_state_and_counters_are_asked_about_what_it_is(rules: Callable[[str], Any]) -> None:
    match = 'recipient = "list:l", suppressed = true, primary_mx = "mx.example", '
    match += 'seen = { key = "recipient", within = "1d" }'
    file = rules(f'{HEAD}[list.l]\nvalues = ["x"]\n' + RULE.format(id="one", match=match))
    answers = {
        ("list", ("l", STAFF, "address")): True,
        ("suppressed", STAFF): None,
        ("mx", "example.com"): Plan("example.com", "mx", ((10, "mx.example"),)),
    }
    suppressed = {**answers, ("suppressed", STAFF): type("S", (), {"since": 0, "why": ""})(), "seen": True}
    attributes = {"recipient": "staff%example.com@localhost"}
    assert file.decide("rcpt", attributes, suppressed).rule == "one"
    assert file.decide("rcpt", attributes, answers).rule is None
    assert file.asked == ["list", "suppressed"]


@pytest.mark.parametrize("stage", ["data", "end-of-message"])
def test_the_later_stages_too(rules: Callable[[str], Any], stage: str) -> None:
    file = rules(HEAD + RULE.format(id="one", match=f'recipient = "{STAFF}"').replace('"rcpt"', f'"{stage}"'))
    assert file.decide(stage, {"recipient": "example.com!staff"}).rule == "one"


def test_behind_the_queue_an_address_is_what_it_is(rules: Callable[[str], Any]) -> None:
    """There, Postfix has done it already; what is left of odd signs belongs to the mailbox."""
    rule = '[[rule]]\nid = "one"\nat = "deliver"\nmatch = { recipient = "staff@example.com" }\naction = "discard"\n'
    assert rules(HEAD + rule).decide("deliver", {"recipient": "staff%example.com@example.com"}).rule is None


def test_what_was_typed_can_be_asked_for(rules: Callable[[str], Any]) -> None:
    file = rules(
        HEAD + RULE.format(id="one", match='recipient_as_typed = "*!*"').replace("{recipient}", "{recipient_as_typed}")
    )
    assert file.decide("rcpt", {"recipient": "Example.com!staff"}).action == "REJECT Example.com!staff"
    assert file.decide("rcpt", {"recipient": STAFF}).rule is None
    assert file.decide("rcpt", {}).rule is None


def test_the_index_finds_what_trying_finds(rules: Callable[[str], Any]) -> None:
    text = HEAD + "".join(RULE.format(id=f"r{n}", match=f'recipient = "u{n}@example.com"') for n in range(20))
    file = rules(text)
    assert file.compiled["rules"]["index"]["rcpt"] is not None
    for typed in ("u7%example.com@example.com", "example.com!u7", "u7", "u7@example.com@localhost"):
        assert file.decide("rcpt", {"recipient": typed}).rule == "r7"
    linear = {**file.compiled["rules"], "index": {}}
    file.compiled["rules"] = linear
    assert file.decide("rcpt", {"recipient": "u7"}).rule == "r7"
    assert index.WORTH <= 20


# The settings.


def test_names_and_addresses_are_told_apart(rules: Callable[[str], Any]) -> None:
    own, origin = rules(HEAD).compiled["rules"]["local"]
    addresses = {(4, 0xC0000201), (4, 0x7F000001), (6, 1), (6, 0x20010DB8 << 96 | 1)}
    assert (own, origin) == ({"example.com", "localhost", *addresses}, "example.com")
    assert rules("").compiled["rules"]["local"] == (frozenset(), "")
    assert rules('mydestination = ["x127.0.0.1y"]').compiled["rules"]["local"][0] >= {"x127.0.0.1y"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('mydestination = ["$myhostname"]', 'expected a domain name, found "$myhostname"'),
        ('mydestination = ["/etc/postfix/destinations"]', "expected a domain name"),
        ('mydestination = ["[192.0.2]"]', 'expected a domain, or an address such as "[192.0.2.1]"'),
        ('mydestination = ["[192.0.2.1"]', 'expected a domain, or an address such as "[192.0.2.1]"'),
        ('mydestination = "example.com"', "expected a list of texts"),
        ('myorigin = "a b"', 'expected a domain name, found "a b"'),
    ],
)
def test_what_they_cannot_be(problems: Callable[[str], Any], text: str, said: str) -> None:
    (problem,) = problems(text)
    assert said in problem.text


# Explained.


def explained(folder: Path, *words: str) -> str:
    file = folder / "postroom.toml"
    file.write_text(f'state = "{folder}"\n{HEAD}' + RULE.format(id="one", match=f'recipient = "{STAFF}"'))
    result = CliRunner().invoke(command, ["--config", str(file), *words])
    assert result.exit_code == 0, result.output
    return result.output


def test_explain_shows_both(tmp_path: Path) -> None:
    text = explained(tmp_path, "recipient=example.com!staff")
    assert "example.com!staff, which is staff@example.com\n" in text
    assert f"rule one matches, since recipient {STAFF} is" in text
    assert "which is" not in explained(tmp_path, f"recipient={STAFF}")
    assert json.loads(explained(tmp_path, "--json", "recipient=staff"))["read_as"] == STAFF
    assert json.loads(explained(tmp_path, "--json", f"recipient={STAFF}"))["read_as"] == ""


def test_a_plan_that_is_given_is_that_of_its_domain(tmp_path: Path) -> None:
    file = tmp_path / "postroom.toml"
    file.write_text(f'state = "{tmp_path}"\n{HEAD}' + RULE.format(id="one", match='primary_mx = "mx.example"'))
    words = ["--config", str(file), "--json", "recipient=staff%example.com@localhost", "mx=10 mx.example"]
    assert json.loads(CliRunner().invoke(command, words).output)["rule"] == "one"
