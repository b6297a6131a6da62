"""A delivery is made once, however often Postfix asks for it.

Postfix asks again when it did not see the first try end: after a crash, or a `postfix stop`, which leaves the program
running as an orphan. So a delivery is claimed in the store before its effect, and recorded there when it is made:

    nothing recorded            claim it, make it, record it
    claimed, never recorded     whoever claimed it died: make it (again, perhaps: better twice than never)
    claimed, and still at it    an orphan has the lock on this delivery: deferred
    recorded                    the same outcome again, nothing is done

Only what was sent is recorded. What was refused has no effect to repeat; and where soft_bounce=yes keeps it in the
queue for an administrator to mend the cause, the next try must get a new answer.
"""

from __future__ import annotations

import fcntl
import os

from postroom import log
from postroom.actions import WITHOUT_EFFECT, module, perform
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
    # The rule is no part of the key: edited between two tries, it must not make a second delivery of the mail.
    key = b"deliver:" + mail.key()
    held = _lock(mail.configuration.state, mail.key())
    if held is None:
        return deferred("another process is still delivering this mail")
    try:
        deliveries = open_store()
        recorded = deliveries.claim(key)
        if recorded is not None:
            mail.log["repeated"] = "yes"
            return parse(recorded) or sent("delivered before")
        outcome = perform(words, mail)
        if outcome.kind == SENT:
            _record(deliveries, key, outcome, mail)
        return outcome
    finally:
        os.close(held)


def _record(deliveries: Store, key: bytes, outcome: Outcome, mail: Mail) -> None:
    try:
        deliveries.done(key, str(outcome))
    except Fault as fault:
        # To defer now would have the mail delivered twice for certain, instead of perhaps.
        cause = f": {fault.__cause__}" if fault.__cause__ else ""
        log.warning(mail.queue_id, to=f"<{mail.recipient}>", text=f"sent, but that is not recorded: {fault}{cause}")


def _lock(directory: str, key: bytes) -> int | None:
    """A descriptor that holds this delivery's lock until it is closed, or the process ends; None: another one has it.

    One byte of one file stands for a delivery: no file is ever left behind, whoever dies.
    """
    try:
        fd = os.open(provide(directory, LOCK), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise Fault("the state cannot be opened") from error
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, int.from_bytes(key[:7], "big"))
    except BlockingIOError:
        os.close(fd)
        return None
    except OSError as error:
        os.close(fd)
        raise Fault("the state cannot be locked") from error
    return fd
