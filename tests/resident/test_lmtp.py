"""Mail by LMTP in the resident: a worker as a process, clients of any manners, and what is in the boxes in the end."""

from __future__ import annotations

import os
import signal
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from resident.mailing import MESSAGE, Resident, stuffed

from postroom.delivery import Mail, Outcome, sent
from postroom.resident.lmtp import Delivery
from postroom.resident.programs import Program
from postroom.runners import dsn
from postroom.runners.captive import Handed
from postroom.runners.incoming import Incoming
from postroom.wire.transaction import Rcpt, Transaction

RULES = """
[[rule]]
id = "no"
at = "deliver"
match = {{ recipient = "no.test" }}
action = "5.1.1 no such user"
[[rule]]
id = "later"
at = "deliver"
match = {{ recipient = "later.test" }}
action = "4.2.1 not now"
[[rule]]
id = "slow"
at = "deliver"
match = {{ recipient = "slow.test" }}
action = "command /bin/sleep 3"
[[rule]]
id = "known-client"
at = "deliver"
match = {{ client_address = "192.0.2.0/24", original_recipient = "typed@lab.test" }}
action = "maildir {folder}/known"
[[rule]]
id = "lost"
at = "deliver"
match = {{ recipient = "lost@lab.test" }}
action = "maildir {folder}/file/in/the/way"
[[rule]]
id = "box"
at = "deliver"
match = {{ recipient = "lab.test" }}
action = "maildir {folder}/box"
"""

DEAF = """
import time
from postroom.delivery import *
from postroom.runners.pipe import run

def deliver(mail):
    if mail.recipient.startswith("slow"):
        time.sleep(2)
    return sent("heard")

run(deliver)
"""

Make = Callable[..., Resident]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[Resident] = []

    def start(settings: str = "", *options: str, **environment: str) -> Resident:
        (tmp_path / "file").touch()
        made.append(Resident(tmp_path, RULES.format(folder=tmp_path), settings))
        return made[-1].start(*options, **environment)

    yield start
    for one in made:
        one.end()


def test_each_recipient_has_a_result_and_a_line_of_its_own(make: Make) -> None:
    resident = make()
    client = resident.client()
    replies = client.mail(
        "<a@lab.test>", "<b@no.test>", "<c@later.test>", "<d@other.test>", "<lost@lab.test>", ident="4Xyz1"
    )
    assert replies[:3] == ["250 2.0.0 delivered to maildir", "550 5.1.1 no such user", "451 4.2.1 not now"]
    assert replies[3] == "451 4.3.5 no rule for d@other.test"
    assert replies[4].startswith("451 4.3.0 maildir ")
    lines = [line.partition("4Xyz1: ")[2] for line in resident.lines("4Xyz1: to=", 5)]
    assert [line.split(",")[0] for line in lines] == [f"to=<{to}>" for to in (
        "a@lab.test", "b@no.test", "c@later.test", "d@other.test", "lost@lab.test",
    )]  # fmt: skip
    assert "postroom/rule-deliver[" in resident.log.read_text()
    assert resident.box()[0].endswith(b"\n" + MESSAGE) or MESSAGE in resident.box()[0]


def test_a_connection_takes_mail_after_mail_and_a_repeated_one_is_delivered_once(make: Make) -> None:
    resident = make()
    client = resident.client()
    for number in range(5):
        assert client.mail("<a@lab.test>", ident=f"4Xyz{number}") == ["250 2.0.0 delivered to maildir"]
    assert len(resident.box()) == 5
    assert resident.client().mail("<a@lab.test>", ident="4Xyz3")[0].startswith("250 ")
    assert len(resident.box()) == 5
    assert len(resident.lines("repeated=yes")) == 1


def test_what_the_client_forwards_reaches_the_rules(make: Make) -> None:
    resident = make()
    client = resident.client()
    client.say(
        "LHLO x", "XFORWARD NAME=c.test ADDR=192.0.2.7", "XFORWARD IDENT=4Xyz HELO=h.test", "MAIL FROM:<> SIZE=77"
    )
    client.say("RCPT TO:<final@lab.test> ORCPT=rfc822;typed@lab.test", "DATA")
    client.socket.sendall(stuffed(MESSAGE))
    assert client.reply() == "250 2.0.0 delivered to maildir"
    (mail,) = resident.box("known")
    assert mail.startswith(b"Return-Path: <>\nX-Original-To: typed@lab.test\nDelivered-To: final@lab.test\n")


def test_a_mail_of_any_size_arrives_as_it_was(make: Make) -> None:
    resident = make()
    client = resident.client()
    contents = [
        b"Subject: x\n\n"
        + b"." * size
        + b"\n.\n..\n"
        + os.urandom(size).replace(b"\r", b"").replace(b"\n", b"")
        + b"\n"
        for size in (0, 70_000, 400_000, 3_000_000)
    ]
    for number, content in enumerate(contents):
        assert client.mail("<a@lab.test>", message=content, ident=f"4Xyz{number}") == ["250 2.0.0 delivered to maildir"]
    assert sorted(mail.partition(b"Subject")[2] for mail in resident.box()) == sorted(
        content.partition(b"Subject")[2] for content in contents
    )
    assert spools(resident) == 0


def spools(resident: Resident) -> int:
    """Files without a name that the worker still has open."""
    assert resident.process is not None
    found = 0
    for entry in Path(f"/proc/{resident.process.pid}/fd").iterdir():
        target = os.readlink(entry)
        found += (
            target.startswith(("/var/tmp/", "/tmp/")) and stat.S_ISREG(os.stat(entry).st_mode) and "deleted" in target
        )
    return found


def test_a_client_that_is_gone_leaves_nothing_behind(make: Make) -> None:
    resident = make()
    big = stuffed(b"x" * 998 + b"\n") * 600
    for piece in (
        b"",
        b"LHLO x\r\nMAIL FR",
        b"LHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@lab.test>\r\nDATA\r\n" + big[:-5].replace(b".\r\n", b""),
    ):
        client = resident.client()
        client.socket.sendall(piece)
        client.close()
    assert resident.client().mail("<a@lab.test>") == ["250 2.0.0 delivered to maildir"]
    for _ in range(100):
        if spools(resident) == 0:
            break
        time.sleep(0.05)
    assert spools(resident) == 0
    assert len(resident.box()) == 1


def test_a_client_that_goes_while_its_mail_is_delivered_is_not_delivered_to_twice(make: Make) -> None:
    """The rest of the recipients waits for the next try, which knows those that are done."""
    resident = make()
    client = resident.client()
    client.say(
        "LHLO x",
        "XFORWARD IDENT=4Xyz",
        "MAIL FROM:<s@client.test>",
        *[f"RCPT TO:<{n}@slow.test>" for n in "abc"],
        "DATA",
    )
    client.socket.sendall(stuffed(MESSAGE))
    time.sleep(1)
    client.close()
    resident.lines("to=<a@slow.test>")
    time.sleep(1)
    assert resident.lines("to=<b@slow.test>", 0) == []
    again = resident.client().mail("<a@slow.test>", "<b@slow.test>", ident="4Xyz")
    assert [reply[:3] for reply in again] == ["250", "250"]
    assert len(resident.lines("repeated=yes")) == 1


def test_half_closed_the_client_still_gets_its_reply(make: Make) -> None:
    resident = make()
    client = resident.client()
    client.say("LHLO x", "MAIL FROM:<>", "RCPT TO:<a@slow.test>", "DATA")
    client.socket.sendall(stuffed(MESSAGE))
    client.socket.shutdown(socket.SHUT_WR)
    assert client.reply().startswith("250 ")
    assert client.reply() == ""


def test_past_the_deadline_who_has_a_result_gets_it(make: Make, tmp_path: Path) -> None:
    """Of a handler that heeds no deadline. The recipient after it is not delivered to: the next try has it."""
    file = tmp_path / "deaf-deliver.py"
    file.write_text(DEAF)
    resident = make(f'deadline = 1\n[serve]\nprograms = ["{file}"]', "--program", "deaf-deliver")
    begun = time.monotonic()
    replies = resident.client().mail("<a@lab.test>", "<slow@lab.test>", "<c@lab.test>", ident="4Xyz")
    assert replies == ["250 2.0.0 heard"] + ["451 4.3.0 not finished within 1 seconds"] * 2
    assert time.monotonic() - begun < 2
    assert len(resident.lines("to=<slow@lab.test>")) == 1
    assert resident.lines("to=<c@lab.test>", 0) == []
    assert "fault=deadline (not finished within 1 seconds)" in resident.log.read_text()
    assert resident.client().mail("<c@lab.test>") == ["250 2.0.0 heard"]


@pytest.mark.parametrize(("over", "reported"), [(False, [1]), (True, [])])
def test_success_before_the_deadline_is_reported_though_the_rest_is_put_off(
    over: bool, reported: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its recipient gets 250, and no other try would report it. Where nobody waits, there is another try for all."""
    seen: list[int] = []
    monkeypatch.setattr(dsn, "report", lambda mail, results, message, queue_id: seen.append(len(results)))
    mail = Transaction("s@client.test", {})
    mail.recipients = [Rcpt("a@lab.test"), Rcpt("b@lab.test")]
    delivery = Delivery(mail, Incoming(), 0.1)

    def handler(mail: Mail) -> Outcome:
        time.sleep(0.15)
        delivery.over = over
        return sent()

    program = Program("x-deliver", "/x/x-deliver.py", "", Handed("pipe", handler, None, False))
    delivery.work(program, None)  # type: ignore[arg-type]  # the handler asks it for nothing
    assert [one.rcpt.address for one in delivery.results] == ["a@lab.test"]
    assert seen == reported


def test_a_handler_that_comes_back_late_leaves_the_rest_for_the_next_try(make: Make) -> None:
    resident = make("deadline = 2")
    begun = time.monotonic()
    replies = resident.client().mail("<a@lab.test>", "<b@slow.test>", "<c@slow.test>", ident="4Xyz")
    assert replies[0] == "250 2.0.0 delivered to maildir"
    assert [reply[:9] for reply in replies[1:]] == ["451 4.3.0"] * 2
    assert time.monotonic() - begun < 3


def test_where_there_is_no_thread_left_mail_is_put_off_at_once(make: Make) -> None:
    resident = make("[serve]\nthreads = 1\nqueue = 1")
    clients = [resident.client() for _ in range(4)]
    for client in clients:
        client.say("LHLO x", "MAIL FROM:<>", "RCPT TO:<a@slow.test>", "RCPT TO:<b@lab.test>", "DATA")
        client.socket.sendall(stuffed(MESSAGE))
        time.sleep(0.1)
    begun = time.monotonic()
    for client in clients[2:]:
        assert [client.reply() for _ in range(3)] == ["421 4.3.2 too many requests wait already"] * 2 + [""]
    assert time.monotonic() - begun < 1
    for client in clients[:2]:
        assert [client.reply()[:3] for _ in range(2)] == ["250", "250"]


def test_no_room_for_a_mail_puts_it_off_and_the_next_one_is_taken(make: Make, tmp_path: Path) -> None:
    """A file past the limit cannot be written (RLIMIT_FSIZE), as on a full disk."""
    import resource

    resident = make()
    assert resident.process is not None
    resource.prlimit(resident.process.pid, resource.RLIMIT_FSIZE, (300_000, 300_000))
    client = resident.client()
    huge = b"Subject: x\n\n" + b"x\n" * 400_000
    assert client.mail("<a@lab.test>", "<b@lab.test>", message=huge) == ["452 4.3.1 no room to take the message"] * 2
    assert client.mail("<a@lab.test>") == ["250 2.0.0 delivered to maildir"]
    assert spools(resident) == 0


def test_a_program_that_is_not_there_puts_mail_off(make: Make) -> None:
    resident = make("", "--program", "rule-policy")
    assert resident.client().mail("<a@lab.test>") == ["451 4.3.5 rule-policy delivers no mail in this service"]


def test_asked_to_end_it_finishes_what_is_in_hand_and_closes_what_is_idle(make: Make) -> None:
    resident = make()
    idle, coming, slow = (resident.client() for _ in range(3))
    idle.say("LHLO x")
    coming.say("LHLO x", "MAIL FROM:<>", "RCPT TO:<a@lab.test>", "DATA")
    coming.socket.sendall(b"Subject: x\r\n")
    slow.say("LHLO x", "MAIL FROM:<>", "RCPT TO:<a@slow.test>", "DATA")
    slow.socket.sendall(stuffed(MESSAGE))
    time.sleep(0.5)
    ended: list[int] = []
    thread = threading.Thread(target=lambda: ended.append(resident.stop()))
    thread.start()
    assert idle.reply() == ""
    coming.socket.sendall(b"\r\nx\r\n.\r\nMAIL FROM:<>\r\n")
    assert [coming.reply(), coming.reply()] == ["250 2.0.0 delivered to maildir", ""]
    assert [slow.reply()[:3], slow.reply()] == ["250", ""]
    thread.join(30)
    assert ended == [0]


def test_asked_to_end_it_does_not_wait_for_who_has_fallen_silent(make: Make) -> None:
    """A part of a command is nothing; a part of a mail has some seconds more."""
    resident = make()
    part, half = (resident.client() for _ in range(2))
    part.socket.sendall(b"LHL")
    half.say("LHLO x", "MAIL FROM:<>", "RCPT TO:<a@lab.test>", "DATA")
    half.socket.sendall(b"half a mail\r\n")
    time.sleep(0.5)
    begun = time.monotonic()
    ended: list[int] = []
    thread = threading.Thread(target=lambda: ended.append(resident.stop()))
    thread.start()
    assert part.reply() == ""  # nothing, not even a greeting: that was read before
    assert time.monotonic() - begun < 5
    assert half.reply() == ""
    assert 5 < time.monotonic() - begun < 20
    thread.join(30)
    assert ended == [0]


def test_killed_in_the_middle_the_next_try_delivers_once(make: Make) -> None:
    resident = make()
    client = resident.client()
    client.say(
        "LHLO x",
        "XFORWARD IDENT=4Xyz",
        "MAIL FROM:<s@client.test>",
        "RCPT TO:<a@lab.test>",
        "RCPT TO:<b@slow.test>",
        "DATA",
    )
    client.socket.sendall(stuffed(MESSAGE))
    resident.lines("to=<a@lab.test>")
    resident.stop(signal.SIGKILL)
    assert client.reply() == ""
    resident.start()
    time.sleep(3)  # the program of the command outlives its worker, and holds the lock
    replies = resident.client().mail("<a@lab.test>", "<b@slow.test>", ident="4Xyz")
    assert [reply[:3] for reply in replies] == ["250", "250"]
    assert len(resident.box()) == 1


def test_many_clients_at_a_time_each_get_their_own_replies(make: Make) -> None:
    resident = make()
    wrong: list[object] = []

    def talk(number: int) -> None:
        client = resident.client()
        for turn in range(10):
            message = MESSAGE + b"%d %d\n" % (number, turn)
            said = client.mail("<a@lab.test>", f"<{number}@no.test>", message=message, ident=f"4X{number}y{turn}")
            if [reply[:3] for reply in said] != ["250", "550"]:
                wrong.append(said)

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []
    bodies = sorted(mail.splitlines()[-1] for mail in resident.box())
    assert bodies == sorted(b"%d %d" % (number, turn) for number in range(12) for turn in range(10))


def test_a_client_that_never_reads_costs_no_memory(make: Make) -> None:
    resident = make()
    client = resident.client()
    client.socket.setblocking(False)
    sent = 0
    try:
        while sent < 50_000_000:
            sent += client.socket.send(b"NOOP\r\n" * 10_000)
    except BlockingIOError:
        pass
    assert sent < 50_000_000
    assert resident.client().mail("<a@lab.test>") == ["250 2.0.0 delivered to maildir"]


def test_a_byte_at_a_time(make: Make) -> None:
    resident = make()
    client = resident.client()
    data = b"LHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@lab.test>\r\nDATA\r\n" + stuffed(MESSAGE) + b"QUIT\r\n"
    for position in range(len(data)):
        client.socket.sendall(data[position : position + 1])
    assert [client.reply()[:3] for _ in range(7)] == ["250", "250", "250", "354", "250", "221", ""]
    assert resident.box()[0].endswith(MESSAGE)


def test_silence_is_ended(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    from postroom.config import Listen
    from postroom.resident import lmtp
    from postroom.resident.metrics import Metrics

    monkeypatch.setattr(lmtp, "IDLE_LIMIT", 0.2)

    class Worker:
        draining = False
        buffer = memoryview(bytearray(1000))

        def __init__(self) -> None:
            self.loop = asyncio.get_running_loop()
            self.connections: set[object] = set()
            self.metrics = Metrics()

    async def talk() -> tuple[bytes, set[object]]:
        worker = Worker()
        ours, theirs = socket.socketpair()
        listen = Listen("lmtp", "lmtp", "", program="x")
        await worker.loop.connect_accepted_socket(lambda: lmtp.LmtpProtocol(worker, listen), theirs)  # type: ignore[arg-type]  # a worker in all it uses
        reader, writer = await asyncio.open_connection(sock=ours)
        said = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        await asyncio.sleep(0.05)
        return said, worker.connections

    said, left = asyncio.run(talk())
    assert said.splitlines()[-1].startswith(b"421 4.4.2 ")
    assert left == set()
