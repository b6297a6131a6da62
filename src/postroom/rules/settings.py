"""The check of what is no rule: state, log, deadline, [dns], [bounces], [list.NAME], [provider.NAME]."""

from __future__ import annotations

from functools import partial

from postroom.rules import section, values
from postroom.rules.lookup import parse_ip
from postroom.rules.model import Bounces, Settings, Source
from postroom.rules.problems import SETTINGS, Refused, Report, unknown
from postroom.rules.read import Place
from postroom.rules.section import Section
from postroom.rules.values import Match, Names, show

DEFAULT_STATE = "/var/lib/postroom"
DEFAULT_DEADLINE = 250.0

# Postfix's command_time_limit is 1000 s: past it pipe(8) kills the program and BOUNCES the mail (src/pipe/pipe.c).
DEADLINE_LIMIT = 900.0

# For one try of one question, as in dns.TRY_SECONDS.
DEFAULT_DNS_TIMEOUT = 2.0
DEFAULT_LIFETIME = 30 * 86400.0
_LIFETIME_LIMIT = 366 * 86400.0

TOP = (*SETTINGS, "dns", "bounces", "list", "provider", "rule", "test")
_TABLES = ("texthash",)

_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.")


def settings(top: Section, folder: str) -> Settings:
    dns = Section(top.report, ("dns",), top.table.get("dns", {}), ("servers", "port", "timeout"))
    return Settings(
        state=top.take("state", DEFAULT_STATE, partial(section.path, folder=folder)),
        log=top.take("log", "syslog", lambda value: "syslog" if value == "syslog" else section.path(value, folder)),
        deadline=top.take("deadline", DEFAULT_DEADLINE, partial(section.seconds, below=DEADLINE_LIMIT)),
        recipient_delimiter=top.take("recipient_delimiter", "+", _delimiter),
        servers=dns.take("servers", (), _servers),
        port=dns.take("port", 53, partial(section.whole, least=1, most=65535)),
        timeout=dns.take("timeout", DEFAULT_DNS_TIMEOUT, partial(section.seconds, below=DEADLINE_LIMIT)),
        bounces=_bounces(top, folder) if "bounces" in top.table else None,
    )


def _delimiter(value: object) -> str:
    if value == "":
        return ""
    if any(character.isalnum() or character.isspace() or character == "@" for character in section.text(value)):
        raise Refused(f'expected signs that part an extension from its address, such as "+", found {show(value)}')
    return section.text(value)


def _servers(value: object) -> tuple[str, ...]:
    for server in section.texts(value):
        host, port = server, "53"
        if server.startswith("["):
            host, _, port = server[1:].replace("]:", "]", 1).partition("]")
        elif server.count(":") == 1:
            host, _, port = server.partition(":")
        port = port or "53"
        if parse_ip(host) is None or not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536):
            raise Refused(f'expected addresses of name servers, "127.0.0.1" or "127.0.0.1:5353", found {show(server)}')
    return section.texts(value)


def _bounces(top: Section, folder: str) -> Bounces:
    table = Section(top.report, ("bounces",), top.table["bounces"], ("key", "prefix", "domain", "lifetime"))
    return Bounces(
        key=table.require("key", "", partial(section.path, folder=folder), "the path of a key file"),
        prefix=table.take("prefix", "bounces", _prefix),
        domain=table.require("domain", "", _domain, "the domain of the signed envelope senders"),
        lifetime=table.take("lifetime", DEFAULT_LIFETIME, partial(section.seconds, below=_LIFETIME_LIMIT)),
    )


def _prefix(value: object) -> str:
    """It opens the local part of a signed sender, which must survive being folded to lower case."""
    prefix = section.text(value)
    if not prefix[0].isalpha() or not set(prefix) <= _NAME or prefix != prefix.lower() or len(prefix) > 16:
        raise Refused(f"expected up to 16 lower-case letters and digits, found {show(value)}")
    return prefix


def _domain(value: object) -> str:
    domain = section.text(value).lower()
    if domain.startswith(".") or not set(domain) <= _NAME or ".." in domain or len(domain) > 253:
        raise Refused(f"expected a domain name, found {show(value)}")
    return domain


def lists(top: Section, folder: str) -> tuple[Source, ...]:
    found = [_list(top.report, path, name, table, folder) for name, path, table in _named(top, "list")]
    return tuple(source for source in found if source)


def _named(top: Section, kind: str) -> list[tuple[str, Place, object]]:
    """The tables of [list] or [provider], by name."""
    outer = top.table.get(kind, {})
    if not isinstance(outer, dict):
        top.report.error((kind,), f"expected tables such as [{kind}.NAME], found {show(outer)}")
        return []
    for name in outer:
        if not name or not set(name) <= _NAME:
            top.report.error((kind, name), f"expected a name of letters, digits, - and _, found {show(name)}")
    return [(name, (kind, name), table) for name, table in outer.items()]


def _list(report: Report, path: Place, name: str, table: object, folder: str) -> Source | None:
    given = Section(report, path, table, ("values", "file", "table"))
    present = [key for key in ("values", "file", "table") if key in given.table]
    if len(present) != 1:
        if present or not given.table:  # else the key that is not known has been named
            report.error(path, 'expected one of values = ["..."], file = "PATH" or table = "texthash:PATH"')
        return None
    kind = present[0]
    if kind == "values":
        return Source(name, "values", values=given.take("values", (), _entries))
    if kind == "file":
        return Source(name, "file", path=given.take("file", "", partial(section.path, folder=folder)))
    return Source(name, "texthash", path=given.take("table", "", partial(_table, folder=folder)))


def _entries(value: object) -> tuple[str, ...]:
    return tuple(entry for item in section.texts(value) for entry in sorted(values.list_entry(item)))


def _table(value: object, folder: str) -> str:
    kind, colon, name = section.text(value).partition(":")
    if not colon or not name:
        raise Refused(f'expected "TYPE:PATH", such as "texthash:blocked", found {show(value)}')
    if kind not in _TABLES:
        raise Refused(unknown(kind, _TABLES, "table type"))
    return section.path(name, folder)


def providers(top: Section) -> dict[str, Match]:
    """What "provider:NAME" stands for."""
    found = {}
    for name, path, table in _named(top, "provider"):
        given = Section(top.report, path, table, ("mx",))
        nothing: tuple[str, ...] = ()
        hosts = given.require("mx", nothing, section.texts, 'a list of hosts, mx = [".example.net"]')
        match = Match()
        for index, host in enumerate(hosts):
            try:
                match |= values.parse("mx", host, Names())
            except Refused as refused:
                top.report.error((*path, "mx", index), str(refused))
        if "mx" in given.table and not given.table["mx"]:
            top.report.error((*path, "mx"), "an empty list matches nothing, expected hosts")
        found[name] = match
    return found
