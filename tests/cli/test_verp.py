"""`postroom verp` as a person and as a script see it."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from postroom.bounces import keys
from postroom.cli import main


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir()
    path = tmp_path / "postroom.toml"
    path.write_text(
        f"state = {json.dumps(str(tmp_path / 'state'))}\n"
        '[bounces]\nkey = "bounce.key"\nprefix = "bounces"\ndomain = "bounces.example.com"\n'
    )
    return path


def verp(config: Path, *words: str) -> Result:
    return CliRunner().invoke(main, ["verp", *words, "--config", str(config)])


def test_a_key_is_made_where_the_configuration_says_and_only_its_owner_reads_it(config: Path) -> None:
    result = verp(config, "key")
    path = config.parent / "bounce.key"
    assert result.output.startswith(f"{path}: key a added, it signs from now on\n")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [key.id for key in keys.load(str(path))] == ["a"]
    assert not (config.parent / "bounce.key.new").exists()


def test_a_new_key_signs_and_the_old_one_still_verifies(config: Path) -> None:
    verp(config, "key")
    sender = verp(config, "make", "bob@example.com").output.strip()
    assert verp(config, "key").output.splitlines()[0].endswith("key b added, it signs from now on")
    assert [key.id for key in keys.load(str(config.parent / "bounce.key"))] == ["b", "a"]
    assert verp(config, "make", "bob@example.com").output.startswith("bounces+b")
    assert verp(config, "check", sender).exit_code == 0


def test_a_key_made_by_root_is_for_the_owner_of_the_state(config: Path) -> None:
    if os.geteuid() != 0:
        pytest.fail("this test changes the owner of a folder: run it as root", pytrace=False)
    os.chown(config.parent / "state", 65534, 65534)
    verp(config, "key")
    found = (config.parent / "bounce.key").stat()
    assert (found.st_uid, found.st_gid) == (65534, 65534)
    os.chown(config.parent / "bounce.key", 1, 1)
    verp(config, "key")
    assert (config.parent / "bounce.key").stat().st_uid == 1, "an owner once given is kept"


def test_a_file_named_needs_no_configuration(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["verp", "key", str(tmp_path / "k"), "--config", str(tmp_path / "absent")])
    assert result.exit_code == 0
    assert keys.load(str(tmp_path / "k"))


def test_made_and_checked(config: Path) -> None:
    verp(config, "key")
    sender = verp(config, "make", "Bob@Example.com").output.strip()
    assert sender.startswith("bounces+a")
    assert sender.endswith("-bob=example.com@bounces.example.com")
    checked = verp(config, "check", sender)
    assert checked.exit_code == 0
    assert checked.output.startswith("verified <bob@example.com>: ")
    found = json.loads(verp(config, "check", "--json", sender.upper()).output)
    assert (found["authentic"], found["recipient"]) == ("verified", "bob@example.com")
    assert found["sent"].endswith("T00:00:00Z")
    made = json.loads(verp(config, "make", "--json", '"john doe"@example.com').output)
    assert made["recipient"] == "john doe@example.com"
    assert verp(config, "check", made["sender"]).exit_code == 1
    assert verp(config, "check", made["sender"], "--recipient", '"John Doe"@example.com').exit_code == 0


def test_a_forgery_is_told(config: Path) -> None:
    verp(config, "key")
    sender = verp(config, "make", "bob@example.com").output.strip()
    forged = verp(config, "check", sender.replace("bob=", "eve="))
    assert (forged.exit_code, forged.output.partition(":")[0]) == (1, "forged")
    other = verp(config, "check", sender, "--recipient", "eve@example.com")
    assert (other.exit_code, other.output.partition(":")[0]) == (1, "unverified")
    assert json.loads(verp(config, "check", "--json", "bob@example.com").output) == {
        "authentic": "unverified",
        "why": "the address carries no tag",
        "recipient": None,
        "sent": None,
    }


def test_faults_have_their_statuses(config: Path) -> None:
    missing = verp(config, "make", "bob@example.com")
    assert missing.exit_code == os.EX_CONFIG
    assert "bounce.key" in missing.output
    verp(config, "key")
    assert verp(config, "make", "bob").exit_code == os.EX_USAGE
    (config.parent / "bounce.key").chmod(0o644)
    assert "expected 600" in verp(config, "make", "bob@example.com").output
    config.write_text("deadline = 5\n")
    assert "no [bounces]" in verp(config, "make", "bob@example.com").output
    nowhere = verp(config, "key", str(config.parent / "absent" / "k"))
    assert nowhere.exit_code == os.EX_TEMPFAIL


def test_a_broken_key_file_is_not_overwritten(config: Path) -> None:
    path = config.parent / "bounce.key"
    path.touch(0o600)
    path.write_text("not a key\n")
    assert verp(config, "key").exit_code == os.EX_CONFIG
    assert path.read_text() == "not a key\n"


def test_a_missing_key_file_is_named_with_the_remedy(config: Path) -> None:
    for words in (("make", "bob@example.com"), ("check", "bounces@bounces.example.com")):
        result = verp(config, *words)
        assert result.exit_code == os.EX_CONFIG
        expected = f"postroom: {config.parent}/bounce.key does not exist: make it with: postroom verp key"
        assert result.stderr.splitlines() == [expected]
