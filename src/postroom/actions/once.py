"""A delivery is made once, however often Postfix asks for it.

Postfix asks again when it did not see the first try end: after a crash, or a `postfix stop`, which leaves the program
running as an orphan. So a delivery is claimed in the store before its effect, and recorded there when it is made:

    nothing recorded            claim it, make it, record it
    claimed, never recorded     whoever claimed it died: make it (again, perhaps: better twice than never)
    claimed, and still at it    an orphan, or the program that it ran, has the lock on this delivery: deferred
    recorded                    the same outcome again, nothing is done

Only what was sent is recorded. What was refused has no effect to repeat; and where soft_bounce=yes keeps it in the
queue for an administrator to mend the cause, the next try must get a new answer.
"""

from __future__ import annotations

import fcntl
import os
from _struct import pack

from postroom import log
from postroom.actions import WITHOUT_EFFECT, module, perform
from postroom.rules import SEPARATOR
from postroom.status import SENT, Fault, deferred, parse, sent
from postroom.store.files import provide

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from postroom.delivery import Mail
    from postroom.status import Outcome
    from postroom.store import Store

LOCK = "deliveries.lock"


def once(words: tuple[str, ...], mail: Mail, open_store: Callable[[], Store]) -> Outcome:
    """`perform`, unless it was done before."""
    if module(words) in WITHOUT_EFFECT:
        return perform(words, mail)

    def act(deliveries: Store) -> Outcome:
        if SEPARATOR not in words:
            return perform(words, mail)
        from postroom.actions import quarantine

        return quarantine.perform(words, mail, deliveries)

    # The rule is no part of the key: edited between two tries, it must not make a second delivery of the mail.
    return recorded(b"deliver:" + mail.key(), mail, open_store, act)


def recorded(key: bytes, mail: Mail, open_store: Callable[[], Store], act: Callable[[Store], Outcome]) -> Outcome:
    """What `act` comes to, unless it is recorded under this key that it was sent."""
    held = _lock(mail.configuration.state, mail.key())
    if held is None:
        return deferred("another process is still delivering this mail")
    try:
        deliveries = open_store()
        recorded = deliveries.claim(key)
        if recorded is not None:
            mail.log["repeated"] = "yes"
            return parse(recorded) or sent("delivered before")
        outcome = act(deliveries)
        if outcome.kind == SENT:
            _record(deliveries, key, outcome, mail)
        return outcome
    finally:
        _unlock(held)


def _record(deliveries: Store, key: bytes, outcome: Outcome, mail: Mail) -> None:
    try:
        deliveries.done(key, str(outcome))
    except Fault as fault:
        # To defer now would have the mail delivered twice for certain, instead of perhaps.
        cause = f": {fault.__cause__}" if fault.__cause__ else ""
        log.warning(mail.queue_id, to=f"<{mail.recipient}>", text=f"sent, but that is not recorded: {fault}{cause}")


def _lock(directory: str, key: bytes) -> int | None:
    """A descriptor that holds this delivery's lock; None: another process has it.

    One byte of one file stands for a delivery: no file is ever left behind, whoever dies. The lock belongs to the open
    file (fcntl(2), open file description locks), which the program of a `command` inherits: where we are killed and it
    works on, the next try finds the lock taken, and does not start a second one beside it.
    """
    try:
        fd = os.open(provide(directory, LOCK), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise Fault("the state cannot be opened") from error
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _one_byte(fcntl.F_WRLCK, int.from_bytes(key[:7], "big")))
        os.set_inheritable(fd, True)
    except BlockingIOError:
        os.close(fd)
        return None
    except OSError as error:
        os.close(fd)
        raise Fault("the state cannot be locked") from error
    return fd


def _unlock(held: int) -> None:
    """Not close(2) alone: what a program left running in the background has the file open, too."""
    try:
        fcntl.fcntl(held, fcntl.F_OFD_SETLK, _one_byte(fcntl.F_UNLCK, 0, 0))
    finally:
        os.close(held)


def _one_byte(kind: int, start: int, length: int = 1) -> bytes:
    """struct flock of fcntl(2); a length of 0 is all of the file."""
    return pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0)
