"""`postroom import`: what is written where, exit statuses, and files that are none."""

from __future__ import annotations

import json
import os
import time
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from postroom.cli import main

POLICY = "id=A; client_name==unknown; action=REJECT who are you\n"
LOST = POLICY + "id=B; action=score(2)\n"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["import", *arguments])


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    file = tmp_path / "postfwd.cf"
    file.write_text(POLICY)
    return file


def test_the_text_goes_to_standard_output(policy: Path) -> None:
    done = run("postfwd", str(policy))
    assert done.exit_code == 0 and done.stderr == ""
    (rule,) = tomllib.loads(done.stdout)["rule"]
    assert rule == {"id": "A", "at": "rcpt", "match": {"client_name": "unknown"}, "action": "REJECT who are you"}


def test_what_is_lost_goes_to_standard_error_with_its_line(policy: Path) -> None:
    policy.write_text(LOST)
    done = run("postfwd", str(policy))
    assert done.exit_code == 1
    assert done.stderr == f"{policy}:2: lost: not carried over: score(): there are no scores here\n"
    assert "# Line 2: not carried over" in done.stdout


def test_what_is_written_passes_the_check_and_is_not_overwritten(policy: Path, tmp_path: Path) -> None:
    output = tmp_path / "new.toml"
    done = run("postfwd", str(policy), "--output", str(output))
    assert done.exit_code == 0, done.output
    assert f"{output}: 1 rules, 0 lost" in done.stdout
    assert CliRunner().invoke(main, ["check", str(output)]).exit_code == 0
    before = output.read_text()
    again = run("postfwd", str(policy), "--output", str(output))
    assert (again.exit_code, again.stderr) == (os.EX_CANTCREAT, f"{output}: File exists\n")
    assert output.read_text() == before


def test_json(policy: Path) -> None:
    policy.write_text(LOST)
    done = run("postfwd", str(policy), "--json")
    finding, rule, last = map(json.loads, done.stdout.splitlines())
    assert (finding["line"], finding["level"], finding["source"]) == (2, "lost", "id=B; action=score(2)")
    assert rule == {"id": "A", "at": "rcpt", "line": 1}
    assert last["summary"] == {"rules": 1, "lost": 1, "changed": 0, "notes": 0}
    assert tomllib.loads(last["toml"])["rule"][0]["id"] == "A"


def test_stages_of_a_policy(policy: Path) -> None:
    done = run("postfwd", str(policy), "--at", "data", "--at", "end-of-message")
    assert [rule["at"] for rule in tomllib.loads(done.stdout)["rule"]] == ["data", "end-of-message"]


def test_tables(tmp_path: Path) -> None:
    table = tmp_path / "clients"
    table.write_text("10.0.0.0/8 REJECT\n")
    done = run("access", str(table), "--for", "client", "--type", "cidr")
    assert tomllib.loads(done.stdout)["rule"][0]["match"] == {"client_address": "10.0.0.0/8"}
    table.write_text(".example.com REJECT\nann+x@example.com OK\n")
    done = run("access", str(table), "--for", "sender", "--dotted", "--delimiter", "+", "--at", "mail")
    said = tomllib.loads(done.stdout)
    assert said["recipient_delimiter"] == "+"
    assert {rule["at"] for rule in said["rule"]} == {"mail"}


def test_acls(tmp_path: Path) -> None:
    file = tmp_path / "main.acl"
    file.write_text("object office ip 192.0.2.0/24\naccess DUNNO office\n")
    done = run("apolicy", str(file))
    assert tomllib.loads(done.stdout)["rule"][0]["match"] == {"client_address": "192.0.2.0/24"}


@pytest.mark.parametrize("dialect", ["postfwd", "apolicy", "access"])
def test_what_is_no_such_file(dialect: str, tmp_path: Path) -> None:
    binary, large = tmp_path / "binary", tmp_path / "large"
    binary.write_bytes(b"id=A\0\xff\n" * 10)
    with large.open("wb") as file:
        file.truncate(100_000_000)
    os.mkfifo(tmp_path / "fifo")
    for name in ("binary", "large", "fifo", "missing", ".", "a\nb"):
        done = run(dialect, str(tmp_path / name))
        assert done.exit_code == os.EX_NOINPUT, name
        assert done.stderr.count("\n") == 1 and str(tmp_path) in done.stderr and done.stdout == ""


@pytest.mark.parametrize("dialect", ["postfwd", "apolicy", "access"])
def test_empty_files_and_any_bytes(dialect: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    for content in (b"", b"\xff\xfe\x80 \xc3\n\r\n", b"\xef\xbb\xbf# only this\n"):
        file.write_bytes(content)
        done = run(dialect, str(file))
        assert done.exit_code in (0, 1)
        assert "rule" not in tomllib.loads(done.stdout)


def test_many_lines_take_seconds_not_hours(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("".join(f"id=R{n}; sender==u{n}@example.com; action=score(1)\n" for n in range(20_000)))
    assert run("postfwd", str(file)).exit_code == 1
    file.write_text("".join(f"u{n}@example.com {'OK' if n % 2 else 'REJECT'}\n" for n in range(40_000)))
    assert run("access", str(file)).exit_code == 0


@pytest.mark.parametrize("text", ["id=A; x={}b", "&&A {{{}x{}}}", "&&A{{a==b}};\n{}&&A{}; action=OK", "a={}{{", "{}"])
@pytest.mark.parametrize("filler", [" ", "\\", "{{", "!!", "&&A ", "; ", "=", "a=b;"])
def test_lines_made_to_keep_it_busy(text: str, filler: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    long = filler.replace("{{", "{") * 100_000
    file.write_text(text.replace("{}", long).replace("{{", "{").replace("}}", "}"))
    start = time.monotonic()
    for dialect in ("postfwd", "apolicy", "access"):
        assert run(dialect, str(file)).exit_code in (0, 1)
    assert time.monotonic() - start < 30
