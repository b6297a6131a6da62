"""`[ACTION, "quarantine PATH after=N [any]"]`: a mail over which its action has failed N times goes into a maildir.

A poison mail, one that kills the program it is given to, would circle for days (maximal_queue_lifetime) and then come
back to its sender as undeliverable, with nobody having seen why. What counts as a failed attempt:

    the action did not come to its end: we were killed over it, or the deadline passed
    it raised a Fault, or has a bug; but not a mistake in the configuration, of which no mail is the cause
    its program or HTTP server broke down: an exit status that says nothing, a signal, too long a time, 500
    with "any", every other deferral, too; without it "4.2.2 full" or a server that is down counts for nothing

So an attempt is counted before it is made, and the count taken back where it ends in an ordinary way.
"""

from __future__ import annotations

from postroom import actions, log
from postroom.actions import Failed, maildir
from postroom.rules import SEPARATOR
from postroom.status import DEFERRED, ConfigurationFault, Fault, clean, sent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from postroom.delivery import Mail
    from postroom.status import Outcome
    from postroom.store import Store

_NO_END = "it did not come to its end (killed, or past its deadline)"


def perform(words: tuple[str, ...], mail: Mail, deliveries: Store) -> Outcome:
    """What the action comes to, or the quarantine."""
    place = len(words) - 1 - words[::-1].index(SEPARATOR)
    action, (_, path, after, *any_deferral) = words[:place], words[place + 1 :]
    attempts = Attempts(deliveries, mail, int(after.removeprefix("after=")))
    if attempts.spent:
        return _kept(path, action, mail, attempts)
    attempts.begin()
    try:
        outcome = actions.perform(action, mail)
    except ConfigurationFault:
        attempts.take_back()
        raise
    except Exception as error:
        attempts.fail(f"{error}" if isinstance(error, Fault) else f"internal error ({type(error).__name__}: {error})")
        if attempts.spent:
            return _kept(path, action, mail, attempts)
        raise
    if not isinstance(outcome, Failed) and not (any_deferral and outcome.kind == DEFERRED):
        attempts.take_back()
        return outcome
    attempts.fail(outcome.text)
    return _kept(path, action, mail, attempts) if attempts.spent else outcome


class Attempts:
    """How often a delivery has failed, and why the last time; in the state, under a key of its own: `N REASON`."""

    def __init__(self, deliveries: Store, mail: Mail, allowed: int) -> None:
        self._deliveries = deliveries
        self._key = b"attempts:" + mail.key()
        self._allowed = allowed
        count, _, self.reason = (deliveries.claim(self._key) or "0").partition(" ")
        self.count = int(count)

    @property
    def spent(self) -> bool:
        return self.count >= self._allowed

    def begin(self) -> None:
        """Counted before anything happens: whoever is killed counts nothing any more."""
        self._deliveries.done(self._key, f"{self.count + 1} {_NO_END}")

    def take_back(self) -> None:
        self._deliveries.done(self._key, f"{self.count} {self.reason}")

    def fail(self, reason: str) -> None:
        self.count += 1
        self.reason = clean(reason)
        self._deliveries.done(self._key, f"{self.count} {self.reason}")


def _kept(path: str, action: tuple[str, ...], mail: Mail, attempts: Attempts) -> Outcome:
    """Into the maildir, with the report on top; whoever reads the log at "error" learns of it."""
    head = maildir.header_lines(mail) + _report(action, mail, attempts)
    outcome = maildir.deposit(maildir.checked(path), mail, head)
    if outcome.kind == DEFERRED:
        return outcome
    times = f"{attempts.count} failed attempt{'s' * (attempts.count != 1)}"
    log.error(mail.queue_id, to=f"<{mail.recipient}>", quarantine=path, text=f"after {times}: {attempts.reason}")
    return sent(f"quarantined after {times}: {attempts.reason}")


def _report(action: tuple[str, ...], mail: Mail, attempts: Attempts) -> bytes:
    """Header fields, so that any mail reader shows them, and who puts the mail back into the queue need not cut."""
    fields = {
        "Queue-Id": mail.queue_id,
        "Attempts": str(attempts.count),
        "Action": " ".join(action),
        "Reason": attempts.reason,
    }
    lines = (f"X-Postroom-Quarantine-{name}: {clean(value)}\n" for name, value in fields.items())
    return "".join(lines).encode("utf-8", "replace")
