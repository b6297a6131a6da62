"""Programs killed at random under load: no mail is lost, none is delivered twice, none bounces."""

import contextlib
import os
import random
import signal
import threading
import time
from pathlib import Path

from postroom.lab.lab import Lab

MAILS = 60
KILLS = 40


def running(program: Path) -> list[int]:
    """The processes that pipe(8) has started for the program and that are still there."""
    found = []
    for entry in os.listdir("/proc"):
        with contextlib.suppress(OSError, ValueError):
            if str(program).encode() in Path(f"/proc/{int(entry)}/cmdline").read_bytes().split(b"\0")[:2]:
                found.append(int(entry))
    return found


def kill_some(program: Path, stop: threading.Event) -> int:
    kills = 0
    chance = random.Random(20261122)  # the moments differ from run to run all the same
    while kills < KILLS and not stop.is_set():
        for pid in running(program):
            if chance.random() < 0.5:
                time.sleep(chance.random() * 0.02)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    kills += 1
        time.sleep(0.01)
    return kills


def test_killed_at_random_each_mail_is_delivered_exactly_once() -> None:
    with Lab() as lab:
        stop = threading.Event()
        kills: list[int] = []
        killer = threading.Thread(target=lambda: kills.append(kill_some(lab.place.programs / "rule-deliver", stop)))
        killer.start()
        try:
            for number in range(MAILS):
                lab.send("crowd@home.test", message=b"Subject: number %d\n\nHello.\n" % number, inside=True)
        finally:
            killer.join(60)
            stop.set()
            killer.join()
        lab.postfix.wait_until_empty(120)
        subjects = sorted(
            int(line.split()[2])
            for file in lab.maildir("crowd")
            for line in file.read_bytes().splitlines()
            if line.startswith(b"Subject: number ")
        )
        statuses = {line.status for line in lab.postfix.log.deliveries()}
        assert kills[0] >= 5, "the test has to hit something to say something"
        assert subjects == list(range(MAILS))
        assert statuses <= {"sent", "deferred"}
        assert "deferred" in statuses


LAST = b"the last line\n"


def test_stopped_in_the_middle_of_a_message_nothing_cut_short_is_delivered() -> None:
    """`postfix stop` ends pipe(8) while it hands messages over: the program must not take what came for the whole."""
    body = b"".join(b"%06d %s\n" % (number, b"x" * 70) for number in range(4000)) + LAST
    with Lab() as lab:
        lab.postfix.set({"rule-deliver_destination_concurrency_limit": "20", "in_flow_delay": "0"})
        for number in range(6):
            recipients = [f"u{number}x{other}@home.test" for other in range(5)]
            lab.send(*recipients, message=b"Subject: %d\n\n" % number + body, inside=True)
        time.sleep(0.15)
        lab.postfix.stop()
        lab.postfix.start()
        lab.postfix.wait_until_empty(120)
        saved = [file.read_bytes() for file in (lab.folder / "mail").glob("*/new/*")]
        assert len(saved) == 30
        assert [len(content) for content in saved if not content.endswith(LAST)] == []
