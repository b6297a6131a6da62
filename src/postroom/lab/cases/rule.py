"""The user's rule: primary MX under shadysmtpd and recipient on the list, the connection ends without notice."""

from __future__ import annotations

from collections.abc import Iterator

from postroom.lab.cases import Line, short
from postroom.lab.lab import Lab

REPLY_521 = "521 5.7.1 mail for {recipient} does not go through {primary_mx}"


def primary_mx(lab: Lab) -> Iterator[Line]:
    lab.configure(action="HANGUP", on_error="skip")
    yield _hangup(lab)
    yield _accepted(lab, "other@victim.test", "the recipient is not on the list")
    yield _accepted(lab, "listed@backup.test", "shadysmtpd is only the backup MX")
    yield _accepted(lab, "listed@broken.test", 'DNS says SERVFAIL, and the rule says on_error = "skip"')
    lab.configure(action=REPLY_521, on_error="defer")
    yield _reply_521(lab)
    yield _servfail_defers(lab)
    lab.configure()


def _hangup(lab: Lab) -> Line:
    since, own = lab.postfix.log.size(), lab.log.size()
    reply, closed = lab.rcpt("listed@victim.test")
    hangup = lab.postfix.log.wait_for(r"smtpd\[\d+\]: .*(hangup: RCPT from [^:]+)", since=since).group(1)
    rule = _rule(lab, own)
    return Line(
        "RCPT TO:<listed@victim.test>",
        "connection closed, no reply" if reply is None else f"replied {reply}",
        f"{rule}: primary MX mx1.shadysmtpd.test, recipient listed; Postfix logs {hangup!r}",
        reply is None and closed and rule == "rule shady-primary-mx",
    )


def _reply_521(lab: Lab) -> Line:
    own = lab.log.size()
    reply, closed = lab.rcpt("listed@victim.test")
    rule = _rule(lab, own)
    return Line(
        "RCPT TO:<listed@victim.test>",
        f"replied {short(reply)}, then {'closed' if closed else 'went on'}",
        f'{rule}, with action = "521 ..." in place of HANGUP',
        reply is not None and reply.code == 521 and closed and "through mx1.shadysmtpd.test" in reply.text,
    )


def _accepted(lab: Lab, recipient: str, why: str) -> Line:
    reply, closed = lab.rcpt(recipient)
    return Line(
        f"RCPT TO:<{recipient}>",
        f"replied {short(reply)}",
        why,
        reply is not None and reply.code == 250 and not closed,
    )


def _servfail_defers(lab: Lab) -> Line:
    own = lab.log.size()
    reply, closed = lab.rcpt("listed@broken.test")
    return Line(
        "RCPT TO:<listed@broken.test>",
        f"replied {short(reply)}",
        f'{_rule(lab, own)}: SERVFAIL, and the rule says on_error = "defer"',
        reply is not None and reply.code == 450 and not closed,
    )


def _rule(lab: Lab, since: int) -> str:
    return "rule " + lab.log.wait_for(r"rule=([\w-]+)", since=since, timeout=10).group(1)
