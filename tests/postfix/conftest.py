"""Tests against the real Postfix. Where it cannot run they fail with one line: a test that vanishes proves nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from postroom.postfix.instance import Instance, missing

Start = Callable[..., Instance]


@pytest.fixture(scope="module")
def start_postfix() -> Iterator[Start]:
    """Starts private Postfix instances (the arguments are Instance's); all are closed when the module is done."""
    reason = missing()
    if reason:
        pytest.fail(reason, pytrace=False)
    started: list[Instance] = []

    def start(*arguments: object, **keywords: object) -> Instance:
        instance = Instance(*arguments, **keywords)  # type: ignore[arg-type]  # handed through as they came
        started.append(instance)
        instance.start()
        return instance

    yield start
    for instance in started:
        instance.close()


@pytest.fixture(scope="module")
def postfix(start_postfix: Start) -> Instance:
    """A private Postfix with nothing added: mail from loopback is accepted and discarded."""
    return start_postfix(parameters={"default_transport": "discard:"})
