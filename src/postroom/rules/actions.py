"""What a rule may do, stage by stage: the tables, and the check of an action against them.

Rules for this file
* An action that Postfix would read as something else is refused, with what Postfix would make of it: an empty action, a
  number without a text and an OK all mean that the mail is ACCEPTED (access(5); src/smtpd/smtpd_check.c).
* The words are split here and only here. What a stranger wrote is put into words that are split already.
* `effect` is what `postroom explain` tells a person that Postfix then does.
"""

from __future__ import annotations

from dataclasses import dataclass

from postroom.rules import SEPARATOR, keys, templates
from postroom.rules.bounceactions import BOUNCE
from postroom.rules.bounceactions import effect as bounce_effect
from postroom.rules.deliveries import DELIVER, QUARANTINE
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

    def uses(self, what: str) -> list[tuple[str, str, str]]:
        """The parts of its templates that need this: attribute, mx, suppressed, listed or waits."""
        found = (templates.uses(word.template, what) for word in self.words if isinstance(word, Word))
        return [part for parts in found for part in parts]


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

_TAKEN = frozenset({*POLICY, "RELAY"})

# After these Postfix goes on with its checks, so that another action can follow.
NON_FINAL = ("DEFER_IF_PERMIT", "DEFER_IF_REJECT", "HOLD", "FILTER", "REDIRECT", "BCC", "PREPEND", "WARN", "INFO")

# Each costs Postfix one more question; main.cf has to name as many classes (policy.py).
ACTIONS_LIMIT = 4

ROUTE = "transport:nexthop, as in transport(5)"

_RESTRICTION = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")
_TRANSPORT = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
_NEXTHOP = _TRANSPORT | set("[]:/,@=")


def parse(stage: str, text: object, allow_ok: bool = False) -> Action:
    """The action, or at the SMTP stages a list of them, checked against its stage. Raises Refused."""
    if isinstance(text, list) and stage in keys.POLICY_STAGES:
        return _several(stage, text, allow_ok)
    if isinstance(text, list) and stage in ("deliver", "bounce"):
        return _or_quarantine(text) if stage == "deliver" else _several_at_bounce(text)
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
    return _route(text.strip()) if stage == "route" else _bounce(text.strip())


def _several(stage: str, texts: list[object], allow_ok: bool) -> Action:
    """Postfix reads one action of a reply. Of several it is told how to ask for each; see policy.py."""
    if not 0 < len(texts) <= ACTIONS_LIMIT:
        raise Refused(f"expected 1 to {ACTIONS_LIMIT} actions, found {len(texts)}")
    found = [parse(stage, text if isinstance(text, str) else None, allow_ok) for text in texts]
    for action in found[:-1]:
        if action.form not in NON_FINAL:
            raise Refused(f"{action.form} ends what Postfix checks, so that nothing after it is done; it stands last")
    words = tuple(word for action in found for word in (SEPARATOR, *action.words))[1:]
    return Action(", ".join(action.text for action in found), " ".join(action.form for action in found), words)


def expected(stage: str) -> str:
    if stage in keys.POLICY_STAGES:
        return '"5NN text", "4NN text" or one of ' + ", ".join(verb for verb in POLICY if stage in POLICY[verb].stages)
    if stage == "deliver":
        return ", ".join([*(f'"{verb.usage}"' for verb in DELIVER.values()), '"5.N.N text"', '"4.N.N text"'])
    return ROUTE if stage == "route" else ", ".join(f'"{verb.usage}"' for verb in BOUNCE.values())


def default(stage: str, rule: str) -> Action:
    """What on_error = "defer" does: our own fault, so the mail is put off (RFC 3463: x.3.0).

    At route nothing is said: Postfix goes by its other tables then, or with temp = true in [route] asks again later.
    """
    if stage in ("deliver", "bounce"):
        return _status("4.3.0", f"rule {clean(rule)} cannot be decided now")
    if stage == "route":
        return Action("", "route", ())
    text = "4.3.0 This cannot be decided at the moment, please try again later"
    return Action("", "DEFER_IF_PERMIT", ("DEFER_IF_PERMIT", text))


def effect(stage: str, action: str) -> str:
    """What Postfix does on getting this action, as the end of a sentence that begins with "Postfix"."""
    word = action.partition(" ")[0].upper()
    if stage == "deliver":
        return DELIVER[word.lower()].effect if word.lower() in DELIVER else _status_effect(word)
    if stage == "bounce":
        return bounce_effect(action)
    if stage not in keys.POLICY_STAGES:
        if action:
            return "uses this transport and nexthop for the recipient"
        return "routes as if there were no rule (a rule that cannot be decided, and temp = true in [route]: waits)"
    if word in POLICY:
        return POLICY[word].effect
    if action.partition(" ")[0] == "restrict" or word.rstrip(",").startswith(("REJECT_", "PERMIT")):
        return "applies these restrictions, as if they stood in its list"
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
    if word == "restrict":
        return _restrict(text, rest, allow_ok)
    if verb not in POLICY:
        raise Refused(_not_policy(word))
    row = POLICY[verb]
    if stage not in row.stages:
        raise Refused(f"{verb} does nothing at {stage}, expected {expected(stage)}")
    if verb == "OK" and not allow_ok:
        raise Refused("OK skips the checks that follow and can make an open relay; if meant, add allow_ok = true")
    return Action(text, verb, (verb, *_argument(stage, verb, row.argument, rest)))


def _restrict(text: str, rest: str, allow_ok: bool) -> Action:
    """Restrictions of postconf(5) by their names, or classes of smtpd_restriction_classes, which Postfix then applies.

    That main.cf has such a class cannot be seen from here; where it has none, Postfix defers the mail (451 4.3.5).
    """
    names = rest.replace(",", " ").split()
    # A number or an action among them would be that to Postfix, and "550" alone accepts the mail.
    wrong = [name for name in names if not set(name) <= _RESTRICTION or name[0].isdigit() or name.upper() in _TAKEN]
    if not names or wrong:
        raise Refused(
            'expected names, "restrict reject_unverified_recipient" or "restrict CLASS"; no tables or services'
        )
    if not allow_ok and any(name.startswith("permit") for name in names):
        raise Refused(
            "permit_... skips the checks that follow and can make an open relay; if meant, add allow_ok = true"
        )
    return Action(text, "restrict", (", ".join(names),))


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
        if "{" in name:
            raise Refused("has a template in the header's name, which a stranger could make another header of")
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
    if word == "quarantine":
        raise Refused('stands behind another action, action = ["command ...", "quarantine /path after=5"]')
    if word.upper() in POLICY:
        raise Refused(f"{word} is an action of the SMTP stages; at deliver expected {expected('deliver')}")
    raise Refused(unknown(word, DELIVER, "action", expected("deliver")))


def _or_quarantine(texts: list[object]) -> Action:
    """An action, and behind it what is done with a mail over which it has failed too often."""
    last = texts[-1] if len(texts) == 2 else None
    if not isinstance(last, str) or last.split()[:1] != ["quarantine"]:
        raise Refused(f'expected one action, or a list of one and "{QUARANTINE.usage}"')
    first = parse("deliver", texts[0])
    if first.form == "discard" or first.form not in DELIVER:
        raise Refused(f"{first.form} cannot fail, so that nothing would be put into quarantine")
    read = QUARANTINE.read(last.strip().removeprefix("quarantine"))
    words = (*first.words, SEPARATOR, "quarantine", *(_word(slot, template) for slot, template in read))
    return Action(f"{first.text}, {last.strip()}", first.form, words)


def _bounce(text: str) -> Action:
    verb, _, rest = text.partition(" ")
    if verb not in BOUNCE:
        raise Refused(unknown(verb, BOUNCE, "action", expected("bounce")))
    words = BOUNCE[verb].read(rest.strip())
    return Action(text, verb, (verb, *(_word(slot, template) for slot, template in words)))


def _several_at_bounce(texts: list[object]) -> Action:
    if not 0 < len(texts) <= ACTIONS_LIMIT:
        raise Refused(f"expected 1 to {ACTIONS_LIMIT} actions, found {len(texts)}")
    found = [parse("bounce", text if isinstance(text, str) else None) for text in texts]
    forms = [action.form for action in found]
    if forms.count("suppress") > 1 or ("record" in forms and len(forms) > 1):
        raise Refused("says a thing twice: suppress stands once, record alone; a report is recorded in any case")
    words = tuple(word for action in found for word in (SEPARATOR, *action.words))[1:]
    return Action(", ".join(action.text for action in found), forms[0], words)


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
