"""The newest configuration that was good, as the supervisor has it: workers begin with it, whatever the file is now.

Workers follow the file by themselves, and each goes on with what it read last. One that is started in the place of
another has read nothing yet: without this, a slip in the file and a worker that dies would put mail off.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from postroom import config
from postroom.runners.service import Service

if TYPE_CHECKING:
    from postroom.config import Configuration
    from postroom.runners.options import Options


class Latest:
    """`loaded` is Unix time. `stale`: a worker has read a newer one, to be set by who hears of it."""

    __slots__ = ("_due", "_options", "configuration", "loaded", "stale")

    def __init__(self, options: Options, configuration: Configuration) -> None:
        self._options = options
        self._due = 0.0
        self.configuration = configuration
        self.loaded = time.time()
        self.stale = False

    def read(self) -> Configuration:
        """The file as it is now. Raises ConfigurationFault."""
        self.configuration = config.load(self._options.config, self._options.state)
        self.loaded, self.stale = time.time(), False
        return self.configuration

    def look(self, now: float) -> None:
        """Read what a worker has read, if it is there still; workers say what is wrong with it."""
        if not self.stale or now < self._due:
            return
        try:
            if self.configuration.changed():
                self.read()
            self.stale = False
        except Exception:  # whatever it is: the one that works is not dropped for it
            self._due = now + Service.RETRY_INTERVAL
