"""The rule language: what rules and those who run them say to each other.

Evaluation asks and is told; it never looks anything up itself. So the same rules run in a program of one mail, in a
resident, in a test with given facts and in `postroom explain`.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    # What rules compile to: tuples, dicts, frozensets, texts and numbers only, so that marshal can keep it.
    Ruleset = Mapping[str, Any]

# Where a policy request belongs, by its protocol_state (SMTPD_POLICY_README). VRFY is answered by the lists of RCPT.
STAGE_OF_STATE = {
    "CONNECT": "connect",
    "HELO": "helo",
    "EHLO": "helo",
    "MAIL": "mail",
    "RCPT": "rcpt",
    "VRFY": "rcpt",
    "DATA": "data",
    "BDAT": "data",
    "END-OF-MESSAGE": "end-of-message",
    "ETRN": "etrn",
}

# The stages of an SMTP session: what an attribute holds there is what the client sent.
SMTP = frozenset(STAGE_OF_STATE.values())

# Between the words of several actions of one rule; no word that is filled in can be this.
SEPARATOR = "\n"


class Question:
    """What a rule must know before it goes on.

    kind           argument                        the answer (or Unknown)
    "list"         (list name, value, key's kind)  False, or True, or the text that stands beside the entry
    "header"       header name                     list of texts, in the order they stand in the message
    "suppressed"   address                         store.Suppression or None
    "mx"           domain                          mx.Plan
    "addresses"    host name                       tuple of IP addresses as text, () where it has none
    "ns"           domain                          tuple of host names
    "dnsbl"        (name, zones)                   {zone: tuple of IP addresses, or Unknown}; name: a domain or address
    "fcrdns"       IP address                      bool
    "country"      IP address                      two letters, or ""
    "now"          time zone, or ""                (weekday, minute of the day), both from 0
    "attachments"  None                            list of file names
    "seen"         (name, key, seconds, once)      bool: seen within that time; it is seen now
    "greylist"     (client, key, delay, retry, lifetime, auto_allow)    seconds still to wait, 0: passes
    "rate"         (name, key, limits, amount, once)   seconds until it fits, 0: counted; limits: ((N, seconds), ...)
    """

    __slots__ = ("argument", "kind")

    def __init__(self, kind: str, argument: Any) -> None:
        self.kind = kind
        self.argument = argument

    def __repr__(self) -> str:
        return f"Question({self.kind!r}, {self.argument!r})"


class Unknown:
    """The third truth value, and the answer "cannot be said now": a DNS failure, a store that is down."""

    __slots__ = ("reason",)

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def __repr__(self) -> str:
        return f"Unknown({self.reason!r})"


class Decision:
    """What the rules of one stage decided.

    `action` is ready for Postfix or, at deliver, for the log. `words` is the same, split, so that nobody has to:
    ("maildir", PATH), ("relay", TARGET), ("command", PROGRAM, ARGUMENT...), ("discard", TEXT), (STATUS, TEXT).
    Where a rule has several actions, SEPARATOR stands between their words; `actions` are their texts.
    `rule` is None where no rule matched. `on_error` is true where the rule could not be decided and its on_error spoke;
    `reason` then says why. `shadow` holds (rule id, action) of the rules with mode = "shadow" that would have decided.
    `skipped` holds (rule id, reason) of those that could not be decided and whose on_error is "skip".
    """

    __slots__ = ("action", "actions", "mode", "on_error", "reason", "rule", "shadow", "skipped", "words")

    def __init__(
        self,
        action: str,
        words: tuple[str, ...] = (),
        rule: str | None = None,
        on_error: bool = False,
        reason: str = "",
        shadow: tuple[tuple[str, str], ...] = (),
        skipped: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self.action = action
        self.actions: tuple[str, ...] = (action,)
        if SEPARATOR in words:
            self.actions = tuple(one.strip(" ") for one in action.split(SEPARATOR))
            self.action = ", ".join(self.actions)
        self.words = words
        self.rule = rule
        self.mode = "enforce"
        self.on_error = on_error
        self.reason = reason
        self.shadow = shadow
        self.skipped = skipped

    def notes(self) -> dict[str, object]:
        """What the log should have besides: rules that only watch, and those that could not be decided and passed."""
        notes: dict[str, object] = {}
        if self.shadow:
            notes["shadow"] = "; ".join(f"{rule}: {action}" for rule, action in self.shadow)
        if self.skipped:
            notes["skipped"] = "; ".join(f"{rule}: {reason}" for rule, reason in self.skipped)
        return notes

    def __repr__(self) -> str:
        return f"Decision({self.action!r}, rule={self.rule!r}, on_error={self.on_error})"
