"""The store's own time: how long things have been in it, whatever becomes of the host's clock.

It runs while the host does, and a clock that is set, forwards or back, does not move it: between two moments of the
same boot, time is what CLOCK_BOOTTIME says (clock_gettime(2); it counts sleep too). Over a reboot there is nothing but
the clock to go by, which may be wrong until it has been set from the network: it is believed for MAX_STRIDE, and no
time at all has passed where it went back. So nothing waits for ever, and one wrong clock does not forget everything.

All in whole microseconds. A moment is (the clock's time, the boot's id or "", time since that boot).
"""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Moment = tuple[int, str, int]

SECOND = 1_000_000
# Who is down for longer is no worse off than by having been quick; what is remembered is so for longer. And what must
# not be forgotten, deliveries that Postfix may repeat for five days, has four such strides before it is.
MAX_STRIDE = 7 * 86400
# The row of the time is written this seldom; between two writes its time is reckoned.
RESOLUTION = 1 * SECOND

_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_known = ""


def micro(seconds: float) -> int:
    return int(seconds * SECOND)


def seconds(micros: int) -> int:
    """Whole seconds, upwards: who comes back after that many is not too early."""
    return -(-micros // SECOND)


def machine() -> Callable[[], Moment]:
    """Tells this host's moments. Where the system has no boot id, each moment is one of an unknown boot."""
    source = getattr(time, "CLOCK_BOOTTIME", None)
    boot = _boot() if source is not None else ""

    def moment() -> Moment:
        return micro(time.time()), boot, time.clock_gettime_ns(source) // 1000 if boot and source is not None else 0

    return moment


def given(clock: Callable[[], float]) -> Callable[[], Moment]:
    """Tells the moments of a clock that is right by definition: a test's, or a record's that is being replayed."""

    def moment() -> Moment:
        now = micro(clock())
        return now, "given", now

    return moment


def elapsed(before: Moment, now: Moment) -> int:
    """What passed between the two; never less than nothing."""
    if before[1] and before[1] == now[1]:
        return max(0, now[2] - before[2])
    return min(max(0, now[0] - before[0]), MAX_STRIDE * SECOND)


def _boot() -> str:
    """Read once: no process outlives its boot, and a service opens a store for each mail."""
    global _known
    if not _known:
        try:
            with open(_BOOT_ID) as file:
                _known = file.read(64).strip()
        except (OSError, UnicodeError):
            return ""
    return _known
