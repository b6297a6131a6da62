"""[serve] and [listen] for those who set them up: what `postroom check` and `postroom wire` say of them."""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Callable

from postroom import config
from postroom.config import Configuration
from postroom.resident.programs import SHIPPED, name_of
from postroom.rules.model import Listen, Model
from postroom.rules.problems import Report

# Made by systemd at the start of the service (RuntimeDirectory= of postroom.service).
_RUNTIME = "/run/postroom"

# Two programs with one handler.
_ALIKE = {"rule-deliver": "lmtp-deliver"}

# Of which the service has its own (PrivateTmp= of postroom.service).
_PRIVATE = ("/tmp/", "/var/tmp/")  # noqa: S108 - nothing is written there


# How main.cf, or a nexthop, names the service at an address: "inet:..." or "unix:...".
_NAMED = {
    "policy": "check_policy_service {}",
    "socketmap": "socketmap:{}:route",
    "tcp_table": "tcp:{}",
    "lmtp": "lmtp:{}",
}


def answered(configuration: Configuration, program: str, queue: str) -> list[str]:
    """Where the service answers what the program of spawn(8) or pipe(8) would, as Postfix names it."""
    return [
        _NAMED[one.protocol].format(_address(one, queue))
        for one in configuration.listen
        if one.protocol in _NAMED and program in (one.program, _ALIKE.get(one.program))
    ]


def _address(listen: config.Listen, queue: str) -> str:
    """A path inside the queue directory from there: right for who runs chrooted, and for all others."""
    if listen.protocol == "tcp_table":
        return listen.at
    if not listen.at.startswith("unix:"):
        return f"inet:{listen.at}"
    path = listen.at.removeprefix("unix:")
    inside = path.startswith(queue.rstrip("/") + "/")
    return f"unix:{os.path.relpath(path, queue) if inside else path}"


def listening(model: Model, report: Report) -> None:
    """Warnings, since this host may not be the one that it is for."""
    serve = model.settings.serve
    known = {*SHIPPED, *map(name_of, serve.programs)}
    for index, path in enumerate(serve.programs):
        if not os.path.isfile(path):
            report.warning(("serve", "programs", index), f"{path}: there is no such file")
    for one in model.settings.listen:
        place = ("listen", one.name)
        if one.program and one.program not in known:
            text = f"{one.program} is none of Postroom's programs; the path of any other belongs into [serve] programs"
            report.warning((*place, "program"), text)
        if one.at.startswith("unix:"):
            _path(one.at.removeprefix("unix:"), (*place, "at"), report)
        _accounts(one, place, report)
        _strangers(one, place, report)


def _path(path: str, place: tuple[str, ...], report: Report) -> None:
    folder = os.path.dirname(path)
    if path.startswith(_PRIVATE):
        report.warning(
            place, "postroom.service has a /tmp of its own (PrivateTmp=): nobody else finds the socket there"
        )
    elif folder != _RUNTIME and not os.path.isdir(folder):
        report.warning(place, f"there is no folder {folder}: make it, for the user of the service to write to")


def _strangers(listen: Listen, place: tuple[str, ...], report: Report) -> None:
    """What LMTP brings counts as accepted by Postfix, and XFORWARD says whose it is."""
    if listen.protocol == "lmtp" and listen.at.startswith("unix:") and listen.mode & 0o002:
        text = 'every user of this host can hand in mail there, in any name: set mode = "0660" and group = "postfix"'
        report.warning((*place, "mode"), text)


def _accounts(listen: Listen, place: tuple[str, ...], report: Report) -> None:
    given = [("owner", listen.owner), ("group", listen.group), *(("users", name) for name in listen.users)]
    for key, name in given:
        find: Callable[[str], object] = grp.getgrnam if key == "group" else pwd.getpwnam
        try:
            if name:
                find(name)
        except KeyError:
            report.warning((*place, key), f"there is no {'group' if key == 'group' else 'user'} {name} here")
