"""The action of a postfwd rule: an answer to Postfix as an action, a limit as a `rate`; of the rest, why not."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from postroom.convert.items import Never, Untranslated
from postroom.rules import actions, templates
from postroom.rules.keys import KEYS
from postroom.rules.problems import Refused
from postroom.rules.section import seconds

_COMMAND = re.compile(r"^(\w[-\w]+)\s*\(\s*(.*?)\s*\)$")
_VARIABLE = re.compile(r"\$\$\s*(?:(\w+)|\((\w+)\))")
# Restrictions or classes of Postfix's: one, or several with commas between. (Words without may be a text that lacks its
# action.)
_NAMES = re.compile(r"[A-Za-z]\w*(\s*,\s*[A-Za-z]\w*)*")
_LIMITS = {"rate": "messages", "size": "bytes", "rcpt": "recipients"}
_NOTHING_LIKE = {
    "jump": "rules are asked one after the other here; give the rules between conditions of their own",
    "score": "there are no scores here",
    "set": "rules set no attributes here",
    "ask": "no other policy service is asked here; list it behind this one in main.cf",
    "mail": "rules send no mail here",
    "sendmail": "rules send no mail here",
    "wait": "no answer is held back here",
    "quit": "no rule ends the program here",
    "debug": "postroom explain shows how a rule is decided",
}
_FOLDED = "counters do not tell upper and lower case of a local part apart here"
# What a window may be (rules/counted.py).
_LONGEST = 366 * 86400


@dataclass
class Deed:
    action: str
    mode: str = ""
    rate: dict[str, Any] = field(default_factory=dict)
    changed: list[str] = field(default_factory=list)


def deed(text: str, stage: str) -> Deed | None:
    """What a rule does; None where that is nothing. Raises Untranslated."""
    command = _COMMAND.match(text)
    if not command:
        return Deed(_answer(text, stage))
    name, argument = command.groups()
    if name.removesuffix("5321") in _LIMITS:
        found = _limit(name.removesuffix("5321"), argument, stage)
        found.changed += [_FOLDED] if name.endswith("5321") else []
        return found
    if name == "note":
        return _note(argument, stage) if argument else None
    if name in _NOTHING_LIKE:
        raise Untranslated(f"{name}(): {_NOTHING_LIKE[name]}")
    # postfwd warns and goes on with the next rule; whoever wrote the rule meant something else.
    raise Untranslated(f"{name}() is no command of postfwd's")


def _answer(text: str, stage: str) -> str:
    word, _, rest = text.partition(" ")
    return checked(f"{word} {_template(rest, stage)}", stage)


def checked(text: str, stage: str) -> str:
    """An action for Postfix, its name in capitals. Raises Untranslated where none here says it."""
    word, _, rest = text.strip().partition(" ")
    shown = f"{word.upper() if word.upper() in actions.POLICY else word} {rest.strip()}".strip()
    if _NAMES.fullmatch(shown) and word.upper() not in actions.POLICY:
        shown = f"restrict {shown}"
    try:
        actions.parse(stage, shown, allow_ok=True)
    except Refused as refused:
        raise Untranslated(f"action {text.strip()}: {refused}") from None
    return shown


def _template(text: str, stage: str) -> str:
    """$$sender is {sender}; what postfwd does not know itself it leaves as it stands."""
    known = templates.names(stage)
    parts, position = [], 0
    for found in _VARIABLE.finditer(text):
        name = found[1] or found[2]
        parts.append(braces(text[position : found.start()]))
        if name not in known:
            raise Untranslated(f"$$({name}) in its action is not known here at {stage}")
        parts.append(f"{{{name}}}")
        position = found.end()
    return "".join(parts) + braces(text[position:])


def braces(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _note(text: str, stage: str) -> Deed:
    """A line in the log, after which the rules go on: what a shadow does."""
    return Deed(_answer(f"INFO {text}", stage), mode="shadow")


def _limit(unit: str, argument: str, stage: str) -> Deed:
    key, number, window, answer = (*(part.strip() for part in argument.split("/", 3)), "", "", "", "")[:4]
    key = key.removeprefix("$$")
    if not (number.isascii() and number.isdigit() and window.isascii() and window.isdigit()):
        raise Untranslated(f"{unit}({argument}) is not ITEM/MAX/SECONDS/ACTION")
    if not int(number[:16]) > 0 or not 0 < int(window[:16]) < _LONGEST:
        raise Untranslated(f"{unit}(): a limit of {number} in {window} seconds cannot be said here")
    if key not in KEYS or stage not in KEYS[key].stages:
        raise Untranslated(f"{unit}(): {key} is not known here at {stage}")
    if unit == "rcpt" and stage not in ("data", "end-of-message"):
        raise Never(f"at {stage} Postfix says that there are 0 recipients, and rcpt() counts nothing; see --at")
    if unit == "size" and stage != "end-of-message":
        raise Untranslated(f"size(): Postfix says how much it is at end-of-message only, not at {stage}; see --at")
    if _COMMAND.match(answer):
        raise Untranslated(f"{unit}(): the command {answer} cannot follow a limit here")
    changed = []
    if "$$ratecount" in answer or "$$(ratecount)" in answer:
        answer = re.sub(r"\$\$\s*\(?ratecount\)?", f"more than {number}", answer)
        changed.append(f'the count of a limit cannot be told here; the text says "more than {number}" instead')
    rate = {"key": key, "limit": f"{int(number)}/{_window(int(window))}"}
    rate |= {} if unit == "rate" else {"count": _LIMITS[unit]}
    return Deed(_answer(answer, stage), rate=rate, changed=changed)


def _window(whole: int) -> str:
    """Seconds in the largest unit that they fill."""
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if whole % length == 0:
            return f"{whole // length}{unit}"
    return f"{int(seconds(whole, _LONGEST))}s"
