"""The demo's cases, asserted: the same code, the same private Postfix, every line as stated."""

from collections.abc import Iterator

import pytest

from postroom.lab.cases import CASES, load
from postroom.lab.lab import Lab


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


@pytest.mark.parametrize("name", [name for _, name in CASES])
def test_case(lab: Lab, name: str) -> None:
    lines = list(load(name)(lab))
    assert lines
    assert [line for line in lines if not line.ok] == []


def test_nothing_of_the_programs_leaks_into_postfix_log(lab: Lab) -> None:
    text = lab.postfix.log.text()
    assert "Traceback" not in text
    assert "malformed" not in text
    for line in lab.postfix.log.deliveries():
        assert "Command died with status" not in line.text or line.status == "deferred"
