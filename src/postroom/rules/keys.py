"""Every key a condition may use: what kind of value it has, at which stages it exists, where empty means something.

Rules for this file
* Data, and what reads it off. Used when a file is loaded, never while mail passes.
* Names of policy attributes are Postfix's own (SMTPD_POLICY_README).
* Postfix sends an empty text or 0 for what it does not know yet. `known` lists the stages where empty or 0 is
  knowledge all the same: after MAIL an empty sender is the null sender, an empty sasl_username is a client that has
  not authenticated. Elsewhere the attribute is missing, and a missing attribute never helps a rule to match.
"""

from __future__ import annotations

from dataclasses import dataclass

POLICY_STAGES = ("connect", "helo", "mail", "rcpt", "data", "end-of-message", "etrn")
STAGES = (*POLICY_STAGES, "route", "deliver", "bounce")

# What a condition may cost, cheapest first: conditions of a rule are judged in this order, so that nothing is asked
# of a list, the store or the DNS once something cheaper has said no.
# COUNTER is last of all: what is counted is only what all the other conditions hold for.
ATTRIBUTE, PATTERN, HEADER, LIST, STORE, DNS, COUNTER = range(7)

MX_STATES = ("mx", "implicit", "null", "none", "literal", "error")

# Kinds whose values compare as texts with those of another attribute ("attr:NAME").
TEXTS = ("text", "fold", "domain", "address", "ip")


@dataclass(frozen=True)
class Key:
    """`kind` decides how values compare; `source` is the attribute it is taken from and `part` the piece of it."""

    name: str
    kind: str
    source: str
    part: str
    stages: frozenset[str]
    known: frozenset[str]
    cost: int


_SMTP = frozenset(POLICY_STAGES)
_MAIL = frozenset({"mail", "rcpt", "data", "end-of-message"})
_RCPT = _MAIL - {"mail"}
_DATA = _RCPT - {"rcpt"}
_ETRN = frozenset({"etrn"})
_DELIVER = frozenset({"deliver"})
_BOUNCE = frozenset({"bounce"})
_ROUTE = frozenset({"route"})
_NONE: frozenset[str] = frozenset()

# name: (kind, stages where it can be there, stages where empty or 0 is knowledge)
_ATTRIBUTES: dict[str, tuple[str, frozenset[str], frozenset[str]]] = {
    "protocol_state": ("text", _SMTP, _NONE),
    "protocol_name": ("text", _SMTP | _DELIVER, _NONE),
    "helo_name": ("domain", (_SMTP | _DELIVER) - {"connect"}, _MAIL | _ETRN),
    "queue_id": ("text", _RCPT | _DELIVER | _BOUNCE, _NONE),
    "instance": ("text", _SMTP, _NONE),
    "sender": ("address", _MAIL | _DELIVER | _BOUNCE, _MAIL | _DELIVER | _BOUNCE),
    "recipient": ("address", _RCPT | _DELIVER | _BOUNCE | _ROUTE, _NONE),
    "original_recipient": ("address", _DELIVER | _BOUNCE, _NONE),
    "nexthop": ("domain", _DELIVER, _NONE),
    "client_address": ("ip", _SMTP | _DELIVER, _NONE),
    "client_name": ("domain", _SMTP | _DELIVER, _NONE),
    "reverse_client_name": ("domain", _SMTP, _NONE),
    "client_port": ("number", _SMTP | _DELIVER, _NONE),
    "server_address": ("ip", _SMTP, _NONE),
    "server_port": ("number", _SMTP, _NONE),
    "sasl_method": ("text", (_SMTP | _DELIVER) - {"connect"}, _MAIL | _ETRN),
    "sasl_username": ("text", (_SMTP | _DELIVER) - {"connect"}, _MAIL | _ETRN),
    "sasl_sender": ("address", _MAIL | _DELIVER, _MAIL),
    "size": ("number", _MAIL | _DELIVER | _BOUNCE, frozenset({"end-of-message"}) | _DELIVER | _BOUNCE),
    "recipient_count": ("number", _DATA, _DATA),
    "ccert_subject": ("text", _SMTP, _MAIL | _ETRN),
    "ccert_issuer": ("text", _SMTP, _MAIL | _ETRN),
    "ccert_fingerprint": ("fold", _SMTP, _MAIL | _ETRN),
    "ccert_pubkey_fingerprint": ("fold", _SMTP, _MAIL | _ETRN),
    "encryption_protocol": ("text", _SMTP, _MAIL | _ETRN),
    "encryption_cipher": ("text", _SMTP, _MAIL | _ETRN),
    "encryption_keysize": ("number", _SMTP, _MAIL | _ETRN),
    "etrn_domain": ("domain", _ETRN, _NONE),
    "tls_sni": ("domain", _SMTP, _MAIL | _ETRN),
    "stress": ("text", _SMTP, _SMTP),
    "policy_context": ("text", _SMTP, _SMTP),
    "compatibility_level": ("text", _SMTP, _NONE),
    "mail_version": ("text", _SMTP, _NONE),
}

# user is what pipe(8) calls $user: the local part without its extension.
_PART_KINDS = {"localpart": "fold", "user": "fold", "extension": "fold", "domain": "domain"}
_DNS_PARTS = {
    "primary_mx": "mx",
    "any_mx": "mx",
    "every_mx": "mx",
    "mx_state": "mx_state",
    "mx_address": "mx_address",
    "ns": "ns",
}

# What is known of one failed recipient of a report (bounces/values.py), at bounce.
_BOUNCE_ATTRIBUTES = {
    "bounce.kind": "fold",
    "bounce.authentic": "fold",
    "bounce.recipient": "address",
    "bounce.outcome": "fold",
    "bounce.status": "text",
    "bounce.reason": "fold",
    "bounce.category": "fold",
    "bounce.hard": "yes",
    "bounce.permanent": "yes",
    "bounce.diagnostic": "fold",
    "bounce.remote_mta": "domain",
}

# name: (kind, attribute, part of it): what is made of an attribute and looked at, or asked about.
_DERIVED = {
    "null_sender": ("null", "sender", ""),
    "client_is_literal": ("literal", "helo_name", ""),
    "country": ("country", "client_address", ""),
    "fcrdns": ("fcrdns", "client_address", ""),
    "dnsbl": ("dnsbl", "client_address", ""),
    "rhsbl": ("dnsbl", "sender", "domain"),
    "helo_rhsbl": ("dnsbl", "helo_name", ""),
    "client_rhsbl": ("dnsbl", "client_name", ""),
}
_COSTS = {"country": HEADER, "fcrdns": DNS, "dnsbl": DNS}


def _build() -> dict[str, Key]:
    keys = {
        name: Key(name, kind, name, "", stages, known, ATTRIBUTE) for name, (kind, stages, known) in _ATTRIBUTES.items()
    }
    for source in ("sender", "recipient"):
        stages, known = keys[source].stages, keys[source].known
        for part, kind in _PART_KINDS.items():
            name = f"{source}_{part}"
            keys[name] = Key(name, kind, source, part, stages, known, ATTRIBUTE)
        for part, kind in _DNS_PARTS.items():
            name = part if source == "recipient" else f"sender_{part}"
            keys[name] = Key(name, kind, source, part, stages, known, DNS)
    recipient = keys["recipient"]
    # What the client wrote; recipient, and its parts, are what Postfix makes of it (rewrite.py).
    keys["recipient_as_typed"] = Key("recipient_as_typed", "fold", "recipient", "typed", _RCPT, _NONE, ATTRIBUTE)
    keys["suppressed"] = Key("suppressed", "flag", "recipient", "", recipient.stages, _NONE, STORE)
    for name, (kind, source, part) in _DERIVED.items():
        stages, known = keys[source].stages, keys[source].known
        keys[name] = Key(name, kind, source, part, stages, known, _COSTS.get(kind, ATTRIBUTE))
    for name, kind in _BOUNCE_ATTRIBUTES.items():
        keys[name] = Key(name, kind, name, "", _BOUNCE, _BOUNCE if kind == "text" else _NONE, ATTRIBUTE)
    for name in ("time", "weekday"):
        keys[name] = Key(name, name, "", "", frozenset(STAGES), _NONE, PATTERN)
    for name in ("seen", "greylist", "rate"):
        keys[name] = Key(name, name, "", "", _STATEFUL, _NONE, COUNTER)
    keys["attachment"] = Key("attachment", "attachment", "", "", _HEADER_STAGES, _NONE, LIST)
    return keys


# What stands before a header's name, as in header.subject, and before an attribute's that has no key of its own.
HEADER_PREFIX = "header."
ATTRIBUTE_PREFIX = "attribute."
_HEADER_STAGES = _DELIVER | _BOUNCE
# A route is asked for many times a mail, and by who only wants to know: nothing can be counted there.
_STATEFUL = frozenset(STAGES) - _ROUTE

KEYS = _build()


def find(name: str) -> Key | None:
    """The key of this name, at whatever stage."""
    if name.startswith(HEADER_PREFIX):
        header = name.removeprefix(HEADER_PREFIX).lower()
        valid = header.isascii() and header.isprintable() and header and ":" not in header and " " not in header
        return Key(name, "header", header, "", _HEADER_STAGES, _NONE, HEADER) if valid else None
    if name.startswith(ATTRIBUTE_PREFIX):
        source = name.removeprefix(ATTRIBUTE_PREFIX)
        valid = source.isascii() and source.replace("_", "a").isalnum() and source not in KEYS
        return Key(name, "text", source, "", _SMTP, _NONE, ATTRIBUTE) if valid else None
    return KEYS.get(name)


def at(stage: str) -> list[str]:
    """The names of the keys that exist at a stage."""
    names = [key.name for key in KEYS.values() if stage in key.stages]
    names += [HEADER_PREFIX + "NAME"] if stage in _HEADER_STAGES else []
    return [*names, ATTRIBUTE_PREFIX + "NAME"] if stage in _SMTP else names


def attributes() -> list[str]:
    """The names of what can be given from outside, such as by the command line of `postroom explain`."""
    return [*_ATTRIBUTES, *_BOUNCE_ATTRIBUTES]


def where(key: Key) -> str:
    """The stages of a key, as prose: `data, end-of-message`."""
    return ", ".join(stage for stage in STAGES if stage in key.stages)
