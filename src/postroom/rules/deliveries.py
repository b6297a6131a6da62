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
from postroom.rules.problems import Refused
from postroom.rules.templates import Template

Words = list[tuple[str, Template]]


@dataclass(frozen=True)
class Delivery:
    """A row of the table below."""

    usage: str
    effect: str
    read: Callable[[str], Words]


def _maildir(rest: str) -> Words:
    return [("path", _path(rest, "maildir"))]


def _path(text: str, verb: str) -> Template:
    if not text.startswith("/"):
        raise Refused(f'expected an absolute path, "{verb} /path"')
    template = templates.parse(text, "deliver")
    if any(component in (".", "..") for component in text.split("/")):
        raise Refused("has . or .. as a part of its path")
    return template


def _relay(rest: str) -> Words:
    protocol, colon, target = rest.partition(":")
    usage = 'expected "relay lmtp:unix:/path", "relay lmtp:HOST:PORT" or "relay smtp:[HOST]:PORT"'
    if not colon or protocol not in ("lmtp", "smtp") or " " in target:
        raise Refused(usage)
    if "{" in target:
        raise Refused("takes no templates: where mail goes must not be for strangers to say")
    if target.startswith("unix:"):
        if protocol == "smtp" or not target.startswith("unix:/"):
            raise Refused(usage)
        return [("literal", (rest,))]
    host, _, port = target.rpartition(":")
    if not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536):
        raise Refused(usage + ", with a port from 1 to 65535")
    bracketed = host.startswith("[") and host.endswith("]")
    if protocol == "smtp" and not bracketed:
        raise Refused(f"does not look up MX records; {usage}, with the host in brackets")
    _host(host[1:-1] if bracketed else host, bracketed)
    return [("literal", (rest,))]


def _host(host: str, bracketed: bool) -> None:
    if ":" in host and not (bracketed and parse_ip(host)):
        raise Refused("expected an IPv6 address in brackets, [2001:db8::1]:24")
    names = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._:"
    if not host or len(host) > NAME_LIMIT or not set(host) <= set(names):
        raise Refused(f"{host!r} is neither a host name nor an address")


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


def _discard(rest: str) -> Words:
    return [("text", templates.parse(rest, "deliver"))] if rest else []


DELIVER: dict[str, Delivery] = {
    "maildir": Delivery("maildir PATH", "takes the mail for delivered (status=sent): it is in this maildir", _maildir),
    "relay": Delivery("relay PROTOCOL:TARGET", "takes over that server's answer: sent, deferred or bounced", _relay),
    "command": Delivery("command PROGRAM ...", "takes over what the program's exit status says (sysexits.h)", _command),
    "discard": Delivery("discard [TEXT]", "takes the mail for delivered (status=sent); it is thrown away", _discard),
}
