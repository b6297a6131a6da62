#!python
"""rule-policy - answer SMTPD policy requests by the rules

Usage: rule-policy [--config FILE] [--log DEST] [--state DIR] [--deadline SECONDS]
                   [--handoff PATH|no]

Started by spawn(8), one for each smtpd(8) process, with the connection as standard input and output. For every
request it runs the rules of the request's stage (at = "rcpt" and so on) in postroom.toml, and replies with the
action of the first that matches, DUNNO where none does. A change of the file is in force within a second; a broken
one is logged, and the rules before it stay.

Our own faults never reject mail: what cannot be decided is put off (DEFER_IF_PERMIT 4.3.x) and logged.

  --config FILE        postroom.toml; default /etc/postroom/postroom.toml
  --log DEST           "syslog" or a file, in place of what the configuration says
  --state DIR          the state directory, in place of what the configuration says
  --deadline SECONDS   for one request; default 30, or the configuration's deadline where that is less
  --handoff PATH|no    the resident service that is asked first; default /run/postroom/handoff; no: run alone

Wire it:  postroom wire rule-policy
Try it:   postroom explain recipient=a@example.com
          printf 'request=smtpd_access_policy\\nprotocol_state=RCPT\\nrecipient=a@example.com\\n\\n' | rule-policy
"""

import os

try:
    from postroom import handoff

    handoff.offer(shipped=True)  # where a resident takes it, it ends here

    from postroom.dns import Resolver
    from postroom.policy import PolicyRequest, one_action, part_of_several, without_context
    from postroom.rules import STAGE_OF_STATE
    from postroom.runners.stdio import run
    from postroom.sources import Sources
    from postroom.store import open as open_store
except BaseException as error:  # whatever is missing: no reply, so that Postfix asks again and then defers the mail
    try:
        import signal
        import syslog

        signal.alarm(5)  # where syslogd does not read, this ends it: no reply is better than a late one
        syslog.openlog("postroom/rule-policy", syslog.LOG_PID, syslog.LOG_MAIL)
        syslog.syslog(syslog.LOG_ERR, f"error: NOQUEUE: fault=import ({error})"[:500].replace("\0", "?"))
    finally:
        os._exit(75)


def decide(request: PolicyRequest) -> str:
    stage = STAGE_OF_STATE.get(request.get("protocol_state", ""))
    if stage is None:
        return "DUNNO"  # a state of some later Postfix: no rule can be meant for it
    part = part_of_several(request)
    if part is not None:  # one of several actions of a decision that is made, logged and recorded
        decision = _sources(request).decide(stage, without_context(request), again=True)
        return one_action(decision, part)
    decision = _sources(request).decide(stage, request)
    if decision.shadow or decision.skipped:
        request.log.update(decision.notes())
    if decision.rule is not None:
        request.log["rule"] = decision.rule
        request.log["on_error"] = decision.reason if decision.on_error else None
    return one_action(decision)


def _sources(request: PolicyRequest) -> Sources:
    """Kept for the connection, and made anew with each configuration: other servers to ask, another state."""
    service = request.service
    assert service is not None  # noqa: S101 - for mypy; the runner lends one to every request
    configuration = service.configuration
    sources: Sources | None = service.sources
    if sources is None or sources.configuration is not configuration:
        dns = configuration.dns
        resolver = Resolver(dns.servers, dns.port, dns.timeout)
        sources = Sources(configuration, resolver, lambda: open_store(configuration.state, request.deadline))
        service.sources = sources
    if not sources.quick:
        sources.deadline = request.deadline
    return sources


run(decide, through_sources=True)
