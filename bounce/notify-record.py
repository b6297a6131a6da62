#!python
"""notify-record - record the notices that Postfix sends to the postmaster

Usage: notify-record [--config FILE] [--log DEST] [--state DIR] [--deadline SECONDS]
                     [--handoff PATH|no] -- sender=${sender} ...

Run by pipe(8) for the recipients of main.cf's notify_classes: transcripts of SMTP sessions (policy, protocol, resource,
software, data, bounce), copies of bounces and of delay warnings (bounce, 2bounce, delay). It records the class, the
client or server, the command and the reply that caused the notice; what a client sent after AUTH is left out.

It sends no mail, and never bounces any: a notice about a notice would go in circles. What is no notice is recorded as
what it is; only a fault of our own (configuration, state) defers it.

  --config FILE        postroom.toml; default /etc/postroom/postroom.toml
  --log DEST           "syslog" or a file, in place of what the configuration says
  --state DIR          the state directory, in place of what the configuration says
  --deadline SECONDS   then the mail is deferred; default 250, or what the configuration says
  --handoff PATH|no    the resident service that is asked first; default /run/postroom/handoff; no: run alone

Exit status: 0 recorded, 75 deferred.

Wire it:  postroom wire notify-record
Try it:   postroom bounces parse FILE
          postroom try notify-record --stdin FILE
"""

import os
import time

try:
    from postroom import handoff

    handoff.offer(shipped=True)  # where a resident takes it, it ends here

    from postroom import store
    from postroom.bounces import events, report
    from postroom.bounces.values import UNREADABLE
    from postroom.delivery import Fault, Mail, Outcome, sent
    from postroom.runners.pipe import run
except BaseException as error:  # even SystemExit: half a library must not bounce mail
    try:
        reason = f"{error}".encode("ascii", "replace")
        os.write(1, b"4.3.5 notify-record cannot start: " + b" ".join(reason[:400].split()) + b"\n")
    finally:
        os._exit(75)

SHOWN = ("class", "side", "peer", "peer_address", "reply", "aborted")


def record(mail: Mail) -> Outcome:
    now = time.time()
    try:
        found = report.read(mail.message)
        event = events.event(found, None, mail.message.digest(), mail.recipient, mail.queue_id, now)
    except Fault:
        raise
    except Exception as error:  # a message that breaks a reader would do so at each try: kept as what it is, and done
        mail.log["trouble"] = f"{type(error).__name__}: {error}"
        found = report.Report(UNREADABLE)
        event = events.event(found, None, mail.message.digest(), mail.recipient, mail.queue_id, now)
    new = store.open(mail.configuration.state, mail.deadline).record(event)
    mail.log["kind"] = found.kind
    mail.log.update({name: found.fields[name] for name in SHOWN if found.fields.get(name)})
    mail.log["again"] = None if new else "yes"
    return sent(f"recorded: {found.fields.get('class', found.kind)}" if new else "recorded before")


run(record)
