"""One delivery request as pipe(8) turns it into a command line and standard input: macros, flags, added headers.

Source: pipe(8), Postfix's src/pipe/pipe.c, src/global/mail_copy.c and src/global/split_addr.c.
"""

from __future__ import annotations

import difflib
import re
import time
from dataclasses import dataclass, field

# Macros that depend on the recipient: a word with one of them is repeated for each recipient.
RECIPIENT_MACROS = ("recipient", "original_recipient", "user", "extension", "mailbox", "domain")
REQUEST_MACROS = (
    "client_address",
    "client_helo",
    "client_hostname",
    "client_port",
    "client_protocol",
    "nexthop",
    "queue_id",
    "sasl_method",
    "sasl_sender",
    "sasl_username",
    "sender",
    "size",
)
FLAGS = frozenset("BDFORXhqu.>")
NULL_SENDER = "MAILER-DAEMON"
# mac_parse(): $$, $name, ${name}, $(name). What stands in braces is the name whole: pipe(8) has no conditionals.
MACRO = re.compile(r"\$(?:(\$)|\{([^{}]*)\}|\(([^()]*)\)|([A-Za-z0-9_]*))")
# split_addr(): these are never split, whatever recipient_delimiter is.
NEVER_SPLIT = ("postmaster", "mailer-daemon", "double-bounce")
# RFC 5322 atext and dots: a local part of these needs no quotes. Postfix leaves 8-bit text alone too.
ATEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\x80-\U0010ffff-]+"
DOT_ATOM = re.compile(rf"{ATEXT}(\.{ATEXT})*")


class Refused(Exception):
    """pipe(8) does not run the command at all: the status, enhanced code and text that it reports instead.

    `why` is what an author should know, which Postfix tells at best in a line of its own in its log.
    """

    def __init__(self, status: str, dsn: str, text: str, why: str = "") -> None:
        super().__init__(text)
        self.status, self.dsn, self.text, self.why = status, dsn, text, why


def misconfigured(why: str) -> Refused:
    """What pipe(8) reports for a macro that it does not know, and for flags D and O with several recipients."""
    return Refused("deferred", "4.3.5", "mail system configuration error", why)


def unknown_macro(name: str) -> str:
    """The macro, and the known one that was perhaps meant."""
    near = difflib.get_close_matches(name, [*RECIPIENT_MACROS, *REQUEST_MACROS], 1)
    return f"pipe(8) has no macro ${{{name}}}" + (f", nearest: ${{{near[0]}}}" if near else "; $$ is a dollar sign")


@dataclass(frozen=True)
class Recipient:
    """One recipient; `original` is empty when enable_original_recipient=no."""

    address: str
    original: str


@dataclass(frozen=True)
class Request:
    """What the queue manager and master.cf tell pipe(8) about one delivery."""

    sender: str = ""
    recipients: tuple[Recipient, ...] = ()
    flags: frozenset[str] = frozenset()
    null_sender: str = NULL_SENDER
    recipient_delimiter: str = ""
    # The other macros by name; what is missing is empty, as for mail submitted by a local program.
    attributes: dict[str, str] = field(default_factory=dict)

    # Command line

    def arguments(self, words: list[str]) -> list[str]:
        """The command line: every word expanded, words with a recipient macro once for each recipient."""
        return [argument for word in words for argument in self._expand(word)]

    def _expand(self, word: str) -> list[str]:
        names = [macro_name(match) for match in MACRO.finditer(word) if not match[1]]
        for name in names:
            if name not in RECIPIENT_MACROS and name not in REQUEST_MACROS:
                raise misconfigured(unknown_macro(name))
        if not any(name in RECIPIENT_MACROS for name in names):
            return [self._fill(word, {})]
        expanded = []
        for recipient in self.recipients:
            values = self.recipient_macros(recipient)
            # Up to Postfix 3.11: a word whose $user is empty is left out, and what follows moves up.
            if "user" in names and not values["user"]:
                continue
            expanded.append(self._fill(word, values))
        return expanded

    def _fill(self, word: str, values: dict[str, str]) -> str:
        known = self._request_macros() | values
        return MACRO.sub(lambda match: "$" if match[1] else known[macro_name(match)], word)

    def _request_macros(self) -> dict[str, str]:
        values = {name: self.attributes.get(name, "") for name in REQUEST_MACROS}
        values["sender"] = self._quoted(self.sender) if self.sender else self.null_sender
        if "h" in self.flags:
            values["nexthop"] = values["nexthop"].lower()
        return values

    def recipient_macros(self, recipient: Recipient) -> dict[str, str]:
        """The six macros that depend on the recipient, after the folding and quoting that flags ask for."""
        address = self._folded(recipient.address)
        mailbox, _, domain = split(address)
        user, extension = split_extension(mailbox, self.recipient_delimiter)
        return {
            "recipient": self._quoted(address),
            "original_recipient": self._quoted(self._folded(recipient.original)),
            "mailbox": mailbox,
            "user": user,
            "extension": extension,
            "domain": domain,
        }

    def _folded(self, address: str) -> str:
        local, at, domain = split(address)
        return (local.lower() if "u" in self.flags else local) + at + (domain.lower() if "h" in self.flags else domain)

    def _quoted(self, address: str) -> str:
        return quote(address) if "q" in self.flags else address

    # Standard input

    def content(self, message: bytes) -> bytes:
        """What the program reads: the lines that flags add, then the message with LF line ends."""
        return self._added_lines() + self._body(message) + (b"\n" if "B" in self.flags else b"")

    def _added_lines(self) -> bytes:
        flags, lines = self.flags, []
        sender = quote(self.sender) if self.sender else self.null_sender
        if "F" in flags:
            lines.append(f"From {sender or NULL_SENDER}  {time.asctime(time.localtime())}")
        if "R" in flags:
            lines.append(f"Return-Path: <{sender}>")
        first = self.recipients[0] if self.recipients else Recipient("", "")
        if "O" in flags and first.original:
            lines.append(f"X-Original-To: {quote(first.original)}")
        if "D" in flags:
            lines.append(f"Delivered-To: {quote(first.address)}")
        return "".join(line + "\n" for line in lines).encode("utf-8", "surrogateescape")

    def _body(self, message: bytes) -> bytes:
        text = message.replace(b"\r\n", b"\n")
        if text and not text.endswith(b"\n"):
            text += b"\n"
        if ">" in self.flags:
            text = re.sub(rb"(?m)^From ", b">From ", text)
        return re.sub(rb"(?m)^\.", b"..", text) if "." in self.flags else text

    def check(self, message: bytes) -> None:
        """Refused where pipe(8) reports a result without running the command."""
        if {"D", "O"} & self.flags and len(self.recipients) > 1:
            raise misconfigured("flags D and O are for one recipient only")
        if "D" in self.flags and self._looping(message):
            address = self.recipients[0].address
            raise Refused("bounced", "5.4.6", f"mail forwarding loop for {address}")

    def _looping(self, message: bytes) -> bool:
        """Whether the header already has a Delivered-To for this recipient (any case)."""
        header = message.replace(b"\r\n", b"\n").partition(b"\n\n")[0]
        seen = re.findall(rb"(?mi)^delivered-to:[ \t]*(.*?)[ \t]*$", header)
        own = quote(self.recipients[0].address).encode("utf-8", "surrogateescape").lower()
        return own in (value.lower() for value in seen)


def macro_name(match: re.Match[str]) -> str:
    """The name in one match of MACRO."""
    return match[2] or match[3] or match[4] or ""


def split(address: str) -> tuple[str, str, str]:
    """Local part, "@" or nothing, and domain, at the last "@"."""
    local, at, domain = address.rpartition("@")
    return (local, at, domain) if at else (address, "", "")


def split_extension(mailbox: str, delimiters: str) -> tuple[str, str]:
    """User and address extension; `delimiters` is recipient_delimiter, a set of characters."""
    lowered = mailbox.lower()
    listing = "-" in delimiters and (lowered.startswith("owner-") or lowered.endswith("-request"))
    if lowered in NEVER_SPLIT or listing:
        return mailbox, ""
    at = next((index for index, letter in enumerate(mailbox) if letter in delimiters), 0)
    # At 0 the user would be empty: split_addr() leaves such an address whole.
    return (mailbox[:at], mailbox[at + 1 :]) if at else (mailbox, "")


def quote(address: str) -> str:
    """The address with its local part quoted where RFC 5322 asks for it (quote_822_local())."""
    local, at, domain = split(address)
    if DOT_ATOM.fullmatch(local):
        return address
    return '"' + re.sub(r'(["\\\r])', r"\\\1", local) + '"' + at + domain
