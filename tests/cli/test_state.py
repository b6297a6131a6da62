"""`postroom state`, as somebody uses it at three in the morning."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from postroom import store
from postroom.cli import main
from postroom.deadline import Deadline

GREY = (300.0, 172800.0, 3024000.0)
HOURLY = ((2, 3600.0),)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir(mode=0o700)
    path = tmp_path / "postroom.toml"
    path.write_text(f"state = {json.dumps(str(tmp_path / 'state'))}\n")
    return path


@pytest.fixture
def busy(config: Path) -> Path:
    """Ann is over her limit, Bob is not; a stranger waits in the greylist, a known one has passed; one was seen."""
    one = opened(config)
    for key in ("ann@example.com",) * 3 + ("bob@example.com",):
        one.rate("submission", (key,), HOURLY)
    one.greylist("192.0.2.0/24", ("new\x1b[31m@example.net", "b@example.com"), *GREY)
    one.greylist("example.org", ("known@example.org", "b@example.com"), 0.0, *GREY[1:], 1)
    one.seen("friends", ("ann@example.com",), 86400.0)
    one.close()
    return config


def opened(config: Path) -> store.Store:
    return store.open(str(config.parent / "state"), Deadline(5))


def state(config: Path, *words: str) -> Result:
    return CliRunner().invoke(main, ["state", *words, "--config", str(config)])


def listed(config: Path, *words: str) -> list[dict[str, object]]:
    result = state(config, *words, "--json")
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.output.splitlines()]


def test_counts(busy: Path) -> None:
    assert [line.split(None, 1) for line in state(busy, "show").output.splitlines()] == [
        ["2", "counters of rates"], ["0", "messages that were counted once"], ["2", "keys of greylists"],
        ["1", "pools of clients that pass them"], ["1", "keys of seen"],
    ]  # fmt: skip
    assert listed(busy, "show") == [{"seen": 1, "greylist": 2, "pools": 1, "rates": 2, "verdicts": 0}]


def test_nothing_yet_is_nothing_and_makes_no_file(config: Path) -> None:
    for words in (("rates",), ("greylist",), ("greylist", "--pools"), ("seen",)):
        assert (state(config, *words).output, state(config, *words).exit_code) == ("", 0)
    assert listed(config, "show")[0]["rates"] == 0
    assert list((config.parent / "state").glob("state.*")) == []


def test_who_is_over_the_limit_is_let_through(busy: Path) -> None:
    (line,) = state(busy, "rates", "--over").output.splitlines()
    identity, name, key, used, *_ = line.split("  ")
    assert (name, key) == ("submission", "ann@example.com")
    assert used.startswith("2 of 2 in 60m, room in 6") and used.endswith("s ago")
    assert len(state(busy, "rates").output.splitlines()) == 2
    assert state(busy, "forget", identity).output == f"{identity}: forgotten\n"
    assert state(busy, "rates", "--over").output == ""
    assert opened(busy).rate("submission", ("ann@example.com",), HOURLY) == 0


def test_text_picks(busy: Path) -> None:
    assert [entry["key"] for entry in listed(busy, "rates", "BOB")] == ["bob@example.com"]
    assert [entry["client"] for entry in listed(busy, "greylist", "192.0.2")] == ["192.0.2.0/24"]
    assert [entry["client"] for entry in listed(busy, "greylist", "--pools", "org")] == ["example.org"]
    assert listed(busy, "greylist", "--pools", "net") == []
    assert len(listed(busy, "seen", "friends")) == 1
    assert listed(busy, "seen", "foes") == []


def test_who_waits_is_let_pass(busy: Path) -> None:
    (line,) = state(busy, "greylist", "--waiting").output.splitlines()
    assert "\x1b" not in line and "192.0.2.0/24  new?[31m@example.net, b@example.com  first seen" in line
    assert "waits 5m more" in line or "waits 300s more" in line
    identity = line.split()[0]
    assert state(busy, "pass", identity).output == f"{identity}: this key of 192.0.2.0/24 passes\n"
    assert state(busy, "greylist", "--waiting").output == ""
    assert opened(busy).greylist("192.0.2.0/24", ("other",), *GREY) == 300
    assert state(busy, "pass", identity, "--pool").output == f"{identity}: all mail of 192.0.2.0/24 passes\n"
    assert opened(busy).greylist("192.0.2.0/24", ("another",), *GREY) == 0
    pools = state(busy, "greylist", "--pools").output
    assert "192.0.2.0/24  passes by hand" in pools and "example.org  passes after 1 key," in pools


@pytest.mark.parametrize("verb", ["forget", "pass"])
def test_ids_that_are_none(busy: Path, verb: str) -> None:
    assert state(busy, verb, "0" * 12).exit_code == 1
    assert state(busy, verb, "ann@example.com").exit_code == 64
    assert "12 hexadecimal digits" in state(busy, verb, "ann").output
    assert state(busy, verb).exit_code == 64


def test_a_state_that_is_gone_is_a_fault(busy: Path) -> None:
    (busy.parent / "state" / "state.db").unlink()
    result = state(busy, "rates")
    assert result.exit_code == 75
    assert "the state is gone" in result.output


def test_without_a_verb_it_counts(monkeypatch: pytest.MonkeyPatch, busy: Path) -> None:
    monkeypatch.setattr("postroom.cli.state.DEFAULT_CONFIG", str(busy))
    assert CliRunner().invoke(main, ["state"]).output == state(busy, "show").output
