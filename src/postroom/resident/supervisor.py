"""The process that starts the others and never handles mail itself.

    Supervisor(launch, configuration, listeners).run()

It forks workers and the health process, starts again what dies, kills what is stuck, ends on SIGTERM and SIGINT, and
loads the configuration on SIGHUP. It is one thread in one poll(2).

A change of [serve] or [listen] is made by a second generation of processes beside the first: where one does not come
up, it is taken back and the first goes on; else the first finishes what it has in hand, and ends. Sockets that both
have are the same ones: no connection is lost in between.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import time

from postroom import log
from postroom.config import Configuration
from postroom.resident import child, generation
from postroom.resident.board import Board
from postroom.resident.child import Child
from postroom.resident.facts import PART, WHOLE, Facts
from postroom.resident.generation import START_LIMIT, Generation, Post
from postroom.resident.latest import Latest
from postroom.resident.launch import Launch
from postroom.resident.listeners import Listener, open_all, permit
from postroom.runners.faults import words
from postroom.status import Fault

# A child that was not heard of for that long is stuck: its loop, which has nothing long to do, says so each second.
WATCHDOG = 30.0

# For what is in hand at the end. Below systemd's TimeoutStopSec=90 in postroom.service, so that it is us who end it.
DRAIN_LIMIT = 60.0

# SIGHUPs that come faster are one.
RELOAD_INTERVAL = 1.0

# Seconds by which a turn may be late. Past that it is us who were stopped, not the children who were silent.
STOPPED_AFTER = 5.0

# Regions of the board, which is made before the first fork and never again: room for two generations.
LEAST_SLOTS = 32


class Supervisor:
    def __init__(self, launch: Launch, configuration: Configuration, listeners: list[Listener]) -> None:
        self._launch = launch
        self._notify = launch.notify
        self._board = Board(max(LEAST_SLOTS, 2 * generation.workers(configuration.serve) + 8))
        self._children: dict[int, Child] = {}  # by pid
        self._leaving: dict[int, float] = {}  # pid -> when it is killed
        self._told: set[int] = set()  # signals that have come
        self._wake, self._waker = socket.socketpair()
        self._poll = select.poll()
        self._up, self._ending, self._status = False, False, 0
        self._reload_due = float("inf")
        self._reloaded_at = float("-inf")
        self._facts, self._latest = Facts(self._board), Latest(launch.options, configuration)
        self._next: Generation | None = None
        self._present = Generation(configuration, listeners, [])
        self._present.posts = self._posts_for(configuration, listeners)

    def run(self) -> int:
        """Serve until a signal ends it; the exit status."""
        self._listen_to_signals()
        self._facts.tell(self._present)
        # What is there now is shared with all children for as long as nobody writes to it, which the collector would.
        gc.collect()
        gc.freeze()
        try:
            now = time.monotonic()
            while True:
                self._turn(now)
                if self._ending and not self._children:
                    break  # before another wait: there is nobody left who would end it
                now = self._wait(now)
        finally:
            for one in self._present.listeners:
                one.close()
        return self._status

    def _listen_to_signals(self) -> None:
        for end in (self._wake, self._waker):
            end.setblocking(False)
        # The bytes only wake us; which signals came is in the set, however many did.
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        for number in child.SIGNALS:
            signal.signal(number, lambda number, frame: self._told.add(number))
        self._poll.register(self._wake, select.POLLIN)

    def _turn(self, now: float) -> None:
        self._reap(now)
        self._obey(now)
        if not self._ending:
            self._latest.look(now)
            self._fill(now)
            self._settle(now)
        self._kill_the_late(now)
        if self._ending or self._present.beats(now, WATCHDOG):
            self._notify.alive(now)

    def _wait(self, before: float) -> float:
        """Until something happens or is due; what children say is heard. The time."""
        pause = max(0.0, self._due(before) - time.monotonic())
        for fd, _ in self._poll.poll(min(pause, 3600.0) * 1000 + 1):
            if fd == self._wake.fileno():
                self._wake.recv(65536)
        now = time.monotonic()
        late = now - before - pause > STOPPED_AFTER
        for one in self._children.values():
            self._hear(one, now)
            if late:
                one.beat = now
        return now

    def _hear(self, one: Child, now: float) -> None:
        if one.mute:
            return
        if one.hear(now):
            if one.reload:
                one.signal(signal.SIGHUP)  # it may have read the configuration before this was asked for
            self._relieve(one, now)
        if one.retiring and not self._ending:
            self._replace(one, now)
        self._latest.stale, one.fresh = self._latest.stale or one.fresh, False
        if one.mute:
            self._poll.unregister(one.pipe)  # which poll(2) would come back for at once, for ever

    def _due(self, now: float) -> float:
        times = [now + self._notify.pause(now), *self._leaving.values()]
        times += [one.beat + WATCHDOG for one in self._children.values() if not one.killed]
        if not self._ending:
            times += [post.due for post in self._posts() if post.child is None]
            times += [self._reload_due] if self._next is None and self._up else []
            times += [one.since + START_LIMIT for one in self._coming()]
        return min(times)

    def _posts(self) -> list[Post]:
        return self._present.posts + (self._next.posts if self._next else [])

    def _coming(self) -> list[Generation]:
        """The generation that is not up yet, if there is one."""
        return [self._next] if self._next is not None else [] if self._up else [self._present]

    # Children

    def _reap(self, now: float) -> None:
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            if (one := self._children.pop(pid, None)) is not None:
                self._buried(one, child.ending(status), now)

    def _buried(self, one: Child, ending: str, now: float) -> None:
        if not one.mute:
            self._poll.unregister(one.pipe)
        os.close(one.pipe)
        left = self._leaving.pop(one.pid, None) is not None
        post = next((post for post in self._posts() if one in (post.child, post.leaver)), None)
        if post is not None and post.leaver is one:
            post.leaver = None
        elif post is not None and not left:
            pause = post.ended(one, now)
            self._facts.restarts += 1
            log.warning("", text=f"{one} {ending}; it is started again in {pause:g} s")
            self._facts.tell(self._present)
        elif ending not in ("ended with status 0", "killed by SIGTERM") and not one.killed:
            log.warning("", text=f"{one} {ending} as it was to finish")

    def _fill(self, now: float) -> None:
        for post in self._posts():
            if post.child is None and post.due <= now:
                try:
                    self._start(post)
                except OSError as error:  # too many processes or files: as bad as a child that dies at once
                    pause = post.postponed(now)
                    log.error("", text=f"{post.name} cannot be started: {error.strerror}; next try in {pause:g} s")

    def _start(self, post: Post) -> None:
        present = [*self._present.listeners, *(self._next.listeners if self._next else [])]
        others = [one.socket for one in present] + [sock for _, sock in self._launch.passed.sockets]
        closing: list[int | socket.socket] = [
            *(one for one in others if one not in post.sockets),
            *(one.pipe for one in self._children.values()),
            self._wake, self._waker, *self._launch.private,
        ]  # fmt: skip
        post.child = made = child.start(post.name, post.number, self._board, post.main, closing)
        self._children[made.pid] = made
        self._poll.register(made.pipe, select.POLLIN)

    def _kill_the_late(self, now: float) -> None:
        for one in self._children.values():
            if not one.killed and self._leaving.get(one.pid, float("inf")) <= now:
                log.warning("", text=f"{one} has not finished within {DRAIN_LIMIT:g} s: killed")
                one.kill()
            elif not one.killed and now - one.beat >= WATCHDOG:
                log.error("", text=f"{one} has not been heard of for {WATCHDOG:g} s: killed")
                one.kill()
            if one.killed:
                self._leaving.pop(one.pid, None)

    def _dismiss(self, children: list[Child], now: float) -> None:
        """Have them finish what they have in hand."""
        for one in children:
            self._leaving[one.pid] = now + DRAIN_LIMIT
            one.signal(signal.SIGTERM)

    def _replace(self, one: Child, now: float) -> None:
        """Have another child started, which takes over when it is ready; later, where there is no number for it."""
        for each in filter(None, (self._present, self._next)):
            if (post := each.vacate(one, self._free(), now)) is not None:
                self._facts.restarts += 1
                log.warning("", text=f"{one} has asked for another in its place: {post.name} is started")
                self._facts.tell(self._present)

    def _relieve(self, one: Child, now: float) -> None:
        """Let the child go in whose place this one, which is ready, has come."""
        for post in self._posts():
            if post.child is one and post.leaver is not None:
                self._dismiss([post.leaver], now)
                post.leaver = None

    # What signals ask for

    def _obey(self, now: float) -> None:
        told, self._told = self._told, set()
        if self._ending:
            if signal.SIGINT in told:  # somebody at a terminal who will not wait
                for one in self._children.values():
                    one.kill()
        elif told & {signal.SIGTERM, signal.SIGINT}:
            self._end(now, signal.Signals(min(told & {signal.SIGTERM, signal.SIGINT})).name)
        elif signal.SIGHUP in told:
            self._reload_due = min(self._reload_due, max(now, self._reloaded_at + RELOAD_INTERVAL))
        if not self._ending and self._up and self._next is None and self._reload_due <= now:
            self._reload_due, self._reloaded_at = float("inf"), now
            self._reload()

    def _end(self, now: float, why: str) -> None:
        log.info("", text=f"{why}: finishing what is in hand")
        self._ending = True
        self._notify.stopping("finishing what is in hand")
        for one in self._present.listeners + (self._next.listeners if self._next else []):
            one.close()
        self._dismiss([one for one in self._children.values() if one.pid not in self._leaving], now)

    def _reload(self) -> None:
        self._notify.reloading()
        refused, listeners = WHOLE, list[Listener]()
        try:
            fresh = self._latest.read()
            refused = PART
            if self._present.fits(fresh):
                return self._take(fresh)
            listeners = self._opened(fresh)
            self._next = Generation(fresh, listeners, self._posts_for(fresh, listeners))
        except Exception as error:  # a bug in reading it, too, is no reason to drop the one that works
            self._refuse(words(error), refused, listeners)

    def _take(self, fresh: Configuration) -> None:
        self._present.configuration = fresh
        for one in self._present.children:
            one.reload = True
            if one.ready:
                one.signal(signal.SIGHUP)
        self._accepted(fresh)

    def _opened(self, fresh: Configuration) -> list[Listener]:
        if not fresh.listen:
            raise Fault("no [listen.NAME] is left: there would be nothing to do")
        return open_all(fresh.listen, self._launch.account, self._launch.passed, self._present.listeners)

    def _posts_for(self, configuration: Configuration, listeners: list[Listener]) -> list[Post]:
        free = self._free()
        wanted = generation.workers(configuration.serve)
        if len(free) < wanted:
            raise Fault(f"no room for {wanted} workers beside those that are there: start the service again")
        return generation.posts(
            configuration.serve, listeners, free, self._launch.programs, self._launch.options, self._board,
            self._latest, lambda: self._facts.about(self._present),
        )  # fmt: skip

    def _free(self) -> list[int]:
        """Numbers of workers, and regions of the board, that nobody has."""
        used = {one.number for one in self._children.values()} | {post.number for post in self._posts()}
        return [number for number in range(self._board.slots) if number not in used]

    def _settle(self, now: float) -> None:
        """See how the generation that is to come does."""
        for one in self._coming():
            if one.ready:
                self._come_up(one, now)
            elif reason := one.hopeless(now):
                self._give_up(reason, now)

    def _come_up(self, fresh: Generation, now: float) -> None:
        if self._next is None:
            self._up = True
            log.info("", text=f"serving: {fresh}")
            self._notify.ready(str(fresh))
            self._launch.announce("")
            return
        before, self._present, self._next = self._present, fresh, None
        self._dismiss(before.children, now)
        self._drop(before.listeners)
        self._accepted(fresh.configuration)

    def _give_up(self, reason: str, now: float) -> None:
        if self._next is None:
            log.error("", text=reason)
            self._launch.announce(reason)
            self._status = os.EX_TEMPFAIL
            self._end(now, "the start has failed")
            return
        failed, self._next = self._next, None
        self._dismiss(failed.children, now)  # those that did come up may have connections
        self._refuse(reason, PART, failed.listeners)

    def _drop(self, listeners: list[Listener]) -> None:
        """Close sockets that the present generation does not have; systemd's stay, we could not get them again."""
        kept = [one.socket for one in self._present.listeners]
        for one in listeners:
            if one.socket not in kept and one.socket not in self._launch.passed:
                one.close()

    def _accepted(self, fresh: Configuration) -> None:
        if self._launch.options.log is None:
            log.open("serve", fresh.log, fresh.log_format)
        self._facts.accepted()
        self._facts.tell(self._present)
        log.info("", text=f"{fresh.path} is in force: {self._present}")
        self._notify.ready(str(self._present))

    def _refuse(self, reason: str, what: str, listeners: list[Listener]) -> None:
        """Keep the present generation; `listeners` were opened for the other, with its modes and owners."""
        if listeners:
            self._drop(listeners)
            permit(self._present.listeners, self._launch.account)
        self._facts.refused(reason)
        self._facts.tell(self._present)
        log.error("", fault="configuration", text=f"{reason}; {what}")
        self._notify.ready(f"{self._present}; the last change was refused")
