"""The programs in docs/writing-a-handler.md and README.md, run as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from docs.mdoc import ROOT, fenced, indented, no_library

HANDLER = ROOT / "docs" / "writing-a-handler.md"
PROGRAMS = {
    found[1]: text
    for text in fenced(HANDLER, "python")
    if (found := re.search(r'^"""([a-z-]+) - ', text, re.MULTILINE))
}
WORDS = ("sender=b@example.net", "queue_id=4jXYHj0RN5zJJXJ", "recipient=a@example.com")
MAIL = b"Subject: it does not work\n\nHelp!\n"

Done = subprocess.CompletedProcess[bytes]


class Program:
    """One of the examples as a file; the folder that it names as its state is one of the test's."""

    def __init__(self, name: str, text: str, folder: Path) -> None:
        assert text.startswith("#!/opt/postroom/bin/python\n")
        self.folder = folder
        self.file = folder / name
        self.file.write_text(text.replace("/var/lib/postroom", str(folder)))
        self.configuration = folder / "postroom.toml"
        self.configuration.write_text(f'state = "{folder}"\n')

    def run(self, data: bytes, *words: str, library: Path = ROOT / "src") -> Done:
        arguments = ["--config", str(self.configuration), "--log", str(self.folder / "log")]
        return subprocess.run(
            [sys.executable, "-s", str(self.file), *arguments, *(("--", *words) if words else ())],
            input=data,
            capture_output=True,
            timeout=60,
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(library), "PYTHONDONTWRITEBYTECODE": "1"},
            check=False,
        )

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()


def told(done: Done) -> tuple[int, bytes, bytes]:
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def tickets(tmp_path: Path) -> Program:
    return Program("ticket-deliver", PROGRAMS["ticket-deliver"], tmp_path)


def test_the_examples_are_those_that_the_text_speaks_of() -> None:
    assert set(PROGRAMS) == {"ticket-deliver", "sms-deliver", "night-policy", "shard-lookup"}


def test_a_mail_becomes_a_ticket_once(tickets: Program) -> None:
    folder = tickets.folder / "tickets"
    folder.mkdir()
    for _ in range(2):
        assert told(tickets.run(MAIL, *WORDS)) == (0, b"ticket opened\n", b"")
    assert [file.read_bytes() for file in folder.iterdir()] == [MAIL]
    assert "to=<a@example.com>, subject=it does not work, status=sent" in tickets.log


def test_each_outcome_is_what_the_text_says(tickets: Program) -> None:
    closed = tickets.run(MAIL, *WORDS)
    assert told(closed) == (75, b"4.3.0 tickets are closed at the moment\n", b"")
    big = tickets.run(MAIL + b"x" * 5_000_000, *WORDS)
    assert told(big) == (69, b"5.3.4 too big for a ticket; send a link instead\n", b"")
    automatic = tickets.run(b"Auto-Submitted: auto-replied\n" + MAIL, *WORDS)
    assert told(automatic) == (0, b"an automatic reply opens no ticket\n", b"")


def test_what_it_raises_defers_and_is_told_to_the_log_only(tickets: Program) -> None:
    tickets.file.write_text(tickets.file.read_text().replace("os.path.isdir(TICKETS)", "os.path.isdir(1 / 0)"))
    done = tickets.run(MAIL, *WORDS)
    assert told(done) == (75, b"4.3.0 internal error (ZeroDivisionError), see the mail log\n", b"")
    assert "fault=handler, at=ticket-deliver:" in tickets.log


def test_printing_is_harmless(tickets: Program) -> None:
    (tickets.folder / "tickets").mkdir()
    text = tickets.file.read_text()
    tickets.file.write_text(
        text.replace("    if mail.message.size", "    print('x\\n' * 99)\n    if mail.message.size")
    )
    assert told(tickets.run(MAIL, *WORDS)) == (0, b"ticket opened\n", b"")
    assert tickets.log.count("output=x") == 50


@pytest.mark.parametrize("name", ["ticket-deliver", "sms-deliver"])
def test_the_guard_defers_without_a_library(name: str, tmp_path: Path) -> None:
    done = Program(name, PROGRAMS[name], tmp_path).run(MAIL, *WORDS, library=no_library(tmp_path))
    assert (done.returncode, done.stderr) == (75, b"")
    assert done.stdout.startswith(f"4.3.5 {name} cannot start: No module named 'postroom'".encode())


def test_words_of_master_cf_are_those_that_the_program_takes(tickets: Program) -> None:
    """The entry in the text, with a value for each macro."""
    (entry,) = [text for text in fenced(HANDLER, "text") if text.startswith("ticket-deliver unix")]
    words = re.sub(r"\$\{(\w+)\}", lambda found: "7" if found[1] == "size" else "x", entry.partition("--\n")[2]).split()
    assert len(words) == 5
    assert tickets.run(MAIL, *words).stdout == b"4.3.0 tickets are closed at the moment\n"


def test_a_text_message_is_sent_once(tmp_path: Path) -> None:
    program = Program("sms-deliver", PROGRAMS["sms-deliver"], tmp_path)
    assert told(program.run(MAIL, *WORDS)) == (0, b"text message sent\n", b"")
    assert told(program.run(MAIL, *WORDS)) == (0, b"sent before\n", b"")
    assert (tmp_path / "sms").read_text() == "a@example.com: it does not work\n"


def test_a_modem_that_is_out_of_order_defers(tmp_path: Path) -> None:
    program = Program("sms-deliver", PROGRAMS["sms-deliver"], tmp_path)
    (tmp_path / "sms").mkdir()
    done = program.run(MAIL, *WORDS)
    assert told(done) == (75, b"4.3.0 the modem is out of order: Is a directory\n", b"")
    (tmp_path / "sms").rmdir()
    assert told(program.run(MAIL, *WORDS)) == (0, b"text message sent\n", b"")


REQUEST = b"request=smtpd_access_policy\nprotocol_state=RCPT\nrecipient=night@example.com\n"


@pytest.mark.parametrize(
    ("request_", "hour", "answer"),
    [
        (REQUEST, "12", b"action=450 4.2.1 nobody reads this by day, try again after 22:00\n\n"),
        (REQUEST, "23", b"action=DUNNO\n\n"),
        (REQUEST + b"sasl_username=ann\n", "12", b"action=DUNNO\n\n"),
        (REQUEST.replace(b"night@", b"day@"), "12", b"action=DUNNO\n\n"),
    ],
)
def test_the_policy_program(request_: bytes, hour: str, answer: bytes, tmp_path: Path) -> None:
    program = Program("night-policy", PROGRAMS["night-policy"], tmp_path)
    program.file.write_text(program.file.read_text().replace("time.localtime().tm_hour", hour))
    assert told(program.run(request_ + b"\n")) == (0, answer, b"")
    logged = program.log if (tmp_path / "log").exists() else ""
    assert ("because=day" in logged) == answer.startswith(b"action=450")


def test_the_policy_program_by_hand(tmp_path: Path) -> None:
    """The command in the text, typed."""
    program = Program("night-policy", PROGRAMS["night-policy"], tmp_path)
    program.file.write_text(program.file.read_text().replace("/opt/postroom/bin/python", sys.executable, 1))
    program.file.chmod(0o755)
    (command,) = [text for text in fenced(HANDLER, "sh") if text.startswith("printf")]
    done = subprocess.run(
        command, shell=True, cwd=tmp_path, capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT / "src")}
    )
    assert done.returncode == 0
    assert done.stdout.startswith(b"action=")


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        (b"store ann@example.com", b"OK lmtp:inet:store3.example.com:24"),
        (b"store Ann+x@EXAMPLE.com", b"OK lmtp:inet:store3.example.com:24"),
        (b"store \xff@example.com", b"OK lmtp:inet:store0.example.com:24"),
        (b"store ann@example.net", b"NOTFOUND "),
        (b"store *", b"NOTFOUND "),
        (b"shop ann@example.com", b"PERM no table shop"),
    ],
)
def test_the_lookup_program(key: bytes, answer: bytes, tmp_path: Path) -> None:
    program = Program("shard-lookup", PROGRAMS["shard-lookup"], tmp_path)
    done = program.run(b"%d:%b," % (len(key), key))
    assert told(done) == (0, b"%d:%b," % (len(answer), answer), b"")


def test_the_tests_in_the_text_pass(tmp_path: Path) -> None:
    (text,) = [text for text in fenced(HANDLER, "python") if "def test_" in text]
    (tmp_path / "test_handler.py").write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_handler.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        check=False,
    )
    assert "2 passed" in done.stdout, done.stdout


def test_the_program_in_the_readme(tmp_path: Path) -> None:
    (text,) = [block for block in indented(ROOT / "README.md") if block.startswith("#!/opt/postroom/bin/python")]
    program = Program("open-ticket", text, tmp_path)
    assert told(program.run(MAIL, *WORDS)) == (0, b"ticket opened\n", b"")
    done = program.run(MAIL + b"x" * 5_000_000, *WORDS)
    assert told(done) == (69, b"5.3.4 too big for the ticket system\n", b"")
