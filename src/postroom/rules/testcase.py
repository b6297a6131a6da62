"""The check of [[test]]: what is given, and what is expected of the rules."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from postroom.rules import clock, keys, section
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
    expect = case.require("expect", "", _expect, "the action, or its first word")
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
        given.answers,
        expect,
        rule,
    )


def _stage(value: object) -> str:
    return section.choice(value, keys.STAGES)


def _expect(value: object) -> str:
    """One action; of several a list, which is compared as the decision shows them."""
    return ", ".join(section.texts(value)) if isinstance(value, list) else section.text(value)


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
        # Answers to other questions, by their kind.
        self.answers: dict[str, Any] = {}

    def add(self, name: str, value: object) -> None:
        """One fact. Raises Refused."""
        if name in ("mx", "sender_mx"):
            setattr(self, name, mx_records(value))
        elif name == "suppressed":
            self.suppressed = section.boolean(value)
        elif name in _ANSWERS:
            kind, read = _ANSWERS[name]
            self.answers[kind] = read(value)
        elif name == "bounce" and isinstance(value, dict):
            for part, text in value.items():
                self.add(f"bounce.{part}", text)
        elif name.startswith(keys.ATTRIBUTE_PREFIX) and keys.find(name):
            self.attributes[name.removeprefix(keys.ATTRIBUTE_PREFIX)] = _attribute(value)
        elif name == "header" and isinstance(value, dict):
            for header, texts in value.items():
                self.headers[header.lower()] = _texts(texts)
        elif name.startswith(keys.HEADER_PREFIX):
            self.headers[name.removeprefix(keys.HEADER_PREFIX).lower()] = _texts(value)
        elif name in keys.attributes():
            self.attributes[name] = _of_kind(name, _attribute(value))
        else:
            raise Refused(unknown(name, known_names(), "name"))


def known_names() -> list[str]:
    """What can be given, to a [[test]] or on a command line."""
    return [*keys.attributes(), "mx", "sender_mx", "suppressed", *_ANSWERS, "header.NAME", "attribute.NAME"]


def _moment(value: object) -> tuple[int, int]:
    """ "fri 17:30" in the time zone of the file. A date and time as TOML has them, or an ISO text, will do as well."""
    if isinstance(value, datetime):
        return value.weekday(), value.hour * 60 + value.minute
    day, _, time = section.text(value).partition(" ")
    if day.lower() in clock.WEEKDAYS:
        begin, _ = clock.span(f"{time}-24:00")
        return clock.WEEKDAYS.index(day.lower()), begin
    try:
        moment = datetime.fromisoformat(section.text(value))
    except ValueError:
        raise Refused(f'expected a day and a time, "fri 17:30" or 2026-11-20T17:30:00, found {show(value)}') from None
    return moment.weekday(), moment.hour * 60 + moment.minute


def _wait(value: object) -> int:
    """true stands for any time to wait."""
    if isinstance(value, bool):
        return 60 if value else 0
    return section.whole(value, 0, 10**9)


def _listings(value: object) -> dict[str, tuple[str, ...]]:
    """["zen.example"] or { "zen.example" = ["127.0.0.2"] }; no other zone lists anything."""
    if isinstance(value, dict):
        return {zone.lower(): _addresses(found) for zone, found in value.items()}
    return {zone.lower(): ("127.0.0.2",) for zone in _texts(value)}


def _addresses(value: object) -> tuple[str, ...]:
    for text in _texts(value):
        if parse_ip(text) is None:
            raise Refused(f"expected IP addresses, found {show(text)}")
    return _texts(value)


def _country(value: object) -> str:
    if value != "" and (len(section.text(value)) != 2 or not section.text(value).isalpha()):
        raise Refused(f'expected a country of two letters, or "", found {show(value)}')
    return str(value).upper()


# What answers the questions that have no attribute: the kind of question, and how its answer is written.
_ANSWERS: dict[str, tuple[str, Callable[[object], Any]]] = {
    "now": ("now", _moment),
    "mx_address": ("addresses", _addresses),
    "ns": ("ns", lambda value: tuple(name.lower().removesuffix(".") for name in _texts(value))),
    "dnsbl": ("dnsbl", _listings),
    "fcrdns": ("fcrdns", section.boolean),
    "country": ("country", _country),
    "seen": ("seen", section.boolean),
    "greylist": ("greylist", _wait),
    "rate": ("rate", _wait),
    "attachment": ("attachments", lambda value: list(_texts(value))),
}


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
