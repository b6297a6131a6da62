#!python
"""socketmap-lookup - answer socketmap lookups: routes by MX, suppressed recipients, verdicts, lists

Usage: socketmap-lookup [--config FILE] [--log DEST] [--state DIR] [--deadline SECONDS]
                        [--handoff PATH|no]

Started by spawn(8), one for each connection, with it as standard input and output. The tables, each under its name:

  route            the rules of at = "route" for a recipient: a transport(5) result; [route] overrides come first
  suppressed       "550 5.1.1 ..." for a suppressed recipient
  verdict          the rules of at = "rcpt" for a recipient: an access(5) result
  sender-verdict   the rules of at = "mail" for a sender: an access(5) result
  list.NAME        the text beside the entry of a list of postroom.toml

A change of the file is in force within a second; a broken one is logged, and the rules before it stay.

Our own faults never reject mail: what cannot be looked up is put off (TEMP) and logged. A route that cannot be told
within [route] deadline is "not found", and the mail goes as it would without rules; TEMP only with temp = true there.

  --config FILE        postroom.toml; default /etc/postroom/postroom.toml
  --log DEST           "syslog" or a file, in place of what the configuration says
  --state DIR          the state directory, in place of what the configuration says
  --deadline SECONDS   for one lookup; default 10, or the configuration's deadline where that is less
  --handoff PATH|no    the resident service that is asked first; default /run/postroom/handoff; no: run alone

Wire it:  postroom wire socketmap-lookup
Try it:   postmap -q a@example.com socketmap:unix:private/socketmap-lookup:route
          printf '19:route a@example.com,' | socketmap-lookup
"""

import os

try:
    from postroom import handoff

    handoff.offer(shipped=True)  # where a resident takes it, it ends here

    from postroom.answers import lookup
    from postroom.runners.tables import run
    from postroom.wire import socketmap
except BaseException as error:  # whatever is missing: no reply, so that Postfix asks again and then defers the mail
    try:
        import signal
        import syslog

        signal.alarm(5)  # where syslogd does not read, this ends it: no reply is better than a late one
        syslog.openlog("postroom/socketmap-lookup", syslog.LOG_PID, syslog.LOG_MAIL)
        syslog.syslog(syslog.LOG_ERR, f"error: NOQUEUE: fault=import ({error})"[:500].replace("\0", "?"))
    finally:
        os._exit(75)

run(lookup, socketmap, through_sources=True)
