"""Threads for what would hold the loop up: handlers, the store, DNS. So many, a queue of so many, and no more.

    pool = Pool(loop, threads=16, queue=256)
    pool.submit(work, done, until)           # False: full; say "try later", at once

`work` runs in one of the threads. `done` is called in the loop, exactly once: with what `work` returned, with what it
raised, or with Late where time.monotonic() came to `until` first. Nothing can stop a thread: one that is late goes on
alone, its result is dropped, and it counts as `stuck` until it comes back.

Numbers are kept by the loop's thread alone. What a thread and the loop both touch is a job's two flags; each sets its
own before it looks at the other's, so that at least one of them sees that the other was there.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any


class Late(Exception):
    """The time was up. `thread`: the identity of the thread that is still at it, 0 where none had begun."""

    def __init__(self, thread: int = 0) -> None:
        super().__init__("not finished in time")
        self.thread = thread


class _Job:
    __slots__ = ("counted", "done", "over", "thread", "timer", "work")

    def __init__(self, work: Callable[[], Any], done: Callable[[Any], None]) -> None:
        self.work: Callable[[], Any] | None = work
        self.done: Callable[[Any], None] | None = done
        self.timer: asyncio.TimerHandle | None = None
        self.thread = 0  # set by the thread that takes it up
        self.over = False  # set by the loop: the time was up
        self.counted = False  # among the stuck


class Pool:
    """`threads` at most are started, when there is something for them to do; `queue` requests wait for one at most."""

    def __init__(self, loop: asyncio.AbstractEventLoop, threads: int, queue: int) -> None:
        self.threads = threads
        self.stuck = 0
        self.submitted = 0  # in all
        self._loop = loop
        self._limit = threads + queue
        self._started = 0
        self.unanswered = 0  # submitted, and `done` not called
        self._in_hand = 0  # submitted and not come back, those that are late included
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._results: deque[tuple[_Job, Any]] = deque()
        self._waking = False
        self._closed = False

    @property
    def waiting(self) -> int:
        """Requests that wait for a thread."""
        return max(0, self._in_hand - self._started)

    def submit(self, work: Callable[[], Any], done: Callable[[Any], None], until: float) -> bool:
        """Have it done. False: there is no room; nothing will happen."""
        if self._closed or self._in_hand >= self._limit or not self._staffed():
            return False
        job = _Job(work, done)
        self._in_hand += 1
        self.submitted += 1
        self.unanswered += 1
        job.timer = self._loop.call_at(until, self._late, job)
        self._jobs.put(job)
        return True

    def _staffed(self) -> bool:
        """Start one more thread where all are at work. False: there is none, and none to be had."""
        if self._in_hand < self._started or self._started >= self.threads:
            return True
        try:
            threading.Thread(target=self._serve, name=f"request-{self._started}", daemon=True).start()
        except RuntimeError:  # no memory for its stack, or a limit on their number
            return self._started > 0
        self._started += 1
        return True

    def close(self) -> None:
        """Take no more, and let the threads that have nothing to do end."""
        self._closed = True
        for _ in range(self._started):
            self._jobs.put(None)

    # In the threads.

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            job.thread = threading.get_ident()
            result = None if job.over else _result(job)
            self._tell(job, result)
            del job, result  # what a request held must not stay until the next

    def _tell(self, job: _Job, result: Any) -> None:
        """Have the loop deliver it. One wake-up for all that come back until it gets there."""
        self._results.append((job, result))
        if not self._waking:
            self._waking = True
            with suppress(RuntimeError):  # the loop is closed: nobody waits for it any more
                self._loop.call_soon_threadsafe(self._deliver)

    # In the loop.

    def _deliver(self) -> None:
        self._waking = False  # before the results are taken: who comes after this line wakes the loop anew
        while self._results:
            job, result = self._results.popleft()
            self._in_hand -= 1
            if job.counted:
                self.stuck -= 1
            if not job.over:
                self._finish(job, result)

    def _late(self, job: _Job) -> None:
        job.over = True
        if job.thread:
            job.counted = True
            self.stuck += 1
        self._finish(job, Late(job.thread))

    def _finish(self, job: _Job, result: Any) -> None:
        self.unanswered -= 1
        done, job.done = job.done, None
        if job.timer is not None:
            job.timer.cancel()
            job.timer = None
        assert done is not None  # noqa: S101 - for mypy; _deliver and _late come here once
        try:
            done(result)
        except Exception as error:
            # The others that came back with it must have their answers, whatever becomes of the loop.
            self._loop.call_exception_handler({"message": "a request could not be finished", "exception": error})


def _result(job: _Job) -> Any:
    work, job.work = job.work, None
    assert work is not None  # noqa: S101 - for mypy; a job is taken up once
    try:
        return work()
    except BaseException as error:  # SystemExit included: it must not end the thread in silence
        return error
