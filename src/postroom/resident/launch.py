"""What is settled before the service starts, and stays so for as long as it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from postroom.resident.account import Account
from postroom.resident.generation import Programs
from postroom.resident.notify import Notify
from postroom.resident.passed import Passed
from postroom.runners.options import Options


@dataclass(frozen=True)
class Launch:
    """How it was called, as whom it runs, and what its children run.

    `announce` is called once: with "" when everything is up, or with why that cannot be. `private` are descriptors
    that children do not keep.
    """

    options: Options
    account: Account
    passed: Passed
    programs: Programs
    notify: Notify
    announce: Callable[[str], None]
    private: tuple[int, ...] = ()
