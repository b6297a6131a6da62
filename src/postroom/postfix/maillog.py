"""Postfix's log file as an administrator reads it: wait for a line, and list what became of each recipient.

Postfix logs one line for each recipient and attempt (`to=<...>, relay=..., dsn=..., status=sent (text)`); those lines
are the only place where a test sees what Postfix decided about a mail.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path

# How often the file is looked at while waiting: short against a delivery, long against the cost of a read.
POLL_SECONDS = 0.02

DELIVERY = re.compile(
    r"""^(?:\w{3}\ [ \d]\d\ [\d:]{8}|\S+)\ \S+\ \S+?/(?P<service>[^\s\[]+)\[\d+\]:
        \ (?P<queue_id>[0-9A-Za-z]+):
        \ to=<(?P<recipient>.*?)>,(?:\ orig_to=<(?P<original>.*?)>,)?
        \ relay=(?P<relay>.*?),\ .*?\bdsn=(?P<dsn>[245]\.\d{1,3}\.\d{1,3}),
        \ status=(?P<status>[A-Za-z]+)(?:\ \((?P<text>.*))?$""",
    re.VERBOSE,
)


@dataclass(frozen=True)
class Delivery:
    """One `status=` line: what a delivery agent reported about one recipient."""

    queue_id: str
    recipient: str
    original: str
    service: str
    relay: str
    dsn: str
    status: str
    text: str


class Waited(TimeoutError):
    """A log line that never came; the text ends in the last lines that did."""


class Maillog:
    """One log file that Postfix (postlogd) or a program of ours appends to."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def text(self, since: int = 0) -> str:
        """The log from byte `since`; a file that does not exist yet is an empty log."""
        try:
            with self.path.open("rb") as file:
                file.seek(since)
                return file.read().decode("utf-8", "surrogateescape")
        except FileNotFoundError:
            return ""

    def size(self) -> int:
        """Where the log ends now, as a `since` for what comes next."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def wait_for(self, pattern: str, timeout: float = 30, since: int = 0) -> re.Match[str]:
        """The first match of the regular expression in the log, waiting for it; Waited after `timeout` seconds."""
        wanted = re.compile(pattern, re.MULTILINE)
        end = time.monotonic() + timeout
        while True:
            # Taken before the read: a line written while we look then gets one more look.
            late = time.monotonic() >= end
            text = self.text(since)
            # Only whole lines, or a pattern could match the first half of a number.
            match = wanted.search(text, 0, text.rfind("\n") + 1)
            if match:
                return match
            if late:
                raise Waited(f"no line matched {pattern!r} in {timeout:g} s; the log ends:\n{tail(text)}")
            time.sleep(POLL_SECONDS)

    def deliveries(self, since: int = 0) -> list[Delivery]:
        """Every `status=` line, in the order of the log."""
        matches = (DELIVERY.match(line) for line in self.text(since).splitlines())
        return [delivery(match) for match in matches if match]


def delivery(match: re.Match[str]) -> Delivery:
    """The named groups of DELIVERY as a value."""
    group = match.groupdict(default="")
    return Delivery(
        queue_id=group["queue_id"],
        recipient=group["recipient"],
        original=group["original"] or group["recipient"],
        service=group["service"],
        relay=group["relay"],
        dsn=group["dsn"],
        status=group["status"],
        # Postfix cuts a log line at 2000 characters, and then the parenthesis has no end.
        text=group["text"].removesuffix(")"),
    )


def tail(text: str, lines: int = 15) -> str:
    """The last lines of a log, for a message."""
    return "\n".join(text.splitlines()[-lines:])
