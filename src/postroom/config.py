"""The configuration file, as programs use it.

    configuration = load("/etc/postroom/postroom.toml")

Reading TOML and checking rules takes ten times a bare start of Python; a program that is started for each mail cannot
afford it. So what was read and checked is kept, compiled, in the state directory, and used for as long as the file is
the same one. The cache is a convenience: whatever is wrong with it, the file is read instead.
"""

from __future__ import annotations

import marshal
import os
import sys
from _blake2 import blake2b
from stat import S_ISREG

from postroom import __version__
from postroom.status import ConfigurationFault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from postroom.rules import Ruleset
    from postroom.rules.read import Document

    Included = tuple[tuple[str, tuple[int, ...]], ...]

DEFAULT_STATE = "/var/lib/postroom"

# Goes up with every change to what is cached, so that one version never runs what another compiled.
FORMAT = 5

# A file that changed this shortly ago could change again without its times telling (they tick in some milliseconds).
SETTLED = 2.0

# Ten thousand rules are some two megabytes; tomllib reads about one a second.
FILE_LIMIT = 4 * 1024 * 1024

# What `state = ` is looked for in without reading TOML; it stands at the top, before the first table.
_PEEK = 4096

_DIGEST = 16
_CACHE_LIMIT = 64 * 1024 * 1024


class Dns:
    """[dns]: the servers to ask (none: those of resolv.conf), their port, seconds for one try."""

    __slots__ = ("port", "servers", "timeout")

    def __init__(self, servers: tuple[str, ...], port: int, timeout: float) -> None:
        self.servers = servers
        self.port = port
        self.timeout = timeout


class Bounces:
    """[bounces]: how envelope senders are signed. `key` is the path of the key file, `lifetime` seconds."""

    __slots__ = ("domain", "key", "lifetime", "prefix")

    def __init__(self, key: str, prefix: str, domain: str, lifetime: float) -> None:
        self.key = key
        self.prefix = prefix
        self.domain = domain
        self.lifetime = lifetime


class Route:
    """[route]: `overrides` is a list's name or empty, `deadline` seconds; `temp`: TEMP may be an answer."""

    __slots__ = ("deadline", "overrides", "temp")

    def __init__(self, overrides: str, deadline: float, temp: bool) -> None:
        self.overrides = overrides
        self.deadline = deadline
        self.temp = temp


class Serve:
    """[serve]. `workers` 0: one for each processor; `queue`: requests that may wait for a thread of a worker."""

    __slots__ = ("group", "programs", "queue", "threads", "user", "workers")

    def __init__(
        self, workers: int, threads: int, queue: int, programs: tuple[str, ...], user: str, group: str
    ) -> None:
        self.workers = workers
        self.threads = threads
        self.queue = queue
        self.programs = programs
        self.user = user
        self.group = group


class Listen:
    """[listen.NAME]. `at`: unix:PATH, or ADDRESS:PORT of the loopback; `users`: who may hand off, none: our own."""

    __slots__ = ("at", "group", "mode", "name", "owner", "program", "protocol", "table", "users")

    def __init__(
        self,
        name: str,
        protocol: str,
        at: str,
        mode: int = 0o666,
        owner: str = "",
        group: str = "",
        program: str = "",
        table: str = "",
        users: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        self.protocol = protocol
        self.at = at
        self.mode = mode
        self.owner = owner
        self.group = group
        self.program = program
        self.table = table
        self.users = users

    def __eq__(self, other: object) -> bool:
        same = isinstance(other, Listen)
        return same and all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    def __hash__(self) -> int:
        return hash((self.name, self.at))


class Configuration:
    """`bounces` is None without a [bounces] table; `lists` says for each list what it is and where. `country` and
    `record` are paths, or empty.
    """

    __slots__ = (
        "_identity", "_include", "_included", "bounces", "country", "deadline", "dns", "listen", "lists", "log",
        "log_format", "path", "record", "record_hashed", "route", "rules", "serve", "state",
    )  # fmt: skip

    def __init__(self, path: str, compiled: dict[str, Any], seen: tuple[int, ...], state: str | None = None) -> None:
        self.path = path
        self.state: str = state or compiled["state"]
        self.log: str = compiled["log"]
        self.log_format: str = compiled["log_format"]
        self.deadline: float = compiled["deadline"]
        self.dns = Dns(*compiled["dns"])
        self.bounces = Bounces(*compiled["bounces"]) if compiled["bounces"] else None
        self.country: str = compiled["country"]
        self.route = Route(*compiled["route"])
        self.record: str
        self.record_hashed: bool
        self.record, self.record_hashed = compiled["record"]
        self.serve = Serve(*compiled["serve"])
        self.listen = tuple(Listen(*one) for one in compiled["listen"])
        self.lists: dict[str, tuple[str, Any]] = compiled["lists"]
        self.rules: Ruleset = compiled["rules"]
        self._identity = seen
        self._include: tuple[str, ...] = compiled["include"]
        self._included: Included = compiled["included"]

    def changed(self) -> bool:
        """Whether a file is no longer the one that was read: written to, replaced or gone."""
        try:
            return identity(os.stat(self.path)) != self._identity or included(self._include) != self._included
        except (OSError, ConfigurationFault):
            return True

    def being_written(self) -> bool:
        """Whether a file is shorter than it was, and changed just now: written in place, it may get longer yet.

        What is read of it in between can be a whole file of fewer rules.
        """
        return _shortened(self.path, self._identity) or any(_shortened(*file) for file in self._included)


def _shortened(path: str, before: tuple[int, ...]) -> bool:
    import time

    try:
        status = os.stat(path)
    except OSError:
        return False  # gone, not short
    shorter = bool(before) and status.st_ino == before[1] and status.st_size < before[4]
    return shorter and abs(time.time() - status.st_mtime) < SETTLED


def load(path: str, state: str | None = None) -> Configuration:
    """Read the file, or what was kept of it. `state` overrules the state directory that the file names.

    Raises ConfigurationFault; its text names file, line, rule, key, what was expected and the nearest known name.
    """
    path = os.path.abspath(path)
    content, seen = contents(path, FILE_LIMIT)
    place = _cache_path(path, state or _peeked(content, os.path.dirname(path)))
    stamp = (FORMAT, __version__, sys.hexversion, marshal.version, path, seen)
    compiled = _kept(place, stamp)
    if compiled is None or (compiled["include"] and included(compiled["include"]) != compiled["included"]):
        compiled = _compiled(path, content)
        _keep(place, stamp, compiled)
    return Configuration(path, compiled, seen, state)


def contents(path: str, limit: int) -> tuple[bytes, tuple[int, ...]]:
    """A whole regular file, and its identity. Raises ConfigurationFault, also where it changes while it is read."""
    try:
        # O_NONBLOCK: opening a FIFO must not wait for somebody to write into it.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise ConfigurationFault(f"{path}: {_why(error)}") from None
    try:
        status = os.fstat(fd)
        if not S_ISREG(status.st_mode):
            raise ConfigurationFault(f"{path}: is not a regular file")
        if status.st_size > limit:
            raise ConfigurationFault(f"{path}: is {status.st_size} bytes long, expected at most {limit}")
        parts = []
        while part := os.read(fd, 1 << 20):
            parts.append(part)
        if identity(os.fstat(fd)) != identity(status):
            raise ConfigurationFault(f"{path}: is being written")
    except OSError as error:
        raise ConfigurationFault(f"{path}: {_why(error)}") from None
    finally:
        os.close(fd)
    return b"".join(parts), identity(status)


def identity(status: os.stat_result) -> tuple[int, ...]:
    """What changes when a file is written to or replaced."""
    return (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size)


def _why(error: Exception) -> str:
    return os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)


def _compiled(path: str, content: bytes) -> dict[str, Any]:
    if not content.strip():
        # What an editor that writes in place, or a full disk, leaves for a moment: no rules is not what it says.
        raise ConfigurationFault(f"{os.path.basename(path)}: is empty")
    from postroom.rules.check import check
    from postroom.rules.compile import compile_model
    from postroom.rules.read import Unreadable

    try:
        document, include, files = whole(path, content)
        model, report = check(document, os.path.dirname(path))
    except Unreadable as unreadable:
        raise ConfigurationFault(str(unreadable)) from None
    if model is None:
        more = len(report.errors) - 1
        raise ConfigurationFault(str(report.errors[0]) + (f" (and {more} more: postroom check)" if more else ""))
    return {**compile_model(model), "include": include, "included": files}


def whole(path: str, content: bytes) -> tuple[Document, tuple[str, ...], Included]:
    """The file with what it includes; what `include` names, as absolute paths; the files that this comes to.

    Raises ConfigurationFault for a file that cannot be read, Unreadable for one that is not TOML.
    """
    from postroom.rules.include import joined
    from postroom.rules.read import parse

    folder, name = os.path.split(path)
    document = parse(content, name)
    named = document.data.get("include", [])
    if not (isinstance(named, list) and all(isinstance(one, str) and one and "\0" not in one for one in named)):
        raise ConfigurationFault(f'{name}: include: expected a list of files and folders, ["rules.d"]')
    include = tuple(os.path.join(folder, one) for one in named)
    files = included(include)
    if sum(one[4] for _, one in files) > FILE_LIMIT:
        raise ConfigurationFault(f"{name}: include: expected files of at most {FILE_LIMIT} bytes together")
    others = []
    for file, _ in files:
        if os.path.exists(path) and os.path.samefile(file, path):
            raise ConfigurationFault(f"{name}: include: names the file itself")
        others.append(parse(contents(file, FILE_LIMIT)[0], os.path.relpath(file, folder)))
    return joined(document, others), include, files


def included(include: tuple[str, ...]) -> Included:
    """The files that are named, and those of the folders that are, each with its identity.

    Raises ConfigurationFault where one is not there: half of the rules are not the rules.
    """
    found = []
    for one in include:
        try:
            names = [one]
            if os.path.isdir(one):
                names = [os.path.join(one, file) for file in sorted(os.listdir(one)) if _is_part(file)]
            found += [(file, identity(os.stat(file))) for file in names]
        except OSError as error:
            raise ConfigurationFault(f"{one}: {_why(error)}") from None
    return tuple(found)


def _is_part(name: str) -> bool:
    """An editor's backups and drafts are no rules."""
    return name.endswith(".toml") and name[0] not in ".#"


def _peeked(content: bytes, folder: str) -> str:
    """The state directory that the file names, by a look at its first lines.

    Where the look is wrong, the cache is looked for in the wrong place: not found, or made by us of this very file.
    """
    for line in content[:_PEEK].split(b"\n"):
        name, _, value = line.partition(b"=")
        if line.lstrip()[:1] == b"[":
            break
        if name.strip() == b"state":
            value = value.strip()
            text = value[1:].partition(value[:1])[0] if value[:1] in (b'"', b"'") else b""
            if text and b"\\" not in text:
                return os.path.join(folder, os.fsdecode(text))
    return DEFAULT_STATE


def _cache_path(path: str, state: str) -> str:
    name = blake2b(os.fsencode(path), digest_size=_DIGEST).hexdigest()
    return os.path.join(state, "cache", f"config-{name}")


def _kept(place: str, stamp: tuple[Any, ...]) -> dict[str, Any] | None:
    """What was kept of this very file by this very version and user. None for anything else, whatever it is."""
    try:
        if not _ours(os.stat(os.path.dirname(place))):
            return None
        fd = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):
        return None
    try:
        status = os.fstat(fd)
        if not (_ours(status) and S_ISREG(status.st_mode) and status.st_size <= _CACHE_LIMIT):
            return None
        data = os.read(fd, status.st_size + 1)
    except OSError:
        return None
    finally:
        os.close(fd)
    # marshal is told only what is whole: over a torn file it may do worse than raise.
    if blake2b(data[_DIGEST:], digest_size=_DIGEST).digest() != data[:_DIGEST]:
        return None
    try:
        kept_stamp, compiled = marshal.loads(data[_DIGEST:])  # noqa: S302 - our own file, and whole: see above
    except (ValueError, TypeError, EOFError):
        return None
    if kept_stamp != stamp:
        return None
    kept: dict[str, Any] = compiled
    if kept["rules"].get("packed"):
        from postroom.rules.packed import unpack  # here: few have so many rules

        kept["rules"] = unpack(kept["rules"])
    return kept


def _ours(status: os.stat_result) -> bool:
    """Whether nobody but the user who runs this could have written it."""
    return status.st_uid == os.geteuid() and not status.st_mode & 0o077


def _keep(place: str, stamp: tuple[Any, ...], compiled: dict[str, Any]) -> None:
    """Keep it for the next start; where that cannot be, nothing is lost but time.

    root keeps nothing: programs do not run as root, and could neither use nor replace what it leaves.
    """
    import time

    from postroom.rules.packed import pack

    changed = max(stamp[-1][2:4]) / 1e9  # of the identity: times of content and inode
    if os.geteuid() == 0 or time.time() - changed < SETTLED:
        return
    payload = marshal.dumps((stamp, {**compiled, "rules": pack(compiled["rules"])}))
    draft = f"{place}.{os.getpid()}"
    try:
        if not os.path.isdir(os.path.dirname(place)):
            os.mkdir(os.path.dirname(place), 0o700)
        elif not _ours(os.stat(os.path.dirname(place))):
            os.chmod(os.path.dirname(place), 0o700)  # or what is kept there would never be used
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except (OSError, ValueError):
        return
    try:
        with open(fd, "wb") as file:
            file.write(blake2b(payload, digest_size=_DIGEST).digest() + payload)
        os.rename(draft, place)
    except OSError:
        os.unlink(draft)
