"""A delivery is made once, however often Postfix asks for it.

Postfix asks again when it did not see the first try end: after a crash, or a `postfix stop`, which leaves the program
running as an orphan. So a delivery is claimed in the store before its effect, and recorded there when it is made:

    nothing recorded            claim it, make it, record it
    claimed, never recorded     whoever claimed it died: make it (again, perhaps: better twice than never)
    claimed, and still at it    an orphan, or the program that it ran, has the lock on this delivery: deferred
    recorded                    the same outcome again, nothing is done

Only what was sent is recorded. What was refused has no effect to repeat; and where soft_bounce=yes keeps it in the
queue for an administrator to mend the cause, the next try must get a new answer.

A claim tells nothing that is ever used. It is written to learn, before anything has happened, that the state can be
written. A maildir, which knows its own mails again (maildir.py), does without where this process has written to the
state a moment before: a claim is half of what such a delivery costs the resident.
"""

from __future__ import annotations

from time import monotonic

from postroom import log
from postroom.actions import WITHOUT_EFFECT, lock, module, perform
from postroom.rules import SEPARATOR
from postroom.status import SENT, Fault, deferred, parse, sent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from postroom.delivery import Mail
    from postroom.status import Outcome
    from postroom.store import Store

# Seconds. A state that can be written no more is noticed by the mails that are in hand, and by those of this time.
TRUST = 1.0

# Actions that find out themselves what an earlier try has done.
_KNOW_THEIR_OWN = frozenset(("maildir",))

# When this process last recorded a delivery, by the directory of the state.
_written: dict[str, float] = {}


def once(words: tuple[str, ...], mail: Mail, open_store: Callable[[], Store]) -> Outcome:
    """`perform`, unless it was done before."""
    action = module(words)
    if action in WITHOUT_EFFECT:
        return perform(words, mail)
    quarantined = SEPARATOR in words

    def act(deliveries: Store) -> Outcome:
        if not quarantined:
            return perform(words, mail)
        from postroom.actions import quarantine

        return quarantine.perform(words, mail, deliveries)

    # The rule is no part of the key: edited between two tries, it must not make a second delivery of the mail.
    key = b"deliver:" + mail.key()
    return recorded(key, mail, open_store, act, action == "command", action in _KNOW_THEIR_OWN and not quarantined)


def recorded(
    key: bytes,
    mail: Mail,
    open_store: Callable[[], Store],
    act: Callable[[Store], Outcome],
    share: bool = False,
    knows: bool = False,
) -> Outcome:
    """What `act` comes to, unless it is recorded under this key that it was sent.

    `share`: a program that is started has the lock, too. `knows`: `act` finds out itself what an earlier try has done.
    """
    held = lock.take(mail.configuration.state, mail.key(), share)
    if held is None:
        return deferred("another process is still delivering this mail")
    try:
        deliveries = open_store()
        known = _known(deliveries, key, mail, knows)
        if known is not None:
            mail.log["repeated"] = "yes"
            return parse(known) or sent("delivered before")
        outcome = act(deliveries)
        if outcome.kind == SENT:
            _record(deliveries, key, outcome, mail)
        return outcome
    finally:
        held.release()


def _known(deliveries: Store, key: bytes, mail: Mail, knows: bool) -> str | None:
    if knows and monotonic() - _written.get(mail.configuration.state, float("-inf")) < TRUST:
        return deliveries.outcome(key)
    return deliveries.claim(key)


def _record(deliveries: Store, key: bytes, outcome: Outcome, mail: Mail) -> None:
    try:
        deliveries.done(key, str(outcome))
        _written[mail.configuration.state] = monotonic()
    except Fault as fault:
        _written.pop(mail.configuration.state, None)
        # To defer now would have the mail delivered twice for certain, instead of perhaps.
        cause = f": {fault.__cause__}" if fault.__cause__ else ""
        log.warning(mail.queue_id, to=f"<{mail.recipient}>", text=f"sent, but that is not recorded: {fault}{cause}")
