"""Replay: what was asked then is answered as then; what nobody asked is not made up; the network is never asked."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from postroom.config import load
from postroom.mx import Plan
from postroom.record import Record
from postroom.record.compare import Comparison, Said, decided, recorded
from postroom.record.mask import hashed
from postroom.record.read import Line, parse
from postroom.record.replay import NOT_RECORDED, Replay, moment
from postroom.rules import Decision, Question, Unknown
from postroom.rules.keys import STAGES

RULE = '[[rule]]\nid = "r"\nat = "rcpt"\naction = "HANGUP"\n'


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a replay asked the network")

    monkeypatch.setattr(socket.socket, "sendto", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def replay(folder: Path, rules: str) -> Replay:
    (folder / "postroom.toml").write_text(rules)
    return Replay(load(str(folder / "postroom.toml")))


def line(
    folder: Path,
    attributes: dict[str, str],
    *asked: tuple[str, Any, Any],
    decision: Decision | None = None,
    is_hashed: bool = False,
) -> Line:
    path = folder / "record"
    path.unlink(missing_ok=True)
    questions = [(Question(kind, about), answer, 0.001) for kind, about, answer in asked]
    Record(str(path), is_hashed, "+").write("rcpt", attributes, questions, decision or Decision("DUNNO"))
    found = parse(path.read_bytes(), STAGES)
    assert isinstance(found, Line), found
    return found


SHADY = Plan("x.example", "mx", ((10, "mx.shady.example"),))
TO = {"recipient": "bob@x.example", "client_address": "192.0.2.1"}


def test_dns_says_what_it_said(tmp_path: Path) -> None:
    again = replay(tmp_path, RULE + 'match = { primary_mx = ".shady.example" }\n')
    decision = again.decide_line(line(tmp_path, TO, ("mx", "x.example", SHADY)))
    assert (decision.action, again.missing) == ("HANGUP", [])
    decision = again.decide_line(line(tmp_path, TO, ("mx", "x.example", Unknown("timed out"))))
    assert (decision.on_error, again.missing) == (True, [])


def test_what_nobody_asked_is_not_made_up(tmp_path: Path) -> None:
    again = replay(tmp_path, RULE + 'match = { primary_mx = ".shady.example" }\n')
    decision = again.decide_line(line(tmp_path, TO, ("mx", "y.example", SHADY)))
    assert decision.reason == NOT_RECORDED
    assert again.missing == ["mx"]


def test_state_says_what_it_said(tmp_path: Path) -> None:
    again = replay(tmp_path, RULE + "match = { suppressed = true }\n")
    assert again.decide_line(line(tmp_path, TO, ("suppressed", "bob@x.example", None))).action == "DUNNO"
    again.decide_line(line(tmp_path, TO))
    assert again.missing == ["suppressed"]


def test_lists_are_those_of_the_rule_file(tmp_path: Path) -> None:
    rules = '[list.l]\nfile = "l"\n' + RULE + 'match = { recipient = "list:l" }\n'
    (tmp_path / "l").write_text("bob@x.example\n")
    again = replay(tmp_path, rules)
    found = line(tmp_path, TO, ("list", ("l", "bob@x.example", "address"), False))
    assert again.decide_line(found).action == "HANGUP"
    assert again.missing == []


def test_what_a_list_said_of_a_hash_counts(tmp_path: Path) -> None:
    rules = '[list.l]\nfile = "l"\n' + RULE + 'match = { recipient = "list:l" }\n'
    (tmp_path / "l").write_text("bob@x.example\nwhole.example\n")
    again = replay(tmp_path, rules)
    found = line(tmp_path, TO, ("list", ("l", "bob@x.example", "address"), True), is_hashed=True)
    assert found.attributes["recipient"] == hashed("bob") + "@x.example"
    assert again.decide_line(found).action == "HANGUP"
    whole = {"recipient": "eve@whole.example"}
    assert again.decide_line(line(tmp_path, whole, is_hashed=True)).action == "HANGUP"


def test_zones_that_were_asked_together_or_apart(tmp_path: Path) -> None:
    again = replay(tmp_path, RULE + 'match = { dnsbl = { zones = ["a.example", "b.example"], at_least = 2 } }\n')
    asked = [
        ("dnsbl", ("192.0.2.1", ("a.example", "c.example")), {"a.example": ("127.0.0.2",), "c.example": ()}),
        ("dnsbl", ("192.0.2.1", ("b.example",)), {"b.example": ("127.0.0.2",)}),
    ]
    assert again.decide_line(line(tmp_path, TO, *asked)).action == "HANGUP"
    again.decide_line(line(tmp_path, TO, asked[0]))
    assert again.missing == ["dnsbl"]


def test_the_clock_is_the_record_s(tmp_path: Path) -> None:
    again = replay(tmp_path, 'time_zone = "Europe/Berlin"\n' + RULE + 'match = { time = "08:00-18:00" }\n')
    found = line(tmp_path, TO)
    found.time = 1795363200.0  # 2026-11-22T16:00:00Z, 17:00 in Berlin
    assert again.decide_line(found).action == "HANGUP"
    found.time += 3 * 3600
    assert again.decide_line(found).action == "DUNNO"
    assert again.missing == []


def test_moments() -> None:
    assert moment(1795363200.0, "UTC") == (6, 16 * 60)
    assert moment(1795363200.0, "Asia/Kolkata") == (6, 21 * 60 + 30)
    assert isinstance(moment(1795363200.0, ""), tuple)
    assert isinstance(moment(1e300, "UTC"), Unknown)
    assert isinstance(moment(1e300, ""), Unknown)
    assert isinstance(moment(0.0, "Nowhere/Nothing"), Unknown)


def said(action: str, rule: str | None = None, *, on_error: bool = False) -> Said:
    return Said(rule, action, on_error, "", ())


def test_groups_are_pairs_of_rules_and_not_of_texts(tmp_path: Path) -> None:
    comparison = Comparison(examples=2)
    one = line(tmp_path, TO)
    for number in range(5):
        comparison.add(number, one, said("DUNNO"), said(f"550 5.7.1 no {number}", "new"), [])
    comparison.add(6, one, said("HANGUP", "a"), said("HANGUP", "b"), [])
    comparison.add(7, one, said("DUNNO"), said("HANGUP", "b"), ["mx", "mx"])
    (change,) = comparison.groups
    assert change == ("rcpt", None, "DUNNO", "new", "550")
    assert comparison.groups[change].count == 5
    assert [example.number for example in comparison.groups[change].examples] == [0, 1]
    assert (comparison.compared, comparison.differ, comparison.renamed, comparison.not_recorded) == (6, 5, 1, 1)
    assert comparison.missing == {("rcpt", "mx"): 1}


def test_groups_stay_few_whatever_a_record_says(tmp_path: Path) -> None:
    comparison = Comparison(examples=1)
    one = line(tmp_path, TO)
    for number in range(5000):
        comparison.add(number, one, said("HANGUP", f"rule{number}"), said("DUNNO"), [])
    assert len(comparison.groups) <= 1001
    assert len(comparison.tallies) <= 1002
    assert sum(group.count for group in comparison.groups.values()) == 5000


def test_what_was_cut_is_not_called_a_difference(tmp_path: Path) -> None:
    comparison = Comparison(examples=1)
    one = line(tmp_path, {**TO, "helo_name": "x" * 10000})
    comparison.add(1, one, said("DUNNO"), said("HANGUP"), [])
    comparison.add(2, one, said("DUNNO"), said("DUNNO"), [])
    assert (comparison.cut, comparison.differ, comparison.compared) == (1, 0, 1)


def test_a_long_action_compares_as_far_as_it_was_kept(tmp_path: Path) -> None:
    comparison = Comparison(examples=1)
    one = line(tmp_path, TO, decision=Decision("550 " + "x" * 5000))
    comparison.add(1, one, recorded(one), decided(Decision("550 " + "x" * 5000)), [])
    comparison.add(1, one, recorded(one), decided(Decision("550 " + "x" * 5)), [])
    assert comparison.differ == 1


def test_of_a_hashed_line_the_verb_is_compared(tmp_path: Path) -> None:
    comparison = Comparison(examples=1)
    one = line(tmp_path, TO, decision=Decision("550 5.1.1 bob is gone"), is_hashed=True)
    comparison.add(1, one, recorded(one), said("550 5.1.1 h0 is away"), [])
    comparison.add(2, one, recorded(one), said("450 4.1.1 h0 is away"), [])
    assert (comparison.differ, comparison.hashed) == (1, 2)
    assert json.dumps(one.action)
