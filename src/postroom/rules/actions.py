"""What a rule may do, stage by stage: the tables, and the check of an action against them.

Rules for this file
* An action that Postfix would read as something else is refused, with what Postfix would make of it: an empty action, a
  number without a text and an OK all mean that the mail is ACCEPTED (access(5); src/smtpd/smtpd_check.c).
* The words are split here and only here. What a stranger wrote is put into words that are split already.
* `effect` is what `postroom explain` tells a person that Postfix then does.
"""

from __future__ import annotations

from dataclasses import dataclass

from postroom.rules import keys, templates
from postroom.rules.deliveries import DELIVER
from postroom.rules.problems import Refused, unknown
from postroom.rules.templates import Template
from postroom.status import clean, is_status

# Postfix cuts a reply to 510 bytes, its own words and the address included.
TEXT_LIMIT = 400

_SMTP = frozenset(keys.POLICY_STAGES)
# Before MAIL there is no message whose fate these could change, and ETRN has none: Postfix ignores them there.
_MESSAGE = _SMTP - {"connect", "helo", "etrn"}


@dataclass(frozen=True)
class Word:
    """A word of an action that is filled in when it runs; `slot` says what may be put there (render.py)."""

    slot: str
    template: Template


@dataclass(frozen=True)
class Action:
    """An action that is legal at its stage: `form` for explain, `words` as the runner needs them."""

    text: str
    form: str
    words: tuple[str | Word, ...]

    def uses(self, what: str) -> bool:
        """Whether a template in it needs this: attribute, mx or suppressed."""
        return any(isinstance(word, Word) and templates.uses(word.template, what) for word in self.words)


@dataclass(frozen=True)
class Verb:
    """A row of a table. `argument`: none, text, text? (may be left out), transport, address, header."""

    argument: str
    stages: frozenset[str]
    effect: str


# access(5), ACCEPT, REJECT and OTHER ACTIONS; HANGUP is src/smtpd/smtpd_check.c's, and in no manual.
POLICY: dict[str, Verb] = {
    "HANGUP": Verb(
        "text?",
        _SMTP,
        'closes the TCP connection at once, without any reply: the client is told nothing (log: "hangup")',
    ),
    "REJECT": Verb("text?", _SMTP, "refuses for good: it replies 554 5.7.1 (access_map_reject_code) and this text"),
    "DEFER": Verb("text?", _SMTP, "refuses for now: it replies 450 4.7.1 (access_map_defer_code) and this text"),
    "DEFER_IF_PERMIT": Verb(
        "text?", _SMTP, "asks its other restrictions, and unless one of them refuses for good, refuses for now (450)"
    ),
    "DEFER_IF_REJECT": Verb(
        "text?", _SMTP, "asks its other restrictions, and refuses for now (450) where one of them refuses for good"
    ),
    "DUNNO": Verb("none", _SMTP, "hears no opinion and goes on with its next restriction"),
    "OK": Verb("none", _SMTP, "skips the restrictions that follow the policy service in this list"),
    "HOLD": Verb("text?", _MESSAGE, "puts the whole message, with all its recipients, into the hold queue"),
    "DISCARD": Verb("text?", _MESSAGE, "says it accepts the whole message and throws it away, for all its recipients"),
    "FILTER": Verb("transport", _MESSAGE, "sends the whole message through this content filter"),
    "REDIRECT": Verb("address", _MESSAGE, "delivers the whole message to this address instead of all its recipients"),
    "BCC": Verb("address", _MESSAGE, "adds this address to the recipients of the message, and goes on"),
    "PREPEND": Verb("header", _SMTP - {"end-of-message"}, "adds this header to the message, and goes on"),
    "WARN": Verb("text?", _SMTP, "logs a warning with this text, and goes on"),
    "INFO": Verb("text?", _SMTP, "logs this text, and goes on"),
}

ROUTE = "transport:nexthop, as in transport(5)"

_TRANSPORT = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
_NEXTHOP = _TRANSPORT | set("[]:/,@=")


def parse(stage: str, text: object, allow_ok: bool = False) -> Action:
    """The action, checked against its stage. Raises Refused."""
    if not isinstance(text, str):
        raise Refused("expected a text in quotes")
    if not text.strip():
        raise Refused("is empty, which Postfix would read as OK and accept the mail; expected " + expected(stage))
    if any(ord(character) < 32 or character == "\x7f" for character in text):
        raise Refused("holds a line end or another control character, expected one line")
    if stage in keys.POLICY_STAGES:
        return _policy(stage, text.strip(), allow_ok)
    if stage == "deliver":
        return _deliver(text.strip())
    if stage == "route":
        return _route(text.strip())
    raise Refused(f"no action is known at {stage} in this version, so that a rule there could do nothing")


def expected(stage: str) -> str:
    if stage in keys.POLICY_STAGES:
        return '"5NN text", "4NN text" or one of ' + ", ".join(verb for verb in POLICY if stage in POLICY[verb].stages)
    if stage == "deliver":
        return ", ".join([*(f'"{verb.usage}"' for verb in DELIVER.values()), '"5.N.N text"', '"4.N.N text"'])
    return ROUTE


def default(stage: str, rule: str) -> Action:
    """What on_error = "defer" does: our own fault, so the mail is put off (RFC 3463: x.3.0)."""
    if stage == "deliver":
        return _status("4.3.0", f"rule {clean(rule)} cannot be decided now")
    if stage == "route":
        return Action("", "route", (f"retry:4.3.0 rule {clean(rule)} cannot be decided now",))
    text = "4.3.0 This cannot be decided at the moment, please try again later"
    return Action("", "DEFER_IF_PERMIT", ("DEFER_IF_PERMIT", text))


def effect(stage: str, action: str) -> str:
    """What Postfix does on getting this action, as the end of a sentence that begins with "Postfix"."""
    word = action.partition(" ")[0].upper()
    if stage == "deliver":
        return DELIVER[word.lower()].effect if word.lower() in DELIVER else _status_effect(word)
    if stage == "bounce":
        return "takes the report as always: rules decide nothing at bounce in this version"
    if stage not in keys.POLICY_STAGES:
        return "uses this transport and nexthop for the recipient" if action else "routes as if there were no rule"
    if word in POLICY:
        return POLICY[word].effect
    kind = "refuses for good" if word[:1] == "5" else "refuses for now"
    return f"{kind}: it sends a reply with code {word} and this text" + (
        ", and then closes the connection" if word in ("421", "521") else ""
    )


def _status_effect(status: str) -> str:
    if status[:1] == "5":
        return "returns the mail to its sender (bounces it) with this text"
    return "keeps the mail in its queue (status=deferred) and tries again later"


def _policy(stage: str, text: str, allow_ok: bool) -> Action:
    word, _, rest = text.partition(" ")
    rest, verb = rest.strip(), word.upper()
    if word[:1].isdigit():
        return _code(stage, word, rest)
    if verb not in POLICY:
        raise Refused(_not_policy(word))
    row = POLICY[verb]
    if stage not in row.stages:
        raise Refused(f"{verb} does nothing at {stage}, expected {expected(stage)}")
    if verb == "OK" and not allow_ok:
        raise Refused("OK skips the checks that follow and can make an open relay; if meant, add allow_ok = true")
    return Action(text, verb, (verb, *_argument(stage, verb, row.argument, rest)))


def _not_policy(word: str) -> str:
    known = unknown(word, POLICY, "action")
    if word.lower() in DELIVER:
        return f'"{word}" is an action of at = "deliver"; {known}'
    return f"{known} (Postfix would take it for the name of a restriction)"


def _code(stage: str, word: str, rest: str) -> Action:
    if word.isdigit() and not rest:
        raise Refused(f'"{word}" alone means OK to Postfix, which would ACCEPT the mail; expected "{word} text"')
    if not (len(word) == 3 and word.isascii() and word.isdigit() and word[0] in "45"):
        hint = f', such as "550 {word}"' if is_status(word) else ""
        raise Refused(f'"{word}" is no reply that refuses; expected a code from 400 to 599 and a text{hint}')
    status, _, words = rest.partition(" ")
    if is_status(status) and status[0] != word[0]:
        raise Refused(f"{status} does not fit {word}; expected {word[0]}{status[1:]}")
    if is_status(status) and not words.strip():
        raise Refused(f"has no text after {status}")
    return Action(f"{word} {rest}", word, (word, _text(stage, rest)))


def _argument(stage: str, verb: str, argument: str, rest: str) -> tuple[str | Word, ...]:
    if argument == "none":
        if rest:
            raise Refused(f"{verb} takes no text")
        return ()
    if argument == "text?" and not rest:
        return ()
    if argument == "header":
        name, colon, value = rest.partition(":")
        if not colon or not value.strip() or not name.isascii() or not name.isprintable() or " " in name or not name:
            raise Refused(f'expected a header, "{verb} Name: value"')
    elif argument == "address" and (rest.count("@") != 1 or " " in rest or rest[0] == "@" or rest[-1] == "@"):
        raise Refused(f'expected one address, "{verb} user@domain"')
    elif argument == "transport" and (":" not in rest.strip(":") or " " in rest):
        raise Refused(f'expected a transport and a destination, "{verb} transport:host"')
    return (_text(stage, rest, "token" if argument in ("address", "transport") else "text"),)


def _text(stage: str, text: str, slot: str = "text") -> str | Word:
    if len(text.encode()) > TEXT_LIMIT:
        raise Refused(f"is longer than {TEXT_LIMIT} bytes; Postfix cuts its replies")
    return _word(slot, templates.parse(text, stage))


def _word(slot: str, template: Template) -> str | Word:
    return templates.literal_text(template) if templates.is_literal(template) else Word(slot, template)


def _status(code: str, text: str) -> Action:
    return Action(f"{code} {text}", code, (code, text))


def _deliver(text: str) -> Action:
    word, _, rest = text.partition(" ")
    rest = rest.strip()
    if word in DELIVER:
        words = DELIVER[word].read(rest)
        return Action(text, word, (word, *(_word(slot, template) for slot, template in words)))
    if is_status(word) and word[0] in "45":
        if not rest:
            raise Refused(f'has no text after {word}; expected "{word} why"')
        return Action(text, word, (word, _text("deliver", rest)))
    if word[:1].isdigit():
        raise Refused(f'"{word}" neither refuses nor defers; expected "5.N.N text" or "4.N.N text"')
    if word.upper() in POLICY:
        raise Refused(f"{word} is an action of the SMTP stages; at deliver expected {expected('deliver')}")
    raise Refused(unknown(word, DELIVER, "action", expected("deliver")))


def _route(text: str) -> Action:
    transport, colon, nexthop = text.partition(":")
    if not colon or not set(transport) <= _TRANSPORT:
        raise Refused(f'expected {ROUTE}, such as "slow:" or "smtp:[192.0.2.1]:25"')
    if transport in ("error", "retry"):
        return Action(text, "route", (_word("text", (f"{transport}:", *templates.parse(nexthop, "route"))),))
    template = templates.parse(nexthop, "route")
    if not set(templates.literal_text(template)) <= _NEXTHOP:
        raise Refused(f"no nexthop can be written {nexthop!r}; expected {ROUTE}")
    return Action(text, "route", (Word("token", (f"{transport}:", *template)),))
