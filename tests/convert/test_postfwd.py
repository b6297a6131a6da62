"""What becomes of each part of a postfwd policy, and what is said of the rest."""

from __future__ import annotations

import random
import tomllib
from pathlib import Path
from typing import Any

import pytest
from convert.desk import made
from convert.test_postfwd_differential import ask_postfwd, request
from hypothesis import given, settings
from hypothesis import strategies as st

from postroom import store
from postroom.convert import CHANGED, LOST, NOTE, Conversion, postfwd, write
from postroom.convert.deeds import _window
from postroom.deadline import Deadline
from postroom.rules.section import seconds


def one(text: str, *stages: str) -> dict[str, Any]:
    """The table of the only rule of a policy, without its id and stage."""
    conversion = postfwd.convert(text, "rules.cf", stages)
    assert conversion.complete, conversion.findings
    (rule,) = tomllib.loads(write.text(conversion))["rule"]
    assert isinstance(rule, dict)
    return {name: value for name, value in rule.items() if name not in ("id", "at")}


def match(items: str) -> Any:
    return one(f"{items}; action=REJECT").get("match", {})


def findings(text: str, level: str) -> list[str]:
    return [finding.text for finding in postfwd.convert(text, "rules.cf").findings if finding.level == level]


@pytest.mark.parametrize(
    ("items", "wanted"),
    [
        ("sender==<>", {"sender": ""}),
        (r"sender=@example\.com$", {"sender": "example.com"}),
        (r"client_name=\.gmx\.net$", {"client_name": ".gmx.net"}),
        ("client_name=^unknown$", {"client_name": "unknown"}),
        ("client_name=/^dsl/", {"client_name": "re:^dsl"}),
        ("sasl_username==bob; sasl_username==al.ice", {"sasl_username": r"re:^(bob|al\.ice)$"}),
        ("stress==YES", {"stress": "yes"}),
        ("client_address=10.1.2.3/8, 192.0.2.1", {"client_address": ["10.0.0.0/8", "192.0.2.1"]}),
        ("encryption_keysize=128", {"encryption_keysize": ">127"}),
        ("client_name==$$helo_name", {"client_name": "attr:helo_name"}),
        ("rbl=zen.spamhaus.org", {"dnsbl": "zen.spamhaus.org"}),
        (r"rbl=a.example/^127\.0\.0\.[2-4]$/3600", {"dnsbl": "a.example=127.0.0.[2..4]"}),
        (r"rbl=a.example/127.0.0.(2|9)$", {"dnsbl": "a.example=127.0.0.[2;9]"}),
        ("rbl=a.example,b.example; rblcount=2", {"dnsbl": {"zones": ["a.example", "b.example"], "at_least": 2}}),
        ("rhsbl_sender=d.example; rhsbl=c.example", {"rhsbl": "d.example", "client_rhsbl": "c.example"}),
        ("time=08:00:00-17:30:00", {"time": "08:00-17:30"}),
        ("time=!!06:00:00-20:00:00", {"time": "20:00-06:00"}),
        ("time=22:00:00-; time=-06:59:59", {"time": "22:00-07:00"}),
        ("days=Mon-Fri", {"weekday": "mon-fri"}),
        ("days=Sat; days=Sun", {"weekday": "sat-sun"}),
        ("days=!!Mon-Fri", {"weekday": "sat-sun"}),
        ("days=1-3", {"weekday": "mon-wed"}),
        ("client_address=0.0.0.0/0", {}),
    ],
)
def test_items(items: str, wanted: dict[str, Any], tmp_path: Path) -> None:
    assert match(items) == wanted
    made(postfwd.convert(f"{items}; action=REJECT", "rules.cf"), tmp_path)


@pytest.mark.parametrize(
    ("action", "wanted"),
    [
        ("dunno", {"action": "DUNNO"}),
        ("OK", {"action": "OK", "allow_ok": True}),
        ("greylisting", {"action": "restrict greylisting"}),
        ("permit_mynetworks", {"action": "restrict permit_mynetworks", "allow_ok": True}),
        ("reject helo $$helo_name {x}", {"action": "REJECT helo {helo_name} {{x}}"}),
        ("REJECT $$(sender) no", {"action": "REJECT {sender} no"}),
        ("note(seen $$sender)", {"action": "INFO seen {sender}", "mode": "shadow"}),
        (
            "rate($$client_address/3/300/450 4.7.1 slow down)",
            {"match": {"rate": {"key": "client_address", "limit": "3/5m"}}, "action": "450 4.7.1 slow down"},
        ),
        (
            "rate(sender/10/3600/REJECT x)",
            {"match": {"rate": {"key": "sender", "limit": "10/1h"}}, "action": "REJECT x"},
        ),
    ],
)
def test_actions(action: str, wanted: dict[str, Any]) -> None:
    assert one(f"action={action}") == wanted


def test_limits_that_count_otherwise(tmp_path: Path) -> None:
    text = (
        "protocol_state==END-OF-MESSAGE; sasl_username=.; action=size(sasl_username/1000000/86400/450 4.7.1 too much)"
    )
    rate = {"key": "sasl_username", "limit": "1000000/1d", "count": "bytes"}
    assert one(text, "end-of-message") == {
        "match": {"sasl_username": "re:.", "rate": rate},
        "action": "450 4.7.1 too much",
    }
    text = "protocol_state==DATA; action=rcpt(sender/500/3600/REJECT $$ratecount)"
    conversion = postfwd.convert(text, "rules.cf")
    assert [rule.stage for rule in conversion.rules] == ["data"]
    assert conversion.rules[0].action == "REJECT more than 500"
    assert [finding.level for finding in conversion.findings] == [CHANGED]
    made(conversion, tmp_path)


SAMPLE = """\
# for the office
&&NETS {
    client_address=192.0.2.0/24   # first
    client_address=10.0.0.0/8
};
&&BOTH { &&NETS; sasl_username=. };
id=IN
    &&BOTH
    action=dunno
id=OUT ; \\
    helo_name=^[^.]+$ ; action=REJECT "quoted" helo
"""


def test_macros_and_lines_that_go_on() -> None:
    conversion = postfwd.convert(SAMPLE, "rules.cf")
    assert conversion.complete
    first, second = conversion.rules
    assert first.match == {"client_address": ["192.0.2.0/24", "10.0.0.0/8"], "sasl_username": "re:."}
    assert (first.identity, first.line, second.identity, second.line) == ("IN", 7, "OUT", 10)
    assert second.action == "REJECT quoted helo"
    assert first.remarks == ["Line 7."]


def test_stages() -> None:
    text = "id=A; client_name==unknown; action=DUNNO\nid=B; protocol_state==END-OF-MESSAGE; size>=1000; action=REJECT"
    rules = [(rule.identity, rule.stage) for rule in postfwd.convert(text, "rules.cf").rules]
    # A is asked at the end of a message, too, and keeps B from being asked there.
    assert rules == [("A", "rcpt"), ("A.end-of-message", "end-of-message"), ("B.end-of-message", "end-of-message")]
    only = postfwd.convert(text, "rules.cf", ["rcpt"])
    assert [rule.identity for rule in only.rules] == ["A"]
    assert [finding.level for finding in only.findings] == [LOST]


def test_what_a_limit_counts_where_there_is_nothing_to_count() -> None:
    text = "id=L; action=rcpt(sender/500/3600/REJECT x)\n"
    assert [finding.level for finding in postfwd.convert(text, "rules.cf").findings] == [NOTE]
    both = postfwd.convert(text, "rules.cf", ["rcpt", "data"])
    assert both.complete and [rule.stage for rule in both.rules] == ["data"] and not both.findings
    assert findings("action=rate5321(sender/5/60/REJECT x)", CHANGED)


def test_ids_are_made_fit() -> None:
    text = "id=a b/ü; action=HOLD\nid=a b/ü; action=HOLD\naction=HOLD"
    assert [rule.identity for rule in postfwd.convert(text, "x").rules] == ["a-b--", "a-b--.2", "R-2"]


@pytest.mark.parametrize(
    "rule",
    [
        "score>=5; action=REJECT", "score=5; action=REJECT", "HIT>=2; action=REJECT", "date=01.01.2020-; action=REJECT",
        "action=score(1)", "action=set(a=b)", "action=jump(X)", "action=ask(127.0.0.1:10031)", "action=wait(3)",
        "action=rejct me", "action=550", "action=permit_mynetworks, reject", "action=nonsense(3)",
        "rblcount=all; rbl=a.example; action=REJECT", "rhsbl_reverse_client=a.example; action=REJECT",
        "helo_address=10.0.0.0/8; action=REJECT", "sender_ns_addrs=10.0.0.0/8; action=REJECT",
        "client_name=$$(sender_domain)$; action=REJECT", r"client_name=(a+)\1; action=REJECT",
        "client_name=(; action=REJECT", "time=08:00:30-09:00:00; action=REJECT", "size=1.5; action=REJECT",
        "client_address!=10.0.0.0/8; rbl!=a.example; action=REJECT", "action=REJECT $$nothing",
        "sender==x;; helo_name==y; action=REJECT", "client_name==file:/nowhere/at/all; action=REJECT",
        "id=X; action=size(sender/1/1/REJECT)", "action=rate(sender/x/1/REJECT)", "protocol_state==VRFY; action=REJECT",
        "action=" + "REJECT " + "x" * 500,
    ],
)  # fmt: skip
def test_what_is_lost_is_listed_with_its_line(rule: str) -> None:
    conversion = postfwd.convert(f"# first\nid=Z; client_name==a; action=DUNNO\n{rule}\n", "rules.cf")
    assert len(conversion.rules) == 1
    (finding,) = conversion.findings
    assert finding.line == 3
    assert finding.level == (NOTE if "VRFY" in rule else LOST)
    assert f"# Line 3: {finding.text[:40]}" in write.text(conversion)


def test_what_postfwd_itself_ignores_is_a_note() -> None:
    text = (
        "&&NONE; action=REJECT\nclient_name==a\n&&A{&&B;};\n&&B{&&A;};\n&&A; action=REJECT\ndays=Sat-Sun; action=REJECT"
    )
    conversion = postfwd.convert(text, "rules.cf")
    assert [(finding.line, finding.level) for finding in conversion.findings] == [(n, NOTE) for n in (1, 2, 5, 6)]
    assert conversion.complete and not conversion.rules


@settings(max_examples=60, deadline=None)
@given(st.text('ab&{};=!~<>$#\\"\n ():/.,^|*[]é\x01' + "12", max_size=80))
def test_any_text_ends_as_rules_or_findings(text: str) -> None:
    written = write.text(postfwd.convert(text, "rules.cf"))
    assert isinstance(tomllib.loads(written), dict)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.sampled_from(["client_name=", "sender==", "action=", "é", "!!", "REJECT ", "{", "}", "'", "\\", "x", ";"])
    )
)
def test_any_rule_can_be_written(parts: list[str]) -> None:
    conversion: Conversion = postfwd.convert("helo_name==a;action=REJECT " + "".join(parts), "rules.cf")
    assert isinstance(tomllib.loads(write.text(conversion)), dict)


# Files


def test_a_long_file_becomes_a_list(tmp_path: Path) -> None:
    file = tmp_path / "nets"
    file.write_text("# ours\n" + "".join(f"10.{n}.0.0/16 # {n}\n" for n in range(30)))
    text = f"client_address=file:{file}; action=DUNNO"
    conversion = postfwd.convert(text, "rules.cf")
    assert conversion.lists == {"nets": {"file": str(file)}}
    assert conversion.rules[0].match == {"client_address": "list:nets"}
    sources = made(conversion, tmp_path)
    asked = {"client_address": "10.7.1.1", "protocol_state": "RCPT"}
    assert sources.decide("rcpt", asked).rule == "R-0"
    assert sources.decide("rcpt", asked | {"client_address": "10.30.1.1"}).rule is None


def test_a_file_of_patterns_is_written_out(tmp_path: Path) -> None:
    file = tmp_path / "bad"
    file.write_text("\\.dyn\\.example$\nadsl\n")
    conversion = postfwd.convert(f"client_name=~file:{file}; action=REJECT", "rules.cf")
    assert conversion.rules[0].match == {"client_name": [".dyn.example", "re:adsl"]}
    assert [finding.level for finding in conversion.findings] == [CHANGED]


def test_files_that_name_themselves_end(tmp_path: Path) -> None:
    file = tmp_path / "loop"
    file.write_text(f"file:{file}\n")
    assert "without end" in findings(f"client_name==file:{file}; action=REJECT", LOST)[0]


# Limits, against postfwd


def test_a_limit_counts_as_postfwd_does(tmp_path: Path) -> None:
    rules = "id=L; client_name==unknown; action=rate(sender/3/600/450 4.7.1 slow down)\n"
    (tmp_path / "rules.cf").write_text(rules)
    (tmp_path / "state").mkdir(mode=0o700)
    rng = random.Random(1)
    asked = [request(rng, "RCPT") | {"client_name": "unknown"} for _ in range(25)]
    asked = [
        one | {"sender": ["a@example.com", "b@example.com"][n % 3 == 0], "instance": str(n)}
        for n, one in enumerate(asked)
    ]
    sources = made(postfwd.convert(rules, "rules.cf"), tmp_path)
    sources._open_store = lambda: store.open(str(tmp_path / "state"), Deadline(20))
    ours = [sources.decide("rcpt", one).action for one in asked]
    assert ours == ask_postfwd(tmp_path / "rules.cf", asked)
    assert ours.count("DUNNO") == 6


@given(st.integers(1, 366 * 86400 - 1))
def test_windows_are_what_they_were(whole: int) -> None:
    assert seconds(_window(whole), 366 * 86400) == whole


def test_mail_without_what_is_counted() -> None:
    limit = "action=rate(sasl_username/5/60/REJECT x)"
    assert findings(limit, CHANGED) == ["mail without sasl_username is not counted here; postfwd counts it, all as one"]
    assert findings(f"sasl_username=.; {limit}", CHANGED) == []
    assert findings("action=rate(sender/5/60/REJECT x)", CHANGED) == []
