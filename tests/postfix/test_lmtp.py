"""Mail as the real lmtp(8) brings it: to lmtp-deliver under spawn(8), and to a worker of the resident."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import dns
import pytest
from click.testing import CliRunner
from resident.mailing import Resident

import postroom
from postroom.cli import main
from postroom.lab.place import choose_python
from postroom.postfix.instance import Instance, missing
from postroom.postfix.maillog import Delivery

USER = "nobody"
SOURCE = Path(__file__).parents[2]
RULES = """
[[rule]]
id = "no"
at = "deliver"
match = {{ recipient = "no@lab.test" }}
action = "5.1.1 no such user"
[[rule]]
id = "later"
at = "deliver"
match = {{ recipient = "later@lab.test" }}
action = "4.2.1 not now"
[[rule]]
id = "from-outside"
at = "deliver"
match = {{ client_address = "192.0.2.0/24", helo_name = "h.test", original_recipient = "typed@lab.test" }}
action = "maildir {folder}/box/outside"
[[rule]]
id = "come-back"
at = "deliver"
match = {{ recipient = "far@lab.test", client_address = "127.0.0.1" }}
action = "maildir {folder}/box/far"
[[rule]]
id = "relayed"
at = "deliver"
match = {{ recipient = "far@lab.test" }}
action = "relay smtp:[127.0.0.1]:{port}"
[[rule]]
id = "box"
at = "deliver"
match = {{ recipient = "lab.test" }}
action = "maildir {folder}/box/all"
"""


class Desk:
    """A private Postfix with lmtp-deliver wired into it, and a worker of the resident beside it.

    The tests say by transport_maps which of the two has the mail.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.chmod(0o755)
        for name in ("bin", "lib", "program", "resident"):
            (folder / name).mkdir()
        self._install()
        transports = "rules unix - - n - - lmtp\n  -o lmtp_send_xforward_command=yes\n"
        self.postfix = Instance(
            {
                "default_transport": "discard:",
                "transport_maps": "inline:{lab.test=rules:unix:private/lmtp-deliver}",
                "virtual_alias_maps": "inline:{typed@lab.test=final@lab.test}",
                "smtpd_authorized_xforward_hosts": "127.0.0.1",
                "message_size_limit": "20000000",
                "rules_destination_concurrency_limit": "2",  # mail then queues, and lmtp(8) keeps connections
            },
            transports,
        )

    def _install(self) -> None:
        """Where nobody can read it: the library, dnspython, and the program."""
        ignored = shutil.ignore_patterns("__pycache__")
        for package in (Path(postroom.__file__).parent, Path(dns.__file__).parent):
            shutil.copytree(package, self.folder / "lib" / package.name, ignore=ignored)
        shutil.copy(SOURCE / "spawn" / "lmtp-deliver.py", self.folder / "lib")
        program = self.folder / "bin" / "lmtp-deliver"
        start = f'PYTHONPATH={self.folder}/lib exec {choose_python(USER)[0]} {self.folder}/lib/lmtp-deliver.py "$@"'
        program.write_text(f"#!/bin/sh\n{start}\n")
        program.chmod(0o755)

    def prepare(self) -> None:
        """With the port known: the rules of both, and the wiring."""
        self.program = self._place("program")
        self.resident = self._place("resident")
        for path in (self.folder / "program", self.program.log, self.folder / "program" / "box"):
            os.chown(path, pwd.getpwnam(USER).pw_uid, pwd.getpwnam(USER).pw_gid)
        os.chown(self.folder / "program" / "state", pwd.getpwnam(USER).pw_uid, pwd.getpwnam(USER).pw_gid)
        options = ("--user", USER, "--config", str(self.program.config), "--programs", str(self.folder / "bin"))
        words = ["wire", "lmtp-deliver", *options, "--postfix", str(self.postfix.config_directory), "--yes"]
        done = CliRunner().invoke(main, words)
        assert done.exit_code == 0, done.output

    def _place(self, name: str) -> Resident:
        folder = self.folder / name
        (folder / "box").mkdir()
        made = Resident(folder, RULES.format(folder=folder, port=self.postfix.port))
        made.log.touch()
        return made

    def through(self, place: Resident) -> None:
        """Have the mail of the next tests go there."""
        target = "private/lmtp-deliver" if place is self.program else place.place
        self.postfix.set({"transport_maps": f"inline:{{lab.test=rules:unix:{target}}}"})
        time.sleep(1)  # trivial-rewrite(8) looks for a change of main.cf when it is next idle

    def send(self, *recipients: str, message: bytes, parameters: str = "", sender: str = "s@client.test") -> str:
        """The queue id."""
        with self.postfix.session() as smtp:
            replies = smtp.mail(sender, recipients, message, parameters=parameters)
        accepted = [reply for reply in replies if reply and "queued as" in reply.text]
        assert accepted, replies
        return accepted[0].text.rpartition(" ")[2]

    def results(self, queue_id: str, number: int) -> dict[str, Delivery]:
        """What Postfix logged of so many recipients, first try."""
        found: dict[str, Delivery] = {}
        for _ in range(600):
            for delivery in self.postfix.log.deliveries():
                if delivery.queue_id == queue_id:
                    found.setdefault(delivery.recipient, delivery)
            if len(found) >= number:
                break
            time.sleep(0.05)
        assert len(found) == number, self.postfix.log.text()[-3000:]
        return found


@pytest.fixture(scope="module")
def desk() -> Iterator[Desk]:
    reason = missing()
    if reason:
        pytest.fail(reason, pytrace=False)
    folder = Path(tempfile.mkdtemp(prefix="postroom-lmtp-"))
    try:
        made = Desk(folder)
        with made.postfix:
            made.prepare()
            made.resident.start(MAIL_CONFIG=str(made.postfix.config_directory))
            yield made
            made.resident.end()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["program", "resident"])
def place(desk: Desk, request: pytest.FixtureRequest) -> Resident:
    """Each test runs with both."""
    found: Resident = getattr(desk, request.param)
    desk.through(found)
    return found


def test_recipients_of_one_mail_have_results_of_their_own(desk: Desk, place: Resident) -> None:
    queue_id = desk.send("a@lab.test", "no@lab.test", "later@lab.test", "b@lab.test", message=b"Subject: x\n\nx\n")
    found = desk.results(queue_id, 4)
    assert {to: (one.status, one.dsn) for to, one in found.items()} == {
        "a@lab.test": ("sent", "2.0.0"), "b@lab.test": ("sent", "2.0.0"), "no@lab.test": ("bounced", "5.1.1"),
        "later@lab.test": ("deferred", "4.2.1"),
    }  # fmt: skip
    assert "said: 451 4.2.1 not now" in found["later@lab.test"].text
    assert len(place.lines(f"{queue_id}: to=", 4)) >= 4
    desk.postfix.wait_for(rf"{queue_id}: to=<later@lab.test>(.*\n)+?.*{queue_id}: to=<later@lab.test>", 30)
    assert len(place.lines(f"{queue_id}: to=<a@lab.test>")) == 1


def test_a_connection_is_used_for_many_mails(desk: Desk, place: Resident) -> None:
    since = desk.postfix.log.size()
    ids = [desk.send("many@lab.test", message=b"Subject: %d\n\nx\n" % number) for number in range(30)]
    for queue_id in ids:
        assert desk.results(queue_id, 1)["many@lab.test"].status == "sent"
    text = desk.postfix.log.text(since)
    assert text.count(", conn_use=") >= 10
    assert "lost connection" not in text
    assert not re.search(r"/lmtp\[\d+\]: warning", text)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("Subject: ü\n\nGrüße\n.\n..\n.x\n".encode(), None),
        (b"Subject: x\n\n" + bytes(range(14, 256)) + b"\n", None),
        (b"Subject: x\n\na\rb\n", b"a b\n"),
        (b"Subject: big\n\n" + b"".join(b"%07d .\n" % number for number in range(600_000)), None),
    ],
    ids=["8bit", "bytes", "bare-cr", "big"],
)
def test_the_content_is_what_was_sent(desk: Desk, place: Resident, content: bytes, expected: bytes | None) -> None:
    queue_id = desk.send("content@lab.test", message=content)
    assert desk.results(queue_id, 1)["content@lab.test"].status == "sent"
    (mail,) = [one for one in place.box("box/all") if queue_id.encode() in one.partition(b"Subject")[0]]
    assert mail.partition(b"\n\n")[2] == (expected or content.partition(b"\n\n")[2])


def test_smtputf8(desk: Desk, place: Resident) -> None:
    content = "Subject: Grüße\nTo: jürgen@lab.test\n\nx\n".encode()
    queue_id = desk.send("jürgen@lab.test", message=content, parameters="SMTPUTF8", sender="söder@client.test")
    assert desk.results(queue_id, 1)["jürgen@lab.test"].status == "sent"
    (mail,) = [one for one in place.box("box/all") if "Delivered-To: jürgen@lab.test\n".encode() in one]
    assert mail.startswith("Return-Path: <söder@client.test>\n".encode())


def test_client_and_original_recipient_reach_the_rules(desk: Desk, place: Resident) -> None:
    with desk.postfix.session() as smtp:
        smtp.command("EHLO x")
        forwarded = smtp.command("XFORWARD NAME=c.test ADDR=192.0.2.7 HELO=h.test PROTO=ESMTP SOURCE=REMOTE")
        assert forwarded is not None
        assert forwarded.code == 250
        for command in ("MAIL FROM:<>", "RCPT TO:<typed@lab.test>", "DATA"):
            smtp.command(command)
        taken = smtp.send(b"Subject: x\r\n\r\nx\r\n.\r\n")
        assert taken is not None
    queue_id = taken.text.rpartition(" ")[2]
    assert desk.results(queue_id, 1)["final@lab.test"].status == "sent"
    (mail,) = place.box("box/outside")
    assert mail.startswith(b"Return-Path: <>\nX-Original-To: typed@lab.test\nDelivered-To: final@lab.test\n")
    assert "rule=from-outside" in place.lines(queue_id)[0]


# Success reports, by the resident, which is root here: of others, sendmail(1) takes no configuration but the host's.


def reports(desk: Desk) -> list[str]:
    """Queue ids of all mail with the null sender so far."""
    return re.findall(r"qmgr\[\d+\]: (\w+): from=<>, .*\(queue active\)", desk.postfix.log.text())


@pytest.mark.parametrize(("recipient", "action"), [("a@lab.test", "delivered"), ("far@lab.test", "relayed")])
def test_who_asks_to_be_told_of_success_is_told_once(desk: Desk, recipient: str, action: str) -> None:
    desk.through(desk.resident)
    before = len(reports(desk))
    boxed = len(desk.resident.box("box/all"))
    desk.postfix.sendmail("teller@lab.test", [recipient], b"Subject: tell me\n\nx\n", "-N", "success")
    desk.postfix.wait_for(r"to=<teller@lab.test>.*status=sent", 30)
    time.sleep(2)
    told = [one for one in desk.resident.box("box/all")[boxed:] if b"Delivered-To: teller@lab.test" in one]
    assert len(told) == 1
    assert b"\nAction: %b\n" % action.encode() in told[0]
    assert b"\nFinal-Recipient: rfc822; %b\n" % recipient.encode() in told[0]
    assert b"\nSubject: tell me\n" in told[0]
    assert len(reports(desk)) == before + 1
    if action == "relayed":  # to this Postfix's own smtpd, as from anybody
        assert len(desk.resident.box("box/far")) == 1


def test_nobody_is_told_who_did_not_ask(desk: Desk) -> None:
    desk.through(desk.resident)
    before = len(reports(desk))
    desk.postfix.sendmail("teller@lab.test", ["quiet@lab.test"], b"Subject: x\n\nx\n", "-N", "failure")
    desk.postfix.wait_for(r"to=<quiet@lab.test>.*status=sent", 30)
    time.sleep(1)
    assert len(reports(desk)) == before


def test_killed_and_started_again_the_mail_is_delivered_once(desk: Desk) -> None:
    desk.through(desk.resident)
    desk.resident.stop(signal.SIGKILL)
    queue_id = desk.send("again@lab.test", message=b"Subject: x\n\nx\n")
    assert desk.results(queue_id, 1)["again@lab.test"].status == "deferred"
    desk.resident.start(MAIL_CONFIG=str(desk.postfix.config_directory))
    desk.postfix.wait_for(rf"{queue_id}: to=<again@lab.test>.*status=sent", 60)
    assert len([one for one in desk.resident.box("box/all") if b"Delivered-To: again@lab.test" in one]) == 1
