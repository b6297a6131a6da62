"""rule-deliver as pipe(8) runs it: another user, two pipes, one line and an exit status."""

import os
import random
import signal
import time
from collections.abc import Callable

import pytest
from agents.desk import DELIVERED, MAIL, Desk


def test_a_mail_is_delivered_and_the_log_tells_by_which_rule(desk: Desk) -> None:
    assert desk.run() == DELIVERED
    assert desk.mails == [
        b"Return-Path: <s@example.com>\nX-Original-To: bob@example.org\nDelivered-To: bob@example.org\n" + MAIL
    ]
    (line,) = desk.log.splitlines()
    assert " postroom/rule-deliver[" in line
    said = f"rule=one, action=maildir {desk.box}, status=sent, dsn=2.0.0 (delivered to maildir)"
    assert line.endswith(f": 4XyzQ: to=<bob@example.org>, {said}")


@pytest.mark.parametrize(
    ("action", "result"),
    [
        ("discard", (0, "discarded by rule")),
        ("discard no thanks", (0, "no thanks")),
        ("5.7.1 not for {recipient_localpart}", (77, "5.7.1 not for bob")),
        ("4.2.1 moved, come back", (75, "4.2.1 moved, come back")),
        ("command /bin/sh -c 'exit 67'", (67, "5.1.1 user unknown")),
        ("command /bin/sh -c 'exit 1'", (75, "4.3.0 command sh failed with exit status 1")),
        ("command /usr/bin/wc -c", (0, f"delivered to command wc: {len(MAIL)}")),
        ("command /no/such/program", (75, "4.3.0 command program: No such file or directory")),
        ("relay lmtp:unix:/no/such", (75, "4.4.1 connect to relay[/no/such]: No such file or directory")),
        ("maildir /proc/box", (75, "4.3.0 maildir /proc/box: No such file or directory")),
    ],
)
def test_each_action_has_its_exit_status_and_its_words(desk: Desk, action: str, result: tuple[int, str]) -> None:
    desk.configure(action)
    assert desk.run() == result


def test_what_has_no_rule_waits_for_one(desk: Desk) -> None:
    assert desk.to("bob@elsewhere.example") == (75, "4.3.5 no rule for bob@elsewhere.example")
    desk.configure(f"maildir {desk.box}", '[[rule]]\nid = "all"\nat = "deliver"\naction = "discard"\n')
    assert desk.to("bob@elsewhere.example") == (0, "discarded by rule")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("this is not toml", "4.3.5 postroom.toml"),
        ('[[rule]]\nid = "x"\nat = "deliver"\naction = "bounce it"\n', "4.3.5 postroom.toml: line 4: rule "),
    ],
)
def test_a_broken_configuration_defers_until_it_is_mended(desk: Desk, text: str, said: str) -> None:
    good = (desk.folder / "postroom.toml").read_text()
    (desk.folder / "postroom.toml").write_text(text)
    status, line = desk.run("--log", f"{desk.folder}/log")
    assert (status, line[: len(said)]) == (75, said)
    assert said[6:] in desk.log
    (desk.folder / "postroom.toml").write_text(good)
    assert desk.run() == DELIVERED


def test_a_rule_that_cannot_be_decided_says_so_in_the_log(desk: Desk) -> None:
    rule = '[list.some]\nfile = "some"\n[[rule]]\nid = "listed"\nat = "deliver"\n'
    rule += 'match = { recipient = "list:some" }\naction = "discard"\non_error = "defer"\n'
    (desk.folder / "some").write_text("x@y\n")
    desk.configure(f"maildir {desk.box}", rule)
    assert desk.run()[0] == 0
    (desk.folder / "some").unlink()
    status, line = desk.run(data=b"another\n")
    assert (status, line[:6]) == (75, "4.3.0 ")
    assert "rule=listed, action=4.3.0" in desk.log
    assert "on_error=list some: " in desk.log


def test_shadow_rules_are_logged_and_do_nothing(desk: Desk) -> None:
    desk.configure(
        f"maildir {desk.box}", '[[rule]]\nid = "new"\nat = "deliver"\nmode = "shadow"\naction = "5.7.1 no more"\n'
    )
    assert desk.run() == DELIVERED
    assert "shadow=new: 5.7.1 no more, rule=one" in desk.log


@pytest.mark.parametrize("local", ["../../etc/passwd", "..", "-x", 'a "b"\\', "\udcff", "a\nb", "a" * 300])
def test_strangers_addresses_are_only_addresses(desk: Desk, local: str) -> None:
    address = f"{local}@example.org"
    assert desk.to(address, sender=f"-{address}") == DELIVERED
    (mail,) = desk.mails
    assert mail.endswith(b"\n" + MAIL)
    assert [line.split(b":")[0] for line in mail.split(b"\n")[:4]] == [
        b"Return-Path", b"X-Original-To", b"Delivered-To", b"Received",
    ]  # fmt: skip
    users = desk.folder / "users"
    desk.configure(f"maildir {users}/{{recipient_localpart}}/box")
    result = desk.to(address, sender="another@example.com")
    assert result in (DELIVERED, (69, "5.1.3 bad destination mailbox address syntax"))
    for box in users.glob("**/new"):
        assert box.relative_to(users).parts[1:] == ("box", "new")
    assert (result == DELIVERED) == users.exists()
    assert {path.name for path in desk.folder.iterdir()} <= {"box", "users", "state", "log", "locked", "postroom.toml"}


def test_the_null_sender(desk: Desk) -> None:
    assert desk.to("bob@example.org", sender="") == DELIVERED
    assert desk.mails[0].startswith(b"Return-Path: <>\n")


def test_several_recipients_have_one_result_or_wait(desk: Desk) -> None:
    words = ("sender=", "queue_id=Q", "recipient=a@example.org", "recipient=b@example.org")
    assert desk.run(words=words) == DELIVERED
    assert len(desk.mails) == 2
    rule = '[[rule]]\nid = "b"\nat = "deliver"\nmatch = { recipient = "b@example.org" }\naction = "5.1.1 no b"\n'
    desk.configure(f"maildir {desk.box}", rule)
    status, line = desk.run(words=words)
    assert (status, line[:6]) == (75, "4.3.5 ")


def test_asked_again_it_is_not_done_again(desk: Desk) -> None:
    assert desk.run() == DELIVERED
    for path in desk.box.glob("new/*"):
        path.unlink()  # somebody has read it
    assert desk.run() == DELIVERED
    assert desk.mails == []
    assert desk.log.count("repeated=yes") == 1
    desk.configure("discard")
    assert desk.run() == (0, "discarded by rule")
    desk.configure(f"maildir {desk.folder}/other")
    assert desk.run() == DELIVERED, "what was delivered by a rule is not delivered once more by another"
    assert not (desk.folder / "other").exists()
    assert desk.run(data=MAIL + b"more") == DELIVERED
    assert (desk.folder / "other").exists()


def test_a_refusal_is_no_delivery(desk: Desk) -> None:
    """With soft_bounce it stays in the queue until what caused it is mended."""
    desk.configure("command /bin/sh -c 'exit 67'")
    assert desk.run()[0] == desk.run()[0] == 67
    desk.configure("command /bin/true")
    assert desk.run()[0] == 0


def test_killed_at_any_moment_it_is_delivered_once_in_the_end(desk: Desk) -> None:
    for number in range(12):
        data = MAIL + b"line %d\n" % number * 50_000
        for _ in range(3):
            process = desk.start(stdin=_file(data))
            time.sleep(random.random() * 0.15)
            process.kill()
            process.communicate(timeout=10)
        process = desk.start(stdin=_file(data))
        process.communicate(timeout=10)
        assert process.returncode == 0
    assert len(desk.mails) == 12
    assert len({len(mail) for mail in desk.mails}) <= 2
    assert list((desk.box / "tmp").iterdir()) == []


def _file(data: bytes) -> int:
    fd = os.memfd_create("mail")
    os.write(fd, data)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def test_a_command_that_was_cut_off_is_run_again(desk: Desk) -> None:
    """At least once: we cannot know what it had done."""
    mark = desk.folder / "mark"
    desk.configure(f"command /bin/sh -c 'echo x >> {mark}; test -e {mark}.go || kill -9 $PPID'")
    process = desk.start()
    process.communicate(MAIL, timeout=10)
    assert process.returncode == -signal.SIGKILL
    (desk.folder / "mark.go").touch()
    assert desk.run()[0] == 0
    assert mark.read_text() == "x\nx\n"
    assert desk.run()[0] == 0
    assert mark.read_text() == "x\nx\n"


def test_a_command_that_outlives_us_is_not_run_beside_itself(desk: Desk) -> None:
    """Killed over it, by the out-of-memory killer for one: its program works on, and the next try waits for its end."""
    mark = desk.folder / "mark"
    desk.configure(f"command /bin/sh -c 'echo x >> {mark}; while ! test -e {mark}.go; do sleep 0.02; done'")
    killed = desk.start()
    assert killed.stdin is not None
    killed.stdin.write(MAIL)
    killed.stdin.close()
    _until(mark.exists)
    killed.kill()
    assert killed.wait(timeout=10) == -signal.SIGKILL
    assert desk.run() == (75, "4.3.0 another process is still delivering this mail")
    assert mark.read_text() == "x\n"
    (desk.folder / "mark.go").touch()
    _until(lambda: desk.run()[0] == 0)
    assert mark.read_text() == "x\nx\n"


def test_what_a_command_leaves_running_does_not_keep_the_lock(desk: Desk) -> None:
    pids = desk.folder / "pids"
    desk.configure(f"command /bin/sh -c 'sleep 60 </dev/null >/dev/null 2>&1 & echo $! >> {pids}; exit 75'")
    try:
        for _ in range(2):
            assert desk.run() == (75, "4.3.0 command sh failed with exit status 75")
    finally:
        for pid in pids.read_text().split():
            os.kill(int(pid), signal.SIGKILL)  # it was still there


def test_an_orphan_still_at_it_is_not_doubled(desk: Desk) -> None:
    """`postfix stop` leaves the program running, and the mail in the queue."""
    mark = desk.folder / "mark"
    desk.configure(f"command /bin/sh -c 'echo x >> {mark}; while ! test -e {mark}.go; do sleep 0.02; done'")
    orphan = desk.start()
    assert orphan.stdin is not None
    orphan.stdin.write(MAIL)
    orphan.stdin.close()
    _until(mark.exists)
    assert desk.run() == (75, "4.3.0 another process is still delivering this mail")
    (desk.folder / "mark.go").touch()
    assert orphan.stdout and orphan.stdout.read() == b"delivered to command sh\n"
    orphan.stdout.close()
    assert orphan.wait(timeout=10) == 0
    assert desk.run() == (0, "delivered to command sh")
    assert mark.read_text() == "x\n"


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
