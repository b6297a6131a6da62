"""Programs that hand off, under the real pipe(8) and spawn(8), and a service that is killed under them."""

from __future__ import annotations

import random
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from postfix.conftest import Start
from resident.handing import PYTHON, ROOT, THIN, Resident, wait_for

from postroom.postfix.instance import Instance

RULES = """
[[rule]]
id = "kept"
at = "deliver"
match = {{ recipient = "*@kept.test" }}
action = "maildir {folder}/mail/all"

[[rule]]
id = "refused"
at = "rcpt"
match = {{ recipient = "gone@kept.test" }}
action = "REJECT 5.7.1 gone"
"""

WORDS = "-- sender=${sender} recipient=${recipient} original_recipient=${original_recipient} queue_id=${queue_id}"

# The first time it is killed in the middle; the second time it delivers.
TWICE = """
    begun = {folder!r} + "/begun"
    if not os.path.exists(begun):
        open(begun, "w").close()
        time.sleep(60)
    with open({folder!r} + "/delivered", "a") as file:
        file.write(mail.queue_id + chr(10))
"""


class House:
    """A service that runs as nobody, and a Postfix whose programs hand off to it."""

    def __init__(self, folder: Path, start: Start) -> None:
        self.folder = folder
        folder.chmod(0o777)
        self.resident = Resident(folder, RULES.format(folder=folder))
        self.resident.user = "nobody"
        for path in (self.resident.state, self.resident.log, self.resident.config):
            shutil.chown(path, "nobody", "nogroup")
        self.who = self._installed(self.resident.program())
        self.twice = self._installed(self.resident.program(TWICE.format(folder=str(folder)), "twice-deliver"))
        self.kept, self.policy = (
            self._installed(ROOT / name) for name in ("agents/rule-deliver.py", "spawn/rule-policy.py")
        )
        policy = f"unix:private/{self.policy.name}"
        self.postfix: Instance = start(
            parameters={
                "transport_maps": "inline:{{who.test=who:},{thin.test=thin:},{twice.test=twice:},{kept.test=kept:}}",
                "relay_domains": "who.test thin.test twice.test kept.test",
                "smtpd_recipient_restrictions": f"check_policy_service {policy}, permit",
                "minimal_backoff_time": "1s",
                "maximal_backoff_time": "1s",
                "queue_run_delay": "1s",
                "in_flow_delay": "0",
                **{f"{name}_destination_recipient_limit": "1" for name in ("who", "thin", "twice", "kept")},
            },
            services="".join(
                (
                    self._pipe("who", str(self.who)),
                    self._pipe("twice", str(self.twice)),
                    self._pipe("kept", str(self.kept)),
                    self._pipe("thin", f"{PYTHON} -I -S {THIN} {self.who}"),
                    f"{self.policy.name} unix - n n - 0 spawn user=nobody argv={self.policy} {self._options}\n",
                )
            ),
        )

    def _installed(self, program: Path) -> Path:
        """As pip installs it; the library is the checkout's."""
        path = self.folder / program.stem
        text = program.read_text().removeprefix("#!python\n")
        path.write_text(f"#!{PYTHON}\nimport sys\nsys.path.insert(0, {str(ROOT / 'src')!r})\n{text}")
        path.chmod(0o755)
        return path

    @property
    def _options(self) -> str:
        return " ".join((*self.resident.options, "--handoff", str(self.resident.place)))

    def _pipe(self, name: str, argv: str) -> str:
        return f"{name} unix - n n - 20 pipe user=nobody null_sender= argv={argv} {self._options} {WORDS}\n"

    def start(self) -> int:
        return self.resident.start(self.who, self.twice)

    def empty(self, seconds: float = 150) -> None:
        """Wait until the queue is. Retrying each second, qmgr(8) can come upon a mail that pipe(8) has just deferred
        and not yet let go of ("skipped, still being delivered"), and then leaves it alone for minutes, unless woken.
        """
        end = time.monotonic() + seconds
        while self.postfix.queue():
            assert time.monotonic() < end, self.postfix.queue()
            self.postfix.flush()
            time.sleep(1)

    def said(self, recipient: str, status: str = "sent") -> str:
        return self.postfix.wait_for(rf"to=<{recipient}>.*status={status} \((.*)\)")[1]


@pytest.fixture(scope="module")
def house(start_postfix: Start) -> Iterator[House]:
    folder = Path(tempfile.mkdtemp(prefix="postroom-test-"))
    made = House(folder, start_postfix)
    yield made
    made.resident.kill()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def pid(house: House) -> Iterator[int]:
    yield house.start()
    house.resident.kill()


@pytest.mark.parametrize("name", ["who", "thin"])
def test_a_delivery_is_the_residents(house: House, pid: int, name: str) -> None:
    house.postfix.sendmail("a@client.test", [f"r@{name}.test"], b"Subject: x\n\nx\n")
    assert house.said(f"r@{name}.test").endswith(f"(by {pid})")


@pytest.mark.parametrize("name", ["who", "thin"])
def test_without_a_resident_it_is_delivered_as_well(house: House, name: str) -> None:
    house.postfix.sendmail("a@client.test", [f"alone@{name}.test"], b"Subject: x\n\nx\n")
    assert re.search(r"\(by \d+\)$", house.said(f"alone@{name}.test"))


def test_killed_in_the_middle_it_is_deferred_and_then_delivered_once(house: House) -> None:
    house.start()
    house.postfix.sendmail("a@client.test", ["r@twice.test"], b"Subject: x\n\nx\n")
    wait_for((house.folder / "begun").exists)
    house.resident.kill()
    assert "the resident service went away" in house.said("r@twice.test", "deferred")
    house.start()
    try:
        house.empty()
        house.said("r@twice.test")
        assert (house.folder / "delivered").read_text().count("\n") == 1
    finally:
        house.resident.kill()


MAILS = 60


def test_killed_again_and_again_each_mail_is_delivered_exactly_once(house: House) -> None:
    """By rule-deliver into a maildir; nothing bounces, nothing is lost, nothing is there twice."""
    chance = random.Random(20261122)
    stop = threading.Event()
    kills = 0

    def kill() -> None:
        nonlocal kills
        while not stop.is_set():
            house.start()
            time.sleep(chance.random() * 0.8)
            house.resident.kill()
            kills += 1

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        for number in range(MAILS):
            message = b"Subject: number %d\n\nHello.\n" % number
            house.postfix.sendmail("a@client.test", [f"r{number}@kept.test"], message)
        house.empty()
    finally:
        stop.set()
        killer.join()
        house.resident.kill()
    mails = [path.read_bytes() for path in (house.folder / "mail" / "all").glob("new/*")]
    numbers = sorted(int(found[1]) for mail in mails if (found := re.search(rb"Subject: number (\d+)", mail)))
    assert kills >= 3, "the test has to hit something to say something"
    assert numbers == list(range(MAILS))
    ends = {line.status for line in house.postfix.log.deliveries() if line.recipient.endswith("@kept.test")}
    assert ends <= {"sent", "deferred"}
    handed = re.findall(r"rule-deliver\[(\d+)\]: .*status=sent", house.resident.log.read_text())
    assert len(handed) > len(set(handed)), "none of them was handed off"


def refused(house: House, recipient: str = "gone@kept.test") -> bool:
    with house.postfix.session() as session:
        session.command("EHLO client.test")
        session.command("MAIL FROM:<a@client.test>")
        reply = session.command(f"RCPT TO:<{recipient}>")
        assert reply is not None
        assert reply.code in (250, 554)
        return reply.code == 554


def test_smtpd_asks_a_resident_without_knowing(house: House, pid: int) -> None:
    assert refused(house)
    assert not refused(house, "r@kept.test")
    logged = house.resident.log.read_text()
    assert f"rule-policy[{pid}]" in logged
    house.resident.kill()
    assert refused(house), "smtpd(8) connects again, and spawn(8) starts a program, which runs alone"
    log = house.resident.log
    wait_for(lambda: {int(one) for one in re.findall(r"rule-policy\[(\d+)\]", log.read_text())} > {pid})
