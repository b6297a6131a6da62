"""`postroom bounces` as a person and as a script see it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from postroom import store
from postroom.bounces import keys, verp
from postroom.cli import main
from postroom.deadline import Deadline
from postroom.store import Event, Reported

SAMPLES = Path(__file__).parents[1] / "data" / "bounces"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir()
    key = tmp_path / "bounce.key"
    key.touch(0o600)
    key.write_text(f"a {'5a' * 32}\n")
    path = tmp_path / "postroom.toml"
    path.write_text(
        f"state = {json.dumps(str(tmp_path / 'state'))}\n"
        '[bounces]\nkey = "bounce.key"\nprefix = "bounces"\ndomain = "bounces.example.com"\n'
    )
    return path


@pytest.fixture
def recorded(config: Path) -> Path:
    one = store.open(str(config.parent / "state"), Deadline(5))
    now = int(time.time())
    reported = Reported(
        "bob@example.com", "b@old.example", "failed", "5.1.1", "invalid", "bad-mailbox", True, "550 no\x07"
    )
    one.record(Event(b"1", now - 10 * 86400, "failed", "verified", "4Abc", [reported], {"proven": "b@old.example"}))
    fields = {"class": "policy", "peer": "c.example", "peer_address": "192.0.2.7", "reply": "554 5.7.1 no"}
    one.record(Event(b"2", now - 3600, "notice", "unverified", "4Def", fields=fields))
    one.record(Event(b"3", now - 60, "not-a-bounce", "unverified", fields={"subject": "lunch?"}))
    one.close()
    return config


def bounces(config: Path, *words: str, stdin: bytes = b"") -> Result:
    return CliRunner().invoke(main, ["bounces", *words, "--config", str(config)], input=stdin)


def test_the_list_for_a_person(recorded: Path) -> None:
    lines = bounces(recorded, "list").output.splitlines()
    assert lines[0].endswith("  4Abc  failed, verified")
    assert lines[1] == "    <bob@example.com> (sent to b@old.example) failed 5.1.1, bad-mailbox, hard: 550 no?"
    assert lines[2].endswith("  4Def  notice (policy)  c.example[192.0.2.7]: 554 5.7.1 no")
    assert lines[3].endswith("  -  not-a-bounce, unverified  lunch?")
    assert len(lines) == 4


def test_the_list_for_a_script(recorded: Path) -> None:
    first, second, third = [json.loads(line) for line in bounces(recorded, "list", "--json").output.splitlines()]
    assert (first["kind"], first["authentic"], first["queue_id"]) == ("failed", "verified", "4Abc")
    assert first["proven"] == "b@old.example"
    assert first["recipients"] == [
        {
            "address": "bob@example.com",
            "original": "b@old.example",
            "outcome": "failed",
            "status": "5.1.1",
            "hard": True,
            "category": "invalid",
            "reason": "bad-mailbox",
            "diagnostic": "550 no\x07",
            "remote_mta": "",
        }
    ]
    assert first["id"] < second["id"] < third["id"]
    assert second["class"] == "policy"
    assert third["queue_id"] is None


def test_the_list_by_kind_and_time(recorded: Path) -> None:
    def kinds(*words: str) -> list[str]:
        return [json.loads(line)["kind"] for line in bounces(recorded, "list", "--json", *words).output.splitlines()]

    assert kinds("--kind", "notice") == ["notice"]
    assert kinds("--since", "7d") == ["notice", "not-a-bounce"]
    assert kinds("--since", "5m") == ["not-a-bounce"]
    assert kinds("--since", "7d", "--kind", "failed") == []
    assert bounces(recorded, "list", "--kind", "nonsense").exit_code == os.EX_USAGE
    assert bounces(recorded, "list", "--since", "yesterday").exit_code == os.EX_USAGE


def test_a_file_parsed_for_a_script(config: Path) -> None:
    result = bounces(
        config, "parse", "--json", str(SAMPLES / "postfix-failed-alias.eml"), str(SAMPLES / "no-bounce.eml")
    )
    first, second = [json.loads(line) for line in result.output.splitlines()]
    assert result.exit_code == 0
    assert (first["id"], first["kind"], first["authentic"]) == ("postfix-failed-alias", "failed", "unverified")
    assert first["recipients"][1] == {
        "address": "nosuch1@remote.example",
        "original": "team@alias.example.com",
        "outcome": "failed",
        "status": "5.1.1",
        "smtp": "550",
        "hard": True,
        "permanent": True,
        "category": "invalid",
        "reason": "bad-mailbox",
        "diagnostic": first["recipients"][1]["diagnostic"],
        "remote_mta": "mx.remote.example",
        "evidence": "rfc3464: Final-Recipient, Action",
    }
    assert first["recipients"][0]["hard"] is False
    assert first["original_subject"] == "Alias"
    assert first["queue_id"] == "4jXXmb5BC0zJ9qD"
    assert first["will_retry_until"] is None
    assert (second["id"], second["kind"], second["recipients"]) == ("no-bounce", "not-a-bounce", [])


def test_a_file_parsed_for_a_person(config: Path) -> None:
    said = bounces(config, "parse", str(SAMPLES / "notice-server-policy-refused.eml")).output
    assert said.startswith("notice-server-policy-refused: notice (policy), read as postfix-transcript\n")
    assert "  command: RCPT TO:<refused@example.com>\n" in said
    said = bounces(config, "parse", str(SAMPLES / "postfix-delayed.eml")).output
    assert "  <later@remote.example> delayed 4.2.0, greylisted: 450 4.2.0 Greylisted, try again\n" in said


def test_standard_input_and_a_tag(config: Path) -> None:
    ring = keys.load(str(config.parent / "bounce.key"))
    signed = verp.make(ring[0], "bounces", "nosuch@remote.example", time.time()) + "@bounces.example.com"
    data = (SAMPLES / "postfix-failed.eml").read_bytes()
    found = json.loads(bounces(config, "parse", "--json", "--recipient", signed, "-", stdin=data).output)
    assert (found["id"], found["authentic"]) == ("-", "verified")
    assert "verified: the tag proves" in bounces(config, "parse", "--recipient", signed, "-", stdin=data).output
    other = bounces(config, "parse", "--json", "--recipient", "bounces@bounces.example.com", "-", stdin=data)
    assert json.loads(other.output)["authentic"] == "unverified"


def test_parsing_needs_no_configuration(tmp_path: Path) -> None:
    result = bounces(tmp_path / "absent", "parse", str(SAMPLES / "postfix-failed.eml"))
    assert result.exit_code == 0


def test_a_file_that_cannot_be_read_does_not_stop_the_others(config: Path) -> None:
    result = bounces(config, "parse", "--json", str(config.parent / "absent"), str(SAMPLES / "no-bounce.eml"))
    assert result.exit_code == os.EX_NOINPUT
    assert "No such file" in result.stderr
    assert json.loads(result.stdout)["id"] == "no-bounce"
