"""A resolver for routing: quick, and with a memory that outlives the process.

Postfix closes a socketmap connection after 100 s, or 10 s of silence, and with it ends the program that spawn(8) ran
for it (src/util/dict_sockmap.c): what one process keeps of DNS is soon gone. So plans are also written to a file in the
state directory, and used from there when DNS does not answer in time. A file that cannot be read or written costs a
fresh answer some other time, and nothing else.

A name server that is silent must not cost each lookup its whole deadline either: Postfix resolves one address after the
other. A domain that failed is not asked for again for a moment, and after several in a row none is.

Threads may share all of these; in the resident those of a process do, and one of them at a time writes the file.
"""

from __future__ import annotations

import os
import time
from _thread import allocate_lock

from postroom import mx
from postroom.dns import Resolver
from postroom.dnsasker import common

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from postroom.deadline import Deadline

# A domain takes some 100 bytes of the file; it is read when DNS fails, and when it is written.
MAX_PLANS = 2000
FILE_LIMIT = 1024 * 1024
HOSTS_LIMIT = 20

# How often it is written, at most; what was learnt since the last time goes with the process.
SAVE_INTERVAL = 5.0

# For how long a domain that failed is not asked for again, and after how many in a row none is.
PAUSE = 5.0
FAILURES = 5

_STATES = ("mx", "implicit", "null", "none")


class LastingResolver(Resolver):
    """`stale`: how many seconds past its TTL a plan may be that is given where DNS does not answer; 0: none is."""

    def __init__(self, servers: tuple[str, ...], port: int, timeout: float, path: str) -> None:
        super().__init__(servers, port, timeout)
        self.stale = 0.0
        self.memory = common(("plans", path), lambda: Memory(path))
        self.pauses = common(("pauses", servers, port, timeout), Pauses)

    def plan(self, domain: str, deadline: Deadline, stale: float = 0.0) -> mx.Plan:
        stale = stale or self.stale
        if not stale:
            return super().plan(domain, deadline)
        key = domain.lower()
        plan = self.pauses.get(key)
        if plan is None:
            plan = super().plan(key, deadline)
            self.pauses.note(key, plan, deadline.expired)
        if plan.state == "error":
            return self.memory.recall(key, stale) or plan
        self.memory.learn(key, plan)
        return plan

    def peek(self, domain: str) -> mx.Plan | None:
        """None also where a file is to be read or written: plan() does."""
        key = domain.lower()
        plan = super().peek(key)
        if not self.stale or plan is None:
            return plan
        if plan.state == "error":
            return None
        self.memory.note(key, plan)
        return None if self.memory.due() else plan


class Pauses:
    """Who is not asked for now. A failure within the deadline speaks of its domain, silence of the server too."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failed: dict[str, tuple[float, mx.Plan]] = {}
        self._row = 0
        self._until = float("-inf")
        self.renew()

    def renew(self) -> None:
        """In a process just forked: another thread of the parent may have held the lock."""
        self._lock = allocate_lock()

    def get(self, key: str) -> mx.Plan | None:
        """The failure that stands in place of asking; None: ask."""
        now = self._clock()
        until, plan = self._failed.get(key, (now, None))
        if now < until:
            return plan
        return mx.Plan(key, "error", reason="DNS did not answer for others just now") if now < self._until else None

    def note(self, key: str, plan: mx.Plan, silent: bool) -> None:
        """What became of asking; `silent`: there was no answer in time."""
        if plan.state != "error":
            self._row = 0
            return
        until = self._clock() + PAUSE
        with self._lock:
            if len(self._failed) >= MAX_PLANS:
                self._failed.clear()
            self._failed[key] = (until, plan)
            self._row += silent
            if self._row >= FAILURES:
                self._until, self._row = until, 0


class Memory:
    """Plans by domain, with the time when they were learnt; also in a file, which other processes write as well."""

    def __init__(
        self, path: str, now: Callable[[], float] = time.time, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._path = path
        self._now = now
        self._clock = clock
        self._known: dict[str, tuple[mx.Plan, int]] = {}
        self._unsaved: dict[str, tuple[mx.Plan, int]] = {}
        self._saved = float("-inf")
        self._file: tuple[tuple[int, ...], dict[str, tuple[mx.Plan, int]]] = ((), {})
        self.renew()

    def renew(self) -> None:
        """In a process just forked: other threads of the parent may have held the locks."""
        self._lock = allocate_lock()
        self._pen = allocate_lock()

    def learn(self, key: str, plan: mx.Plan) -> None:
        """Keep a plan that DNS gave, and write down what is unsaved, now and then."""
        self.note(key, plan)
        if self.due():
            self._save()

    def note(self, key: str, plan: mx.Plan) -> None:
        """Keep it here. The resolver gives the same object again while it believes in it."""
        with self._lock:
            known = self._known.pop(key, None)
            if known is not None and known[0] is plan:
                self._known[key] = known
            elif plan.state in _STATES and len(plan.hosts) <= HOSTS_LIMIT and key.isprintable() and " " not in key:
                if len(self._known) >= MAX_PLANS:
                    del self._known[next(iter(self._known))]
                self._known[key] = self._unsaved[key] = (plan, int(self._now()))
                if len(self._unsaved) > MAX_PLANS:
                    del self._unsaved[next(iter(self._unsaved))]

    def due(self) -> bool:
        return bool(self._unsaved) and self._clock() - self._saved >= SAVE_INTERVAL

    def recall(self, key: str, stale: float) -> mx.Plan | None:
        """The plan that was learnt last, by whatever process, where it is not too old."""
        for known in (self._here, self._in_file):
            found = known(key)
            # One from the future is of a clock that was wrong.
            if found is not None and -60 <= self._now() - found[1] <= found[0].ttl + stale:
                return found[0]
        return None

    def _save(self) -> None:
        """Who comes while another thread writes does not wait for it."""
        if not self._pen.acquire(False):
            return
        try:
            self._saved = self._clock()
            with self._lock:
                unsaved, self._unsaved = self._unsaved, {}
            self._write(unsaved)
        finally:
            self._pen.release()

    def _write(self, unsaved: dict[str, tuple[mx.Plan, int]]) -> None:
        plans = dict(self._read())
        for key in unsaved:
            plans.pop(key, None)  # to the end: the last are kept
        plans.update(unsaved)
        text = "".join(f"{key} {_line(*known)}\n" for key, known in list(plans.items())[-MAX_PLANS:])
        draft = f"{self._path}.{os.getpid()}"
        try:
            if not os.path.isdir(os.path.dirname(draft)):
                os.mkdir(os.path.dirname(draft), 0o700)
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
            try:
                with open(os.open(draft, flags, 0o600), "wb") as file:
                    file.write(text.encode("utf-8", "surrogateescape"))
                os.rename(draft, self._path)
            except OSError:
                os.unlink(draft)  # what a full disk took of it
        except OSError:
            return  # a full disk, a state of another user: this process remembers alone

    def _here(self, key: str) -> tuple[mx.Plan, int] | None:
        with self._lock:
            return self._known.get(key)

    def _in_file(self, key: str) -> tuple[mx.Plan, int] | None:
        return self._read().get(key)

    def _read(self) -> dict[str, tuple[mx.Plan, int]]:
        """What is in the file, which is read again when it is another."""
        try:
            with open(os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
                status = os.fstat(file.fileno())
                if status.st_uid != os.geteuid() or status.st_mode & 0o022:
                    return {}
                version = (status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size)
                if self._file[0] == version:
                    return self._file[1]
                text = file.read(FILE_LIMIT).decode("utf-8", "surrogateescape")
        except (OSError, ValueError):
            return {}
        plans = dict(pair for line in text.split("\n") if (pair := _pair(line)) is not None)
        self._file = (version, plans)
        return plans


def _line(plan: mx.Plan, when: int) -> str:
    hosts = (f"{preference}:{name}" for preference, name in plan.hosts)
    return " ".join((str(when), plan.state, str(plan.ttl), *hosts))


def _pair(line: str) -> tuple[str, tuple[mx.Plan, int]] | None:
    """One line of the file; None for one that is not as _line makes them."""
    key, *words = line.split(" ")
    try:
        when, state, ttl, *rest = words
        hosts = tuple((int(preference), name) for preference, _, name in (word.partition(":") for word in rest))
        plan = mx.Plan(key, state, hosts, int(ttl), reason="as it was when DNS last answered")
        return (key, (plan, int(when))) if state in _STATES else None
    except ValueError:
        return None
