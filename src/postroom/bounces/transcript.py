"""The transcript of an SMTP session that Postfix mails to the postmaster (smtpd_chat.c, smtp_chat.c).

    Out: 554 5.7.1 <a@example.com>: Recipient address rejected: policy says
        no

The class that caused it (postconf(5) notify_classes) is not in the mail; it follows from the reply, by the table
below, each row of which was seen with that class alone enabled. What a client sent after AUTH is never kept.
"""

from __future__ import annotations

from postroom.bounces.scan import lines

# Postfix sends one transcript per 100 lines of session (smtpd_history_flush_threshold).
LINES_LIMIT = 2000
# One AUTH exchange has two or three; each is looked for in every line.
SECRETS_LIMIT = 50
REDACTED = "[redacted]"

# Words of the reply in lower case -> class, the gravest first: one session may hold several, and who reads the notice
# wants to know of the broken table before the client's typing errors.
_CLASSES: tuple[tuple[str, str], ...] = (
    ("server configuration", "software"),
    ("server local error", "software"),
    ("internal error", "software"),
    ("insufficient system storage", "resource"),
    ("queue file write error", "resource"),
    ("temporary lookup failure", "data"),
)
_BY_REPLY: tuple[tuple[str, str], ...] = (
    ("user unknown in ", "bounce"),
    ("message file too big", "bounce"),
    ("too many hops", "bounce"),
    ("improper use of smtp command pipelining", "protocol"),
    ("address syntax", "protocol"),
    ("error: ", "protocol"),
    ("syntax: ", "protocol"),
    (" 5.5.", "protocol"),
)

# What ends an AUTH exchange; any other line in it is a user name or a password (RFC 4954).
_VERBS = frozenset(
    (
        "HELO", "EHLO", "LHLO", "MAIL", "RCPT", "DATA", "BDAT", "RSET", "NOOP", "QUIT", "VRFY", "EXPN", "ETRN",
        "HELP", "STARTTLS", "XCLIENT", "XFORWARD",
    )
)  # fmt: skip


class Transcript:
    """`klass` as notify_classes has it; `reply` the reply that counts, `command` what it answered, `aborted` why the
    session ended early. Secrets are gone from all of them."""

    __slots__ = ("aborted", "command", "klass", "reply")

    def __init__(self, text: bytes, server: bool) -> None:
        said = _redact(_joined(text), b" In:" if server else b" Out:")
        pairs = list(_failures(said, server))
        self.klass, self.command, self.reply = _gravest(pairs, server)
        self.aborted = _aborted(text)


def _joined(text: bytes) -> list[tuple[bytes, str]]:
    """(` In:` or ` Out:`, line), each with what was wrapped put together again."""
    found: list[tuple[bytes, str]] = []
    for line in lines(text, LINES_LIMIT):
        for direction in (b" In:", b" Out:"):
            if line.startswith(direction):
                found.append((direction, _text(line[len(direction) :])))
                break
        else:
            if line.startswith(b"    ") and found:
                found[-1] = (found[-1][0], f"{found[-1][1]} {_text(line)}")
    return found


def _redact(said: list[tuple[bytes, str]], client: bytes) -> list[tuple[bytes, str]]:
    """AUTH keeps its mechanism; what follows it goes, also where a server repeats it.

    A transcript that does not begin with a greeting goes on where another one stopped, perhaps inside AUTH.
    """
    secret = asked = not (said and said[0][1].startswith("220"))
    secrets: list[str] = []
    found: list[tuple[bytes, str]] = []
    for direction, line in said:
        if direction != client:
            asked = line.startswith("334")
            found.append((direction, line))
            continue
        verb, _, rest = line.partition(" ")
        auth = verb.upper() == "AUTH" and not asked
        secret = auth or asked or (secret and verb.upper() not in _VERBS)
        mechanism, _, response = rest.partition(" ") if auth else ("", "", line)
        if secret:
            secrets += [word for word in response.split() if len(word) > 2]
        shown = f"AUTH {mechanism} {REDACTED if response else ''}".strip() if auth else REDACTED
        found.append((direction, shown if secret else line))
        asked = False
    longest = sorted(set(secrets), key=len, reverse=True)[:SECRETS_LIMIT]
    return [(direction, _without(line, longest)) for direction, line in found]


def _without(line: str, secrets: list[str]) -> str:
    for secret in secrets:
        line = line.replace(secret, REDACTED)
    return line


def _failures(said: list[tuple[bytes, str]], server: bool) -> list[tuple[str, str]]:
    """(command, reply) of each reply that is no success."""
    answers = b" Out:" if server else b" In:"
    found, command = [], ""
    for direction, line in said:
        if direction != answers:
            command = line
        elif line[:1] not in "23":
            found.append((command, line))
    return found


def _gravest(pairs: list[tuple[str, str]], server: bool) -> tuple[str, str, str]:
    if not server:
        # smtp(8) reports what it did not expect, which is a protocol error, or missing data: never a policy of ours.
        command, reply = pairs[0] if pairs else ("", "")
        return "protocol", command, reply
    for words, klass in _CLASSES:
        for command, reply in pairs:
            if words in reply.lower():
                return klass, command, reply
    for command, reply in pairs[:1]:
        return next((klass for words, klass in _BY_REPLY if words in reply.lower()), "policy"), command, reply
    return "protocol", "", ""


def _aborted(text: bytes) -> str:
    mark = b"\nSession aborted, reason: "
    start = text.find(mark)
    return _text(text[start + len(mark) :].partition(b"\n")[0]) if start >= 0 else ""


def _text(line: bytes) -> str:
    return line.strip()[:1000].decode("utf-8", "replace")
