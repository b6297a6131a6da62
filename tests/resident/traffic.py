"""Mail into a house, as a client sends it that comes back where it is told to; and the count of what became of it."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from resident.house import House, address_of

from postroom.postfix.maillog import tail
from postroom.postfix.session import Reply, Session

CLIENTS = 4

# Between two mails of a client, so that they come for as long as the trouble lasts.
PAUSE = 0.15

# A client that was put off comes back after this; real ones wait longer.
RETRY = 0.3

# From the end of the trouble until everything has been delivered. Postfix tries again after a second or two, and an
# LMTP client or a program that waits for an answer waits for some seconds more.
DRAIN_SECONDS = 60.0

# Retrying each second, qmgr(8) can come upon a mail that an agent has just deferred and not yet let go of.
WAKE_SECONDS = 5.0

# A delivery whose thread or process is cut off between the effect and its record is made again, where the effect is
# outside (docs/internals.md): of those that are in hand at that moment. Postfix has not more of ours under way: half of
# the mail of six pipe(8) and of the lmtp(8) for one destination each.
IN_HAND = 12

# Any process of the resident. A worker with all its libraries has some 45 MB.
MEMORY_LIMIT = 150.0

_numbers = itertools.count(1)


class Traffic:
    """So many mails, by a few clients at a time. What Postfix said 250 to is in `injected`."""

    def __init__(self, house: House, mails: int, pause: float) -> None:
        self.house = house
        self._pause = pause
        self.injected: dict[int, str] = {}  # number -> queue id
        self.refused: list[Reply] = []  # for good
        self.doubtful: set[int] = set()  # the connection was lost in the very moment
        self.tries = 0  # in vain
        self.failure: BaseException | None = None
        self.given_up = False
        self._left = [next(_numbers) for _ in range(mails)][::-1]
        self._turn = threading.Lock()
        self._clients = [threading.Thread(target=self._client) for _ in range(CLIENTS)]

    def start(self) -> None:
        for client in self._clients:
            client.start()

    def finish(self, seconds: float) -> None:
        """Wait for the clients; whoever still has not got rid of a mail then, is an error."""
        end = time.monotonic() + seconds
        for client in self._clients:
            client.join(max(0.0, end - time.monotonic()))
        self.given_up = any(client.is_alive() for client in self._clients)
        for client in self._clients:
            client.join()
        if self.failure is not None:
            raise self.failure

    def wait_for(self, mails: int, seconds: float = 40) -> None:
        """Until so many have been taken."""
        end = time.monotonic() + seconds
        while len(self.injected) < mails and time.monotonic() < end:
            time.sleep(0.02)
        said = f"{tail(self.house.postfix.log.text())}\n{tail(self.house.log)}"
        assert len(self.injected) >= mails, f"Postfix takes no mail: {said}"

    def _client(self) -> None:
        try:
            while (number := self._next()) is not None:
                done = self._send(number)
                if not done:
                    with self._turn:
                        self._left.insert(0, number)  # the others first
                        self.tries += 1
                time.sleep(self._pause if done else RETRY)
        except BaseException as error:
            self.failure = error

    def _next(self) -> int | None:
        with self._turn:
            return self._left.pop() if self._left and not self.given_up else None

    def _send(self, number: int) -> bool:
        """Whether there is nothing more to do about it: taken, or refused for good."""
        text = b"Subject: number %d\nX-Number: %d\n\n%send of %d\n" % (number, number, b"x" * 70 + b"\n", number)
        with Session(self.house.postfix.address) as smtp:
            helo = "straight.client.test" if number % 2 else "client.test"  # see PARAMETERS
            replies = smtp.mail("sender@client.test", [address_of(number)], text, helo)
        refused = [reply for reply in replies if reply is not None and reply.code >= 500]
        self.refused += refused
        final = replies[4] if len(replies) > 4 else None  # EHLO, MAIL, RCPT, DATA, the content
        if len(replies) > 3 and replies[3] is not None and replies[3].code == 354 and final is None:
            self.doubtful.add(number)
        if final is not None and final.code == 250 and replies[3] is not None and replies[3].code == 354:
            self.injected[number] = final.text.rpartition(" ")[2]
            return True
        return bool(refused)


class Case:
    """One trouble, and what came of the mail: all that was injected is delivered in the end, once, by itself."""

    def __init__(self, house: House, name: str, mails: int, pause: float) -> None:
        self.house = house
        self.name = name
        self.traffic = Traffic(house, mails, pause)
        self.queued = 0
        self.drain = 0.0
        self.memory = 0.0
        self.duplicates: Counter[int] = Counter()  # number -> how often too often
        self._since = house.postfix.log.size()
        self._logged = len(house.log)

    @property
    def log(self) -> str:
        """The resident's, since the case began."""
        return self.house.log[self._logged :]

    @property
    def deferred(self) -> list[str]:
        """Queue ids of deliveries that were put off, one for each time."""
        tried = self.house.postfix.log.deliveries(self._since)
        return [one.queue_id for one in tried if one.status == "deferred"]

    def nothing_is_lost(self) -> None:
        """Each mail that was injected by now is in the queue or delivered."""
        missing = set(self.traffic.injected)
        for _ in range(6):
            # A mail that goes from one folder of the queue to another while we look may be seen in neither.
            queued = self.house.queued()
            self.queued = max(self.queued, len(queued))
            missing -= queued | set(self.house.delivered())
            if not missing:
                return
            time.sleep(0.3)
        raise AssertionError(f"{self.name}: neither in the queue nor delivered: {sorted(missing)}")

    def watch_memory(self) -> None:
        self.memory = max(self.memory, self.house.memory())

    def settle(self, seconds: float = DRAIN_SECONDS) -> None:
        """The trouble is over: the rest of the mail comes in, and the queue becomes empty by itself."""
        begun = time.monotonic()
        self.traffic.finish(seconds)
        self._wait_until_empty(max(1.0, seconds - (time.monotonic() - begun)))
        self.drain = time.monotonic() - begun
        delivered = self.house.delivered()
        mine = set(self.traffic.injected)
        self.duplicates = Counter({number: delivered[number] - 1 for number in mine if delivered[number] > 1})
        self.watch_memory()
        self.tell(len(mine & set(delivered)))
        self.judge(mine, delivered)

    def _wait_until_empty(self, seconds: float) -> None:
        """By itself; but for what qmgr(8) has stumbled over, and leaves alone for minutes: that is woken."""
        end = time.monotonic() + seconds
        woken = time.monotonic()
        while left := self.house.queued() & set(self.traffic.injected):
            lines = {number: self.about(number) for number in left}
            if time.monotonic() >= end:
                print(*(line for number in lines for line in lines[number]), sep="\n")
                raise AssertionError(f"{self.name}: still in the queue after {seconds:.0f} s: {sorted(left)}")
            if time.monotonic() - woken > WAKE_SECONDS and all(map(_skipped, lines.values())):
                self.house.postfix.flush()
                woken = time.monotonic()
            time.sleep(0.2)

    def tell(self, delivered: int) -> None:
        effects = sum(self.duplicates[number] for number in self.duplicates if address_of(number)[0] == "e")
        print(
            f"\n{self.name}: injected {len(self.traffic.injected)}, delivered {delivered}, queued {self.queued},"
            f" deferred tries {len(self.deferred)}, tries of clients in vain {self.traffic.tries},"
            f" duplicates {sum(self.duplicates.values()) - effects} in boxes and {effects} outside,"
            f" empty after {self.drain:.1f} s, memory {self.memory:.0f} MB"
        )

        for number in self.duplicates:
            print(*self.about(number), sep="\n")

    def about(self, number: int) -> list[str]:
        """What the logs have about a mail."""
        lines = (self.log + self.house.postfix.log.text(self._since)).splitlines()
        return [line for line in lines if self.traffic.injected[number] in line]

    def judge(self, mine: set[int], delivered: Counter[int]) -> None:
        assert not self.traffic.given_up, f"clients did not get rid of their mail: {self.log[-3000:]}"
        assert not self.traffic.refused, f"refused for good: {self.traffic.refused}"
        assert not self.traffic.doubtful
        assert mine <= set(delivered), f"lost: {sorted(mine - set(delivered))}"
        said = self.house.postfix.log.deliveries(self._since)
        assert not [one for one in said if one.status not in ("sent", "deferred")]
        assert [number for number in self.duplicates if address_of(number)[0] == "m"] == [], "a box has a mail twice"
        self.explain_effects()
        assert self.memory < MEMORY_LIMIT

    def explain_effects(self) -> None:
        """A command runs again only where Postfix asked again: once for each time that a delivery was cut off."""
        put_off = Counter(self.deferred)
        for number, more in self.duplicates.items():
            assert more <= put_off[self.traffic.injected[number]], f"{address_of(number)} ran {more + 1} times"


def _skipped(lines: list[str]) -> bool:
    return lines[-1].endswith("skipped, still being delivered")


@contextmanager
def trouble(house: House, name: str, mails: int = 80, pause: float = PAUSE) -> Iterator[Case]:
    """Mail flows; inside comes the trouble, and ends; then all is counted."""
    case = Case(house, name, mails, pause)
    case.traffic.start()
    try:
        case.traffic.wait_for(5)
        yield case
        case.nothing_is_lost()
    except BaseException:
        case.traffic.given_up = True
        raise
    case.settle()
