#!python
"""lmtp-deliver - apply the delivery rules to mail that comes by LMTP

Usage: lmtp-deliver [--config FILE] [--log DEST] [--state DIR] [--deadline SECONDS]
                    [--handoff PATH|no]

Started by spawn(8), one for each connection of an lmtp(8), with the connection as standard input and output. It does
what rule-deliver does for pipe(8), by the same rules (at = "deliver" in postroom.toml), with three differences: one
process takes many mails, one after the other; a mail may have several recipients, each with a result of its own; and
who asked to be told of success (NOTIFY=SUCCESS) is told by us, through sendmail(1).

Our own faults never bounce mail: what cannot be delivered for a reason of ours stays in the queue (4.3.x), the log
says why. What was delivered is recorded before we answer, so that Postfix, asking again, does not double the mail.

  --config FILE        postroom.toml; default /etc/postroom/postroom.toml
  --log DEST           "syslog" or a file, in place of what the configuration says
  --state DIR          the state directory, in place of what the configuration says
  --deadline SECONDS   for all recipients of a mail; default 250, or the configuration's deadline where that is less
  --handoff PATH|no    the resident service that is asked first; default /run/postroom/handoff; no: run alone

Wire it:  postroom wire lmtp-deliver
Try it:   (printf 'LHLO x\\r\\nMAIL FROM:<>\\r\\nRCPT TO:<a@example.com>\\r\\nDATA\\r\\n'
           printf 'Subject: x\\r\\n\\r\\nx\\r\\n.\\r\\n') | lmtp-deliver
          postroom explain --at deliver recipient=a@example.com
"""

import os

try:
    from postroom import handoff

    handoff.offer(shipped=True)  # where a resident takes it, it ends here

    from postroom.actions.by_rule import deliver
    from postroom.runners.lmtp import run
except BaseException as error:  # whatever is missing: no reply, so that Postfix defers the mail and tries again
    try:
        import signal
        import syslog

        signal.alarm(5)  # where syslogd does not read, this ends it: no reply is better than a late one
        syslog.openlog("postroom/lmtp-deliver", syslog.LOG_PID, syslog.LOG_MAIL)
        syslog.syslog(syslog.LOG_ERR, f"error: NOQUEUE: fault=import ({error})"[:500].replace("\0", "?"))
    finally:
        os._exit(75)

run(deliver)
