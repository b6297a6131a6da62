"""A configuration file that has been read and checked, as typed values. What runs is made of it by compile.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from postroom.rules.actions import Action
from postroom.rules.keys import Key
from postroom.rules.values import Match


@dataclass(frozen=True)
class Condition:
    """One key of a `match`, `unless` or `any` table. `known`: empty or 0 means something at the rule's stage."""

    key: Key
    match: Match
    known: bool


@dataclass(frozen=True)
class Rule:
    """`on_error` None means "skip"."""

    identity: str
    number: int
    stage: str
    match: tuple[Condition, ...]
    unless: tuple[Condition, ...]
    any: tuple[tuple[Condition, ...], ...]
    action: Action
    on_error: Action | None
    mode: str


@dataclass(frozen=True)
class Test:
    """A [[test]]. `mx` and `sender_mx` are (preference, host) pairs, or a state, or None where not given. `answers` are
    to other questions, by their kind.
    """

    number: int
    line: int
    stage: str
    attributes: Mapping[str, str]
    headers: Mapping[str, tuple[str, ...]]
    mx: tuple[tuple[int, str], ...] | str | None
    sender_mx: tuple[tuple[int, str], ...] | str | None
    suppressed: bool
    answers: Mapping[str, Any]
    expect: str
    expect_rule: str | None


@dataclass(frozen=True)
class Source:
    """A [list.NAME]: `kind` is values, file or the type of a table; `path` its name, as tables.table() takes it."""

    name: str
    kind: str
    values: tuple[str, ...] = ()
    path: str = ""


@dataclass(frozen=True)
class Settings:
    """Everything that is not a rule. Paths are absolute, times are seconds; `country` is a database's path or empty."""

    state: str
    log: str
    deadline: float
    recipient_delimiter: str
    mydestination: tuple[str, ...]
    myorigin: str
    time_zone: str
    country: str
    route: Route
    record: str
    record_hashed: bool
    servers: tuple[str, ...]
    port: int
    timeout: float
    bounces: Bounces | None
    log_format: str
    serve: Serve
    listen: tuple[Listen, ...]


@dataclass(frozen=True)
class Route:
    """[route]: `overrides` is a list's name or empty, `deadline` seconds; `temp`: "cannot be told" may be an answer."""

    overrides: str
    deadline: float
    temp: bool


@dataclass(frozen=True)
class Bounces:
    """[bounces]: how envelope senders are signed."""

    key: str
    prefix: str
    domain: str
    lifetime: float


@dataclass(frozen=True)
class Serve:
    """[serve]: the resident. `workers` 0: one for each processor; `queue`: requests that wait for a thread."""

    workers: int
    threads: int
    queue: int
    programs: tuple[str, ...]
    user: str
    group: str


@dataclass(frozen=True)
class Listen:
    """[listen.NAME]. `at` is unix:PATH, or an address and port of the loopback."""

    name: str
    protocol: str
    at: str
    mode: int
    owner: str
    group: str
    program: str
    table: str
    users: tuple[str, ...]


@dataclass(frozen=True)
class Model:
    settings: Settings
    lists: tuple[Source, ...]
    rules: tuple[Rule, ...]
    tests: tuple[Test, ...]
