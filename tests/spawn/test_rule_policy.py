"""rule-policy as spawn(8) runs it: a conversation on one socket, rules re-read while it goes on."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from postroom.deadline import Deadline
from postroom.store import Suppression
from postroom.store import open as open_store

PROGRAM = Path(__file__).parents[2] / "spawn" / "rule-policy.py"
HANGUP = '[[rule]]\nid = "one"\nat = "rcpt"\nmatch = { recipient = "a@example.com" }\naction = "HANGUP"\n'


class Conversation:
    def __init__(self, folder: Path, rules: str) -> None:
        self.config, self.state, self.logfile = folder / "postroom.toml", folder / "state", folder / "log"
        self.state.mkdir()
        self.write(rules)
        ours, theirs = socket.socketpair()
        self.socket = ours
        self.socket.settimeout(30)
        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAM), "--config", str(self.config)],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={"PATH": "/usr/bin:/bin", "LANG": "C", "PYTHONPATH": os.environ.get("PYTHONPATH", "")},
        )
        theirs.close()

    def write(self, rules: str) -> None:
        self.config.write_text(f'state = "{self.state}"\nlog = "{self.logfile}"\n{rules}')

    def ask(self, **attributes: str) -> str:
        pairs = {"request": "smtpd_access_policy", "protocol_state": "RCPT", **attributes}
        self.socket.sendall("".join(f"{name}={value}\n" for name, value in pairs.items()).encode() + b"\n")
        reply = b""
        while not reply.endswith(b"\n\n"):
            data = self.socket.recv(4096)
            if not data:
                raise EOFError(reply)
            reply += data
        return reply.decode().removeprefix("action=").rstrip("\n")

    def logged(self, text: str) -> str:
        """The log, once the text is in it: a line is written after the reply."""
        for _ in range(200):
            if self.logfile.exists() and text in self.logfile.read_text():
                break
            time.sleep(0.05)
        return self.logfile.read_text()

    def close(self) -> int:
        self.socket.close()
        return self.process.wait(30)


@pytest.fixture
def talk(tmp_path: Path) -> Iterator[Conversation]:
    conversation = Conversation(tmp_path, HANGUP)
    yield conversation
    assert conversation.close() == 0


def test_the_first_matching_rule_answers_and_dunno_stands_for_none(talk: Conversation) -> None:
    assert talk.ask(recipient="a@example.com") == "HANGUP"
    assert talk.ask(recipient="b@example.com") == "DUNNO"
    assert talk.ask(recipient="a@example.com", protocol_state="VRFY") == "HANGUP"


def test_a_rule_speaks_at_its_own_stage_only(talk: Conversation) -> None:
    for state in ("CONNECT", "EHLO", "MAIL", "DATA", "END-OF-MESSAGE", "ETRN", "SOMETHING-NEW"):
        assert talk.ask(recipient="a@example.com", protocol_state=state) == "DUNNO"


def test_the_log_names_the_rule_and_is_silent_where_none_spoke(talk: Conversation) -> None:
    talk.ask(recipient="b@example.com")
    talk.ask(recipient="a@example.com", queue_id="4XyzQ", client_name="c.test", client_address="192.0.2.1")
    lines = talk.logged("rule=one").splitlines()
    assert len(lines) == 1
    assert "4XyzQ: client=c.test[192.0.2.1]" in lines[0]
    assert "rule=one, action=HANGUP" in lines[0]


def test_a_new_configuration_is_in_force_without_a_restart_and_a_broken_one_is_not(talk: Conversation) -> None:
    assert talk.ask(recipient="a@example.com") == "HANGUP"
    talk.write(HANGUP.replace("HANGUP", "521 5.7.1 no"))
    time.sleep(1.1)
    assert talk.ask(recipient="a@example.com") == "521 5.7.1 no"
    talk.write("[[rule\n")
    time.sleep(1.1)
    assert talk.ask(recipient="a@example.com") == "521 5.7.1 no"
    assert "stays in force" not in talk.logfile.read_text(), "shorter than it was: it may be written to still"
    time.sleep(2.1)
    assert talk.ask(recipient="a@example.com") == "521 5.7.1 no"
    assert "stays in force" in talk.logfile.read_text()


def test_a_suppressed_recipient_is_refused_with_since_when_and_why(tmp_path: Path) -> None:
    rule = '[[rule]]\nid = "s"\nat = "rcpt"\nmatch = { suppressed = true }\n'
    talk = Conversation(tmp_path, rule + 'action = "550 5.1.1 not since {suppressed.since}: {suppressed.why}"\n')
    assert talk.ask(recipient="gone@example.com") == "DUNNO"
    store = open_store(str(talk.state), Deadline(10))
    store.suppress(Suppression(address="gone@example.com", since=0, why="550 5.1.1 no such user"))
    store.close()
    assert talk.ask(recipient="Gone@Example.com") == "550 5.1.1 not since 1970-01-01: 550 5.1.1 no such user"
    assert talk.close() == 0


def test_a_configuration_that_was_never_good_defers(tmp_path: Path) -> None:
    talk = Conversation(tmp_path, "[[rule\n")
    assert talk.ask(recipient="a@example.com").startswith("DEFER_IF_PERMIT 4.3.5 ")
    assert talk.close() == 0


def test_a_state_that_cannot_be_used_is_unknown_and_the_rule_says_what_then(tmp_path: Path) -> None:
    rules = (
        '[[rule]]\nid = "s"\nat = "rcpt"\nmatch = { suppressed = true, recipient = "skip@x.test" }\naction = "HANGUP"\n'
        'on_error = "skip"\n[[rule]]\nid = "t"\nat = "rcpt"\nmatch = { suppressed = true }\naction = "HANGUP"\n'
    )
    talk = Conversation(tmp_path, rules)
    (talk.state / "state.db").write_bytes(b"this is no database, but long enough to be looked at " * 100)
    assert talk.ask(recipient="other@x.test").startswith("DEFER")
    assert "rule=t" in talk.logged("rule=t")
    assert talk.close() == 0
