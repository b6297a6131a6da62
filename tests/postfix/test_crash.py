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
