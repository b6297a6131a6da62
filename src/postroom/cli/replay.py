"""`postroom replay`: recorded requests decided again, and what comes out differently.

With --json one object a line. For each group of decisions that differ: `at`, `old` and `new` (each `rule`, `action`:
its first word), `count`, `examples` (each `line`, `time`, `queue_id`, `sender`, `recipient`, `client_address`,
`old_action`, `new_action`, `reason`); with --summary for each rule: `at`, `rule`, `old` and `new` (decisions),
`on_error`, `old_shadow`, `shadow`; at the end `summary`: `lines`, `compared`, `differ`, `other_rule`, `not_recorded`,
`cut`, `bad`, `hashed`, `seconds`.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import nullcontext
from dataclasses import dataclass, field
from time import gmtime, perf_counter, strftime
from typing import IO, TYPE_CHECKING, Any

import click

from postroom import config
from postroom.cli.trace import Style
from postroom.record.compare import Change, Comparison, Example, Group, decided, recorded
from postroom.record.read import Line, lines
from postroom.record.replay import Replay
from postroom.rules import keys
from postroom.status import ConfigurationFault, clean

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

# The terminal is told after so many lines; a line takes some 50 microseconds.
_STEP = 500

# Lines that are no decisions are told one by one up to here, and then only counted.
_BAD_SHOWN = 10


@dataclass
class Run:
    """What was read so far."""

    comparison: Comparison
    lines: int = 0
    bad: list[tuple[int, str]] = field(default_factory=list)
    bad_count: int = 0
    seconds: float = 0.0
    interrupted: bool = False

    def refuse(self, number: int, why: str) -> None:
        self.bad_count += 1
        if len(self.bad) < _BAD_SHOWN:
            self.bad.append((number, why))


@click.command()
@click.option("--rules", metavar="FILE", type=click.Path(), help="The configuration to try.")
@click.option("--against", metavar="FILE", type=click.Path(), help="Compare with this one, not with what was decided.")
@click.option("--examples", metavar="N", default=3, show_default=True, type=click.IntRange(0, 1000), help="A group.")
@click.option("--summary", is_flag=True, help="Count decisions by rule, those of shadow rules too.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line; the fields are in postroom(1).")
@click.argument("file", metavar="FILE", type=click.Path())
def command(file: str, rules: str | None, against: str | None, examples: int, summary: bool, as_json: bool) -> None:
    """Decide again what was recorded in FILE ("-": standard input), and show what comes out differently.

    What DNS, state, message and clock said comes from the record: no network is needed, and each run says the same.
    Lists are read from the files that the rules name now. What a new rule asks and nobody had asked then is "not
    recorded": counted, and shown apart.

    Exit status: 0 nothing differs, 1 something does, 65 not one line is a decision, 66 FILE cannot be read, 78 bad
    configuration, 64 wrong usage.
    """
    if rules is None and (against is not None or not summary):
        raise click.UsageError("expected --rules FILE, the configuration to try, or --summary alone")
    new, old = _replay(rules), _replay(against)
    run = Run(Comparison(examples))
    start = perf_counter()
    try:
        with open(0, "rb", closefd=False) if file == "-" else open(file, "rb") as stream:
            _read(run, stream, old, new)
    except OSError as error:
        click.echo(f"{clean(file)}: {os.strerror(error.errno or 0)}", err=True)
        raise SystemExit(os.EX_NOINPUT) from None
    run.seconds = perf_counter() - start
    for number, why in run.bad:
        click.echo(f"{clean(file)}: line {number}: {why}; skipped", err=True)
    told = _json(run, summary) if as_json else _text(run, summary, new is not None, Style.for_stdout())
    click.echo("\n".join(told))
    raise SystemExit(_status(run))


def _status(run: Run) -> int:
    if run.interrupted:
        return 130
    if run.bad_count and run.bad_count == run.lines:
        return os.EX_DATAERR
    return 1 if run.comparison.differ else 0


def _replay(file: str | None) -> Replay | None:
    if file is None:
        return None
    try:
        return Replay(config.load(file))
    except ConfigurationFault as fault:
        click.echo(f"{fault}\nSee: postroom check {clean(file)}", err=True)
        raise SystemExit(os.EX_CONFIG) from None


def _read(run: Run, stream: IO[bytes], old: Replay | None, new: Replay | None) -> None:
    """All lines. Interrupted, it leaves what there is so far."""
    done = 0
    try:
        with _progress(stream) as bar:
            for number, size, line in lines(stream, keys.STAGES):
                run.lines += 1
                if isinstance(line, str):
                    run.refuse(number, line)
                else:
                    _again(run.comparison, number, line, old, new)
                if bar is not None and run.lines % _STEP == 0:
                    bar.update(size - done)
                    done = size
            if bar is not None:
                bar.update(bar.length - done)
    except KeyboardInterrupt:
        run.interrupted = True


def _progress(stream: IO[bytes]) -> AbstractContextManager[Any]:
    """A bar on a terminal, where the length of the record is known."""
    size = os.fstat(stream.fileno()).st_size
    if not sys.stderr.isatty() or not size:
        return nullcontext()
    return click.progressbar(length=size, label="Replaying", file=sys.stderr, width=0)


def _again(comparison: Comparison, number: int, line: Line, old: Replay | None, new: Replay | None) -> None:
    before, missing = recorded(line), []
    if new is None:
        comparison.count(line, before)
        return
    if old is not None:
        before = decided(old.decide_line(line))
        missing = old.missing
    after = decided(new.decide_line(line))
    comparison.add(number, line, before, after, missing + new.missing)


def _groups(run: Run) -> list[tuple[Change, Group]]:
    """The largest first."""
    return sorted(run.comparison.groups.items(), key=lambda item: -item[1].count)


def _text(run: Run, summary: bool, compared: bool, style: Style) -> list[str]:
    found: list[str] = []
    for change, group in _groups(run):
        found += [*_group(change, group, style), ""]
    if run.comparison.missing:
        found += [style.strong("Not in the record, so not compared:")]
        for (stage, kind), count in run.comparison.missing.most_common():
            found.append(f"  at {stage}: the rules ask for {_NEEDS.get(kind, kind)} in {_number(count, 'decision')}")
        found.append("")
    if summary:
        found += [*_summary(run, compared, style), ""]
    return [*found, *_end(run, compared, style)]


_NEEDS = {
    "mx": "MX records",
    "addresses": "addresses of hosts",
    "ns": "name servers",
    "dnsbl": "block lists",
    "fcrdns": "the client's reverse name",
    "suppressed": "suppressions",
    "seen": "what was seen before",
    "greylist": "the greylist",
    "rate": "a rate",
    "header": "headers",
    "attachments": "attachments",
    "country": "the client's country",
}


def _group(change: Change, group: Group, style: Style) -> list[str]:
    count = _number(group.count, "decision")
    old, new = _said(change.old_rule, change.old_verb), _said(change.new_rule, change.new_verb)
    found = [f"{style.strong(count)} at {change.stage}: {old} -> {style.strong(new)}"]
    for example in group.examples:
        found += _example(example)
    if more := group.count - len(group.examples):
        found.append(f"    and {more:,} more" if group.examples else f"    {more:,}")
    return found


def _said(rule: str | None, verb: str) -> str:
    return clean(f"{rule or 'no rule'}: {verb or 'none'}")


def _example(example: Example) -> list[str]:
    line, new = example.line, example.new
    given = line.attributes
    who = f"{given.get('sender', '') or '<>'} to {given.get('recipient', '') or '-'}"
    client = given.get("client_address", "")
    place = f"line {example.number}, {_time(line.time)}, {given.get('queue_id') or 'NOQUEUE'}: "
    why = f" ({new.reason})" if new.on_error else ""
    return [
        "    " + clean(place + who + (f", from {client}" if client else "")),
        "        was " + (clean(example.old.action) or "none"),
        "        now " + (clean(new.action) or "none") + clean(why),
    ]


def _summary(run: Run, compared: bool, style: Style) -> list[str]:
    """A table of rules, in the order in which they first spoke."""
    heads = ("at", "rule", "was", "now", "on_error", "shadow was", "shadow now") if compared else (
        "at", "rule", "decided", "shadow",
    )  # fmt: skip
    rows = []
    for (stage, rule), tally in run.comparison.tallies.items():
        counts: tuple[int, ...] = tally.old, tally.old_shadow
        if compared:
            counts = tally.old, tally.new, tally.on_error, tally.old_shadow, tally.shadow
        rows.append((stage, clean(rule or "no rule"), *(f"{count:,}" if count else "-" for count in counts)))
    widths = [max(len(row[column]) for row in (heads, *rows)) for column in range(len(heads))]
    found = []
    for row in (heads, *rows):
        cells = [
            f"{cell:<{width}}" if column < 2 else f"{cell:>{width}}"
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        found.append("  ".join(cells).rstrip())
    return [style.strong(found[0]), *found[1:]]


def _end(run: Run, compared: bool, style: Style) -> list[str]:
    """The sentence that somebody in a hurry reads."""
    comparison = run.comparison
    found = []
    if compared:
        differ = f"{comparison.differ:,} of {_number(comparison.compared, 'decision')} differ"
        found.append(style.strong(style.paint(differ, "unknown" if comparison.differ else "true")) + ".")
        notes = [
            ("Alike, though another rule decides", comparison.renamed),
            ("Not compared, since the rules ask what was not recorded", comparison.not_recorded),
            ("Not compared, since the record has only a part of them", comparison.cut),
            ("With hashed addresses: local parts match no rule, only first words were compared", comparison.hashed),
        ]
        found += [f"{note}: {count:,}." for note, count in notes if count]
    if run.bad_count:
        found.append(f"Lines that are no decisions, and were skipped: {run.bad_count:,}.")
    speed = f" ({run.lines / run.seconds:,.0f} a second)" if run.seconds > 1 else ""
    state = "Interrupted after" if run.interrupted else "Read"
    return [*found, f"{state} {_number(run.lines, 'line')} in {run.seconds:.1f} s{speed}."]


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def _time(seconds: float) -> str:
    try:
        return strftime("%Y-%m-%dT%H:%M:%SZ", gmtime(seconds))
    except (OverflowError, ValueError, OSError):
        return "at no time"


def _json(run: Run, summary: bool) -> Iterator[str]:
    for change, group in _groups(run):
        yield json.dumps({
            "at": change.stage,
            "old": {"rule": change.old_rule, "action": change.old_verb},
            "new": {"rule": change.new_rule, "action": change.new_verb},
            "count": group.count,
            "examples": [_fields(example) for example in group.examples],
        })  # fmt: skip
    for (stage, rule), tally in run.comparison.tallies.items() if summary else ():
        yield json.dumps({"at": stage, "rule": rule, **vars(tally)})
    comparison = run.comparison
    yield json.dumps({
        "summary": {
            "lines": run.lines,
            "compared": comparison.compared,
            "differ": comparison.differ,
            "other_rule": comparison.renamed,
            "not_recorded": comparison.not_recorded,
            "cut": comparison.cut,
            "bad": run.bad_count,
            "hashed": comparison.hashed,
            "seconds": round(run.seconds, 3),
        }
    })  # fmt: skip


def _fields(example: Example) -> dict[str, object]:
    given = example.line.attributes
    names = ("queue_id", "sender", "recipient", "client_address")
    return {
        "line": example.number,
        "time": _time(example.line.time),
        **{name: given.get(name) for name in names},
        "old_action": example.old.action,
        "new_action": example.new.action,
        "reason": example.new.reason,
    }
