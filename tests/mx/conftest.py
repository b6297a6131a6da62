"""A world of names to put before the machine: what each (name, type) is answered with, and what was asked."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import pytest

from postroom import mx

NEGATIVE_TTL = 60
SOFT = {"SERVFAIL": mx.SERVFAIL, "REFUSED": mx.REFUSED, "TIMEOUT": mx.TIMEOUT, "GARBAGE": mx.MALFORMED}


class World:
    """`records` in zone file order, "name ttl type value"; `failing` maps "name type" to what goes wrong there."""

    def __init__(self, text: str, failing: dict[str, str]) -> None:
        self.records = [record(*line.split(maxsplit=3)) for line in text.splitlines() if line.strip()]
        self.failing = failing
        self.asked: list[str] = []

    def answer(self, question: mx.Question) -> mx.Answer:
        name, kind = question
        self.asked.append(f"{name} {kind}")
        trouble = self.failing.get(f"{name} {kind}") or self.failing.get(name)
        if trouble == "NXDOMAIN":
            return mx.Answer(mx.NXDOMAIN, ttl=NEGATIVE_TTL)
        if trouble:
            return mx.Answer(SOFT.get(trouble, mx.FAILED), text=f"{trouble} from 127.0.0.1:53 for {kind} {name}")
        return self.authoritative(name, kind)

    def authoritative(self, name: str, kind: str) -> mx.Answer:
        """As a server does that has these records: with the CNAMEs on the way."""
        found: list[mx.Record] = []
        while aliases := [r for r in self.records if r[0] == name and r[1] == "CNAME" and r not in found]:
            found += aliases
            name = aliases[-1][4]
        found += [r for r in self.records if r[0] == name and r[1] == kind]
        if found:
            return mx.Answer(mx.RECORDS, tuple(found), NEGATIVE_TTL)
        exists = any(r[0] == name for r in self.records)
        return mx.Answer(mx.NODATA if exists else mx.NXDOMAIN, ttl=NEGATIVE_TTL)

    def run(self, machine: Generator[mx.Question, mx.Answer, Any]) -> Any:
        try:
            question = next(machine)
            while True:
                question = machine.send(self.answer(question))
        except StopIteration as end:
            return end.value

    def plan(self, domain: str) -> mx.Plan:
        plan = self.run(mx.resolution(domain))
        assert isinstance(plan, mx.Plan)
        return plan

    def reach(self, domain: str) -> tuple[tuple[mx.Host, ...], str]:
        hosts, outcome = self.run(mx.addresses(self.plan(domain)))
        return hosts, outcome


def record(name: str, ttl: str, kind: str, value: str) -> mx.Record:
    preference, target = value.split(" ", 1) if kind == "MX" else ("0", value)
    return (name, kind, int(ttl), int(preference), target)


@pytest.fixture
def world() -> Callable[..., World]:
    def make(text: str = "", **failing: str) -> World:
        return World(text, failing.pop("failing", None) or failing)  # type: ignore[arg-type]

    return make
