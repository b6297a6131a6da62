"""The actions of at = "deliver": how each is written, and how its words are read.

Each reader takes what stands after the verb and returns words as (slot, template); it raises Refused. Templates are put
into words that are split already: nothing a stranger writes can add a word.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass

from postroom.rules import templates
from postroom.rules.lookup import NAME_LIMIT, parse_ip
from postroom.rules.problems import Refused, unknown
from postroom.rules.templates import Template

Words = list[tuple[str, Template]]

RELAY_PROTOCOLS = ("lmtp", "smtp", "lmtp+starttls", "smtp+starttls", "lmtps", "smtps")
_RELAY_USAGE = 'expected "relay lmtp:unix:/path", "relay lmtp:HOST:PORT", "relay smtp:[HOST]:PORT" or, with TLS, smtps:'
_WEBHOOK_USAGE = 'expected "webhook https://host/path"'

# Postfix tries a mail some 130 times in the five days of its maximal_queue_lifetime.
ATTEMPTS_LIMIT = 1000

# RFC 3986: what may stand in a path and a query.
_URL = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~!$&'()*+,;=:@/?%[]")


@dataclass(frozen=True)
class Delivery:
    """A row of the table below."""

    usage: str
    effect: str
    read: Callable[[str], Words]


def _maildir(rest: str) -> Words:
    return [("maildir", _path(rest, "maildir"))]


def _path(text: str, verb: str) -> Template:
    if not text.startswith("/"):
        raise Refused(f'expected an absolute path, "{verb} /path"')
    template = templates.parse(text, "deliver")
    if any(component in (".", "..") for component in text.split("/")):
        raise Refused("has . or .. as a part of its path")
    return template


def relay(rest: str) -> Words:
    """`PROTOCOL:TARGET [ca=PATH] [login=PATH]`."""
    words = rest.split()
    if not words or "{" in rest:
        raise Refused("takes no templates: where mail goes must not be for strangers to say" if words else _RELAY_USAGE)
    protocol, colon, target = words[0].partition(":")
    if not colon or protocol not in RELAY_PROTOCOLS:
        raise Refused(_RELAY_USAGE)
    options = _options(words[1:], ("ca", "login"))
    if options and protocol in ("smtp", "lmtp"):
        raise Refused(f'{options[0].partition("=")[0]}= needs TLS, expected "{protocol}+starttls:" or "{protocol}s:"')
    if not target.startswith("unix:"):
        _server(protocol, target)
    elif protocol != "lmtp" or not target.startswith("unix:/"):
        raise Refused(_RELAY_USAGE)
    return [("literal", (word,)) for word in (words[0], *options)]


def _server(protocol: str, target: str) -> None:
    host, _, port = target.rpartition(":")
    if not _is_port(port):
        raise Refused(_RELAY_USAGE + ", with a port from 1 to 65535")
    bracketed = host.startswith("[") and host.endswith("]")
    if protocol.startswith("smtp") and not bracketed:
        raise Refused(f"does not look up MX records; {_RELAY_USAGE}, with the host in brackets")
    _host(host[1:-1] if bracketed else host, bracketed)


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and 0 < int(text[:6]) < 65536


def _options(words: list[str], known: tuple[str, ...]) -> list[str]:
    """`name=/path` words, each at most once."""
    seen: set[str] = set()
    for word in words:
        name, equals, path = word.partition("=")
        if not equals or name not in known:
            raise Refused(unknown(name, known, "option"))
        if name in seen:
            raise Refused(f"has {name}= twice")
        if not path.startswith("/"):
            raise Refused(f'expected an absolute path, "{name}=/path"')
        seen.add(name)
    return words


def _host(host: str, bracketed: bool) -> None:
    if ":" in host and not (bracketed and parse_ip(host)):
        raise Refused("expected an IPv6 address in brackets, [2001:db8::1]:24")
    names = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._:"
    if not host or len(host) > NAME_LIMIT or not set(host) <= set(names):
        raise Refused(f"{host!r} is neither a host name nor an address")


def webhook(rest: str, stage: str) -> Words:
    """`URL [ca=PATH] [secret=PATH]`. Templates may stand in the URL's path and query."""
    words = rest.split()
    if not words:
        raise Refused(_WEBHOOK_USAGE)
    scheme, separator, after = words[0].partition("://")
    authority, slash, place = after.partition("/")
    if scheme not in ("http", "https") or not separator or not slash:
        raise Refused(_WEBHOOK_USAGE)
    if "{" in authority:
        raise Refused("has a template in its host: where mail goes must not be for strangers to say")
    _authority(authority)
    template = templates.parse(words[0], stage)
    if not set(templates.literal_text(template)) <= _URL:
        raise Refused(f"{words[0]!r} is no URL; write other characters as %XX")
    if {".", ".."} & set(place.partition("?")[0].split("/")):
        raise Refused("has . or .. as a part of its path")
    options = _options(words[1:], ("ca", "secret"))
    if scheme == "http" and any(option.startswith("ca=") for option in options):
        raise Refused("ca= needs TLS, expected an https:// URL")
    return [("url", template), *(("literal", (option,)) for option in options)]


def _webhook(rest: str) -> Words:
    return webhook(rest, "deliver")


def _authority(text: str) -> None:
    """`host`, `host:port`, `[2001:db8::1]:port`; a password in it would stand in every log line."""
    host, bracket, rest = text.partition("]") if text.startswith("[") else (text.partition(":")[0], "", "")
    port = rest if bracket else text[len(host) :]
    if port and not (port.startswith(":") and _is_port(port[1:])):
        raise Refused(f'expected "host" or "host:port", found {text!r}')
    _host(host.removeprefix("["), bool(bracket))


def _command(rest: str) -> Words:
    try:
        words = shlex.split(rest)
    except ValueError as error:
        raise Refused(f"has a quote without its other half: {error}") from error
    if not words or not words[0].startswith("/"):
        raise Refused('expected the absolute path of a program, "command /path/program argument ..."; no shell is run')
    program = templates.parse(words[0], "deliver")
    if not templates.is_literal(program):
        raise Refused("has a template in the program's path: which program runs must not be for strangers to say")
    return [("literal", program), *(_argument(word) for word in words[1:])]


def _argument(word: str) -> tuple[str, Template]:
    """A slash of our own around a template makes the word a path, and the template a component of it."""
    template = templates.parse(word, "deliver")
    if templates.is_literal(template):
        return "literal", template
    return ("path" if "/" in templates.literal_text(template) else "argument"), template


def quarantine(rest: str) -> Words:
    """`PATH after=N [any]`, the last of a list: what becomes of a mail over which the action before it has failed."""
    words = rest.split()
    usage = 'expected "quarantine /path after=N", N from 1 to 1000, and perhaps "any" behind it'
    if len(words) not in (2, 3) or not words[1].startswith("after=") or words[2:] not in ([], ["any"]):
        raise Refused(usage)
    count = words[1].removeprefix("after=")
    if not (count.isascii() and count.isdigit() and len(count) < 5 and 1 <= int(count) <= ATTEMPTS_LIMIT):
        raise Refused(usage)
    path = _path(words[0], "quarantine")
    return [("maildir", path), *(("literal", (word,)) for word in words[1:])]


def _discard(rest: str) -> Words:
    return [("text", templates.parse(rest, "deliver"))] if rest else []


DELIVER: dict[str, Delivery] = {
    "maildir": Delivery("maildir PATH", "takes the mail for delivered (status=sent): it is in this maildir", _maildir),
    "relay": Delivery("relay PROTOCOL:TARGET", "takes over that server's answer: sent, deferred or bounced", relay),
    "webhook": Delivery(
        "webhook URL", "takes over what the HTTP server's answer says: sent, deferred or bounced", _webhook
    ),
    "command": Delivery("command PROGRAM ...", "takes over what the program's exit status says (sysexits.h)", _command),
    "discard": Delivery("discard [TEXT]", "takes the mail for delivered (status=sent); it is thrown away", _discard),
}

QUARANTINE = Delivery(
    "quarantine PATH after=N",
    "takes the mail for delivered (status=sent): it is in this maildir, to be looked at",
    quarantine,
)
