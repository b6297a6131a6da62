"""The check of what is no rule: state, log, deadline, [dns], [bounces], [list.NAME], [provider.NAME]."""

from __future__ import annotations

from functools import partial

from postroom.rules import section, serving, values
from postroom.rules.lookup import parse_ip
from postroom.rules.model import Bounces, Route, Settings, Source
from postroom.rules.problems import SETTINGS, Refused, Report, unknown
from postroom.rules.providers import catalogue
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

# trivial-rewrite(8) asks, and everything that is to be delivered waits for it.
DEFAULT_ROUTE_DEADLINE = 0.5
ROUTE_DEADLINE_LIMIT = 10.0

TOP = (*SETTINGS, "dns", "route", "country", "bounces", "serve", "listen", "list", "provider", "rule", "test")
# Those that can be read without Postfix; the first line's are files, the rest as postmap(1) and postconf(5) write them.
_FILES = ("texthash", "cidr", "regexp", "pcre", "lmdb", "sqlite")
_INLINE = ("inline", "cidr", "regexp", "pcre")
_TABLES = (*_FILES, "inline", "socketmap")


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
        mydestination=top.take("mydestination", (), _destinations),
        myorigin=top.take("myorigin", "", _domain),
        time_zone=top.take("time_zone", "", _time_zone),
        country=_country(top, folder) if "country" in top.table else "",
        route=_route(top),
        record=top.take("record", "", partial(section.path, folder=folder)),
        record_hashed=top.take("record_addresses", "plain", partial(section.choice, known=("plain", "hashed")))
        == "hashed",
        bounces=_bounces(top, folder) if "bounces" in top.table else None,
        log_format=top.take("log_format", "text", partial(section.choice, known=("text", "json"))),
        serve=serving.serve(top, folder),
        listen=serving.listen(top, folder),
    )


def _delimiter(value: object) -> str:
    if value == "":
        return ""
    if any(character.isalnum() or character.isspace() or character == "@" for character in section.text(value)):
        raise Refused(f'expected signs that part an extension from its address, such as "+", found {show(value)}')
    return section.text(value)


def _destinations(value: object) -> tuple[str, ...]:
    return tuple(_destination(name) for name in section.texts(value))


def _destination(name: str) -> str:
    """A domain, or one of the host's addresses as it stands in a mail address (RFC 5321 section 4.1.3)."""
    name = name.lower()
    if not name.startswith("["):
        return _domain(name)
    address = name[1:].removesuffix("]").removeprefix("ipv6:")
    if not name.endswith("]") or parse_ip(address) is None:
        raise Refused(f'expected a domain, or an address such as "[192.0.2.1]", found {show(name)}')
    return f"[{address}]"


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


def _time_zone(value: object) -> str:
    from zoneinfo import ZoneInfo

    try:
        ZoneInfo(section.text(value))
    except (OSError, ValueError) as error:  # ZoneInfoNotFoundError is a KeyError: see below
        raise Refused(f"is no time zone: {error}") from None
    except KeyError:
        raise Refused(f'expected a time zone that this machine knows, "Europe/Berlin", found {show(value)}') from None
    return section.text(value)


def _country(top: Section, folder: str) -> str:
    table = Section(top.report, ("country",), top.table["country"], ("database",))
    return table.require("database", "", partial(section.path, folder=folder), "the path of a MaxMind database")


def _route(top: Section) -> Route:
    table = Section(top.report, ("route",), top.table.get("route", {}), ("overrides", "deadline", "temp"))
    return Route(
        overrides=table.take("overrides", "", partial(_list_name, top=top)),
        deadline=table.take("deadline", DEFAULT_ROUTE_DEADLINE, partial(section.seconds, below=ROUTE_DEADLINE_LIMIT)),
        temp=table.take("temp", False, section.boolean),
    )


def _list_name(value: object, top: Section) -> str:
    prefix, colon, name = section.text(value).partition(":")
    if prefix != "list" or not colon:
        raise Refused(f'expected a list, "list:NAME", found {show(value)}')
    known = top.table.get("list", {})
    if name not in known:
        raise Refused(unknown(name, known, "list"))
    return name


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
    if not prefix[0].isalpha() or not set(prefix) <= section.NAME or prefix != prefix.lower() or len(prefix) > 16:
        raise Refused(f"expected up to 16 lower-case letters and digits, found {show(value)}")
    return prefix


def _domain(value: object) -> str:
    domain = section.text(value).lower()
    if domain.startswith(".") or not set(domain) <= section.NAME or ".." in domain or len(domain) > 253:
        raise Refused(f"expected a domain name, found {show(value)}")
    return domain


def lists(top: Section, folder: str) -> tuple[Source, ...]:
    found = [_list(top.report, path, name, table, folder) for name, path, table in section.named(top, "list")]
    return tuple(source for source in found if source)


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
    found = given.take("table", ("texthash", ""), partial(_table, folder=folder))
    return Source(name, found[0], path=found[1])


def _entries(value: object) -> tuple[str, ...]:
    return tuple(entry for item in section.texts(value) for entry in sorted(values.list_entry(item)))


def _table(value: object, folder: str) -> tuple[str, str]:
    """(type, name) of a table: the name is a path, entries in braces, or where a socketmap server listens."""
    kind, colon, name = section.text(value).partition(":")
    name = name.strip()
    if not colon or not name:
        raise Refused(f'expected "TYPE:PATH", such as "texthash:blocked", found {show(value)}')
    if kind not in _TABLES:
        raise Refused(unknown(kind, _TABLES, "table type"))
    if kind == "socketmap":
        return kind, _socketmap(name, folder)
    if name.startswith("{") and kind in _INLINE and name.endswith("}"):
        return kind, name
    if kind not in _FILES or name.startswith("{"):
        raise Refused(
            f'expected "{kind}:{{ ... }}", found {show(value)}' if kind in _INLINE else f"{kind}: has no inline form"
        )
    return kind, section.path(name, folder)


def _socketmap(name: str, folder: str) -> str:
    """socketmap_table(5): unix:PATH:NAME or inet:HOST:PORT:NAME; a relative path starts at `folder`."""
    kind, _, rest = name.partition(":")
    endpoint, _, inner = rest.rpartition(":")
    host, _, port = endpoint.rpartition(":")
    good = endpoint if kind == "unix" else host and port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536
    if kind not in ("unix", "inet") or not good or not inner or " " in inner:
        raise Refused(f'expected "socketmap:unix:PATH:NAME" or "socketmap:inet:HOST:PORT:NAME", found {show(name)}')
    return f"unix:{section.path(endpoint, folder)}:{inner}" if kind == "unix" else name


def providers(top: Section) -> dict[str, Match]:
    """What "provider:NAME" stands for: the file's own, and those of the catalogue that it does not define itself."""
    found = {name: _shipped(hosts) for name, hosts in catalogue().items()}
    for name, path, table in section.named(top, "provider"):
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


def _shipped(hosts: tuple[str, ...]) -> Match:
    return Match(shown=hosts, entries=frozenset(hosts))
