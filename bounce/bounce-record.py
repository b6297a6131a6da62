#!python
"""bounce-record - record bounces and delays, and suppress recipients that are gone

Usage: bounce-record [--config FILE] [--log DEST] [--state DIR] [--deadline SECONDS]
                     [--handoff PATH|no] -- sender=${sender} ...

Run by pipe(8) for mail to signed envelope senders (postroom verp make), which is where reports on our own mail come
back to. It reads the report, checks that the address proves which recipient our mail was sent to, and records both.
The recipient is suppressed when the tag is right and fresh, the report says that mail to this very recipient failed,
and the reason is that the address is gone for good. Whatever else arrives, a stranger's forgery, a delay, somebody's
reply, is recorded, and suppresses nobody.

Rules of stage at = "bounce" may say what else is done, for each recipient that the report tells of: suppress (as
above), record (no more than that), forward ADDRESS, webhook URL. What no rule matches is taken as always.

Mail is never bounced from here: it would be a bounce of a bounce, and lost. What cannot be read is recorded as
unreadable; only a fault of our own (configuration, key file, state, a rule's server that is down) defers it.

  --config FILE        postroom.toml; default /etc/postroom/postroom.toml
  --log DEST           "syslog" or a file, in place of what the configuration says
  --state DIR          the state directory, in place of what the configuration says
  --deadline SECONDS   then the mail is deferred; default 250, or what the configuration says
  --handoff PATH|no    the resident service that is asked first; default /run/postroom/handoff; no: run alone

Exit status: 0 recorded, 75 deferred.

Wire it:  postroom wire bounce-record
Try it:   postroom bounces parse FILE
          postroom try bounce-record --stdin FILE --recipient "$(postroom verp make bob@example.com)"
"""

from __future__ import annotations

import os
import time

try:
    from postroom import handoff

    handoff.offer(shipped=True)  # where a resident takes it, it ends here

    from postroom.actions.state import State
    from postroom.bounces import events, keys, report, verp
    from postroom.bounces.values import UNREADABLE
    from postroom.delivery import Fault, Mail, Outcome, sent
    from postroom.envelope import localpart
    from postroom.runners.pipe import run
except BaseException as error:  # even SystemExit: half a library must not bounce mail
    try:
        reason = f"{error}".encode("ascii", "replace")
        os.write(1, b"4.3.5 bounce-record cannot start: " + b" ".join(reason[:400].split()) + b"\n")
    finally:
        os._exit(75)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from postroom.actions.by_bounce_rule import Ruled


def record(mail: Mail) -> Outcome:
    now = time.time()
    try:
        found = report.read(mail.message)
        verdict = _verdict(mail, found, now)
        event = events.event(found, verdict, mail.message.digest(), mail.recipient, mail.queue_id, now)
        suppress = events.suppressed(found, verdict, mail.queue_id, now)
    except Fault:
        raise
    except Exception as error:  # a message that breaks a reader would do so at each try: kept as what it is, and done
        mail.log["trouble"] = f"{type(error).__name__}: {error}"
        found, suppress = report.Report(UNREADABLE), []
        verdict = verp.Verdict(verp.UNVERIFIED, "the report cannot be read")
        event = events.event(found, verdict, mail.message.digest(), mail.recipient, mail.queue_id, now)
    state = State(mail.configuration, mail.deadline)
    ruled = _ruled(mail, found, verdict, state)
    if ruled is not None and ruled.put_off is not None:
        return ruled.put_off
    suppress = [entry for entry in suppress if ruled is None or ruled.permits(entry.address)]
    gone = [entry.address for entry in suppress]
    new = state.open().record(event, suppress)
    _log(mail, found, verdict, gone if new else [], new)
    left = ruled.carry_out(event, gone) if ruled is not None else None
    return left or sent(f"recorded: {event.kind}, {event.authentic}" if new else "recorded before")


def _ruled(mail: Mail, found: report.Report, verdict: verp.Verdict, state: State) -> Ruled | None:
    """What the rules say; None where there are none for reports, which then cost nothing."""
    if not mail.configuration.rules["stages"].get("bounce"):
        return None
    from postroom.actions.by_bounce_rule import decided

    return decided(mail, found, verdict, events.kept(found, verdict), state)


def _verdict(mail: Mail, found: report.Report, now: float) -> verp.Verdict:
    settings = mail.configuration.bounces
    if settings is None:
        return verp.Verdict(verp.UNVERIFIED, "no [bounces] in the configuration")
    ring = keys.load(settings.key)
    local, names = localpart(mail.recipient), events.candidates(found)
    return verp.check(local, names, ring, settings.prefix, now, settings.lifetime)


def _log(mail: Mail, found: report.Report, verdict: verp.Verdict, suppressed: list[str], new: bool) -> None:
    mail.log["kind"] = found.kind
    mail.log["authentic"] = verdict.authentic
    if verdict.authentic != verp.VERIFIED:
        mail.log["because"] = verdict.why
    if found.recipients:
        first = found.recipients[0]
        mail.log["about"] = f"<{first.address}>"
        mail.log["more"] = len(found.recipients) - 1 or None
        mail.log["reason"] = first.reason
        mail.log["reported"] = first.status or None
    mail.log["suppressed"] = " ".join(f"<{address}>" for address in suppressed) or None
    mail.log["again"] = None if new else "yes"


run(record)
