"""The check of [[test]]: what is given, and what is expected of the rules."""

from __future__ import annotations

from typing import Any

from postroom.rules import keys, section
from postroom.rules.lookup import parse_ip
from postroom.rules.model import Test
from postroom.rules.problems import Refused, Report, unknown
from postroom.rules.read import Place
from postroom.rules.section import Section
from postroom.rules.values import show

KEYS = ("at", "given", "expect", "expect_rule")
_MX_STATES = ("null", "none", "error")


def test(report: Report, path: Place, table: object, top: dict[str, Any]) -> Test | None:
    case = Section(report, path, table, KEYS)
    stage = case.require("at", "", _stage, f"one of {', '.join(keys.STAGES)}")
    given = _given(report, (*path, "given"), case.table.get("given", {}))
    for header in given.headers if stage else ():
        if misplaced := no_header(stage):
            report.error((*path, "given", keys.HEADER_PREFIX + header), misplaced)
    expect = case.require("expect", "", section.text, "the action, or its first word")
    rule = case.take("expect_rule", "", lambda value: _rule_at(value, stage, top)) or None
    number = path[1] if isinstance(path[1], int) else 0
    line = report.document.line(path)
    return Test(
        number,
        line,
        stage,
        given.attributes,
        given.headers,
        given.mx,
        given.sender_mx,
        bool(given.suppressed),
        expect,
        rule,
    )


def _stage(value: object) -> str:
    return section.choice(value, keys.STAGES)


def _rule_at(value: object, stage: str, top: dict[str, Any]) -> str:
    rules = [rule for rule in top.get("rule", []) if isinstance(rule, dict) and rule.get("at") == stage]
    known = [rule["id"] for rule in rules if isinstance(rule.get("id"), str)]
    if section.text(value) not in known:
        raise Refused(unknown(section.text(value), known, f"rule at {stage}"))
    return section.text(value)


def _given(report: Report, path: Place, table: object) -> Given:
    given = Given()
    if not isinstance(table, dict):
        report.error(path, f'expected a table, {{ recipient = "a@example.com" }}, found {show(table)}')
        return given
    for name, value in table.items():
        try:
            given.add(name, value)
        except Refused as refused:
            report.error((*path, name), str(refused))
    return given


class Given:
    """Attributes by their names, and what stands for DNS, store and message: of a [[test]], or of a command line."""

    def __init__(self) -> None:
        self.attributes: dict[str, str] = {}
        self.headers: dict[str, tuple[str, ...]] = {}
        self.mx: tuple[tuple[int, str], ...] | str | None = None
        self.sender_mx: tuple[tuple[int, str], ...] | str | None = None
        self.suppressed: bool | None = None

    def add(self, name: str, value: object) -> None:
        """One fact. Raises Refused."""
        if name in ("mx", "sender_mx"):
            setattr(self, name, mx_records(value))
        elif name == "suppressed":
            self.suppressed = section.boolean(value)
        elif name == "header" and isinstance(value, dict):
            for header, texts in value.items():
                self.headers[header.lower()] = _texts(texts)
        elif name.startswith(keys.HEADER_PREFIX):
            self.headers[name.removeprefix(keys.HEADER_PREFIX).lower()] = _texts(value)
        elif name in keys.attributes():
            self.attributes[name] = _of_kind(name, _attribute(value))
        else:
            raise Refused(unknown(name, [*keys.attributes(), "mx", "sender_mx", "suppressed", "header.NAME"], "name"))


def no_header(stage: str) -> str:
    """What is wrong with a header at this stage; empty where there may be one."""
    key = keys.find(keys.HEADER_PREFIX + "NAME")
    if key is None or stage in key.stages:
        return ""
    return f"cannot be known at {stage}, only at {keys.where(key)}"


def _texts(value: object) -> tuple[str, ...]:
    return section.texts(value) if isinstance(value, list) else (_attribute(value),)


def _attribute(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise Refused(f"expected a text or a number, found {show(value)}")
    return str(value)


def _of_kind(name: str, text: str) -> str:
    """A value such as Postfix can send; it may always be empty, and the address of a client "unknown"."""
    key = keys.find(name)
    kind = key.kind if key else "text"
    if kind == "ip" and text not in ("", "unknown") and parse_ip(text) is None:
        raise Refused(f"expected an IP address, found {show(text)}")
    if kind == "number" and text and not (text.isascii() and text.isdigit()):
        raise Refused(f"expected a whole number, found {show(text)}")
    return text


def mx_records(value: object) -> tuple[tuple[int, str], ...] | str:
    """["10 mx1.example.net", "20 mx2.example.net"], or "null", "none", "error"."""
    if isinstance(value, str) and value in _MX_STATES:
        return value
    records = section.texts([value] if isinstance(value, str) else value)
    found = []
    for record in records:
        preference, _, host = record.strip().partition(" ")
        if not (preference.isascii() and preference.isdigit() and len(preference) < 6 and host.strip()):
            raise Refused(f'expected "10 mx.example.net" or one of {", ".join(_MX_STATES)}, found {show(record)}')
        found.append((int(preference), host.strip().lower().removesuffix(".")))
    if not found:
        raise Refused('an empty list says nothing; expected "none" for a domain without MX')
    return tuple(sorted(found))
