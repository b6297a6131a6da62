#!python
"""tcp-lookup - answer tcp_table lookups: routes by MX, suppressed recipients, verdicts, lists

Usage: tcp-lookup [--config FILE] [--log DEST] [--state DIR] [--deadline SECONDS]
                  [--handoff PATH|no] [--table NAME]

What socketmap-lookup does, for what speaks tcp_table(5) only. Started by spawn(8), one for each connection, with it as
standard input and output. The protocol names no table: each service of master.cf has one.

  --table NAME         route (the default), suppressed, verdict, sender-verdict or list.NAME: socketmap-lookup(8)

A change of the configuration is in force within a second; a broken one is logged, and the rules before it stay.

Our own faults never reject mail: what cannot be looked up is put off (400) and logged. A route that cannot be told
within [route] deadline is "not found", and the mail goes as it would without rules; 400 only with temp = true there.

  --config FILE        postroom.toml; default /etc/postroom/postroom.toml
  --log DEST           "syslog" or a file, in place of what the configuration says
  --state DIR          the state directory, in place of what the configuration says
  --deadline SECONDS   for one lookup; default 10, or the configuration's deadline where that is less
  --handoff PATH|no    the resident service that is asked first; default /run/postroom/handoff; no: run alone

Wire it:  postroom wire tcp-lookup
Try it:   postmap -q a@example.com tcp:127.0.0.1:2527
          echo 'get a@example.com' | tcp-lookup
"""

import os

try:
    from postroom import handoff

    handoff.offer(shipped=True)  # where a resident takes it, it ends here

    from postroom.answers import lookup
    from postroom.runners.tables import run
    from postroom.wire import tcp_table
except BaseException as error:  # whatever is missing: no reply, so that Postfix asks again and then defers the mail
    try:
        import signal
        import syslog

        signal.alarm(5)  # where syslogd does not read, this ends it: no reply is better than a late one
        syslog.openlog("postroom/tcp-lookup", syslog.LOG_PID, syslog.LOG_MAIL)
        syslog.syslog(syslog.LOG_ERR, f"error: NOQUEUE: fault=import ({error})"[:500].replace("\0", "?"))
    finally:
        os._exit(75)

run(lookup, tcp_table, through_sources=True)
