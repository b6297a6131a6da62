"""What a delivery's handler comes to, whoever runs it: pipe.py for one mail, the resident for many."""

from __future__ import annotations

from postroom import log
from postroom.runners.faults import place, words
from postroom.status import DEFERRED, MAX_LINE, SENT, Fault, Outcome, cut, deferred

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from postroom.delivery import Mail


def outcome(deliver: Callable[[Mail], Outcome], mail: Mail) -> Outcome:
    """What the handler says; a deferral where it raises, or says what is no Outcome."""
    try:
        said = deliver(mail)
        if not isinstance(said, Outcome):
            raise TypeError(f"the handler returned {type(said).__name__}, expected an Outcome")
    except BaseException as error:  # SystemExit included: our fault, so the mail is deferred
        return failed(error, "handler", mail.queue_id)
    return said


def tell(mail: Mail, said: Outcome) -> None:
    """The line in the log."""
    log.info(
        mail.queue_id,
        to=f"<{mail.recipient}>",
        orig_to=f"<{mail.original_recipient}>" if mail.original_recipient != mail.recipient else None,
        **mail.log,
        status=said.kind,
        dsn=said.status,
        text=said.text,
    )


def failed(error: BaseException, where: str, queue_id: str) -> Outcome:
    """Log our fault with its place; the sender, who may read the text in a delay notice, is told less."""
    if isinstance(error, Fault):
        log.error(queue_id, fault=where, text=words(error))
        return deferred(str(error) or "local fault", error.status)
    log.error(queue_id, fault=where, at=place(error), text=words(error))
    if isinstance(error, ImportError):
        return deferred(f"incomplete installation ({type(error).__name__}), see the mail log", "4.3.5")
    return deferred(f"internal error ({type(error).__name__}), see the mail log", "4.3.0")


def combined(outcomes: list[Outcome]) -> Outcome:
    """One result for all recipients of the request, since pipe(8) has only one exit status for them."""
    kinds = {one.kind for one in outcomes}
    if len(kinds) == 1:
        return outcomes[0]
    for one in outcomes:
        if one.kind == DEFERRED:
            return one  # asked for all again; what is delivered already is known by Mail.key()
    # Sent for one and refused for another cannot be said in one exit status: a bounce would be a lie to the
    # sender about one of them, success would lose the other.
    return deferred(
        "recipients of one request have different results; set TRANSPORT_destination_recipient_limit = 1", "4.3.5"
    )


def line(said: Outcome) -> bytes:
    """What pipe(8) reads beside the exit status; of a delivery that succeeded only the words."""
    return cut(said.text, MAX_LINE - 1) + b"\n" if said.kind == SENT else said.line()


def overdue(seconds: float) -> Outcome:
    """For a handler that has not come back."""
    return deferred(f"not finished within {seconds:g} seconds", "4.3.0")


def cut_short() -> Fault:
    """`postfix stop` ends pipe(8) in the middle of handing a message over, and what came until then looks whole."""
    return Fault("Postfix has stopped in the middle of the message")
