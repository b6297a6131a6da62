"""`postroom suppress` as a person and as a script see it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from postroom import store
from postroom.cli import main
from postroom.deadline import Deadline
from postroom.store import Suppression


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir()
    path = tmp_path / "postroom.toml"
    path.write_text(f"state = {json.dumps(str(tmp_path / 'state'))}\n")
    return path


@pytest.fixture
def bounced(config: Path) -> Path:
    """Bob is suppressed after a bounce, until for good; Carol for an hour more; Dave was."""
    one = store.open(str(config.parent / "state"), Deadline(5))
    why, source = "550 5.1.1 no\x1b[31m such user", "bounce 4Xyz <1@mx.example.com>"
    one.suppress(Suppression("Bob@example.com", 1_700_000_000, "bad-mailbox", "5.1.1", why, source))
    one.suppress(Suppression("carol@example.com", 1_700_000_000, until=int(time.time()) + 3600))
    one.suppress(Suppression("dave@example.com", 1_700_000_000, until=int(time.time()) - 1))
    one.close()
    return config


def suppress(config: Path, *words: str) -> Result:
    return CliRunner().invoke(main, ["suppress", *words, "--config", str(config)])


def test_the_list_for_a_person(bounced: Path) -> None:
    result = suppress(bounced, "list")
    first, second = result.output.splitlines()
    assert first.startswith("Bob@example.com  bad-mailbox (5.1.1), since 2023-11-1")
    assert second.startswith("carol@example.com  manual, since 2023-11-1")
    assert ", until 20" in second
    assert result.exit_code == 0


def test_the_list_for_a_script(bounced: Path) -> None:
    bob, carol = [json.loads(line) for line in suppress(bounced, "list", "--json").output.splitlines()]
    assert bob == {
        "address": "Bob@example.com",
        "since": "2023-11-14T22:13:20Z",
        "until": None,
        "reason": "bad-mailbox",
        "category": "invalid",
        "status": "5.1.1",
        "why": "550 5.1.1 no\x1b[31m such user",
        "source": "bounce 4Xyz <1@mx.example.com>",
    }
    assert carol["until"].endswith("Z")
    assert carol["status"] is None


def test_an_empty_list_is_nothing(config: Path) -> None:
    assert suppress(config, "list").output == ""


def test_why_tells_since_when_why_by_which_message_until_when(bounced: Path) -> None:
    result = suppress(bounced, "why", "bob@EXAMPLE.com")
    assert result.exit_code == 0
    said = dict(line.split(None, 1) for line in result.output.splitlines()[1:])
    assert result.output.startswith("Bob@example.com is suppressed\n")
    assert said["since"].startswith("2023-11-1")
    assert said["until"] == "somebody removes it"
    assert said["reason"] == "bad-mailbox (5.1.1)"
    assert said["why"] == "550 5.1.1 no?[31m such user", "a stranger's text is not for the terminal to obey"
    assert said["source"] == "bounce 4Xyz <1@mx.example.com>"
    assert json.loads(suppress(bounced, "why", "--json", "bob@example.com").output)["address"] == "Bob@example.com"


@pytest.mark.parametrize("address", ["eve@example.com", "dave@example.com", "no address"])
def test_why_of_an_address_that_is_not_suppressed(bounced: Path, address: str) -> None:
    result = suppress(bounced, "why", address)
    assert (result.exit_code, result.output) == (1, f"{address} is not suppressed\n")
    assert suppress(bounced, "why", "--json", address).output == ""


def test_added_by_hand_and_taken_away_again(config: Path) -> None:
    result = suppress(config, "add", "eve@example.com", "postmaster@local.test", "--for", "30d", "--why", "she asked")
    assert result.exit_code == 0
    assert result.output == "eve@example.com: suppressed\npostmaster@local.test: suppressed\n"
    found = json.loads(suppress(config, "why", "--json", "eve@example.com").output)
    assert (found["reason"], found["why"]) == ("manual", "she asked")
    assert found["source"].startswith("added by ")
    until = time.mktime(time.strptime(found["until"], "%Y-%m-%dT%H:%M:%SZ"))
    since = time.mktime(time.strptime(found["since"], "%Y-%m-%dT%H:%M:%SZ"))
    assert until - since == 30 * 86400
    assert "was suppressed already" in suppress(config, "add", "EVE@example.com").output
    assert suppress(config, "remove", "Eve@example.com").output == "Eve@example.com: no longer suppressed\n"
    gone = suppress(config, "remove", "eve@example.com")
    assert (gone.exit_code, gone.output) == (1, "eve@example.com: is not suppressed\n")


def test_a_reason_is_one_that_bounces_have(config: Path) -> None:
    assert suppress(config, "add", "former@example.com", "--reason", "inactive-mailbox").exit_code == 0
    found = json.loads(suppress(config, "why", "--json", "former@example.com").output)
    assert (found["reason"], found["category"], found["why"]) == ("inactive-mailbox", "invalid", "inactive mailbox")
    assert suppress(config, "add", "former@example.com", "--reason", "bad-mood").exit_code == os.EX_USAGE


@pytest.mark.parametrize(
    "address", ["eve", "eve@", "@example.com", "eve@exa mple.com", "e..ve@example.com", "a@b@c.example"]
)
def test_a_slip_in_an_address_is_not_suppressed(config: Path, address: str) -> None:
    result = suppress(config, "add", "good@example.com", address)
    assert result.exit_code == os.EX_USAGE
    assert address in result.output
    assert suppress(config, "list").output == "", "all or none"


@pytest.mark.parametrize("span", ["30", "d", "-1d", "1.5h", "0d", "\u0663d"])
def test_a_span_has_a_unit(config: Path, span: str) -> None:
    assert suppress(config, "add", "eve@example.com", "--for", span).exit_code == os.EX_USAGE


def test_a_quoted_local_part_is_stored_as_postfix_has_it(config: Path) -> None:
    assert suppress(config, "add", '"john doe"@example.com').exit_code == 0
    assert json.loads(suppress(config, "list", "--json").output)["address"] == "john doe@example.com"
    assert suppress(config, "why", "john doe@example.com").exit_code == 0
    assert suppress(config, "remove", '"john doe"@example.com').exit_code == 0


def test_faults_have_their_statuses(config: Path, tmp_path: Path) -> None:
    missing = CliRunner().invoke(main, ["suppress", "list", "--config", str(tmp_path / "absent.toml")])
    assert missing.exit_code == os.EX_CONFIG
    assert "absent.toml" in missing.output
    (tmp_path / "state" / "state.db").write_bytes(b"garbage " * 100)
    broken = suppress(config, "list")
    assert broken.exit_code == os.EX_TEMPFAIL
    assert "not a database" in broken.output
    assert str(tmp_path / "state") in broken.output, "a person at the host is told the file"
    assert suppress(config, "nonsense").exit_code == os.EX_USAGE
    assert suppress(config, "why").exit_code == os.EX_USAGE
