"""Access tables: how rules are grouped, and what is said of lines that Postfix does not use or we cannot say."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from convert.desk import made
from hypothesis import given, settings
from hypothesis import strategies as st

from postroom.convert import CHANGED, LOST, NOTE, access, write
from postroom.convert.subject import Subject

TABLE = """\
# what we think of them
ann@example.com     OK
bob@example.com     OK
example.com         REJECT no such user
example.net         REJECT no such user
root@               HOLD
"""


def test_entries_with_one_result_share_a_rule(tmp_path: Path) -> None:
    conversion = access.convert(TABLE, "recipients", "texthash", Subject("recipient"))
    shown = [(rule.identity, rule.action, rule.match["recipient"], rule.remarks) for rule in conversion.rules]
    assert shown == [
        ("recipients-1-ok", "OK", ["ann@example.com", "bob@example.com"], ["Lines 2, 3."]),
        (
            "recipients-2-reject",
            "REJECT no such user",
            ["example.com", ".example.com", "example.net", ".example.net"],
            ["Lines 4, 5."],
        ),
        ("recipients-3-hold", "HOLD", "root@", ["Line 6."]),
    ]
    made(conversion, tmp_path)


def test_many_entries_are_a_list(tmp_path: Path) -> None:
    text = "".join(f"u{n}@example.com REJECT\n" for n in range(300))
    conversion = access.convert(text, "t", "texthash", Subject("sender"))
    assert len(conversion.lists["sender-1"]["values"]) == 300
    sources = made(conversion, tmp_path)
    assert sources.decide("rcpt", {"sender": "u77@example.com", "protocol_state": "RCPT"}).action == "REJECT"


@pytest.mark.parametrize(
    ("line", "level"),
    [
        ("example.com", NOTE), (".example.com REJECT", NOTE), ("192.0.2.0/24 REJECT", NOTE), ("b.example 550", NOTE),
        ("example.com permit_mynetworks, reject", LOST), ("b.example MY-CLASS", LOST),
        ('"a b"@example.com REJECT', LOST), ("b.example 5\udcff0 x", LOST), ("<> REJECT", NOTE),
    ],
)  # fmt: skip
def test_odd_lines(line: str, level: str) -> None:
    conversion = access.convert(f"a.example DUNNO\n{line}\n", "t", "texthash", Subject("recipient"))
    assert [(finding.line, finding.level) for finding in conversion.findings] == [(2, level)], conversion.findings


@pytest.mark.parametrize(
    ("kind", "line", "level"),
    [
        ("cidr", "10.0.0.1/8 REJECT", LOST), ("cidr", "nonsense REJECT", LOST), ("cidr", "10.0.0.0/8", LOST),
        ("pcre", r"/^(x)/ REJECT $1", LOST), ("pcre", "/x/e REJECT", LOST), ("pcre", "/(/ REJECT", LOST),
        ("pcre", "x REJECT", LOST), ("regexp", r"/^1/ REJECT", CHANGED),
    ],
)  # fmt: skip
def test_odd_lines_of_patterns(kind: str, line: str, level: str) -> None:
    conversion = access.convert(line + "\n", "t", kind, Subject("client"))
    assert {(finding.line, finding.level) for finding in conversion.findings} == {(1, level)}, conversion.findings


def test_a_pattern_for_addresses_is_a_network(tmp_path: Path) -> None:
    text = "/^192\\.168\\./ REJECT\n/^10\\.1\\.2\\.3$/ REJECT\n/\\.dyn\\.example$/ HOLD\n"
    conversion = access.convert(text, "t", "pcre", Subject("client"))
    assert conversion.complete
    assert conversion.rules[-1].match == {"client_address": ["192.168.0.0/16", "10.1.2.3"]}
    made(conversion, tmp_path)


def test_a_cidr_table_speaks_of_clients_only() -> None:
    conversion = access.convert("10.0.0.0/8 OK\n", "t", "cidr", Subject("sender"))
    assert [finding.level for finding in conversion.findings] == [LOST]


def test_an_if_that_cannot_be_read_takes_its_lines_with_it() -> None:
    conversion = access.convert("if /(/\n/x/ REJECT\nendif\n/y/ HOLD\n", "t", "pcre", Subject("sender"))
    assert [finding.line for finding in conversion.findings] == [2]
    assert [rule.action for rule in conversion.rules] == ["HOLD"]


@settings(max_examples=80, deadline=None)
@given(
    st.text("ab.@:/!12 \n#<>[]()$^*\\+é\x01ifend", max_size=60),
    st.sampled_from(access.TYPES),
    st.sampled_from(list(access.SUBJECTS)),
)
def test_any_text_ends_as_rules_or_findings(text: str, kind: str, what: str) -> None:
    table = text.replace("\n", " REJECT\n") + " REJECT\n"
    assert isinstance(tomllib.loads(write.text(access.convert(table, "t", kind, Subject(what)))), dict)
