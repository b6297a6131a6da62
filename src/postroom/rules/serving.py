"""The check of what the resident is told: [serve] and [listen.NAME]."""

from __future__ import annotations

from functools import partial

from postroom.rules import section
from postroom.rules.lookup import parse_ip
from postroom.rules.model import Listen, Serve
from postroom.rules.problems import Refused
from postroom.rules.section import Section, named
from postroom.rules.values import show

# More than the processors of any mail server; a number beyond it is a slip of the pen.
WORKERS_LIMIT = 128
THREADS_LIMIT = 256
QUEUE_LIMIT = 100_000

# For each worker. A decision that waits does so for DNS or the state, some milliseconds as a rule: sixteen take
# thousands a second. What comes while all of them wait stands in the queue for its turn, a second's worth or so.
DEFAULT_THREADS = 16
DEFAULT_QUEUE = 256

# Who may connect: smtpd(8) and its like run as postfix, a user whom a resident cannot give the socket to. What is asked
# there is what every user of the host may ask by sending mail.
DEFAULT_MODE = 0o666

# sun_path of unix(7), less the NUL.
PATH_LIMIT = 107

# Protocol -> the program whose handler answers.
PROGRAMS = {
    "policy": "rule-policy",
    "socketmap": "socketmap-lookup",
    "tcp_table": "tcp-lookup",
    "lmtp": "rule-deliver",
    "handoff": "",
    "health": "",
}
_KEYS = ("protocol", "at", "mode", "owner", "group", "program", "table", "users")


def serve(top: Section, folder: str) -> Serve:
    given = Section(
        top.report, ("serve",), top.table.get("serve", {}), ("workers", "threads", "queue", "programs", "user", "group")
    )
    return Serve(
        workers=given.take("workers", 0, partial(section.whole, least=0, most=WORKERS_LIMIT)),
        threads=given.take("threads", DEFAULT_THREADS, partial(section.whole, least=1, most=THREADS_LIMIT)),
        queue=given.take("queue", DEFAULT_QUEUE, partial(section.whole, least=0, most=QUEUE_LIMIT)),
        programs=given.take("programs", (), partial(_programs, folder=folder)),
        user=given.take("user", "", section.text),
        group=given.take("group", "", section.text),
    )


def _programs(value: object, folder: str) -> tuple[str, ...]:
    return tuple(section.path(one, folder) for one in section.texts(value))


def listen(top: Section, folder: str) -> tuple[Listen, ...]:
    found: list[Listen] = []
    for name, path, table in named(top, "listen"):
        given = Section(top.report, path, table, _KEYS)
        protocol = given.take("protocol", name, _protocol)
        if protocol not in PROGRAMS:
            top.report.error(path, f'"protocol" is missing; expected one of {", ".join(PROGRAMS)}')
            continue
        at = given.require("at", "", partial(_address, folder=folder), 'where to listen, at = "unix:PATH"')
        for other in found:
            if at and other.at == at:
                top.report.error((*path, "at"), f"[listen.{other.name}] listens there already")
        _only_where_it_counts(given, protocol, at)
        found.append(
            Listen(
                name=name,
                protocol=protocol,
                at=at,
                mode=given.take("mode", _default_mode(protocol, given), _mode),
                owner=given.take("owner", "", section.text),
                group=given.take("group", "", section.text),
                program=given.take("program", PROGRAMS[protocol], section.text),
                table=given.take("table", "route" if protocol == "tcp_table" else "", section.text),
                users=given.take("users", (), section.texts),
            )
        )
    return tuple(found)


def _default_mode(protocol: str, given: Section) -> int:
    """The hand-off socket is for the resident's own user, where no others are named."""
    return 0o600 if protocol == "handoff" and "users" not in given.table else DEFAULT_MODE


def _only_where_it_counts(given: Section, protocol: str, at: str) -> None:
    """A key that would change nothing was meant to change something."""
    idle = {
        "mode": not at.startswith("unix:"),
        "owner": not at.startswith("unix:"),
        "group": not at.startswith("unix:"),
        "program": not PROGRAMS[protocol],
        "table": protocol != "tcp_table",
        "users": protocol != "handoff",
    }
    for key, useless in idle.items():
        if useless and key in given.table and at:
            file = key in ("mode", "owner", "group")
            given.report.error((*given.path, key), "is for a unix socket" if file else "is not for this protocol")
    if protocol == "handoff" and at and not at.startswith("unix:"):
        given.report.error((*given.path, "at"), "expected a unix socket: descriptors pass through no other")


def _protocol(value: object) -> str:
    return section.choice(value, tuple(PROGRAMS))


def _address(value: object, folder: str) -> str:
    """unix:PATH, or an address of this host that nobody else reaches: none of the protocols knows who is asking."""
    text = section.text(value)
    if text.startswith("unix:") and len(text) > len("unix:"):
        path = section.path(text[len("unix:") :], folder)
        if len(path.encode("utf-8", "surrogateescape")) > PATH_LIMIT:
            raise Refused(f"expected a path of at most {PATH_LIMIT} bytes, found {show(path)}")
        return f"unix:{path}"
    host, colon, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    packed = parse_ip(bare) if (":" in bare) == host.startswith("[") else None
    if not colon or packed is None or not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536):
        raise Refused(f'expected "unix:PATH", "127.0.0.1:PORT" or "[::1]:PORT", found {show(value)}')
    if not (bare.startswith("127.") or bare == "::1"):
        raise Refused(f"expected an address of the loopback, since anybody may ask there, found {show(value)}")
    return text


def _mode(value: object) -> int:
    """Written as chmod(1) takes it. A TOML number 0o660 is another way to say the same."""
    number = value
    if isinstance(value, str):
        try:
            number = int(value, 8)
        except ValueError:
            number = -1
    if isinstance(number, bool) or not isinstance(number, int) or not 0 < number <= 0o777:
        raise Refused(f'expected permissions such as "0660", found {show(value)}')
    return number
