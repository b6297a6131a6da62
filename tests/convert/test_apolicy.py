"""apolicy's three kinds of lines, in the form that its reader states."""

from __future__ import annotations

from pathlib import Path

import pytest
from convert.desk import made

from postroom.convert import LOST, apolicy

SAMPLE = """\
# ours
object office    ip         192.0.2.0/24, 10.0.0.0/8
object recipient bosses     boss@example.com
object blocked   sender     spam.example
action no        "REJECT not today"
access DUNNO office
access no blocked !bosses
access no nobody
"""


def test_three_kinds_of_lines(tmp_path: Path) -> None:
    conversion = apolicy.convert(SAMPLE, "main.acl", "rcpt")
    first, second = conversion.rules
    assert (first.match, first.action) == ({"client_address": ["192.0.2.0/24", "10.0.0.0/8"]}, "DUNNO")
    assert (second.match, second.unless) == ({"sender": "spam.example"}, {"recipient": "boss@example.com"})
    assert second.action == "REJECT not today"
    assert [(finding.line, finding.level) for finding in conversion.findings] == [(8, LOST)]
    made(conversion, tmp_path)


@pytest.mark.parametrize(
    "line",
    [
        "acl a sender x@y", "object a sender", "object a nonsense b", "object a ip nonsense", "action x rejct me",
        "access", "access nonsense", "access REJECT nobody", "object a sender \udcff", "object a size ,",
    ],
)  # fmt: skip
def test_what_is_not_understood_is_listed(line: str) -> None:
    conversion = apolicy.convert(f"object ok sender a@b.example\n{line}\n", "main.acl", "rcpt")
    assert [(finding.line, finding.level) for finding in conversion.findings] == [(2, LOST)]
    assert not conversion.rules


def test_what_one_rule_cannot_say_is_listed() -> None:
    objects = "object a sender x@y.example\nobject b sender z@y.example\nobject c recipient r@y.example\n"
    for access in ("access REJECT a b", "access REJECT !a !c"):
        assert [f.line for f in apolicy.convert(objects + access, "x", "rcpt").findings] == [4]
    both = apolicy.convert(objects + "access REJECT !a !b", "x", "rcpt")
    assert both.rules[0].unless == {"sender": ["x@y.example", "z@y.example"]}
