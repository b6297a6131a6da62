"""The processes and sockets that belong to one [serve] and [listen], each process in a post that is always filled."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from socket import socket

from postroom import log
from postroom.config import Configuration, Serve
from postroom.resident.board import Board
from postroom.resident.child import Child, Main, Slot
from postroom.resident.latest import Latest
from postroom.resident.listeners import Listener
from postroom.runners.options import Options

# Before a child is started again: doubled each time, from the first to the last, anew after a minute of life.
FIRST_PAUSE, LAST_PAUSE = 0.1, 30.0
SETTLED_AFTER = 60.0

# At the start, and in a new generation: so often may a child end before it is ready, and so long may that take.
START_TRIES = 3
START_LIMIT = 30.0

# The process that has the health page, by its name.
PAGE = "health"

WorkerMain = Callable[[Slot, list[Listener], Options], object]
HealthMain = Callable[[list[Listener], Board, dict[str, object], Callable[[], None]], object]


class Programs:
    """What the children run."""

    __slots__ = ("health", "worker")

    def __init__(self, worker: WorkerMain, health: HealthMain) -> None:
        self.worker = worker
        self.health = health


class Post:
    """A place for one child, which is started again whenever it ends.

    `leaver`: the child that asked for another in its place, and serves until that is ready.
    """

    __slots__ = ("child", "due", "ends", "leaver", "main", "name", "number", "pause", "sockets")

    def __init__(self, name: str, number: int, main: Main, sockets: Iterable[socket]) -> None:
        self.name = name
        self.number = number
        self.main = main
        self.sockets = list(sockets)  # those that its child keeps open
        self.child: Child | None = None
        self.leaver: Child | None = None
        self.due = 0.0
        self.pause = FIRST_PAUSE
        self.ends = 0  # how often it ended before it was ready

    def ended(self, child: Child, now: float) -> float:
        """Settle when to start it again; the seconds until then."""
        if now - child.born >= SETTLED_AFTER:
            self.pause = FIRST_PAUSE
        self.child = None
        self.ends += not child.ready
        return self.postponed(now)

    def vacated(self, number: int, now: float) -> Post:
        """The post of who comes in the place of its child, which keeps its number, and its region of the board."""
        fresh = Post(f"worker {number}", number, self.main, self.sockets)
        fresh.leaver = self.child
        lived = now - self.child.born if self.child is not None else 0.0
        fresh.pause = FIRST_PAUSE if lived >= SETTLED_AFTER else self.pause
        fresh.postponed(now)
        return fresh

    def postponed(self, now: float) -> float:
        pause = self.pause
        self.due, self.pause = now + pause, min(LAST_PAUSE, 2 * pause)
        return pause


class Generation:
    """Posts, sockets, and the configuration that they were made for."""

    __slots__ = ("configuration", "listeners", "posts", "since")

    def __init__(self, configuration: Configuration, listeners: list[Listener], posts: list[Post]) -> None:
        self.configuration = configuration
        self.listeners = listeners
        self.posts = posts
        self.since = time.monotonic()

    @property
    def children(self) -> list[Child]:
        return [one for post in self.posts for one in (post.child, post.leaver) if one is not None]

    @property
    def ready(self) -> bool:
        return all(post.child is not None and post.child.ready for post in self.posts)

    @property
    def workers(self) -> int:
        return workers(self.configuration.serve)

    def fits(self, fresh: Configuration) -> bool:
        """Whether the processes and sockets that are there will do for it."""
        before = self.configuration
        counted = [[getattr(one.serve, name) for name in ("workers", "threads", "queue", "programs")]
                   for one in (before, fresh)]  # fmt: skip
        if (before.serve.user, before.serve.group) != (fresh.serve.user, fresh.serve.group):
            log.warning("", text="[serve] user and group take effect when the service is started again")
        in_place = all(one.in_place for one in self.listeners)
        return counted[0] == counted[1] and before.listen == fresh.listen and in_place

    def vacate(self, child: Child, numbers: list[int], now: float) -> Post | None:
        """Have another child come in this one's place, by the first of the numbers, where both are there."""
        for index, post in enumerate(self.posts):
            if post.child is child and numbers:
                self.posts[index] = post.vacated(numbers[0], now)
                return self.posts[index]
        return None

    def beats(self, now: float, limit: float) -> bool:
        """Whether a worker is there that has been heard of lately."""
        children = [post.child for post in self.posts if post.name != PAGE]
        return any(one is not None and one.ready and now - one.beat < limit for one in children)

    def hopeless(self, now: float) -> str:
        """Why it will not come up, or ""."""
        for post in self.posts:
            if post.ends >= START_TRIES:
                return f"{post.name} ended {post.ends} times before it was ready: the log says why"
        if now - self.since > START_LIMIT:
            late = [post.name for post in self.posts if post.child is None or not post.child.ready]
            return f"{late[0]} was not ready within {START_LIMIT:g} s" if late else ""
        return ""

    def __str__(self) -> str:
        return f"{_some(self.workers, 'worker')}, {_some(len(self.listeners), 'listener')}"


def posts(
    serve: Serve, listeners: list[Listener], numbers: list[int], programs: Programs, options: Options, board: Board,
    latest: Latest, about: Callable[[], dict[str, object]],
) -> list[Post]:  # fmt: skip
    """The posts for these sockets: workers, and one for the health page where somebody may ask for it."""

    def begin(slot: Slot) -> object:
        slot.configuration, slot.loaded = latest.configuration, latest.loaded
        return programs.worker(slot, work, options)

    page = [one for one in listeners if one.listen.protocol == "health"]
    work = [one for one in listeners if one.listen.protocol != "health"]
    made = [Post(f"worker {number}", number, begin, _sockets(work)) for number in numbers[: workers(serve)]]
    if page:
        made.append(Post(PAGE, board.health, lambda slot: _page(slot, page, programs, about()), _sockets(page)))
    return made


def _sockets(listeners: list[Listener]) -> list[socket]:
    return [one.socket for one in listeners]


def _page(slot: Slot, listeners: list[Listener], programs: Programs, about: dict[str, object]) -> None:
    slot.ready()  # whether it comes up or not is no reason to stop mail
    programs.health(listeners, slot.board, about, slot.alive)


def workers(serve: Serve) -> int:
    """How many; by default one for each processor that we may run on."""
    return serve.workers or len(os.sched_getaffinity(0))


def _some(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
