"""lmtp-deliver as spawn(8) runs it: one socket, many mails, a result for each recipient; killed, misused, overdue."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from resident.mailing import MESSAGE, Client, stuffed

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "spawn" / "lmtp-deliver.py"
RULES = """
[[rule]]
id = "no"
at = "deliver"
match = {{ recipient = "no@lab.test" }}
action = "5.1.1 no such user"
[[rule]]
id = "slow"
at = "deliver"
match = {{ recipient = "slow@lab.test" }}
action = "command /bin/sleep 3"
[[rule]]
id = "box"
at = "deliver"
match = {{ recipient = ["a@lab.test", "b@lab.test"] }}
action = "maildir {folder}/box"
"""


class Spawned:
    """The program, started with a socket on descriptors 0, 1 and 2."""

    def __init__(self, folder: Path, program: Path = PROGRAM) -> None:
        self.folder, self.program = folder, program
        self.config, self.log = folder / "postroom.toml", folder / "log"
        (folder / "state").mkdir()
        self.configure(RULES.format(folder=folder))
        self.client: Client | None = None
        self.process: subprocess.Popen[bytes] | None = None

    def configure(self, rules: str) -> None:
        self.config.write_text(f'state = "{self.folder}/state"\nlog = "{self.log}"\n{rules}')

    def start(self, *options: str) -> Client:
        ours, theirs = socket.socketpair()
        self.process = subprocess.Popen(
            [sys.executable, str(self.program), "--config", str(self.config), "--handoff", "no", *options],
            stdin=theirs, stdout=theirs, stderr=theirs,
            env={"PATH": "/usr/bin:/bin", "LANG": "C", "PYTHONPATH": str(ROOT / "src")},
        )  # fmt: skip
        theirs.close()
        self.client = Client(ours)
        return self.client

    def box(self) -> list[bytes]:
        return [path.read_bytes() for path in (self.folder / "box" / "new").glob("*")]

    def wait(self) -> int:
        assert self.process is not None
        return self.process.wait(30)

    def close(self) -> None:
        if self.client is not None:
            self.client.close()
            self.client = None
        if self.process is not None:
            self.process.kill()
            self.process.wait()


Make = Callable[..., Spawned]


@pytest.fixture
def spawned(tmp_path: Path) -> Iterator[Spawned]:
    made = Spawned(tmp_path)
    yield made
    made.close()


def test_mail_after_mail_over_one_connection(spawned: Spawned) -> None:
    client = spawned.start()
    assert client.greeting.startswith("220 ")
    assert client.mail("<a@lab.test>", "<no@lab.test>", "<b@lab.test>", ident="4Xyz1") == [
        "250 2.0.0 delivered to maildir", "550 5.1.1 no such user", "250 2.0.0 delivered to maildir",
    ]  # fmt: skip
    assert client.mail("<a@lab.test>", ident="4Xyz2") == ["250 2.0.0 delivered to maildir"]
    assert client.mail("<a@lab.test>", ident="4Xyz2") == ["250 2.0.0 delivered to maildir"]
    assert client.say("QUIT") == ["221 2.0.0 bye"]
    assert spawned.wait() == 0
    assert len(spawned.box()) == 3
    log = spawned.log.read_text()
    assert log.count("postroom/lmtp-deliver[") == 5
    assert log.count("repeated=yes") == 1


def test_it_leaves_when_the_client_closes(spawned: Spawned) -> None:
    client = spawned.start()
    client.say("LHLO x", "MAIL FROM:<>", "RCPT TO:<a@lab.test>", "DATA")
    client.socket.sendall(stuffed(MESSAGE)[:-3])
    client.socket.shutdown(socket.SHUT_WR)
    assert client.reply() == ""
    assert spawned.wait() == 0
    assert spawned.box() == []


def test_a_large_mail(spawned: Spawned) -> None:
    content = b"Subject: x\n\n" + b".line\n" * 200_000
    assert spawned.start().mail("<a@lab.test>", message=content) == ["250 2.0.0 delivered to maildir"]
    assert spawned.box()[0].endswith(content)


def test_a_configuration_that_was_never_good_defers_each_recipient(spawned: Spawned) -> None:
    spawned.configure("[[rule\n")
    replies = spawned.start().mail("<a@lab.test>", "<b@lab.test>")
    assert len(replies) == 2
    assert all(reply.startswith("451 4.3.5 ") for reply in replies)


def test_a_wrong_option_defers_each_recipient_and_says_which(spawned: Spawned) -> None:
    replies = spawned.start("--colour", "blue").mail("<a@lab.test>", "<b@lab.test>")
    assert [reply[:32] for reply in replies] == ["451 4.3.5 master.cf: unknown arg"] * 2


def test_past_the_deadline_who_has_a_result_gets_it_and_the_program_leaves(spawned: Spawned) -> None:
    """A handler that heeds no deadline; the watching thread answers for it."""
    spawned.program = spawned.folder / "deaf-deliver.py"
    spawned.program.write_text(
        "import time\nfrom postroom.delivery import *\nfrom postroom.runners.lmtp import run\n"
        "def deliver(mail):\n    if mail.recipient[0] == 's':\n        time.sleep(5)\n    return sent('heard')\n"
        "run(deliver)\n"
    )
    client = spawned.start("--deadline", "1", "--log", str(spawned.log))
    replies = client.mail("<a@lab.test>", "<slow@lab.test>", "<c@lab.test>", ident="4Xyz")
    assert replies == ["250 2.0.0 heard"] + ["451 4.3.0 not finished, see the mail log"] * 2
    assert client.reply() == ""
    assert spawned.wait() == 75
    assert "4Xyz: fault=deadline" in spawned.log.read_text()


def test_killed_in_the_middle_the_next_one_delivers_the_rest(spawned: Spawned) -> None:
    client = spawned.start()
    client.say("LHLO x", "XFORWARD IDENT=4Xyz", "MAIL FROM:<s@client.test>")
    client.say("RCPT TO:<a@lab.test>", "RCPT TO:<slow@lab.test>", "DATA")
    client.socket.sendall(stuffed(MESSAGE))
    for _ in range(200):
        if spawned.box():
            break
        time.sleep(0.05)
    time.sleep(0.5)
    spawned.close()
    time.sleep(3)  # the program of the command outlives us, and holds the lock
    replies = spawned.start().mail("<a@lab.test>", "<slow@lab.test>", ident="4Xyz")
    assert [reply[:3] for reply in replies] == ["250", "250"]
    assert len(spawned.box()) == 1


def test_what_a_handler_prints_or_raises_stays_here(spawned: Spawned) -> None:
    spawned.program = spawned.folder / "odd-deliver.py"
    spawned.program.write_text(
        "import os\nfrom postroom.delivery import *\nfrom postroom.runners.lmtp import run\n"
        "def deliver(mail):\n    print('250 2.0.0 forged')\n    os.write(1, b'250 forged\\r\\n')\n"
        "    if mail.recipient[0] == 'r':\n        raise SystemExit(0)\n"
        "    return None if mail.recipient[0] == 'n' else sent()\nrun(deliver)\n"
    )
    client = spawned.start("--log", str(spawned.log))
    assert client.mail("<raises@lab.test>", "<none@lab.test>", "<good@lab.test>") == [
        "451 4.3.0 internal error (SystemExit), see the mail log",
        "451 4.3.0 internal error (TypeError), see the mail log",
        "250 2.0.0 delivered",
    ]
    client.say("QUIT")
    assert spawned.wait() == 0
    assert spawned.log.read_text().count("output=250") == 6


# Success reports


@pytest.fixture
def sendmail(spawned: Spawned, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program in place of sendmail(1), and a handler that uses it; what it was called with goes into a file."""
    folder = spawned.folder
    fake, sent = folder / "sendmail", folder / "sent"
    fake.write_text(
        f'#!/bin/sh\n[ -e {folder}/broken ] && {{ echo no queue >&2; exit 75; }}\necho "$*" >> {sent}\ncat >> {sent}\n'
    )
    fake.chmod(0o755)
    spawned.program = folder / "told-deliver.py"
    spawned.program.write_text(
        "from postroom.actions.by_rule import deliver\nfrom postroom.runners import dsn\n"
        f"from postroom.runners.lmtp import run\ndsn.SENDMAIL = {str(fake)!r}\nrun(deliver)\n"
    )
    return sent


def talk(client: Client, sender: str, *recipients: str) -> list[str]:
    said = client.say(
        "LHLO x", "XFORWARD IDENT=4Xyz", f"MAIL FROM:{sender}", *[f"RCPT TO:{to}" for to in recipients], "DATA"
    )
    assert [reply[:3] for reply in said[3:-1]] == ["250"] * len(recipients)
    client.socket.sendall(stuffed(MESSAGE))
    return [client.reply()[:3] for _ in recipients]


def test_success_is_reported_once_for_who_asked_for_it(spawned: Spawned, sendmail: Path) -> None:
    client = spawned.start()
    told = (
        "<a@lab.test> NOTIFY=SUCCESS ORCPT=rfc822;typed@lab.test",
        "<b@lab.test>",
        "<no@lab.test> NOTIFY=SUCCESS,FAILURE",
    )
    assert talk(client, "<s@client.test> ENVID=QQ314 RET=FULL", *told) == ["250", "250", "550"]
    from email import message_from_bytes, policy

    words, _, content = sendmail.read_bytes().partition(b"\n")
    assert words == b"-i -f <> -N never -- s@client.test"
    report = message_from_bytes(content, policy=policy.default)
    assert (report["To"], report["Auto-Submitted"]) == ("s@client.test", "auto-replied")
    assert report.get_content_type() == "multipart/report"
    assert report.get_param("report-type") == "delivery-status"
    text, status, head = report.iter_parts()
    assert "<a@lab.test>: 2.0.0 delivered to maildir" in text.get_content()
    whole, one = status.get_payload()
    assert whole["Original-Envelope-Id"] == "QQ314"
    assert dict(one.items()) == {
        "Original-Recipient": "rfc822;typed@lab.test", "Final-Recipient": "rfc822; a@lab.test", "Action": "delivered",
        "Status": "2.0.0",
    }  # fmt: skip
    assert (head.get_content_type(), "Subject: hello" in head.get_payload()) == ("text/rfc822-headers", True)
    assert "4Xyz: report=<s@client.test> (success of 1 recipients)" in spawned.log.read_text()


@pytest.mark.parametrize(
    ("sender", "recipient"), [("<>", "<a@lab.test> NOTIFY=SUCCESS"), ("<s@client.test>", "<a@lab.test> NOTIFY=NEVER")]
)
def test_nobody_is_told_who_did_not_ask(spawned: Spawned, sendmail: Path, sender: str, recipient: str) -> None:
    assert talk(spawned.start(), sender, recipient) == ["250"]
    assert not sendmail.exists()


def test_a_report_that_cannot_be_sent_costs_no_delivery(spawned: Spawned, sendmail: Path) -> None:
    (spawned.folder / "broken").touch()
    assert talk(spawned.start(), "<s@client.test>", "<a@lab.test> NOTIFY=SUCCESS") == ["250"]
    assert len(spawned.box()) == 1
    assert "fault=dsn" in spawned.log.read_text()
    assert "ended with 75: no queue" in spawned.log.read_text()


def test_a_sendmail_that_does_not_come_back_is_ended(spawned: Spawned, sendmail: Path) -> None:
    (spawned.folder / "sendmail").write_text("#!/bin/sh\nsleep 1000 &\nsleep 1000\n")
    spawned.program.write_text(
        spawned.program.read_text().replace("run(deliver)", "dsn.SENDMAIL_TIME = 1\nrun(deliver)")
    )
    begun = time.monotonic()
    assert talk(spawned.start(), "<s@client.test>", "<a@lab.test> NOTIFY=SUCCESS") == ["250"]
    assert time.monotonic() - begun < 10
    assert "was not done within 1 s" in spawned.log.read_text()
    with contextlib.suppress(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_no_reply_waits_for_a_sendmail_that_hangs_and_no_crowd_of_them_is_started(
    spawned: Spawned, sendmail: Path
) -> None:
    folder = spawned.folder
    (folder / "sendmail").write_text(f"#!/bin/sh\necho $$ >> {folder}/started\nsleep 1000\n")
    settings = "dsn.SENDMAIL_TIME, dsn.PATIENCE, dsn.LATE_LIMIT = 4, 0.5, 2\nrun(deliver)"
    spawned.program.write_text(spawned.program.read_text().replace("run(deliver)", settings))
    client, times = spawned.start(), []
    for _ in range(4):
        begun = time.monotonic()
        assert talk(client, "<s@client.test>", "<a@lab.test> NOTIFY=SUCCESS") == ["250"]
        times.append(time.monotonic() - begun)
    assert max(times) < 3 and sum(times) < 4, times
    assert spawned.log.read_text().count("2 others are waiting for") == 2
    end = time.monotonic() + 15
    while spawned.log.read_text().count("was not done within 4 s") < 2:
        assert time.monotonic() < end, spawned.log.read_text()
        time.sleep(0.1)
    assert len((folder / "started").read_text().split()) == 2
    (folder / "sendmail").write_text("#!/bin/sh\n")
    assert talk(client, "<s@client.test>", "<a@lab.test> NOTIFY=SUCCESS") == ["250"]
    assert spawned.log.read_text().count("success of 1 recipients") == 1


def test_a_deadline_between_the_answer_and_its_way_out_finds_the_same_replies() -> None:
    """The watching thread asks for them then, while the first ones are about to be sent."""
    from postroom.runners.lmtp import Deliveries, InHand, Said
    from postroom.runners.options import Options
    from postroom.runners.service import Service
    from postroom.status import sent
    from postroom.wire.events import NEED_DATA

    speech = Deliveries(lambda mail: sent(mail.recipient))
    reader = speech.reader()
    reader.receive_data(b"LHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@lab.test>\r\nRCPT TO:<b@lab.test>\r\nDATA\r\n.\r\n")
    assert isinstance(reader.next_event(), Said)
    event = reader.next_event()
    assert isinstance(event, InHand)
    request = speech.request(event, Service(Options(), 10), time.monotonic() + 10)
    answer = speech.answer(request)
    assert answer == b"250 2.0.0 a@lab.test\r\n250 2.0.0 b@lab.test\r\n"
    assert speech.failure(request, "4.3.0") == answer
    assert reader.next_event() is NEED_DATA, "nothing is said twice"
    reader.receive_data(b"NOOP\r\n")
    noop = reader.next_event()
    assert isinstance(noop, Said)
    assert noop.data == b"250 2.0.0 ok\r\n"


def test_strangers_write_no_fields_into_a_report() -> None:
    from postroom.runners.dsn import Result, compose
    from postroom.status import sent
    from postroom.wire.transaction import mail_from, rcpt_to

    mail = mail_from(b'FROM:<"a b"@client.test> ENVID=a+0D+0AAction:+20failed', {}, 1000)
    rcpt = rcpt_to("TO:<ü@lab.test> NOTIFY=SUCCESS ORCPT=utf-8;\\x{FC}@lab.test".encode())
    odd = rcpt_to(b'TO:<"a\t\\\x01\x0bb"@lab.test> ORCPT=rfc822;a+0Ab')
    results = [Result(rcpt, sent("x\r\nAction: failed"), True), Result(odd, sent("y"), True)]
    report = compose(mail, results, b"Subject: x\n" * 10_000)
    assert len(report) < 60_000
    assert report.count(b"\nAction: ") == 2
    assert report.count(b"\nOriginal-Recipient: ") == 1
    assert b'; "a ? b"@lab.test\n' in report
    assert not {*range(32)} & {*report} - {*b"\n"}
    assert b"\nAction: relayed\n" in report
    assert "\nFinal-Recipient: utf-8; ü@lab.test\n".encode() in report
    assert b"Content-Type: message/global-delivery-status\n" in report
    assert b'\nTo: <"a b"@client.test>\n' in report
