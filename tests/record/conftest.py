"""Recorded lines, and strategies for what may stand in them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from postroom.mx import Plan
from postroom.record import Record
from postroom.rules import Decision, Question, Unknown
from postroom.store import Suppression

# Strangers' text: any character, those that are no UTF-8 too.
TEXTS = st.text(st.characters(), max_size=20)
WHOLE = st.integers(0, 2**40)
NAMES = st.lists(TEXTS, max_size=3).map(tuple)


def stale(plan: Plan, is_stale: bool) -> Plan:
    plan.stale = is_stale
    return plan


FRESH = st.builds(
    Plan,
    TEXTS,
    st.sampled_from(["mx", "implicit", "null", "none", "literal", "error"]),
    st.lists(st.tuples(st.integers(0, 65535), TEXTS), max_size=4).map(tuple),
    WHOLE,
    TEXTS,
    TEXTS,
    NAMES,
)
PLANS = st.builds(stale, FRESH, st.booleans())
SUPPRESSIONS = st.builds(Suppression, TEXTS, WHOLE, TEXTS, TEXTS, TEXTS, TEXTS, st.none() | WHOLE)
ANSWERS: dict[str, st.SearchStrategy[Any]] = {
    "list": st.booleans() | TEXTS,
    "mx": PLANS,
    "addresses": NAMES,
    "ns": NAMES,
    "dnsbl": st.dictionaries(TEXTS, NAMES | TEXTS.map(Unknown), max_size=3),
    "fcrdns": st.booleans(),
    "suppressed": st.none() | SUPPRESSIONS,
    "seen": st.booleans(),
    "greylist": WHOLE,
    "rate": WHOLE,
    "now": st.tuples(st.integers(0, 6), st.integers(0, 1439)),
    "country": TEXTS,
    "header": st.lists(TEXTS, max_size=3),
    "attachments": st.lists(TEXTS, max_size=3),
}


def plain(value: Any) -> Any:
    """Something that compares by what is in it."""
    if isinstance(value, Plan | Suppression | Unknown):
        return type(value).__name__, {name: plain(getattr(value, name)) for name in type(value).__slots__}
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return value


Write = Callable[..., dict[str, Any]]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Records one decision, and gives back what stands in the file's last line."""

    def write(
        attributes: dict[str, str],
        asked: list[tuple[Question, Any, float]] | None = None,
        decision: Decision | None = None,
        stage: str = "rcpt",
        hashed: bool = False,
    ) -> dict[str, Any]:
        path = tmp_path / "record"
        Record(str(path), hashed, "+").write(stage, attributes, asked or [], decision or Decision("DUNNO"))
        found: dict[str, Any] = json.loads(path.read_bytes().splitlines()[-1])
        return found

    return write
