"""One mail through the handler of a program of pipe(8), in the resident: for programs that hand off, and for LMTP.

The same as in runners/pipe.py, by the same functions, but for what is the process there: a thread that is past its
deadline cannot be ended. It goes on, nobody waits for it, and its line in the log says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from postroom import log
from postroom.deadline import Deadline
from postroom.delivery import Mail
from postroom.envelope import Envelope, Recipient
from postroom.message import Message
from postroom.resident.programs import Program
from postroom.runners.verdicts import failed, outcome, tell
from postroom.status import Outcome

if TYPE_CHECKING:
    from postroom.delivery import Service


def deliver(
    program: Program, envelope: Envelope, recipient: Recipient, message: Message, deadline: Deadline, service: Service
) -> Outcome:
    """What became of the mail for this recipient. Raises nothing. In any thread, in many at a time."""
    return handled(program, Mail(envelope, recipient, message, deadline, service))


def handled(program: Program, mail: Mail) -> Outcome:
    """The same for a mail that is put together; its `log` is filled then."""
    before = log.speaking_as(program.name)
    try:
        said = outcome(program.handler, mail)
        if mail.deadline.expired:
            mail.log["late"] = "yes"  # Postfix may have been told that it was not finished, and asks again
        tell(mail, said)
        return said
    except BaseException as error:  # whatever it is, a thread must not end of it
        return failed(error, "runner", mail.queue_id)
    finally:
        log.speaking_as(before)
