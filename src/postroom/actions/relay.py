"""`relay TARGET [ca=PATH] [login=PATH]`: hand the mail on to an LMTP or SMTP server.

    lmtp:unix:/path   lmtp:[HOST]:PORT   smtp:[HOST]:PORT     in clear, without any TLS
    lmtp+starttls:[HOST]:PORT   smtp+starttls:[HOST]:PORT     STARTTLS, which the server must offer (RFC 3207)
    lmtps:[HOST]:PORT   smtps:[HOST]:PORT                     TLS from the first byte (RFC 8314)

There is no "TLS where it is offered": who can take the offer away could read the mail. The certificate must be HOST's.
`login=` names a file with `user:password`, sent by AUTH PLAIN (RFC 4954).

The host is connected as it is named: no MX lookup. The server's answer about this mail or recipient is the outcome, as
it was said; a server that is down, greets with an error or breaks off is ours to repair, so it defers.

Not smtplib: to import it costs four bare interpreter starts, its time-outs begin anew with each byte, it reads replies
of any length, and it takes the message as one piece.
"""

from __future__ import annotations

import os

from postroom.actions.credentials import secret
from postroom.actions.session import BODY, END_OF_DATA, Ended, Session, connect_inet, connect_unix
from postroom.actions.smtp import encoded, features, mechanisms
from postroom.envelope import quote
from postroom.status import ConfigurationFault, bounced, deferred

TYPE_CHECKING = False
if TYPE_CHECKING:
    from postroom.actions.smtp import Reply
    from postroom.delivery import Mail
    from postroom.message import Message
    from postroom.status import Outcome

# The IANA's port of each protocol, where the rule names none; of LMTP over TLS there is none.
PORTS = {"smtp": 25, "lmtp": 24, "smtp+starttls": 587, "lmtp+starttls": 24, "smtps": 465, "lmtps": 24}


class Target:
    """Where to: a path, or a host and a port. Raises ConfigurationFault."""

    __slots__ = ("ca", "host", "login", "path", "port", "protocol")

    def __init__(self, text: str, *options: str) -> None:
        self.protocol, _, rest = text.partition(":")
        given = dict(option.split("=", 1) for option in options)
        self.ca, self.login = given.get("ca", ""), given.get("login", "")
        self.host = self.path = ""
        self.port = 0
        if self.protocol == "lmtp" and rest.startswith("unix:/"):
            self.path = rest[5:]
        elif self.protocol in PORTS:
            self.host, self.port = _host_and_port(rest.removeprefix("inet:"), PORTS[self.protocol])
        if not (self.path or (self.host and 0 < self.port < 65536)) or "\0" in text:
            raise ConfigurationFault(
                f"action relay: {text[:200]!r}, expected lmtp:unix:/path, lmtp:[host]:port or smtp:[host]:port"
            )


def deliver(words: tuple[str, ...], mail: Mail) -> Outcome:
    if len(words) < 2:
        raise ConfigurationFault("action relay: expected a target")
    target = Target(*words[1:])
    sender, recipient = _wire(mail.sender), _wire(mail.recipient)
    if sender is None or recipient is None:
        return bounced("an address with control characters cannot be sent", "5.1.7" if sender is None else "5.1.3")
    try:
        session = (
            connect_unix(target.path, mail.deadline)
            if target.path
            else connect_inet(target.host, target.port, mail.deadline)
        )
        try:
            return _converse(session, target, sender, recipient, mail.message)
        finally:
            session.close()
    except Ended as end:
        return end.outcome


def _converse(session: Session, target: Target, sender: bytes, recipient: bytes, message: Message) -> Outcome:
    announced = _opened(session, target)
    parameters = _parameters(announced, message, _utf8(sender, recipient, announced))
    _accepted(session, b"MAIL FROM:<" + sender + b">" + parameters, "sending MAIL FROM")
    _accepted(session, b"RCPT TO:<" + recipient + b">", "sending RCPT TO")
    reply = session.command(b"DATA", "sending DATA")
    if reply.code >= 400:
        return session.verdict(reply)
    if reply.code != 354:
        session.our_fault(reply)
    session.doing = BODY
    for piece in encoded(message.chunks()):
        session.send(piece)
    session.doing = END_OF_DATA
    return session.verdict(session.reply())  # of LMTP's replies, one per recipient, the one for ours


def _opened(session: Session, target: Target) -> frozenset[str]:
    """Greeting, TLS, HELO and login as the target wants them; what the server announces."""
    if target.protocol.endswith("ps"):
        session.secure(target.host, target.ca)
        session.doing = "waiting for the greeting"
    greeting = session.reply()
    if greeting.code != 220:
        session.our_fault(greeting)
    reply = _hello(session, target.protocol)
    if target.protocol.endswith("+starttls"):
        if "STARTTLS" not in features(reply):
            raise Ended(deferred(f"TLS is required, but was not offered by {session.name}", "4.7.4"))
        consent = session.command(b"STARTTLS", "sending STARTTLS")
        if consent.code != 220:
            session.our_fault(consent)
        session.secure(target.host, target.ca)
        reply = _hello(session, target.protocol)  # what was announced in clear anybody could have written
    if target.login:
        _log_in(session, reply, target.login)
    return features(reply)


def _hello(session: Session, protocol: str) -> Reply:
    node = os.uname().nodename
    # RFC 5321 section 4.1.4: who has no full name gives the address; servers refuse a name without a dot.
    name = (node if "." in node else session.local_address()).encode("ascii", "replace")
    if protocol.startswith("lmtp"):
        reply = session.command(b"LHLO " + name, "sending LHLO")
    else:
        reply = session.command(b"EHLO " + name, "sending EHLO")
        if reply.code >= 500:  # a server without extensions (RFC 5321 section 3.2)
            reply = session.command(b"HELO " + name, "sending HELO")
            reply.lines = reply.lines[:1]
    if not 200 <= reply.code < 300:
        session.our_fault(reply)
    return reply


def _log_in(session: Session, reply: Reply, path: str) -> None:
    """AUTH PLAIN (RFC 4616). That we may not log in says nothing about the mail: it can only defer."""
    from binascii import b2a_base64

    user, colon, password = secret(path, "login").partition(":")
    if not colon:
        raise ConfigurationFault("the file of login= is not right: expected user:password")
    if "PLAIN" not in mechanisms(reply):
        raise Ended(deferred(f"login by AUTH PLAIN was not offered by {session.name}", "4.7.4"))
    word = f"\0{user}\0{password}".encode("utf-8", "surrogateescape")
    answer = session.command(b"AUTH PLAIN " + b2a_base64(word, newline=False), "sending AUTH")
    if answer.code != 235:
        session.our_fault(answer)


def _accepted(session: Session, command: bytes, doing: str) -> None:
    reply = session.command(command, doing)
    if reply.code >= 400:
        raise Ended(session.verdict(reply))
    if not 200 <= reply.code < 300:
        session.our_fault(reply)


def _parameters(announced: frozenset[str], message: Message, utf8: bool) -> bytes:
    size, eight_bit = _survey(message)
    found = b""
    if "SIZE" in announced:
        found += b" SIZE=%d" % size
    # Where 8BITMIME is not offered the mail goes as it is: to convert it would break its signatures.
    if "8BITMIME" in announced and (eight_bit or utf8):
        found += b" BODY=8BITMIME"
    return found + b" SMTPUTF8" if utf8 else found


def _utf8(sender: bytes, recipient: bytes, announced: frozenset[str]) -> bool:
    """Whether SMTPUTF8 is needed; Ended where the server does not have it (RFC 6531 section 3.5)."""
    if (sender + recipient).isascii():
        return False
    try:
        sender.decode("utf-8")
        recipient.decode("utf-8")
    except UnicodeDecodeError:
        raise Ended(bounced("an address is neither ASCII nor UTF-8", "5.6.7")) from None
    if "SMTPUTF8" not in announced:
        raise Ended(bounced("SMTPUTF8 is required, but was not offered by the server", "5.6.7"))
    return True


def _survey(message: Message) -> tuple[int, bool]:
    """(size with CRLF line ends, whether any byte is past ASCII)."""
    size, eight_bit = message.size, False
    for chunk in message.chunks():
        size += chunk.count(b"\n")
        eight_bit = eight_bit or not chunk.isascii()
    return size, eight_bit


def _wire(address: str) -> bytes | None:
    """The address as MAIL and RCPT take it; None where it cannot be written: a line end in it would be a command."""
    if any(ord(c) < 32 or ord(c) == 127 for c in address):
        return None
    return quote(address).encode("utf-8", "surrogateescape")


def _host_and_port(text: str, default: int) -> tuple[str, int]:
    """`[host]:port`, `host:port`, or either without a port; port 0 where that is none."""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        colon, port = rest[:1], rest[1:]
        if not bracket or colon not in ("", ":"):
            return "", 0
    else:
        host, colon, port = text.partition(":")
    if not colon:
        return host, default
    return host, int(port) if port.isascii() and port.isdigit() and len(port) < 6 else 0
