"""Success reports (RFC 3464), for what a client of LMTP asked for by NOTIFY=SUCCESS.

Postfix asks for reports itself where a server does not announce DSN. One that does has taken that over (RFC 3461
section 5.2.1): after a delivery lmtp(8) sends none. Failures and delays stay Postfix's to report, by our replies.

A report goes out through sendmail(1), with the null sender, before the client is answered, unless that takes longer
than PATIENCE. Where it cannot be sent the log says so, and the mail is delivered all the same. After a repeated
delivery it is sent again: twice, perhaps, is better than never.
"""

from __future__ import annotations

import os

from postroom import cpus, log
from postroom.envelope import quote
from postroom.status import SENT, clean

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from subprocess import Popen

    from postroom.message import Message
    from postroom.status import Outcome
    from postroom.wire.transaction import Rcpt, Transaction

# Postfix's own, which finds its configuration by MAIL_CONFIG where that is not the usual one.
SENDMAIL = "/usr/sbin/sendmail"

# It writes a file into Postfix's queue, some milliseconds. But postdrop(1) waits without end for a queue that it may
# not write to, as where it may not use its group (NoNewPrivileges=); it is ended then, by a process of its own, since
# we may be gone by that time.
SENDMAIL_TIME = 20.0
_ENDED_AT = ("timeout", "-k", "2")
_EXPIRED = (124, 137)  # timeout(1)

# The reply waits for it so long; not at all while others take longer, nor is it tried with so many of them.
PATIENCE = 2.0
LATE_LIMIT = 8

# Of the message's header, in the report. Postfix cuts it at bounce_size_limit, 50000.
HEADER_LIMIT = 50000

_TEXT = """\
This is the mail system at host {host}.

Your message was successfully delivered to the destinations
listed below. If it was handed on to another mail system, you
may still receive notifications of failure from there.

{lines}
"""


class Result:
    """What became of one recipient; `relayed`: by a server that is not told to report."""

    __slots__ = ("outcome", "rcpt", "relayed")

    def __init__(self, rcpt: Rcpt, outcome: Outcome, relayed: bool) -> None:
        self.rcpt = rcpt
        self.outcome = outcome
        self.relayed = relayed


def report(mail: Transaction, results: Sequence[Result], message: Message, queue_id: str) -> None:
    """Send the report that is due, if any is. Raises nothing."""
    due = [one for one in results if "SUCCESS" in one.rcpt.notify and one.outcome.kind == SENT]
    if not due or not mail.sender:
        return
    try:
        _send(mail.sender, compose(mail, due, message.head), lambda problem: _tell(mail, due, queue_id, problem))
    except Exception as error:  # a bug in here, too: the mail is delivered
        _tell(mail, due, queue_id, f"{type(error).__name__}: {error}")


def _tell(mail: Transaction, due: Sequence[Result], queue_id: str, problem: str) -> None:
    if problem:
        log.warning(queue_id, fault="dsn", to=f"<{mail.sender}>", text=f"delivered, but not reported: {problem}")
    else:
        log.info(queue_id, report=f"<{mail.sender}>", text=f"success of {len(due)} recipients")


def compose(mail: Transaction, results: Sequence[Result], head: bytes) -> bytes:
    """The report, as sendmail(1) takes it: LF line ends, and what Postfix adds (Date, Message-Id) missing."""
    host = os.uname().nodename
    boundary = f"{os.urandom(12).hex()}/{host}"
    addresses = "".join([mail.sender, *(one.rcpt.address + one.rcpt.orcpt for one in results)])
    utf8 = not addresses.isascii()
    lines = "\n".join(f"{_shown(one.rcpt.address)}: {one.outcome}" for one in results)
    header = (
        f"From: Mail Delivery System <MAILER-DAEMON>\nTo: {_shown(mail.sender)}\n"
        "Subject: Successful Mail Delivery Report\nAuto-Submitted: auto-replied\nMIME-Version: 1.0\n"
        f'Content-Type: multipart/report; report-type=delivery-status;\n boundary="{boundary}"\n'
    )
    parts = [
        ("text/plain; charset=utf-8", _TEXT.format(host=host, lines=lines).encode("utf-8", "replace")),
        ("message/global-delivery-status" if utf8 else "message/delivery-status", _status(mail, results, host, utf8)),
        ("message/global-headers" if not head.isascii() else "text/rfc822-headers", _cut(head)),
    ]
    body = b"".join(
        f"\n--{boundary}\nContent-Type: {kind}\nContent-Transfer-Encoding: 8bit\n\n".encode() + content
        for kind, content in parts
    )
    return header.encode("utf-8", "replace") + body + f"\n--{boundary}--\n".encode()


def _status(mail: Transaction, results: Sequence[Result], host: str, utf8: bool) -> bytes:
    """RFC 3464 sections 2.2 and 2.3; addresses past ASCII by RFC 6533."""
    blocks = [f"Reporting-MTA: dns; {host}\n" + (f"Original-Envelope-Id: {mail.envid}\n" if mail.envid else "")]
    for one in results:
        original = f"Original-Recipient: {clean(one.rcpt.orcpt)}\n" if one.rcpt.orcpt else ""
        kind = "rfc822" if one.rcpt.address.isascii() or not utf8 else "utf-8"
        action = "relayed" if one.relayed else "delivered"
        blocks.append(
            f"{original}Final-Recipient: {kind}; {clean(quote(one.rcpt.address))}\nAction: {action}\n"
            f"Status: {one.outcome.status}\n"
        )
    return "\n".join(blocks).encode("utf-8", "replace")


def _shown(address: str) -> str:
    return f"<{clean(quote(address))}>"


def _cut(head: bytes) -> bytes:
    return head if len(head) <= HEADER_LIMIT else head[: head.rfind(b"\n", 0, HEADER_LIMIT) + 1]


# Processes that take longer than PATIENCE. A list's append and remove are whole, in whichever thread.
_late: list[Popen[bytes]] = []


def _send(recipient: str, report: bytes, tell: Callable[[str], None]) -> None:
    """Tell what is wrong, "" if nothing; where that takes long, later and in another thread."""
    import threading
    from subprocess import TimeoutExpired

    if len(_late) >= LATE_LIMIT:
        return tell(f"{LATE_LIMIT} others are waiting for {SENDMAIL} already")
    process = _started(recipient, report)
    try:
        tell(_finished(process, PATIENCE if not _late else 0))
    except TimeoutExpired:
        _late.append(process)
        threading.Thread(target=_later, args=(process, tell), name="report", daemon=True).start()


def _later(process: Popen[bytes], tell: Callable[[str], None]) -> None:
    from subprocess import TimeoutExpired

    try:
        tell(_finished(process, 2 * SENDMAIL_TIME))
    except TimeoutExpired:
        tell(f"{SENDMAIL} cannot be ended")
    finally:
        _late.remove(process)


def _started(recipient: str, report: bytes) -> Popen[bytes]:
    import subprocess

    # -N never: of a report there is no report. What follows -- is no option, whatever a stranger's address is.
    words: list[str | bytes] = [SENDMAIL, "-i", "-f", "<>", "-N", "never", "--", os.fsencode(quote(recipient))]
    # A file, not a pipe: all of it is there for sendmail(1), also when we no longer are.
    with open(os.memfd_create("report"), "w+b") as file:
        file.write(report)
        file.seek(0)
        with cpus.Everywhere():
            return subprocess.Popen(
                [*_ENDED_AT, str(SENDMAIL_TIME), *words],
                stdin=file, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip


def _finished(process: Popen[bytes], seconds: float | None) -> str:
    """Empty, or why the report was not sent. Raises TimeoutExpired, and can be called again then."""
    said = _words(process.communicate(timeout=seconds)[0])
    if process.returncode in _EXPIRED:
        return f"{SENDMAIL} was not done within {SENDMAIL_TIME:g} s: {said}"
    return f"{SENDMAIL} ended with {process.returncode}: {said}" if process.returncode else ""


def _words(said: bytes) -> str:
    return clean(said[:500].decode("utf-8", "replace"))
