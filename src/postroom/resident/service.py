"""What the resident lends to handlers: the configuration, followed in a thread of its own, and a place for sources.

    service = Service(options)
    service.start()                          # reads the configuration, and looks for changes from then on
    lent = service.lend(30)                  # for the handlers of one program, in threads
    quick = Quick(service)                   # for the same in the loop, where nothing may wait

Configurations do not change: threads share one, and requests keep the one they began with when another takes its
place. `sources` holds what only one thread may use: a connection to the store, the deadline of a request. So each
thread has its own, and of each program, since programs keep different things there.
"""

from __future__ import annotations

import threading
import weakref
from time import monotonic, time
from typing import TYPE_CHECKING, Any

from postroom import log
from postroom.config import Serve
from postroom.deadline import WouldWait
from postroom.rules.serving import DEFAULT_QUEUE, DEFAULT_THREADS
from postroom.runners import service
from postroom.runners.faults import place, words
from postroom.runners.pipe import DEFAULT_DEADLINE
from postroom.sources import Sources
from postroom.status import ConfigurationFault

if TYPE_CHECKING:
    from collections.abc import Callable

    from postroom.config import Configuration
    from postroom.runners.options import Options

__all__ = ["Lent", "Quick", "Service", "WouldWait"]


class Service(service.Service):
    """The same as a program's own, but that no request reads the configuration."""

    __slots__ = ("_fresh", "_lents", "_own", "_stopped", "_turn", "loaded")

    NAME = "serve"

    def __init__(self, options: Options, limit: float = DEFAULT_DEADLINE) -> None:
        """`limit`: seconds for a request where neither command line nor file says less."""
        self._own = threading.local()
        self._stopped = threading.Event()
        self._fresh: Callable[[], None] | None = None
        self._lents: weakref.WeakSet[Lent] = weakref.WeakSet()
        self.loaded = 0.0  # Unix time of the configuration in force
        self._turn = threading.Lock()  # of reading the configuration: the thread that follows it, and reload()
        super().__init__(options, limit)
        self._fault = f"{options.config} has not been read yet"

    def start(
        self, before: Configuration | None = None, loaded: float = 0.0, fresh: Callable[[], None] | None = None
    ) -> None:
        """Read the configuration, good or bad, and begin to follow it.

        `before`, read at `loaded`, is in force until there is a newer one that is good; `fresh` is told of each.
        """
        with self._turn:
            if before is not None:
                self._use(before)
                self.loaded = loaded
            self._fresh = fresh
            self._check(monotonic())
        threading.Thread(target=self._follow, name="configuration", daemon=True).start()

    def stop(self) -> None:
        """Follow it no longer."""
        self._stopped.set()

    @property
    def configuration(self) -> Configuration:
        """The one in force. Raises ConfigurationFault where there never was a good one."""
        configuration = self._configuration
        if configuration is None:
            raise ConfigurationFault(self._fault)
        return configuration

    @property
    def fault(self) -> str:
        """What is wrong with the file as it is now, "" where it is in force."""
        return self._fault

    @property
    def sources(self) -> Any:
        return getattr(self._own, "sources", None)

    @sources.setter
    def sources(self, sources: Any) -> None:
        self._own.sources = sources

    @property
    def serve(self) -> Serve:
        """[serve] of the configuration in force; where there is none, as of an empty one."""
        configuration = self._configuration
        return (
            configuration.serve if configuration is not None else Serve(0, DEFAULT_THREADS, DEFAULT_QUEUE, (), "", "")
        )

    def lend(self, most: float) -> Lent:
        """To the handlers of one program, whose requests take so many seconds at most."""
        lent = Lent(self, most)
        self._lents.add(lent)
        self._hurry(lent)
        return lent

    def _hurry(self, lent: Lent) -> None:
        lent.limit = self._options.deadline or min(lent.most, self.limit)

    def _use(self, configuration: Configuration) -> None:
        super()._use(configuration)
        self.loaded = time()
        if self._fresh is not None:
            self._fresh()
        for lent in list(self._lents):
            self._hurry(lent)

    def reload(self) -> str:
        """Read it now, changed or not: "", or what is wrong with it; then the one before stays in force."""
        with self._turn:
            self._reported = ""
            try:
                self._load("was read again")
            except Exception as error:  # as in _check
                self._fault = words(error)
                self._report()
                return self._fault
        return ""

    def _follow(self) -> None:
        while not self._stopped.wait(self.CHECK_INTERVAL):
            try:
                with self._turn:
                    self._check(monotonic())
            except Exception as error:  # whatever it is: who follows no more would notice no change for ever
                log.error("", fault="configuration", at=place(error), text=words(error))


class Lent:
    """What a program's handlers are given in threads. `limit`: seconds for a request; `most`: whatever a file says."""

    __slots__ = ("__weakref__", "_own", "_service", "limit", "most")

    def __init__(self, service: Service, most: float) -> None:
        self._service = service
        self.limit = self.most = most
        self._own = threading.local()

    @property
    def configuration(self) -> Configuration:
        return self._service.configuration

    @property
    def sources(self) -> Any:
        return getattr(self._own, "sources", None)

    @sources.setter
    def sources(self, sources: Any) -> None:
        self._own.sources = sources


class Quick:
    """The same in the loop: its sources answer out of memory, or raise WouldWait."""

    __slots__ = ("_service", "_sources")

    def __init__(self, service: Service) -> None:
        self._service = service
        self._sources: Any = None

    @property
    def in_force(self) -> Configuration | None:
        return self._service._configuration

    @property
    def configuration(self) -> Configuration:
        # Asked at each request: the same as the service's own property, without going there.
        return self._service._configuration or self._service.configuration

    @property
    def sources(self) -> Any:
        return self._sources

    @sources.setter
    def sources(self, sources: Any) -> None:
        if isinstance(sources, Sources):
            sources.quick = True
        self._sources = sources
