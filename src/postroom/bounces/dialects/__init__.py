"""Readers of reports, one file each. To know what is read, and who is believed first, read this list.

A reader is `read(mail: Scanned) -> Report | None`; None: not in my language. The first that answers counts.
"""

from __future__ import annotations

from postroom.bounces.dialects import postfix, rfc3464

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from postroom.bounces.scan import Scanned
    from postroom.bounces.values import Report

READERS: tuple[Callable[[Scanned], Report | None], ...] = (
    postfix.read,  # before the standard: a copy for the postmaster looks like a report on the postmaster's own mail
    rfc3464.read,
)
