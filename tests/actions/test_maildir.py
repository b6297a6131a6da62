"""actions.maildir: a mail is there once, whole, whatever happens between any two steps."""

import errno
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroom.actions import maildir, perform
from postroom.delivery import Mail
from postroom.message import Message
from postroom.status import ConfigurationFault, Fault

Make = Callable[..., Mail]

HEADERS = b"Return-Path: <s@example.com>\nX-Original-To: r@example.org\nDelivered-To: r@example.org\n"


def content(mail: Mail) -> bytes:
    return b"".join(mail.message.chunks())


def files(box: Path) -> dict[str, list[str]]:
    return {folder: sorted(os.listdir(box / folder)) for folder in ("tmp", "new", "cur")}


def only_mail(box: Path) -> bytes:
    found = files(box)
    assert (found["tmp"], len(found["new"] + found["cur"])) == ([], 1), found
    return next((box / folder / name).read_bytes() for folder in ("new", "cur") for name in found[folder])


def test_a_maildir_is_made_and_the_mail_is_in_it(tmp_path: Path, mail: Mail) -> None:
    box = tmp_path / "deep" / "bob"
    os.umask(0o022)
    outcome = perform(("maildir", f"{box}/"), mail)
    assert str(outcome) == "2.0.0 delivered to maildir"
    assert only_mail(box) == HEADERS + content(mail)
    modes = {path: path.stat().st_mode & 0o777 for path in (box, box / "tmp", box / "new", box / "cur")}
    assert set(modes.values()) == {0o700}
    mode = (box / "new" / files(box)["new"][0]).stat().st_mode & 0o777
    assert mode == 0o600


def test_the_name_is_as_in_maildir_5_and_the_same_each_time(tmp_path: Path, mail: Mail, make_mail: Make) -> None:
    perform(("maildir", str(tmp_path / "box")), mail)
    name = files(tmp_path / "box")["new"][0]
    taken = int(datetime(2026, 11, 22, 14, 4, 54, tzinfo=UTC).timestamp())
    assert re.fullmatch(rf"{taken}\.R[0-9a-f]{{40}}\.[^:/]+", name)
    assert maildir.unique_name(make_mail()) == name
    assert maildir.unique_name(make_mail(recipient="other@example.org")) != name
    assert maildir.unique_name(make_mail(b"other")) != name


def test_delivered_again_it_is_still_there_once(tmp_path: Path, make_mail: Make) -> None:
    for _ in range(3):
        assert perform(("maildir", str(tmp_path / "box")), make_mail()).kind == "sent"
    only_mail(tmp_path / "box")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"no header, no line end",
        b"\0\0nul\0\n\n\0",
        b"From x Sun Nov 22\nFrom: y\n\nFrom z\n.\n..\n",
        b"A: b\r\n\r\nbody\r\n",
        b"\xff\xfe: \x80\n\n",
        b"Subject: x\n\n" + b"y" * 1_000_000 + b"\n",
        b"h: v\n" * 1_000_000 + b"\nbody\n",
    ],
    ids=lambda data: repr(data[:20]),
)
def test_any_bytes_arrive_as_they_are(tmp_path: Path, make_mail: Make, data: bytes) -> None:
    assert perform(("maildir", str(tmp_path / "box")), make_mail(data)).kind == "sent"
    assert only_mail(tmp_path / "box") == HEADERS + data


def test_a_big_mail_comes_from_the_spool(tmp_path: Path, make_mail: Make) -> None:
    source = os.memfd_create("big")
    for number in range(200):
        os.write(source, b"%d " % number * 20_000 + b"\n")
    os.lseek(source, 0, os.SEEK_SET)
    message = Message.read(source, "/tmp")
    mail = make_mail(message)
    assert perform(("maildir", str(tmp_path / "box")), mail).kind == "sent"
    assert only_mail(tmp_path / "box") == HEADERS + content(mail)
    os.close(source)
    os.close(message._fd)


def test_the_null_sender_and_a_rewritten_recipient(tmp_path: Path, make_mail: Make) -> None:
    mail = make_mail(sender="", recipient="bob@example.org", original="alias@example.org")
    perform(("maildir", str(tmp_path / "box")), mail)
    assert only_mail(tmp_path / "box").startswith(
        b"Return-Path: <>\nX-Original-To: alias@example.org\nDelivered-To: bob@example.org\nReceived: "
    )


@given(st.text(st.characters(codec="utf-8") | st.sampled_from('\r\n\t\0"\\ @\udcff')))
def test_an_address_cannot_write_a_header(address: str) -> None:
    mail = Mail.__new__(Mail)
    mail.recipient = mail.original_recipient = address
    mail.envelope = type("Envelope", (), {"sender": address})()
    lines = maildir.header_lines(mail).split(b"\n")
    assert [line.partition(b":")[0] for line in lines] == [b"Return-Path", b"X-Original-To", b"Delivered-To", b""]
    assert not re.search(rb"[\x00-\x1f\x7f]", b"".join(lines))


@pytest.mark.parametrize(
    "words",
    [
        ("maildir",),
        ("maildir", ""),
        ("maildir", "/"),
        ("maildir", "relative/box"),
        ("maildir", "/var/mail/../../etc"),
        ("maildir", "/var/mail/./bob"),
        ("maildir", "/var/mail/.."),
        ("maildir", "/var/mail/a\0b"),
        ("maildir", "/var/mail/a", "b"),
    ],
)
def test_a_path_that_is_none_is_our_fault(mail: Mail, words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigurationFault, match="action maildir: "):
        perform(words, mail)


def test_a_place_that_cannot_be_written_is_our_fault(tmp_path: Path, mail: Mail) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(Fault, match="file/box: Not a directory"):
        perform(("maildir", str(tmp_path / "file" / "box")), mail)
    os.chmod(tmp_path, 0o755)
    assert as_nobody(lambda: perform(("maildir", str(tmp_path / "locked" / "box")), mail)) == "Permission denied"


def as_nobody(step: Callable[[], Any]) -> str:
    """What `step` ends with, run by a process without any rights: the last words of its outcome or Fault."""
    assert os.geteuid() == 0, "only root can become another user: run the tests as root"
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            os.write(writer, str(step()).encode())
        except BaseException as error:
            os.write(writer, str(error).rpartition(": ")[2].encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(pid, 0)
    with os.fdopen(reader) as stream:
        return stream.read()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    assert os.geteuid() == 0, "only root can mount a small file system: run the tests as root"
    place = tmp_path / "disk"
    place.mkdir()

    def mount(options: str) -> Path:
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], check=True)
        return place

    yield mount
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_defers_leaves_nothing_and_a_bigger_one_takes_it(
    small_disk: Callable[..., Path], make_mail: Make
) -> None:
    disk = small_disk("size=200k")
    mail = make_mail(b"x" * 400_000)
    outcome = perform(("maildir", f"{disk}/box"), mail)
    assert str(outcome) == f"4.3.1 maildir {disk}/box: No space left on device"
    assert files(disk / "box") == {"tmp": [], "new": [], "cur": []}
    subprocess.run(["mount", "-o", "remount,size=2m", str(disk)], check=True)
    assert perform(("maildir", f"{disk}/box"), mail).kind == "sent"
    assert only_mail(disk / "box") == HEADERS + b"x" * 400_000


def test_a_full_quota_is_a_full_mailbox(tmp_path: Path, mail: Mail, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> int:
        raise OSError(errno.EDQUOT, "as a file system with quotas answers; few kernels have one to mount here")

    monkeypatch.setattr(os, "write", refused)
    assert perform(("maildir", f"{tmp_path}/box"), mail).status == "4.2.2"
    assert files(tmp_path / "box") == {"tmp": [], "new": [], "cur": []}


class Killed:
    """Runs a delivery in a child of ours that is killed at its nth call of the operating system."""

    CALLS = ("mkdir", "open", "write", "fsync", "close", "link", "unlink", "lstat")
    CALLS_AGAIN = ("open", "write", "fsync", "close", "link", "unlink", "lstat", "listdir")

    def __init__(self, box: Path, mail: Mail) -> None:
        self.box = box
        self.mail = mail

    def at(self, number: int, after: bool) -> str:
        """The name of that call; empty where the delivery ended first."""
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            self._child(number, after, writer)
        os.close(writer)
        status = os.waitpid(pid, 0)[1]
        with os.fdopen(reader) as stream:
            name = stream.read()
        assert os.WIFSIGNALED(status) == bool(name)
        return name

    def _child(self, number: int, after: bool, report: int) -> None:
        count = 0

        def killing(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
            def wrapped(*arguments: Any, **options: Any) -> Any:
                nonlocal count
                count += 1
                try:
                    return call(*arguments, **options) if after or count != number else None
                finally:
                    if count == number:
                        really_write(report, name.encode())
                        os.kill(os.getpid(), signal.SIGKILL)

            return wrapped

        really_write = os.write
        for name in {*self.CALLS, *self.CALLS_AGAIN}:
            setattr(os, name, killing(name, getattr(os, name)))
        try:
            perform(("maildir", str(self.box)), self.mail)
        finally:
            os._exit(0)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("read_meanwhile", [False, True], ids=["unread", "read"])
def test_killed_at_any_call_nothing_is_lost_and_nothing_doubled(
    tmp_path: Path, make_mail: Make, after: bool, read_meanwhile: bool
) -> None:
    mail = make_mail(b"Subject: x\n\n" + b"line\n" * 30_000)
    calls = []
    for number in range(1, 1000):
        box = tmp_path / str(number)
        name = Killed(box, mail).at(number, after)
        if not name:
            break
        calls.append(name)
        if read_meanwhile and (box / "new").exists():
            for found in os.listdir(box / "new"):
                os.rename(box / "new" / found, box / "cur" / f"{found}:2,S")
        # Only the record in the store tells of a mail that a reader has taken, once tmp/ is cleared; and what has
        # come after the last unlink is no part of this delivery any more.
        if not (read_meanwhile and after and name == "unlink"):
            assert perform(("maildir", str(box)), mail).kind == "sent"
        assert only_mail(box) == HEADERS + content(mail), f"killed at call {number}, {name}"
    assert set(calls) == set(Killed.CALLS), "a delivery that does not make these calls is not what is tested here"


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("first", ["write", "link", "unlink"])
def test_killed_again_over_what_a_killed_one_has_left(tmp_path: Path, make_mail: Make, after: bool, first: str) -> None:
    """`first`: what the one before was killed at; before its unlink the mail is in new/, and read meanwhile."""
    mail = make_mail(b"Subject: x\n\n" + b"line\n" * 30_000)
    last = next(number for number in range(1, 1000) if Killed(tmp_path / f"{number}", mail).at(number, False) == first)
    calls = []
    for number in range(1, 1000):
        box = tmp_path / f"{number} again"
        Killed(box, mail).at(last, False)
        for found in os.listdir(box / "new"):
            os.rename(box / "new" / found, box / "cur" / f"{found}:2,S")
        assert len(os.listdir(box / "tmp")) == 1
        name = Killed(box, mail).at(number, after)
        if not name:
            break
        calls.append(name)
        # As above: what comes after the last unlink is no part of it.
        if not (first == "unlink" and after and name == "unlink"):
            assert perform(("maildir", str(box)), mail).kind == "sent"
        assert only_mail(box) == HEADERS + content(mail), f"killed at call {number}, {name}"
    expected = {"lstat", "open", "listdir", "fsync", "close", "unlink"} if first == "unlink" else Killed.CALLS_AGAIN
    assert set(calls) == set(expected)


def test_a_backup_by_hard_links_does_not_make_half_a_mail_a_delivered_one(tmp_path: Path, make_mail: Make) -> None:
    """rsnapshot and `cp -al` link what is being written, too."""
    mail = make_mail(b"Subject: x\n\n" + b"line\n" * 30_000)
    box = tmp_path / "box"
    for folder in ("tmp", "new", "cur"):
        (box / folder).mkdir(parents=True)
    for number, cut in enumerate((0, 100, len(HEADERS + content(mail)) - 1)):
        leftover = box / "tmp" / maildir.unique_name(mail)
        leftover.write_bytes((HEADERS + content(mail))[:cut])
        os.link(leftover, tmp_path / f"backup{number}")
        assert perform(("maildir", str(box)), mail).kind == "sent"
        assert only_mail(box) == HEADERS + content(mail)
        (found,) = (box / "new").iterdir()
        found.unlink()


def test_several_processes_at_the_same_mail_make_one(tmp_path: Path, make_mail: Make) -> None:
    mail = make_mail(b"x" * 3_000_000)
    pids = []
    for _ in range(8):
        pid = os.fork()
        if pid == 0:
            try:
                perform(("maildir", str(tmp_path / "box")), mail)
            except Fault:
                os._exit(75)  # another one has cleared its file away: deferred, and found delivered the next time
            finally:
                os._exit(0)
        pids.append(pid)
    ends = {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids}
    assert ends <= {0, 75}
    assert perform(("maildir", str(tmp_path / "box")), mail).kind == "sent"
    assert only_mail(tmp_path / "box") == HEADERS + content(mail)


ZONES = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@given(st.datetimes(datetime(1971, 1, 1), datetime(2200, 1, 1), timezones=ZONES))
def test_the_time_is_that_of_the_received_line(when: datetime) -> None:
    older = "Received: x; Mon, 1 Jan 2001 0:0:0 +0000\n"
    head = f"X-Before: 1\nReceived: from a; b\n\tid 1; {format_datetime(when)} (X)\n{older}"
    assert maildir.received_time(head.encode()) == int(when.timestamp())
    assert maildir.received_time(head.partition("\n")[2].encode()) == int(when.timestamp())


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"Subject: x; Sun, 22 Nov 2026 15:04:54 +0000\n",
        b"Received: from a\n",
        b"Received: from a; yesterday\n",
        b"Received: a; Sun, 22 Nov 99999999999999 15:04:54 +0000\n",
        b"Received: a; Sun, 22 Nov 1926 15:04:54 +0000\n",
        b"Received: a; Sun, " + b"9" * 5000 + b" Nov 2026 15:04:54 +0000\n",
        b"Received: a; Sun, 22 Nov 2026 15:04:54 X\n",
        b"Received: a; Sun, 22 Nov 2026",
    ],
)
def test_without_such_a_line_the_time_is_0(head: bytes) -> None:
    assert maildir.received_time(head) == 0


@given(st.binary())
def test_any_head_gives_a_time_that_fits_a_name(head: bytes) -> None:
    for text in (head, b"Received: a; " + head):
        assert 0 <= maildir.received_time(text) < 2**33


def test_a_long_tmp_is_not_slow(tmp_path: Path, make_mail: Make) -> None:
    """Others' leftovers are none of ours, and do not keep the mail."""
    box = tmp_path / "box"
    perform(("maildir", str(box)), make_mail())
    for number in range(2000):
        (box / "tmp" / f"1.M{number}.host").touch()
    before = time.monotonic()
    perform(("maildir", str(box)), make_mail(b"another"))
    assert time.monotonic() - before < 1
    assert len(os.listdir(box / "tmp")) == 2000
