"""The cases the demo tells and the tests assert: one file each, in the order of the way of a mail.

A case yields a Line for each thing that was done to Postfix, as it happens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from postroom.lab.lab import Lab


@dataclass(frozen=True)
class Line:
    """What was sent, what Postfix and Postroom did, why; and whether that is what was to happen."""

    sent: str
    did: str
    why: str
    ok: bool


Case = Callable[["Lab"], Iterator[Line]]

# title, module:function
CASES: tuple[tuple[str, str], ...] = (
    ("The recipient's primary MX is shadysmtpd", "rule:primary_mx"),
    ("Delivery by rule", "delivery:by_rule"),
    ("Our fault defers", "faults:each_defers"),
    ("The loop closes: bounced, suppressed, refused", "loop:closes"),
    ("Notices to the postmaster", "notices:recorded"),
)


def load(name: str) -> Case:
    module, _, function = name.partition(":")
    case: Case = getattr(import_module(f"postroom.lab.cases.{module}"), function)
    return case


def short(reply: object) -> str:
    """The reply, less the words that Postfix puts before every policy text."""
    if reply is None:
        return "nothing"
    code, _, text = str(reply).replace("\n", " ").partition("Recipient address rejected: ")
    return f"{' '.join(code.split()[:2])} ... {text}" if text else code
