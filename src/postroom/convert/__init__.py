"""Rules of other programs as postroom.toml: one reader a dialect, and write.py, which says it as a person would.

    conversion = postfwd.convert(content, "postfwd.cf")
    text = write.text(conversion)

Rules for this room
* Nothing is dropped in silence. What has no counterpart is a Finding with its line, and a comment at its place.
* A rule of which one condition has no counterpart is left out as a whole: with the rest alone it would match more mail.
* What decides is what the other program does, not what its manual says. tests/convert asks the program itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

# A finding of these levels means that the new file may decide otherwise than the old one.
LOST, CHANGED = "lost", "changed"
# The new file decides as the old one; this is something that its author will want to know.
NOTE = "note"


@dataclass(frozen=True)
class Finding:
    """Something about a line of the source. `source` is the line itself where nothing was made of it."""

    line: int
    level: str
    text: str
    source: str = ""


@dataclass
class Rule:
    """One [[rule]] to be written; `line` is where it stood, `remarks` are comments to go above it."""

    line: int
    identity: str
    stage: str
    action: str
    match: dict[str, Any] = field(default_factory=dict)
    unless: dict[str, Any] = field(default_factory=dict)
    any: list[dict[str, Any]] = field(default_factory=list)
    on_error: str = ""
    mode: str = ""
    remarks: list[str] = field(default_factory=list)

    @property
    def table(self) -> dict[str, Any]:
        """As TOML has it, in the order in which people write it."""
        found: dict[str, Any] = {"id": self.identity, "at": self.stage}
        found |= {"mode": self.mode} if self.mode else {}
        found |= {name: value for name in ("match", "any", "unless") if (value := getattr(self, name))}
        found["action"] = self.action
        # Whoever wrote the old file meant it: what lets mail pass has to be said to be meant.
        if self.action == "OK" or (self.action.startswith("restrict ") and "permit" in self.action):
            found["allow_ok"] = True
        return found | ({"on_error": self.on_error} if self.on_error else {})


@dataclass
class Conversion:
    """What became of a file. `entries` are rules, and findings at the place where they belong."""

    title: str
    settings: dict[str, Any] = field(default_factory=dict)
    lists: dict[str, dict[str, Any]] = field(default_factory=dict)
    entries: list[Rule | Finding] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    _told: set[Finding] = field(default_factory=set)

    @property
    def rules(self) -> list[Rule]:
        return [entry for entry in self.entries if isinstance(entry, Rule)]

    @property
    def complete(self) -> bool:
        return all(finding.level == NOTE for finding in self.findings)

    def found(self, line: int, level: str, text: str, source: str = "") -> None:
        """Tells of it once, and puts it where a rule would have stood."""
        finding = Finding(line, level, text, source)
        if finding not in self._told:
            self._told.add(finding)
            self.findings.append(finding)
            self.entries.append(finding)

    def remarked(self, rule: Rule, level: str, text: str) -> None:
        """Tells of it, above a rule that was made all the same."""
        self.findings.append(Finding(rule.line, level, text))
        rule.remarks.append(text)
