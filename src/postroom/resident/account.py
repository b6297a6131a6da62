"""Whom the service runs as: root binds, and gives itself up before the first worker is there."""

from __future__ import annotations

import grp
import os
import pwd

from postroom.status import ConfigurationFault

# Whom root becomes where nobody says otherwise.
DEFAULT_USER = "postroom"


class Account:
    """A user and a group, by number, and the user's name for people."""

    __slots__ = ("gid", "name", "uid")

    def __init__(self, name: str, uid: int, gid: int) -> None:
        self.name = name
        self.uid = uid
        self.gid = gid


def choose(user: str, group: str) -> Account:
    """Who is to serve. Raises ConfigurationFault: handlers of strangers' mail never run as root.

    Who is not root stays what they are; another name in the configuration would be a promise that cannot be kept.
    """
    if os.geteuid() == 0:
        name = user or DEFAULT_USER
        uid, gid = _user(name)
    else:
        name, uid, gid = current()
        if user and _user(user)[0] != uid:
            raise ConfigurationFault(f"[serve] user is {user}, but {name} runs this: start it as root or as {user}")
    if uid == 0:
        raise ConfigurationFault("root runs no workers: name another user, [serve] user or --user")
    if group:
        gid = group_id(group)
        if os.geteuid() != 0 and gid != os.getegid():
            raise ConfigurationFault(f"[serve] group is {group}, which only root can change to: start it as root")
    return Account(name, uid, gid)


def current() -> tuple[str, int, int]:
    uid = os.geteuid()
    try:
        return pwd.getpwuid(uid).pw_name, uid, os.getegid()
    except KeyError:
        return str(uid), uid, os.getegid()


def _user(name: str) -> tuple[int, int]:
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        raise ConfigurationFault(
            f"no user {name}: make it with: "
            f"useradd --system --home-dir /var/lib/postroom --shell /usr/sbin/nologin {name}"
        ) from None
    return found.pw_uid, found.pw_gid


def user_id(name: str) -> int:
    return _user(name)[0]


def group_id(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise ConfigurationFault(f"no group {name}: make it with: groupadd --system {name}") from None


def become(account: Account) -> None:
    """Give root up for good: real, effective and saved ids, and all groups but the account's own."""
    if os.geteuid() == 0:
        os.initgroups(account.name, account.gid)
        os.setresgid(account.gid, account.gid, account.gid)
        os.setresuid(account.uid, account.uid, account.uid)
    # A kernel or a container that says yes and does nothing would have strangers' mail handled by root.
    if set(os.getresuid()) != {account.uid} or set(os.getresgid()) != {account.gid}:
        raise ConfigurationFault(f"could not become {account.name} with all of its ids")
