"""What the rules of stage "bounce" make of a report: one decision for each recipient that it tells of.

    ruled = decided(mail, report, verdict, recipients, state)
    ruled.put_off                     an Outcome where a rule could not be decided: nothing has happened yet
    ruled.permits(address)            whether the rules let it be suppressed; whether that is safe is not theirs to say
    ruled.carry_out(event, gone)      forward and webhook, each once; None, or the Outcome that puts the report off

A recipient that no rule matches is taken as always. The event is recorded before anything is carried out, so that a
server that is down delays what is done with a report, but never what is known.
"""

from __future__ import annotations

from postroom import store
from postroom.actions import perform
from postroom.actions.by_rule import asked
from postroom.actions.once import recorded
from postroom.envelope import Recipient as EnvelopeRecipient
from postroom.rules import SEPARATOR
from postroom.status import SENT, deferred, is_status, parse
from postroom.store.address import fold

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from postroom.actions.state import State
    from postroom.bounces.values import Recipient, Report
    from postroom.bounces.verp import Verdict
    from postroom.delivery import Mail
    from postroom.rules import Decision
    from postroom.status import Outcome

    Words = tuple[str, ...]


def decided(mail: Mail, report: Report, verdict: Verdict, recipients: Sequence[Recipient], state: State) -> Ruled:
    """Ask the rules. A report that names nobody, and what is no report, is asked about once."""
    about: Sequence[Recipient | None] = recipients or (None,)
    found = [(one, asked("bounce", attributes(mail, report, verdict, one), mail, state)) for one in about]
    return Ruled(mail, state, found)


def attributes(mail: Mail, report: Report, verdict: Verdict, one: Recipient | None) -> dict[str, str]:
    """What rules at bounce go by. `bounce.recipient` is the address as it was sent to, where the report knows it."""
    known = {
        "sender": mail.sender,
        "recipient": mail.recipient,
        "original_recipient": mail.original_recipient,
        "queue_id": mail.queue_id,
        "size": str(mail.envelope.size or mail.message.size),
        "bounce.kind": report.kind,
        "bounce.authentic": verdict.authentic,
    }
    if one is None:
        return known
    known["bounce.recipient"] = one.original or one.address
    for name in ("outcome", "status", "reason", "category", "diagnostic", "remote_mta"):
        known[f"bounce.{name}"] = getattr(one, name)
    for name in ("hard", "permanent"):
        known[f"bounce.{name}"] = "true" if getattr(one, name) else "false"
    return known


class Ruled:
    """The decisions about one report."""

    def __init__(self, mail: Mail, state: State, found: list[tuple[Recipient | None, Decision]]) -> None:
        self.put_off: Outcome | None = None
        self._mail = mail
        self._state = state
        self._kept: set[str] = set()  # folded addresses that a rule keeps from being suppressed
        self._effects: dict[Words, list[Recipient]] = {}
        rules: dict[str, None] = {}
        for one, decision in found:
            self._take(one, decision)
            if decision.rule is not None:
                rules[f"{decision.rule}: {decision.action}"] = None
            if decision.on_error:
                mail.log["on_error"] = decision.reason
            mail.log.update(decision.notes())
        mail.log["rule"] = "; ".join(rules) or None

    def _take(self, one: Recipient | None, decision: Decision) -> None:
        if decision.rule is None:
            return
        if is_status(decision.words[0]):
            self.put_off = self.put_off or parse(decision.action)
            return
        actions = list(_parted(decision.words))
        if one is not None and ("suppress",) not in actions:
            self._kept |= {fold(one.address), fold(one.original or one.address)}
        for words in actions:
            if words[0] not in ("suppress", "record"):
                about = self._effects.setdefault(words, [])
                about += [one] if one is not None else []

    def permits(self, address: str) -> bool:
        return fold(address) not in self._kept

    def carry_out(self, event: store.Event, gone: Sequence[str]) -> Outcome | None:
        """All of them, whatever becomes of one: the report is put off where one has to be tried again."""
        left = None
        for words, about in self._effects.items():
            act = _act(words, about, event, gone, self._mail)
            outcome = recorded(_key(event, words), self._mail, self._state.open, act)
            if outcome.kind != SENT:
                # Never a bounce: that would be one of a bounce, and lost. What refuses for good is a target of ours.
                left = left or deferred(f"{words[0]}: {outcome.text}", f"4{outcome.status[1:]}")
        return left


def _parted(words: Words) -> list[Words]:
    found: list[Words] = [()]
    for word in words:
        if word == SEPARATOR:
            found.append(())
        else:
            found[-1] += (word,)
    return found


def _key(event: store.Event, words: Words) -> bytes:
    from _blake2 import blake2b

    digest = blake2b(event.key, digest_size=20)
    for word in words:
        digest.update(b"\0" + word.encode("utf-8", "surrogateescape"))
    return b"bounce:" + digest.digest()


def _act(
    words: Words, about: list[Recipient], event: store.Event, gone: Sequence[str], mail: Mail
) -> Callable[[store.Store], Outcome]:
    def act(_: store.Store) -> Outcome:
        if words[0] == "forward":
            return _forward(words, mail)
        from postroom.actions import webhook

        body = _json(event, about, gone)
        return webhook.send(words, mail, "application/json", {}, lambda: iter((body,)), len(body), event.key.hex())

    return act


def _forward(words: Words, mail: Mail) -> Outcome:
    """The report as it came, with the sender that it came with: a report on it, if any, does not come back here."""
    copy = type(mail)(mail.envelope, EnvelopeRecipient(words[1]), mail.message, mail.deadline, mail.service)
    return perform(("relay", *words[2:]), copy)


def _json(event: store.Event, about: list[Recipient], gone: Sequence[str]) -> bytes:
    """The event as `postroom bounces` shows it, with the recipients that the rule matched."""
    import json

    names = ("address", "original", "outcome", "status", "category", "reason", "hard", "diagnostic", "remote_mta")
    facts = {
        "key": event.key.hex(),
        "at": event.at,
        "kind": event.kind,
        "authentic": event.authentic,
        "queue_id": event.queue_id,
        "recipients": [{name: _readable(getattr(one, name)) for name in names} for one in about],
        "suppressed": [_readable(address) for address in gone],
        "fields": {name: _readable(value) for name, value in event.fields.items()},
    }
    return json.dumps(facts).encode()


def _readable(value: object) -> object:
    """Bytes that are no UTF-8 as U+FFFD: half a surrogate pair is no JSON to most who read it."""
    if not isinstance(value, str):
        return value
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
