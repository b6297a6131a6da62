"""The programs record what they decide, whatever becomes of the record; and what they recorded can be replayed."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import postroom
from postroom.cli.replay import command as replay
from postroom.record.mask import hashed

ROOT = Path(__file__).parents[2]
RULES = """\
[dns]
servers = ["127.0.0.1:1"]
timeout = 0.2
[list.blocked]
values = ["a@x.example"]
[[rule]]
id = "watch"
at = "rcpt"
mode = "shadow"
match = { recipient_domain = "x.example" }
action = "WARN {recipient}"
[[rule]]
id = "blocked"
at = "rcpt"
match = { recipient = "list:blocked" }
action = "550 5.7.1 not {recipient}"
[[rule]]
id = "dns"
at = "rcpt"
match = { primary_mx = ".shady.example" }
action = "HANGUP"
on_error = "450 4.3.0 DNS is silent"
[[rule]]
id = "mail"
at = "deliver"
match = { header.subject = "*hello*" }
action = "discard"
"""


class Post:
    """A folder with a configuration, and the programs run with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.record = folder / "record"
        (folder / "state").mkdir(mode=0o700)
        self.configure()

    def configure(self, settings: str = 'record = "record"\n') -> None:
        path = self.folder / "postroom.toml"
        path.write_text(f'state = "state"\nlog = "{self.folder}/log"\n{settings}{RULES}')
        os.utime(path, (1, 1))

    def start(self, program: str, *words: str, **how: Any) -> "subprocess.Popen[bytes]":
        path = os.environ.get("PYTHONPATH", "")
        environment = {"PATH": "/usr/bin:/bin", "LANG": "C", "PYTHONPATH": path}
        arguments = [sys.executable, str(ROOT / program), "--config", str(self.folder / "postroom.toml"), *words]
        return subprocess.Popen(arguments, env=environment, **how)

    def ask(self, *recipients: str) -> list[str]:
        """rule-policy, one connection."""
        ours, theirs = socket.socketpair()
        ours.settimeout(30)
        with self.start("spawn/rule-policy.py", stdin=theirs, stdout=theirs) as process:
            theirs.close()
            found = [self._reply(ours, recipient) for recipient in recipients]
            ours.close()
        assert process.returncode == 0
        return found

    @staticmethod
    def _reply(ours: socket.socket, recipient: str) -> str:
        sent = f"request=smtpd_access_policy\nprotocol_state=RCPT\nrecipient={recipient}\n\n"
        ours.sendall(sent.encode("utf-8", "surrogateescape"))
        reply = b""
        while not reply.endswith(b"\n\n"):
            reply += ours.recv(4096)
        return reply.decode().removeprefix("action=").rstrip("\n")

    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.record.read_text().splitlines()]


@pytest.fixture
def post(tmp_path: Path) -> Iterator[Post]:
    yield Post(tmp_path)


DECIDED = ["550 5.7.1 not a@x.example", "450 4.3.0 DNS is silent"]


def test_policy_decisions_are_recorded_and_replayed(post: Post) -> None:
    assert post.ask("a@x.example", "b@y.example") == DECIDED
    first, second = post.lines()
    assert (first["stage"], first["action"], first["rule"], first["on_error"]) == ("rcpt", DECIDED[0], "blocked", False)
    assert first["shadow"] == [["watch", "WARN a@x.example"]]
    assert first["attributes"]["recipient"] == "a@x.example"
    assert first["attributes"]["protocol_state"] == "RCPT"
    assert (second["rule"], second["on_error"]) == ("dns", True)
    (asked,) = [one for one in second["asked"] if one["kind"] == "mx"]
    assert asked["answer"]["state"] == "error"
    assert asked["ms"] > 0
    done = CliRunner().invoke(replay, [str(post.record), "--rules", str(post.folder / "postroom.toml")])
    assert (done.exit_code, done.output.partition("\n")[0]) == (0, "0 of 2 decisions differ.")


def test_without_record_nothing_is_written(post: Post) -> None:
    post.configure("")
    assert post.ask("a@x.example") == DECIDED[:1]
    assert not post.record.exists()


def test_hashed(post: Post) -> None:
    post.configure('record = "record"\nrecord_addresses = "hashed"\n')
    assert post.ask("a@x.example") == DECIDED[:1]
    assert "a@x.example" not in post.record.read_text()
    assert post.lines()[0]["attributes"]["recipient"] == hashed("a") + "@x.example"
    done = CliRunner().invoke(replay, [str(post.record), "--rules", str(post.folder / "postroom.toml")])
    assert done.exit_code == 0, done.output


def test_a_record_that_cannot_be_written_changes_no_decision(post: Post) -> None:
    post.record.mkdir()
    start = time.monotonic()
    assert post.ask("a@x.example", "b@y.example", "a@x.example") == [*DECIDED, DECIDED[0]]
    assert time.monotonic() - start < 10
    log = (post.folder / "log").read_text()
    assert log.count("decisions are not recorded: Is a directory") == 1
    assert "fault" not in log


def test_a_sender_that_is_no_utf_8_is_recorded(post: Post) -> None:
    post.ask("\udcff@x.example")
    assert post.lines()[0]["attributes"]["recipient"] == "\udcff@x.example"


def test_deliveries_are_recorded(post: Post) -> None:
    words = ["--", "sender=s@x.example", "recipient=b@y.example", "original_recipient=", "queue_id=Q1", "size=20"]
    words += ["nexthop=y.example", "client_address=192.0.2.1"]
    with post.start("agents/rule-deliver.py", *words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        out, _ = process.communicate(b"Subject: hello there\n\nbody\n", 30)
    assert (process.returncode, out) == (0, b"discarded by rule\n")  # as `postroom explain` shows it
    (line,) = post.lines()
    assert (line["stage"], line["rule"], line["attributes"]["queue_id"]) == ("deliver", "mail", "Q1")
    assert line["asked"][0] == {
        "kind": "header", "argument": "subject", "answer": ["hello there"], "ms": line["asked"][0]["ms"],
    }  # fmt: skip
    done = CliRunner().invoke(replay, [str(post.record), "--rules", str(post.folder / "postroom.toml")])
    assert done.exit_code == 0, done.output


def test_recording_imports_no_json_and_no_re(post: Post) -> None:
    code = (
        "import sys\nfrom postroom.record import Record\nfrom postroom.rules import Decision\n"
        "before = set(sys.modules)\n"
        "for hashed in (False, True):\n"
        f"    Record({str(post.record)!r}, hashed, '+').write('rcpt', {{'sender': 'a@b'}}, [], Decision('DUNNO'))\n"
        "print(sorted(set(sys.modules) & {'json', 're', 'typing', 'dataclasses', 'enum', 'datetime'}))"
    )
    # Without `site`, which imports what it likes, the library is not found by itself.
    library = {**os.environ, "PYTHONPATH": str(Path(postroom.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, env=library)
    assert done.stdout == "[]\n"
