"""Outcomes of a delivery, and THE table of the codes that each of Postfix's interfaces has for them.

Rules for this file
* One table. What a pipe(8) program exits with, what an LMTP server replies and what a log line says all come from it.
* Whatever is our own fault is deferred: 4.3.x, exit 75. A bounce exists only where somebody said so in as many words.
* A status code never travels without text: before 3.8.16 (3.9.10, 3.10.9, 3.11.1) Postfix reads past the end of
  its buffer on a bare code, and the reason then holds the output of another message's program.
"""

from __future__ import annotations

EX_OK = 0
EX_DATAERR = 65
EX_NOUSER = 67
EX_NOHOST = 68
EX_UNAVAILABLE = 69
EX_CANTCREAT = 73
EX_TEMPFAIL = 75
EX_PROTOCOL = 76
EX_NOPERM = 77

SENT = "sent"
DEFERRED = "deferred"
BOUNCED = "bounced"

# Enhanced status (RFC 3463), whole or up to a dot; the first row that fits counts: exit status (sysexits.h, as
# Postfix's src/global/sys_exits.c reads it back) and SMTP/LMTP reply code (RFC 5321 section 4.2, RFC 5248).
# pipe(8) believes the enhanced code in the text before the exit status; both say the same here, so that
# a reader that knows only one of them comes to the same verdict.
CODES: tuple[tuple[str, int, int], ...] = (
    ("2.", EX_OK, 250),
    ("4.2.2", EX_TEMPFAIL, 452),
    ("4.3.1", EX_TEMPFAIL, 452),
    ("4.3.2", EX_TEMPFAIL, 421),
    ("4.5.3", EX_TEMPFAIL, 452),
    ("4.", EX_TEMPFAIL, 451),
    ("5.1.1", EX_NOUSER, 550),
    ("5.1.2", EX_NOHOST, 550),
    ("5.1.3", EX_UNAVAILABLE, 501),
    ("5.1.6", EX_NOUSER, 551),
    ("5.2.2", EX_CANTCREAT, 552),
    ("5.2.3", EX_UNAVAILABLE, 552),
    ("5.2.", EX_CANTCREAT, 550),
    ("5.3.4", EX_UNAVAILABLE, 552),
    ("5.5.", EX_PROTOCOL, 554),
    ("5.6.", EX_DATAERR, 554),
    ("5.7.", EX_NOPERM, 550),
    ("5.", EX_UNAVAILABLE, 554),
)

# What a remote server's reply code means where it came without an enhanced code (RFC 5321 section 4.2.3).
# 550 and 554 say anything from "no such user" to "bad reputation": they stay x.0.0, since a 5.1.1 made up here
# would get a good address suppressed.
REPLIES = {421: "4.3.2", 451: "4.3.0", 452: "4.3.1", 551: "5.1.6", 552: "5.2.2", 553: "5.1.3"}

# Postfix appends up to 4096 bytes to the log and to the bounce, and kills a program that writes more.
# 500 keeps the line inside one syslog record beside the addresses.
MAX_LINE = 500

_KINDS = {"2": SENT, "4": DEFERRED, "5": BOUNCED}


class Fault(Exception):
    """A fault of our own: the mail is deferred, the log says what and where. Never a bounce."""

    status = "4.3.0"


class ConfigurationFault(Fault):
    """A mistake in configuration; Postfix's own word for it is "mail system configuration error"."""

    status = "4.3.5"


class Outcome:
    """What became of one recipient: a value. `kind` is sent, deferred or bounced; `status` an enhanced code."""

    __slots__ = ("kind", "status", "text")

    def __init__(self, kind: str, status: str, text: str) -> None:
        if not is_status(status) or _KINDS[status[0]] != kind:
            raise ValueError(f"{kind}: {status!r} is not an enhanced status code of that kind")
        self.kind = kind
        self.status = status
        self.text = clean(text) or kind

    @property
    def exit_status(self) -> int:
        return _codes(self.status)[0]

    def line(self) -> bytes:
        """The one line for pipe(8), at most MAX_LINE bytes, its newline included."""
        return cut(f"{self.status} {self.text}", MAX_LINE - 1) + b"\n"

    def reply(self) -> str:
        """The reply of an SMTP or LMTP server, without line end (RFC 2034)."""
        return f"{_codes(self.status)[1]} {self}"

    def __str__(self) -> str:
        return f"{self.status} {self.text}"

    def __repr__(self) -> str:
        return f"Outcome({self.kind!r}, {self.status!r}, {self.text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Outcome) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))


def sent(text: str = "delivered", status: str = "2.0.0") -> Outcome:
    return Outcome(SENT, status, text)


def deferred(text: str, status: str = "4.3.0") -> Outcome:
    return Outcome(DEFERRED, status, text)


def bounced(text: str, status: str = "5.0.0") -> Outcome:
    return Outcome(BOUNCED, status, text)


def is_status(code: str) -> bool:
    """Whether Postfix takes `code` for an enhanced status (src/global/dsn_util.c: dsn_valid)."""
    parts = code.split(".")
    return (
        len(parts) == 3
        and parts[0] in _KINDS
        and all(part.isascii() and part.isdigit() for part in parts)
        and len(parts[1]) <= 3
        and len(parts[2]) <= 3
    )


def parse(text: str) -> Outcome | None:
    """Read "4.2.2 mailbox full". None where there is no code at the start, or no text after it."""
    code, _, rest = text.partition(" ")
    if not is_status(code) or not clean(rest):
        return None
    return Outcome(_KINDS[code[0]], code, rest)


def from_reply(code: int, text: str) -> Outcome:
    """The outcome that a remote SMTP or LMTP server's reply stands for.

    Its enhanced code counts where it has one of the reply's own class (RFC 2034 section 4). A code that no
    server should send in answer to mail (1yz, 3yz, noise) is a broken peer, not a verdict: deferred.
    """
    first = str(code)[:1]
    if first not in _KINDS or not 200 <= code <= 599:
        return deferred(f"unexpected reply from the server: {code} {text}", "4.5.0")
    word, _, rest = text.strip().partition(" ")
    if is_status(word) and word[0] == first:
        return Outcome(_KINDS[first], word, f"{code} {clean(rest) or 'no text'}")
    return Outcome(_KINDS[first], REPLIES.get(code, f"{first}.0.0"), f"{code} {text}")


def clean(text: str) -> str:
    """One line of printable text: controls and stray surrogates become `?`, runs of white space one blank."""
    line = " ".join(text.split())
    if line.isascii() and line.isprintable():
        return line
    return "".join(c if c.isprintable() else "?" for c in line)


def cut(text: str, limit: int) -> bytes:
    """`text` as UTF-8, at most `limit` bytes, never ending inside a character (RFC 3629)."""
    data = text.encode("utf-8", "replace")
    if len(data) <= limit:
        return data
    return data[:limit].decode("utf-8", "ignore").encode()


def _codes(status: str) -> tuple[int, int]:
    for prefix, exit_status, reply in CODES:
        if status == prefix or (prefix.endswith(".") and status.startswith(prefix)):
            return exit_status, reply
    raise ValueError(f"not an enhanced status code: {status!r}")
