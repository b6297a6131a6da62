"""Filling in the words of an action. Runs for mail: nothing is imported but what a program has anyway.

Slots say what a stranger's text may do in a word
    text      anything, as one line without control characters, cut to TEXT_LIMIT bytes
    maildir   as path; and no component may be tmp, new or cur, a part of the maildir above
    url       percent-encoded (RFC 3986); in the path neither empty nor "." nor ".."
    path      one component of a path each: no slash, not hidden, not empty, of a length every file system takes;
              folded to lower case, as virtual(8) and local(8) look a mailbox up: Bob@ and bob@ are one person
    argument  anything a program's argument can hold; no option, unless "--" stands before it
    token     letters, digits and a few signs: it goes to Postfix, which parses it
"""

from __future__ import annotations

from postroom.rules import Question, Unknown
from postroom.status import clean, cut

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from postroom.rules.facts import Facts

TEXT_LIMIT = 400

# Maildir adds names of its own inside the component; 255 bytes is the limit of most file systems for one.
COMPONENT_LIMIT = 200

# Far above any address, and below what execve(2) takes for one argument (131072).
ARGUMENT_LIMIT = 4096

_NULL_SENDER = ("attribute", "sender", "")
_TOKEN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._+=")

_UNRESERVED = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~")
_MAILDIR = ("tmp", "new", "cur")


class Unsafe(Exception):
    """A stranger's text that must not become a path or an argument; carries which part of the template, and why."""

    def __init__(self, part: Any, trouble: str) -> None:
        super().__init__(trouble)
        self.part = part
        self.trouble = trouble


def render(words: tuple[Any, ...], facts: Facts) -> tuple[str, ...] | Question | Unknown:
    """The words with their templates filled in, or what has to be asked first, or why it cannot be done."""
    done: list[str] = []
    for word in words:
        if word.__class__ is not str:
            slot, template = word
            values = _values(template, facts, slot == "text")
            if not isinstance(values, list):
                return values
            try:
                word = _SLOTS[slot](template, values, done)
            except Unsafe as unsafe:
                facts.unfilled = _unfilled(unsafe, facts)
                return _refusal(unsafe.part[1])
            if isinstance(word, Unknown):
                return word
        done.append(word)
    return tuple(done)


def _unfilled(unsafe: Unsafe, facts: Facts) -> str:
    """`{queue_id} is empty (not given)`: what explain tells of it."""
    origin, source, detail = unsafe.part
    name = f"{source}_{detail}" if detail else source
    if origin == "suppressed":
        name = f"suppressed.{detail}"
    elif origin == "listed":
        name = f"list.{detail}"
    elif origin == "mx":
        name = detail if source == "recipient" else f"sender_{detail}"
    return f"{{{name}}} {unsafe.trouble}" + ("" if facts.given(source) else " (not given)")


def _refusal(source: str) -> tuple[str, str]:
    """RFC 3463: it is the address that is wrong, whatever the rule meant to do with it."""
    if source.startswith("sender"):
        return ("5.1.7", "bad sender's mailbox address syntax")
    return ("5.1.3", "bad destination mailbox address syntax")


def _values(template: tuple[Any, ...], facts: Facts, prose: bool) -> list[str] | Question | Unknown:
    values = []
    for part in template:
        value = part if part.__class__ is str else _fill(part, facts)
        if prose and isinstance(value, Unknown):
            value = "unknown"  # the rule matches: that its words cannot be found must not undo it
        if not isinstance(value, str):
            return value  # a Question or an Unknown: passed on
        values.append(value)
    return values


def _fill(part: tuple[str, str, str], facts: Facts) -> str | Question | Unknown:
    origin, source, detail = part
    if origin == "attribute":
        return facts.text(source, detail)
    if origin == "listed":
        return facts.listed.get(detail, "")
    if origin == "country":
        found = facts.ask("country", facts.text(source)) if facts.text(source) else ""
        return found if isinstance(found, Question | Unknown) else str(found)
    if origin == "waits":
        return str(facts.waits.get(source, 0))
    if origin == "suppressed":
        found = facts.suppression(source)
        return found if isinstance(found, Question | Unknown) else _suppressed(found, detail)
    plan = facts.plan(source)
    if plan is None or isinstance(plan, Question | Unknown):
        return plan or ""
    if detail.endswith("mx_state"):
        return str(plan.state)
    if plan.state == "error":
        return Unknown(f"MX of {plan.domain}: {plan.reason}")
    return ", ".join(plan.primary if detail == "primary_mx" else plan.every)


def _suppressed(found: Any, field: str) -> str:
    if found is None:
        return ""
    if field == "since":
        import time

        return time.strftime("%Y-%m-%d", time.gmtime(found.since))
    return str(found.why)


def _text(template: tuple[Any, ...], values: list[str], before: list[str]) -> str:
    pairs = zip(template, values, strict=True)
    shown = ["<>" if part == _NULL_SENDER and not value else value for part, value in pairs]
    # A reply without a text would be read as OK by Postfix, so there always is one.
    return cut(clean("".join(shown)), TEXT_LIMIT).decode() or "no reason given"


def _path(template: tuple[Any, ...], values: list[str], before: list[str]) -> str:
    last: Any = None
    for part, value in zip(template, values, strict=True):
        if part.__class__ is str:
            continue
        last = part
        # Empty would make "/srv/x/" or "/srv/x/.", the folder above; a first dot "..", or a file that is not seen.
        if value[:1] in ("", ".") or "/" in value or any(c < " " or c == "\x7f" for c in value):
            raise Unsafe(part, _trouble(value))
    path = "".join(v if p.__class__ is str else v.lower() for p, v in zip(template, values, strict=True))
    try:
        longest = max(map(len, path.encode("utf-8", "surrogateescape").split(b"/")))
    except UnicodeEncodeError:  # no bytes could have been read as this
        raise Unsafe(last, "is no text") from None
    if longest > COMPONENT_LIMIT:
        raise Unsafe(last, f"makes a name of more than {COMPONENT_LIMIT} bytes")
    return path


def _maildir(template: tuple[Any, ...], values: list[str], before: list[str]) -> str:
    path = _path(template, values, before)
    fixed = "".join(part if part.__class__ is str else "\0" for part in template)
    if any(path.split("/").count(name) > fixed.split("/").count(name) for name in _MAILDIR):
        raise Unsafe(next(part for part in template if part.__class__ is not str), "makes a folder of a maildir")
    return path


def _url(template: tuple[Any, ...], values: list[str], before: list[str]) -> str:
    url = ""
    for part, value in zip(template, values, strict=True):
        if part.__class__ is str:
            url += value
            continue
        if "?" not in url and value in ("", ".", ".."):
            raise Unsafe(part, "is empty" if not value else "would lead to another place")
        try:
            data = value.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:  # no bytes could have been read as this
            raise Unsafe(part, "is no text") from None
        if len(data) > ARGUMENT_LIMIT:
            raise Unsafe(part, "is too long")
        url += "".join(chr(byte) if chr(byte) in _UNRESERVED else f"%{byte:02X}" for byte in data)
    # Of two templates side by side, each harmless; servers take away dot segments, written as %2E or not.
    if {".", ".."} & set(url.partition("?")[0].split("/")):
        raise Unsafe(next(part for part in template if part.__class__ is not str), "would lead to another place")
    return url


def _trouble(value: str) -> str:
    if not value:
        return "is empty"
    if "/" in value:
        return "holds a slash"
    return "begins with a dot" if value[0] == "." else "holds a control character"


def _argument(template: tuple[Any, ...], values: list[str], before: list[str]) -> str:
    word = "".join(values)
    part = next(part for part in template if part.__class__ is not str)
    option = word[:1] == "-" and template[0].__class__ is not str and "--" not in before
    if option or "\0" in word or len(word) > ARGUMENT_LIMIT:
        trouble = "begins with a hyphen" if option else "holds a NUL" if "\0" in word else "is too long"
        raise Unsafe(part, trouble)
    return word


def _token(template: tuple[Any, ...], values: list[str], before: list[str]) -> str | Unknown:
    for part, value in zip(template, values, strict=True):
        if part.__class__ is str:
            continue
        whole_address = part[0] == "attribute" and not part[2]
        if not value or value[0] == "-" or not _TOKEN.issuperset(value.replace("@", "", 1) if whole_address else value):
            return Unknown(f"the {part[2] or part[1]} cannot stand in this action")
    return "".join(values)


_SLOTS = {"text": _text, "path": _path, "maildir": _maildir, "url": _url, "argument": _argument, "token": _token}
