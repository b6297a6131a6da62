"""Conditions that are written as no request will ever have them: the wrong stage, the wrong spelling, the wrong list.

The facts are Postfix's: SMTPD_POLICY_README and src/smtpd/smtpd_check.c (what is sent when), smtpd.c (the words of
protocol_name), src/tls (those of encryption_protocol).
"""

from __future__ import annotations

from collections.abc import Iterator

from postroom.bounces import values as reports
from postroom.bounces import verp
from postroom.bounces.reasons import CATEGORIES
from postroom.rules import STAGE_OF_STATE, keys
from postroom.rules.cover import ranges
from postroom.rules.lookup import parse_ip, without_extension
from postroom.rules.model import Condition

_SEVERAL_RECIPIENTS = ("data", "end-of-message")
_TLS = ("encryption_", "ccert_", "tls_sni")
_PORTS = ("client_port", "server_port")

# Keys whose values are few; `stress` is yes or empty.
_WORDS: dict[str, tuple[str, ...]] = {
    "protocol_name": ("SMTP", "ESMTP"),
    "stress": ("yes",),
    "encryption_protocol": ("SSLv2", "SSLv3", "TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"),
    "bounce.kind": (reports.FAILED, reports.DELAYED, reports.DELIVERED, reports.NOTICE, reports.NOT_A_BOUNCE),
    "bounce.authentic": (verp.VERIFIED, verp.UNVERIFIED, verp.FORGED),
    "bounce.reason": (*CATEGORIES, "undetermined"),
    "bounce.category": (*dict.fromkeys(CATEGORIES.values()), "undetermined"),
}


def about_stage(stage: str, condition: Condition) -> Iterator[str]:
    """What Postfix does not know, or not yet, at this stage."""
    key = condition.key
    if key.source == "recipient" and stage in _SEVERAL_RECIPIENTS:
        yield f"is known at {stage} only for a message with one recipient; with several this never matches"
    if key.name == "size" and stage in ("mail", "rcpt", "data"):
        yield f"is what the client announces, or missing, at {stage}; the real size is known at end-of-message"
    if key.name == "queue_id" and stage == "rcpt":
        yield "is missing at rcpt until a first recipient has been accepted; expected at data or later"
    if key.name == "instance" and stage in ("connect", "helo", "mail", "etrn"):
        yield f"is missing at {stage}: Postfix numbers a mail from its first recipient on; expected at rcpt or later"
    if key.name.startswith("sasl_") and stage == "helo":
        yield "is missing at helo: a client logs in after it has said HELO; expected at mail or later"
    if key.name.startswith(_TLS) and stage == "connect":
        yield "is known at connect only where TLS comes first (smtpd_tls_wrappermode); expected at helo or later"


def about_value(stage: str, condition: Condition, text: str, delimiter: str) -> str:
    """What is odd about one value; empty where nothing is."""
    key = condition.key
    if text.partition(":")[0] in ("re", "list", "provider", "attr"):
        return ""
    if key.kind == "number":
        return ""
    if key.name == "country" and text.upper() == "UK":
        return 'is no country of ISO 3166; expected "GB"'
    if "*" in text:
        at = compared_as_name(key.kind) and "@" in text
        return f'"{text}" never matches: a name has no @; expected "{text.rpartition("@")[2]}"' if at else ""
    if key.kind == "address":
        return _address(text)
    if key.part in ("localpart", "user", "extension"):
        return _part(key.name, key.part, text, delimiter)
    return _word(stage, key, text)


def compared_as_name(kind: str) -> bool:
    return kind in ("domain", "mx", "ns")


def about_numbers(condition: Condition) -> str:
    """Numbers that nothing can be, all the values of a condition together."""
    if condition.key.kind != "number":
        return ""
    possible = ranges(condition.match)
    if condition.key.name in _PORTS and not any(first < 65536 for first, _ in possible):
        return "never matches: a port is below 65536"
    return "" if possible else "never matches: no number is below 0"


def _address(text: str) -> str:
    local, at, domain = text.rpartition("@")
    if at and " " in local:
        # "a b"@example.com is legal (RFC 5321 section 4.1.2), and hardly ever what was meant.
        return f'is the one address "{local}"@{domain}; several values are a list: ["...", "..."]'
    if at or "." in text or text.lower() in ("", "<>", "postmaster", "localhost") or not text.isascii():
        return ""
    return f'"{text}" is a domain of one label, or an address without a domain; expected "{text}@" for this user'


def _part(name: str, part: str, text: str, delimiter: str) -> str:
    if "@" in text:
        return f'"{text}" never matches: {name} is a part of an address; expected what stands before the @'
    if part == "user" and without_extension(text, delimiter) != text:
        return f'"{text}" never matches: {name} is without its extension; expected it at {name[:-4]}localpart'
    if part == "extension" and text[:1] and text[0] in delimiter:
        return f'"{text}" begins with the delimiter, which is not part of {name}; expected "{text[1:]}"'
    return ""


def _word(stage: str, key: keys.Key, text: str) -> str:
    """A word that Postfix, or the reader of reports, never says."""
    known = _WORDS.get(key.name, ())
    if key.name == "protocol_state":
        known = tuple(state for state, its in STAGE_OF_STATE.items() if its == stage)
    if key.name == "protocol_name" and stage not in keys.POLICY_STAGES:
        return ""  # what another program says it had received the mail by
    if known and text and (text if key.kind == "text" else text.lower()) not in known:
        near = [word for word in known if word.lower() == text.lower()]
        expected = f'"{near[0]}", upper and lower case told apart' if near else ", ".join(known)
        return f'"{text}" never matches; expected {expected}'
    domain = text.rpartition("@")[2] if "@" in text else ""
    if key.name == "sasl_username" and domain != domain.lower():
        return f'"{text}" is compared with upper and lower case told apart, the domain too'
    return ""


def about_list(condition: Condition, name: str, kind: str, entries: frozenset[str] | None) -> str:
    """A list that holds nothing that this key can have. `kind`: of the list; `entries`: where they are in the file."""
    wanted = condition.key.kind
    if kind == "cidr" and wanted not in ("ip", "mx_address"):
        return f"never matches: list {name} is a cidr table, which is asked about addresses of hosts only"
    if not entries:
        return ""
    if wanted in ("ip", "mx_address"):
        fits, what = any(map(_is_host, entries)), "address or network"
    elif compared_as_name(wanted):
        fits, what = any("@" not in entry and "/" not in entry for entry in entries), "name"
    else:
        fits, what = wanted != "address" or any("/" not in one or "@" in one for one in entries), "mail address"
    return "" if fits else f"never matches: list {name} holds no {what}"


def _is_host(entry: str) -> bool:
    """An address, a network, or the first numbers of one, as access(5) has it."""
    host = entry.partition("/")[0]
    return parse_ip(host) is not None or set(host) <= set("0123456789abcdef.:")
