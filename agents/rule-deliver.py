#!python
"""rule-deliver - apply the delivery rules to each recipient of a mail

Usage: rule-deliver [--config FILE] [--log DEST] [--state DIR] [--deadline SECONDS]
                    [--handoff PATH|no] -- sender=... recipient=... ...

Started by pipe(8), once for each recipient of a mail, with the mail on standard input. The first rule of stage
at = "deliver" in postroom.toml that matches says what happens to it:

    maildir PATH            written into a maildir, once
    relay TARGET            handed on to lmtp:unix:/path, lmtp:[host]:port or smtp:[host]:port, with TLS or without
    webhook URL             posted to an HTTP server; what it answers decides
    command PROGRAM ...     given to a program; its exit status or first line decides
    discard [TEXT]          thrown away, taken for delivered
    5.x.x TEXT              returned to the sender
    4.x.x TEXT              kept in the queue, tried again later
    quarantine PATH         behind another of these: a maildir for mail over which that has failed too often

Our own faults never bounce mail: a broken configuration, a recipient that no rule is for, state that cannot be written,
a server that is down, a program that fails: the mail stays in the queue (4.3.x, exit status 75), the log says why.
What was delivered is recorded before we answer, so that Postfix, asking again after a crash, does not double the mail.

  --config FILE        postroom.toml; default /etc/postroom/postroom.toml
  --log DEST           "syslog" or a file, in place of what the configuration says
  --state DIR          the state directory, in place of what the configuration says
  --deadline SECONDS   for all of a delivery; default 250, below Postfix's own limit, at which it would bounce the mail
  --handoff PATH|no    the resident service that is asked first; default /run/postroom/handoff; no: run alone
  --                   after it come the words that pipe(8) fills in: sender=${sender} recipient=${recipient} ...

Wire it:  postroom wire rule-deliver
Try it:   postroom try rule-deliver --recipient a@example.com --stdin MAIL
          postroom explain --at deliver recipient=a@example.com
"""

import os

try:
    from postroom import handoff

    handoff.offer(shipped=True)  # where a resident takes it, it ends here

    from postroom.actions.by_rule import deliver
    from postroom.runners.pipe import run
except BaseException as error:  # SystemExit, too: any exit status but 75 would have Postfix bounce the mail
    try:
        reason = f"{type(error).__name__}: {error}".encode("ascii", "replace")
        os.write(1, b"4.3.5 rule-deliver: " + b" ".join(reason[:400].split()) + b"\n")
    finally:
        os._exit(75)

run(deliver)
