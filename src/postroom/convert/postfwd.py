"""postfwd's rule files: lines, macros and items as postfwd 1.35 takes them apart (its read_config_file, acl_parser and
parse_config_line), and a [[rule]] made of each.

postfwd asks every rule in every state of the SMTP session; a [[rule]] belongs to one stage. So rules are made for each
stage that the file speaks of by protocol_state, and for rcpt, or for those that the user names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from postroom.convert import CHANGED, LOST, NOTE, Conversion, Rule
from postroom.convert.conditions import Lists, Never, Untranslated, conditions
from postroom.convert.deeds import deed
from postroom.convert.items import STATES, Item, state_truth
from postroom.convert.source import is_utf8
from postroom.rules.keys import KEYS

# What macros may grow a line to: a macro that holds itself would never end. postfwd gives up after three seconds.
EXPANSION_LIMIT = 256 * 1024
MACROS_LIMIT = 1000

_SEPARATOR = r"[=~<>]=|[<>]|[=!][=~<>]|="
_ITEM = re.compile(rf"^\s*([^=\s]+?)\s*({_SEPARATOR})\s*(.*)$", re.DOTALL)
_DEFINITION = re.compile(r"^\s*(&&[-\w]+)\s*\{")
_MACRO = re.compile(r"&&[-\w]+")

# Items of which the last one counts, and those whose values commas part.
_SINGLE = ("id", "action", "score", "rblcount", "rhsblcount")
_SEVERAL = (
    "client_address", "sender_ns_addrs", "sender_mx_addrs", "helo_address", "date", "time", "days", "months",
    "rbl", "rhsbl", "rhsbl_client", "rhsbl_helo", "rhsbl_sender", "rhsbl_reverse_client",
)  # fmt: skip

_TITLE = "Made from {name}, rules of postfwd, by postroom import; the comments name its lines."


@dataclass
class Line:
    """A logical line: the physical one it begins on, the comments above it, and its text."""

    number: int
    text: str
    comments: list[str] = field(default_factory=list)


@dataclass
class Source:
    """A rule as postfwd holds it: single items by name, the others as they stand."""

    line: Line
    index: int
    single: dict[str, str] = field(default_factory=dict)
    items: list[Item] = field(default_factory=list)

    @property
    def identity(self) -> str:
        return self.single.get("id", f"R-{self.index}")


def convert(text: str, name: str, stages: Sequence[str] = ()) -> Conversion:
    """All of a file. `stages` names those to make rules for; none: rcpt, and those that the file speaks of."""
    # postfwd compares whole addresses: with no delimiter, "user@domain" is that address and nothing else here too.
    conversion = Conversion(_TITLE.format(name=name), {"recipient_delimiter": ""})
    sources = _sources(text)
    wanted = list(stages) or _stages(sources)
    lists = Lists(conversion)
    outcomes = [_outcomes(source, wanted, lists) if isinstance(source, Source) else [] for source in sources]
    for stage in wanted:
        for source, made in zip(sources, outcomes, strict=True):
            if stage == wanted[0]:
                _tell(source, made, conversion)
            _enter([one for one in made if isinstance(one, Made) and one.rule.stage == stage], conversion)
    _name(conversion, wanted)
    return conversion


@dataclass
class Made:
    """A rule, and remarks on what it decides otherwise."""

    rule: Rule
    changed: list[str]


def _enter(made: list[Made], conversion: Conversion) -> None:
    for one in made:
        for remark in one.changed:
            conversion.remarked(one.rule, CHANGED, remark)
        conversion.entries.append(one.rule)


def _tell(source: Source | Line, made: Sequence[Made | tuple[str, str]], conversion: Conversion) -> None:
    """Why there is no rule, each reason once. What never matches at one stage may do so at another."""
    if isinstance(source, Line):
        conversion.found(source.number, *_failed(source))
        return
    done = any(isinstance(one, Made) for one in made)
    for level, reason in dict.fromkeys(one for one in made if not isinstance(one, Made)):
        if level != NOTE or not done:
            conversion.found(source.line.number, level, reason, source.line.text)


def _sources(text: str) -> list[Source | Line]:
    """Rules, and lines that postfwd does not read either."""
    macros: dict[str, str] = {}
    found: list[Source | Line] = []
    count = 0
    for line in logical_lines(text):
        definition = _DEFINITION.match(line.text)
        body = line.text[definition.end() :].rstrip("; \t") if definition else ""
        if definition and body.endswith("}"):
            macros[definition[1]] = body[:-1].strip("; \t")
            continue
        source = _source(line, count, macros)
        count += isinstance(source, Source)
        found.append(source)
    return found


def logical_lines(text: str) -> Iterator[Line]:
    """Quotes and comments go; a backslash, a brace that opens, and blanks before the next line join lines."""
    pending, comments = "", list[str]()
    line: Line | None = None
    start = 0
    for number, raw in enumerate(text.split("\n"), 1):
        # Long runs of blanks say nothing, and would make each pattern below try at each of them.
        bare = re.sub(r"[ \t]{100,}", " ", re.sub(r'"|#.*', "", raw.rstrip("\r")))
        if not bare.strip():
            comments += [comment] if (comment := raw.strip(" \t\r#")) else []
            continue
        start = start if pending else number
        joined = re.match(r"(.*)\\\s*$|(.*\{)\s*$", bare)
        if joined:
            pending += joined[1] if joined[1] is not None else joined[2]
            continue
        whole, pending = pending + bare, ""
        if line and re.match(r"\}|\s+\S", whole):
            line.text += ("" if line.text.rstrip().endswith(";") else ";") + whole
            continue
        if line:
            yield line
        line, comments = Line(start, whole, comments), []
    if line:
        yield line


def _source(line: Line, index: int, macros: dict[str, str]) -> Source | Line:
    """A rule, or the line with the reason why postfwd ignores it as its only comment."""
    try:
        return _parsed(Line(line.number, _expanded(line.text, macros), line.comments), index)
    except Untranslated as reason:
        return Line(line.number, line.text, [str(reason)])


def _expanded(text: str, macros: dict[str, str]) -> str:
    for _ in range(MACROS_LIMIT):
        macro = _MACRO.search(text)
        if not macro:
            return text
        if macro[0] not in macros:
            raise Untranslated(f"postfwd ignores this line: the macro {macro[0]} is not defined above it")
        text = re.sub(rf"\s*{re.escape(macro[0])}\s*", lambda found: macros[found[0].strip()], text)
        if len(text) > EXPANSION_LIMIT:
            break
    raise Untranslated("postfwd ignores this line: its macros go in a circle, or grow without end")


def _parsed(line: Line, index: int) -> Source:
    if not is_utf8(line.text):
        raise Untranslated("it holds bytes that are not UTF-8")
    source = Source(line, index)
    for part in line.text.strip("; \t").split(";"):
        item = _ITEM.match(part.strip())
        if not item or not item[3]:
            raise Untranslated(f'not carried over: there is no item and value in "{part.strip()}"')
        key, operator, value = item.groups()
        operator = operator[::-1] if operator in ("<=", ">=", "~=") else operator
        if key in _SINGLE:
            source.single[key] = value
        else:
            values = re.split(r"\s*,\s*", value) if key in _SEVERAL else [value]
            source.items += [Item(key, operator, one) for one in values if one]
    if "action" not in source.single:
        raise Untranslated("postfwd ignores this rule: it has no action")
    return source


def _failed(line: Line) -> tuple[str, str, str]:
    reason = line.comments[0]
    return (NOTE if "postfwd ignores this" in reason else LOST), reason, line.text


def _stages(sources: Sequence[Source | Line]) -> list[str]:
    """rcpt, and each stage that a rule is for and another stage is not."""
    named = {"rcpt"}
    for source in sources:
        truths = {stage: state_truth(source.items, stage) for stage in STATES} if isinstance(source, Source) else {}
        asked = {stage for stage, truth in truths.items() if truth}
        named |= asked if len(asked) < len(truths) - 1 else set()
    return [stage for stage in STATES if stage in named]


def _outcomes(source: Source, stages: Sequence[str], lists: Lists) -> list[Made | tuple[str, str]]:
    """What becomes of a rule at each stage that it is for."""
    asked = [stage for stage in STATES if state_truth(source.items, stage) is not False]
    here = [stage for stage in stages if stage in asked]
    if not asked:
        return [(NOTE, "never matches, so it was left out: no protocol_state is like that")]
    if not here:
        return [(LOST, f"not carried over: it is for the stage {', '.join(asked)}, which was not asked for")]
    return [_outcome(source, stage, lists) for stage in here]


def _outcome(source: Source, stage: str, lists: Lists) -> Made | tuple[str, str]:
    line, text = source.line, source.single["action"]
    try:
        found = conditions(source.items, source.single, stage, lists)
        done = deed(text, stage)
    except Never as never:
        return NOTE, f"never matches, so it was left out: {never}"
    except Untranslated as reason:
        return LOST, f"not carried over: {reason}"
    if done is None:
        return NOTE, "does nothing, so it was left out"
    match = found.match | ({"rate": done.rate} if done.rate else {})
    rule = Rule(line.number, source.identity, stage, done.action, match, found.unless, mode=done.mode)
    # To postfwd, what DNS does not say is not listed.
    rule.on_error = "skip" if found.dns else ""
    rule.remarks = [*line.comments, f"Line {line.number}."]
    return Made(rule, [*found.changed, *done.changed, *_uncounted(rule)])


def _uncounted(rule: Rule) -> list[str]:
    """postfwd counts what has no user name as if all of it had the same one."""
    name = rule.match.get("rate", {}).get("key", "sender")
    asked = rule.match.get(name, "")
    # The null sender is counted by both.
    if (
        name == "sender"
        or rule.stage not in KEYS[name].known
        or (asked and "" not in (asked if isinstance(asked, list) else [asked]))
    ):
        return []
    return [f"mail without {name} is not counted here; postfwd counts it, all as one"]


def _name(conversion: Conversion, stages: Sequence[str]) -> None:
    """Ids that the log can hold, each once; with several stages, the stage is part of it."""
    taken: set[str] = set()
    for rule in conversion.rules:
        wished = re.sub(r"[^A-Za-z0-9._-]", "-", rule.identity)[:48]
        wished = wished if rule.stage == stages[0] else f"{wished}.{rule.stage}"
        name, number = wished, 2
        while name in taken:
            name, number = f"{wished}.{number}", number + 1
        taken.add(name)
        rule.identity = name
