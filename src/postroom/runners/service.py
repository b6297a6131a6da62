"""What a runner that lives through many requests lends to each of them: the configuration, kept up to date."""

from __future__ import annotations

import os
from time import monotonic

from postroom import log
from postroom.runners.faults import program, words
from postroom.runners.options import Options
from postroom.status import ConfigurationFault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from postroom.config import Configuration


class Service:
    """What the runner lends to every request of the connection.

    `sources` is the program's own: a place for what is worth keeping between requests, such as a resolver with
    its cache. `configuration` is another object after each change of the file or of its lists.
    """

    __slots__ = (
        "_checked", "_configuration", "_fault", "_most", "_options", "_reported", "_seen", "_tried", "limit", "sources",
    )  # fmt: skip

    # Under which the log has its lines, where it is not the program's.
    NAME = ""

    # How long a configuration may be out of date; and how soon a bad one whose file is as it was is tried again, since
    # the cause may lie in another file.
    CHECK_INTERVAL = 1.0
    RETRY_INTERVAL = 5.0

    def __init__(self, options: Options, limit: float) -> None:
        """`limit`: seconds for a request where neither command line nor file says less."""
        self.sources: Any = None
        self.limit = self._most = options.deadline or limit
        self._options = options
        self._configuration: Configuration | None = None
        self._fault = ""  # what is wrong with the file as it is now
        self._reported = ""  # the same, where the log has it
        self._checked = self._tried = float("-inf")
        self._seen: tuple[int, ...] = ()

    @property
    def configuration(self) -> Configuration:
        """The configuration file, read on first use and after changes. Raises ConfigurationFault without a good one."""
        now = monotonic()
        if now - self._checked >= self.CHECK_INTERVAL:
            self._checked = now
            self._check(now)
        if self._configuration is None:
            raise ConfigurationFault(self._fault)
        return self._configuration

    def _check(self, now: float) -> None:
        if self._configuration is not None and not self._configuration.changed():
            self._fault = self._reported = ""  # a bad file may have been put back
            return
        if self._configuration is not None and self._configuration.being_written():
            return
        seen = _version(self._options.config)
        if self._fault and seen == self._seen and now - self._tried < self.RETRY_INTERVAL:
            return
        if seen != self._seen:
            self._reported = ""
        self._seen, self._tried = seen, now
        try:
            self._load()
        except Exception as error:  # a bug in reading it is no reason to drop the one that works
            self._fault = words(error)
            self._report()

    def _load(self, why: str = "has changed") -> None:
        from postroom import config

        replaced = self._configuration is not None
        self._use(config.load(self._options.config, self._options.state))
        if replaced:
            log.info("", text=f"{self._options.config} {why} and is in force")

    def _use(self, configuration: Configuration) -> None:
        from postroom.rules.seen import remember

        configuration.rules = remember(configuration.rules)
        self._configuration = configuration
        self._fault = self._reported = ""
        log.open(self.NAME or program(), self._options.log or configuration.log, configuration.log_format)
        if self._options.deadline is None:
            # The file's deadline is for deliveries too, which may take longer than Postfix waits here.
            self.limit = min(self._most, configuration.deadline)

    def _report(self) -> None:
        """Once per change. Without a configuration each request that fails for it is logged, which says it too."""
        if self._configuration is not None and self._fault != self._reported:
            self._reported = self._fault
            log.error("", fault="configuration", text=f"{self._fault}; the one before stays in force")


def _version(path: str) -> tuple[int, ...]:
    try:
        status = os.stat(path)
    except OSError:
        return ()
    return (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino)
