"""Wire programs into a Postfix: their master.cf entries and the main.cf lines they need; and take them out again.

Every line that is added stands under a comment line that says so; unwiring removes the lines under such comments and
nothing else. What an administrator wrote himself is respected where it serves, and refused with the reason where not.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path

from postroom.postfix import entry as entries
from postroom.postfix.commit import Change, Refusal
from postroom.postfix.fragment import Fragment, Requirement, filled, start_of
from postroom.postfix.logical import SPACE, words
from postroom.postfix.maincf import MainFile
from postroom.postfix.mastercf import MasterFile, Service
from postroom.postfix.postconf import Postconf, PostconfError, seconds

MARK = "# added by postroom wire"
# How parameters begin that are ours alone: what they name is there for the sake of another line.
OWN = "postroom_"
# Between the program's own deadline and Postfix's limit: time to start, to write its answer and to end.
MARGIN_SECONDS = 60
# pipe_delivery_status_filter came with 3.0, tables written out in main.cf with 3.7.
FILTER_SINCE = (3, 0)
INLINE_SINCE = (3, 7)
INLINE_TABLE = re.compile(r"regexp:\{\{(?P<line>.*)\}\}")
PARAMETER = re.compile(r"\$[{(]?(\w+)")
FILTER_FILE = "postroom-status-filter"


@dataclass
class Files:
    """The configuration while it is being changed."""

    directory: Path
    version: tuple[int, ...]
    master: MasterFile
    main: MainFile
    table: str | None
    before: tuple[str | None, str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.before = (self.table, self.master.text, self.main.text)

    @classmethod
    def read(cls, postconf: Postconf) -> Files:
        """The files of one configuration directory; Refusal where there is none."""
        texts = {}
        for name in ("master.cf", "main.cf"):
            path = postconf.directory / name
            if not path.is_file():
                raise Refusal([f"{path} does not exist: configure Postfix first, or name its folder with --postfix"])
            texts[name] = load(path)
        table = postconf.directory / FILTER_FILE
        return cls(
            postconf.directory,
            postconf.version(),
            MasterFile(texts["master.cf"]),
            MainFile(texts["main.cf"]),
            load(table) if table.is_file() else None,
        )

    def changes(self) -> list[Change]:
        """The files whose text is another now."""
        # In the order in which to write them: what main.cf names is there before it is named.
        names = (FILTER_FILE, "master.cf", "main.cf")
        after = (self.table, self.master.text, self.main.text)
        return [
            Change(self.directory / name, old, new)
            for name, old, new in zip(names, self.before, after, strict=True)
            if old != new
        ]


def load(path: Path) -> str:
    """A configuration file as text that turns into the same bytes again; no newline is translated."""
    return path.read_bytes().decode("utf-8", "surrogateescape")


@dataclass
class Wiring:
    """Adds programs to the files; everything that stands in the way is collected in `reasons`.

    `start` is what stands in front of a program's path; an entry that has something there keeps it.
    """

    postconf: Postconf
    files: Files
    start: tuple[str, ...] = ()
    reasons: list[str] = field(default_factory=list)

    def add(self, fragment: Fragment, path: str, user: str, config: str, deadline: float | None) -> None:
        """Wire one program; `deadline` is what its configuration says."""
        self._add_entry(fragment, path, user, config)
        own = self._deadline(fragment, deadline)
        for requirement in fragment.requirements:
            add = {"=": self._require, ">=": self._require_time, "+=": self._require_item}[requirement.operator]
            add(fragment, requirement, own)

    def _deadline(self, fragment: Fragment, configured: float | None) -> float:
        present = self.files.master.get(fragment.service.key)
        given = entries.command(present).option("--deadline") if present else ""
        try:
            return float(given) if given else configured or 0.0
        except ValueError:
            self.reasons.append(f"master.cf: {fragment.program}: --deadline {given}: not a number of seconds")
            return 0.0

    # master.cf

    def _add_entry(self, fragment: Fragment, path: str, user: str, config: str) -> None:
        master, key = self.files.master, fragment.service.key
        number = master.index(key)
        start = self.start or (start_of(master.blocks[number].text) if number is not None else ())
        text = filled(fragment.entry, path, user, config, start)
        if number is None:
            self.files.master = master.added(f"{MARK}: {fragment.title}\n{text}")
            return
        present, wanted = master.blocks[number].text, entries.read(text)
        if not entries.lack(entries.read(present), wanted):
            return
        if marked(master.line_above(key)):
            mended = filled(present, path, user, config, start)
            mended = entries.mended(mended, entries.lack(entries.read(mended), wanted))
            left = entries.lack(entries.read(mended), wanted)
            self.files.master = master.replaced(key, mended)
        else:
            left = entries.lack(entries.read(present), wanted)
        if left:
            self.reasons.append(f"master.cf has an entry {key} that does not fit: {left}; mend or remove it first")

    # main.cf

    def _require(self, fragment: Fragment, requirement: Requirement, deadline: float) -> None:
        name, value = requirement.name, self._value(requirement.value)
        present = self.files.main.get(name)
        if present is None or (squeezed(present) != squeezed(value) and marked(self.files.main.line_above(name))):
            self._set(fragment, name, value)
        elif squeezed(present) != squeezed(value):
            self.reasons.append(f"main.cf sets {name} = {present}, {fragment.program} needs {value}: remove that line")

    def _value(self, value: str) -> str:
        """The value for this version of Postfix: before 3.7 a table stands in a file of its own."""
        inline = INLINE_TABLE.fullmatch(value)
        if inline is None or self.files.version >= INLINE_SINCE:
            return value
        if self.files.version < FILTER_SINCE:
            self.reasons.append("Postfix before 3.0 has no pipe_delivery_status_filter: our faults would bounce mail")
        self.files.table = f"{MARK}\n{inline['line'].replace('$$', '$')}\n"
        return f"regexp:$config_directory/{FILTER_FILE}"

    def _require_time(self, fragment: Fragment, requirement: Requirement, deadline: float) -> None:
        name, present = requirement.name, self.files.main.get(requirement.name)
        wanted = max(int(seconds(requirement.value)), math.ceil(deadline) + MARGIN_SECONDS)
        if present is None:
            self._set(fragment, name, f"{wanted}s")
            return
        try:
            limit = seconds(present) if "$" not in present else self.postconf.seconds(name)
        except PostconfError as error:
            self.reasons.append(f"main.cf: {name}: {error}")
            return
        if limit > deadline:
            return
        if marked(self.files.main.line_above(name)):
            self._set(fragment, name, f"{wanted}s")
        else:
            self.reasons.append(
                f"main.cf sets {name} = {present}, not above the deadline of {fragment.program} ({deadline:g} s): "
                "Postfix would bounce what takes that long"
            )

    def _set(self, fragment: Fragment, name: str, value: str) -> None:
        main = self.files.main
        if main.index(name) is not None:
            self.files.main = main.replaced(name, f"{name} = {value}\n")
        else:
            self.files.main = main.added(f"{mark(fragment, name)}\n{name} = {value}\n")

    def _require_item(self, fragment: Fragment, requirement: Requirement, deadline: float) -> None:
        name, item, main = requirement.name, requirement.value, self.files.main
        if places(self.files, item):
            return
        if main.index(name) is None:
            self.files.main = main.added(f"{mark(fragment, name)}\n{name} = {item}\n")
            return
        last = main.last_word(name)
        last_in_force = self._last_in_force(name) if "$" in last else last
        if last_in_force in ("permit", "reject", "defer") and last != "permit":
            self.reasons.append(
                f"main.cf: {name} ends in {last_in_force}, and Postfix looks at nothing behind that: "
                f"put `{item}` where it belongs, then run this again"
            )
        elif last == "permit":
            self.files.main = main.with_item_before_last(name, item)
        else:
            self.files.main = main.with_item(name, item)

    def _last_in_force(self, name: str) -> str:
        listed = self.postconf.expanded(name).replace(",", " ").split()
        return listed[-1] if listed else ""


@dataclass
class Unwiring:
    """Removes from the files what Wiring added."""

    files: Files
    reasons: list[str] = field(default_factory=list)

    def remove(self, fragment: Fragment) -> None:
        """Unwire one program."""
        master, key = self.files.master, fragment.service.key
        if master.index(key) is not None:
            if not marked(master.line_above(key)):
                self.reasons.append(f"master.cf: postroom wire did not make the entry {key}: remove it by hand")
                return
            self.files.master = master.removed(key, comments=1)
        for requirement in fragment.requirements:
            self._unset(requirement) if requirement.operator != "+=" else self._take_out(requirement)
        if fragment.service.command == "spawn":
            # smtpd(8) and trivial-rewrite(8) put off all mail while they are told to ask a service that is not there.
            named = places(self.files, address(fragment.service))
            self.reasons += [f"{place} still names {address(fragment.service)}: take it out first" for place in named]

    def _unset(self, requirement: Requirement) -> None:
        name, main = requirement.name, self.files.main
        # A parameter of several programs goes with the last of them.
        if f"${name}" in self.files.master.text or f"${{{name}}}" in self.files.master.text:
            return
        if main.index(name) is not None and marked(main.line_above(name)):
            if FILTER_FILE in (main.get(name) or ""):
                self.files.table = None
            self.files.main = main.removed(name, comments=1)

    def _take_out(self, requirement: Requirement) -> None:
        name, item, main = requirement.name, requirement.value, self.files.main
        if main.index(name) is not None and marked(main.line_above(name)) and main.get(name) == item:
            self.files.main = main.removed(name, comments=1)
        else:
            self.files.main = main.without_item(name, item)


def places(files: Files, item: str) -> list[str]:
    """Where a service, or a table of one, is named already: values of main.cf, -o options of master.cf."""
    wanted = endpoint(item)
    names = [name for name in dict.fromkeys(files.main.names()) if not name.startswith(OWN)]
    found = [f"main.cf: {name}" for name in names if wanted in (files.main.get(name) or "")]
    for service in files.master.services():
        found += [f"master.cf: {service.key}: -o {name}" for name, value in service.options.items() if wanted in value]
    return found


def unasked(files: Files, fragment: Fragment) -> list[str]:
    """Who never gets to a policy service: clients that are permitted before it, services with a list of their own."""
    found = []
    for requirement in fragment.requirements:
        if requirement.operator == "+=":
            before = permits_before(files.main.get(requirement.name) or "", endpoint(requirement.value))
            if before:
                found.append(f"{fragment.program}: stands behind {', '.join(before)}: those clients are not asked")
            found += overriding(files, requirement)
    return found


def permits_before(restrictions: str, service: str) -> list[str]:
    """The permit_* in a list in front of a policy service; none where the list does not name it."""
    listed = words(restrictions, SPACE + ",\n")
    before = listed[: listed.index(service)] if service in listed else []
    return list(dict.fromkeys(word for word in before if word.startswith("permit_")))


def overriding(files: Files, requirement: Requirement) -> list[str]:
    """The smtpd(8) services of master.cf whose own -o list does not name a policy service."""
    name, wanted, found = requirement.name, endpoint(requirement.value), []
    for service in files.master.services():
        value = service.options.get(name) if service.command == "smtpd" else None
        if value is None:
            continue
        # Distributions write -o smtpd_recipient_restrictions=$mua_recipient_restrictions.
        named = [files.main.get(parameter) or "" for parameter in PARAMETER.findall(value)]
        if not any(wanted in text for text in (value, *named)):
            found.append(f"{service.name}: has its own -o {name}: the service is not asked there")
    return found


def endpoint(item: str) -> str:
    """`unix:private/rule-policy` of `check_policy_service unix:private/rule-policy`."""
    return item.split()[-1]


def address(service: Service) -> str:
    """What every name for a service of spawn(8) holds: `unix:private/NAME`, or `HOST:PORT` behind `inet:` or `tcp:`."""
    return service.name if service.type == "inet" else f"unix:private/{service.name}"


def mark(fragment: Fragment, name: str) -> str:
    """The comment line above a setting; one that several programs share names none of them."""
    return f"{MARK} for {fragment.program}" if fragment.program in name else MARK


def marked(line: str) -> bool:
    """Whether a line is the comment that `wire` puts above what it adds."""
    return line.startswith(MARK)


def squeezed(value: str) -> str:
    """A value with its white space made one blank each, to compare."""
    return " ".join(value.split()).strip(SPACE)
