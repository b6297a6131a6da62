"""Can the user that pipe(8) or spawn(8) changes to run the program, read its configuration and write its state?

Asked for real: in a child process with that user's identity and nothing more, as Postfix's daemons make it. Modes and
owners alone do not tell: there are ACLs, mount options, virtual environments in a home of mode 700, missing libraries.
"""

from __future__ import annotations

import grp
import json
import os
import pwd
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from postroom.config import Configuration, load
from postroom.postfix.emulator import Surroundings, execute
from postroom.postfix.pipe_verdict import printable
from postroom.postfix.postconf import Postconf
from postroom.status import Fault

# A Python on a cold disk takes a second; this is a person's patience.
HELP_SECONDS = 60.0
LINKS = 40
FIRST_LINE = 4096


@dataclass
class Finding:
    """What was found: reasons to refuse, and what the configuration says when it could be read."""

    reasons: list[str] = field(default_factory=list)
    deadline: float | None = None


def account_reasons(user: str, postconf: Postconf) -> list[str]:
    """Why pipe(8) or spawn(8) would refuse this user=NAME[:GROUP]; they end with a fatal error then, and mail waits."""
    name, _, group = user.partition(":")
    try:
        account = pwd.getpwnam(name)
    except KeyError:
        return [f"user {name} does not exist: adduser --system --group --home /var/lib/postroom {name}"]
    try:
        gid = grp.getgrnam(group).gr_gid if group else account.pw_gid
    except KeyError:
        return [f"group {group} does not exist"]
    owner = pwd.getpwnam(postconf.expanded("mail_owner"))
    postdrop = grp.getgrnam(postconf.expanded("setgid_group"))
    checks = [
        (account.pw_uid == 0, f"user {name} has uid 0"),
        (account.pw_uid == owner.pw_uid, f"user {name} is Postfix's own user (mail_owner)"),
        (gid == 0, f"user {user} has gid 0"),
        (gid == owner.pw_gid, f"user {user} has the group of Postfix's own user ({owner.pw_name})"),
        (gid == postdrop.gr_gid, f"user {user} has the group {postdrop.gr_name} (setgid_group)"),
    ]
    return [f"{reason}: pipe(8) and spawn(8) refuse that" for wrong, reason in checks if wrong]


def surroundings(user: str, postconf: Postconf) -> Surroundings:
    """What pipe(8) would give a program of this user."""
    return Surroundings.of_pipe(user, postconf)


def program_reasons(path: Path, given: Surroundings, user: str, start: tuple[str, ...] = ()) -> list[str]:
    """Why `PROGRAM --help` does not run as that user, the first thing in its way named. `start` stands in front."""
    if not path.exists():
        return [f"{path} does not exist: install the package, or say where it is with --programs"]
    if not os.path.isdir(given.directory):
        return [f"queue_directory {given.directory} does not exist"]
    run = execute([*start, str(path), "--help"], given, b"", HELP_SECONDS)
    if run.exit == 0 and not run.timed_out:
        return []
    blocked = first_blocked(path, given, user)
    if blocked:
        return [blocked]
    ended = f"within {HELP_SECONDS:g} s" if run.timed_out else f"exit status {run.exit}"
    shown = " ".join((*start, str(path)))
    return [f"user {user} cannot run {shown} --help ({ended}): {printable(run.output).strip() or 'it says nothing'}"]


def first_blocked(path: Path, given: Surroundings, user: str) -> str:
    """The first folder or file, on the way to the program or its interpreter, that the user may not enter or run."""
    interpreter = interpreter_of(path)
    if interpreter is not None and not interpreter.is_absolute():
        return f"{path}: the first line names no interpreter by its path (#!{interpreter}); pip writes it on install"
    wanted = [(step, path) for step in steps(path)]
    if interpreter is not None:
        wanted += [(step, interpreter) for step in steps(interpreter)]
    denied = as_user(given, lambda: next((n for n, (step, _) in enumerate(wanted) if not os.access(step, os.X_OK)), -1))
    if denied == -1:
        readable = as_user(given, lambda: os.access(path, os.R_OK))
        return "" if readable or interpreter is None else f"user {user} cannot read {path} ({owner_and_mode(path)})"
    step, goal = wanted[denied]
    if not step.exists():
        return f"{step} does not exist, on the way to {goal}"
    verb = "enter" if step.is_dir() else "execute"
    way = "" if step == goal else f", on the way to {goal}"
    return f"user {user} cannot {verb} {step} ({owner_and_mode(step)}){way}"


def interpreter_of(path: Path) -> Path | None:
    """The interpreter in the first line; None for a file that starts otherwise."""
    with path.open("rb") as file:
        line = file.readline(FIRST_LINE)
    if not line.startswith(b"#!"):
        return None
    parts = line[2:].split()
    return Path(os.fsdecode(parts[0])) if parts else Path()


def steps(path: Path) -> list[Path]:
    """Every folder and file that the kernel passes on the way to `path`, symbolic links followed, in its order."""
    passed, links = [Path("/")], 0
    left = list(reversed(path.absolute().parts[1:]))
    while left:
        part = left.pop()
        here = passed[-1] if not passed[-1].is_file() else passed[-1].parent
        if part == "..":
            passed.append(here.parent)
            continue
        there = here / part
        if there.is_symlink() and links < LINKS:
            links += 1
            target = Path(os.readlink(there))
            if target.is_absolute():
                passed.append(Path("/"))
            left += reversed([name for name in target.parts if name != "/"])
            continue
        passed.append(there)
    return passed


def owner_and_mode(path: Path) -> str:
    """Owner, group and mode as ls(1) shows them."""
    status = path.stat()
    return f"owner {status.st_uid}:{status.st_gid}, mode {status.st_mode & 0o7777:o}"


def configuration(config: Path, given: Surroundings, user: str) -> Finding:
    """Read the configuration as that user, and look whether the state directory in it can be written."""
    try:
        # As root first: what load() imports is then there for the child, whose user may not be able to read this
        # library. (Which library the program itself can read, its --help has told.)
        load(str(config))
    except Fault as error:
        return Finding([str(error)])

    def look() -> dict[str, Any]:
        try:
            read = load(str(config))
        except (Fault, OSError) as error:
            return {"reason": str(error)}
        unread = [path for path in files_of(read) if not os.access(path, os.R_OK)]
        key = read.bounces.key if read.bounces else ""
        blocked = unwritable(read.state)
        return {"deadline": read.deadline, "state": read.state, "unread": unread, "blocked": blocked, "key": key}

    found = as_user(given, look)
    if "reason" in found:
        blocked = first_unread(config, given, user)
        return Finding([blocked or f"configuration as user {user} reads it: {found['reason']}"])
    reasons = [f"user {user} cannot write {found['blocked']}{advice(found['state'], user)}"] if found["blocked"] else []
    for path in found["unread"]:
        remedy = ": make it with: postroom verp key" if path == found["key"] and not os.path.exists(path) else ""
        reasons.append(first_unread(Path(path), given, user) + remedy)
    return Finding(reasons, found["deadline"])


def files_of(read: Configuration) -> list[str]:
    """The other files that the configuration names: lists, and the key of bounce addresses."""
    lists = [where for _, where in read.lists.values() if isinstance(where, str)]
    return lists + ([read.bounces.key] if read.bounces else [])


def unwritable(state: str) -> str:
    """What in the state directory (or itself) this process cannot write; empty when all is well."""
    if not os.access(state, os.W_OK | os.X_OK | os.R_OK):
        return f"state directory {state}"
    with os.scandir(state) as entries:
        # One file made by root, by running a command as root, locks the program out.
        return next((f"{entry.path}, a part of the state" for entry in entries if not writable(entry)), "")


def writable(entry: os.DirEntry[str]) -> bool:
    """Whether this process can change a file, or what is in a folder."""
    need = os.R_OK | os.W_OK | (os.X_OK if entry.is_dir(follow_symlinks=False) else 0)
    return entry.is_symlink() or os.access(entry.path, need)


def advice(state: str, user: str) -> str:
    """The command that makes a missing state directory."""
    name = shlex.quote(user.partition(":")[0])
    return "" if os.path.isdir(state) else f", it does not exist: install -d -o {name} -m 700 {shlex.quote(state)}"


def first_unread(path: Path, given: Surroundings, user: str) -> str:
    """Why the user cannot open a file, or "" when it can."""
    if not path.exists():
        return f"{path} does not exist"
    *folders, file = steps(path)
    denied = as_user(given, lambda: next((n for n, step in enumerate(folders) if not os.access(step, os.X_OK)), -1))
    if denied != -1:
        return f"user {user} cannot enter {folders[denied]} ({owner_and_mode(folders[denied])}), on the way to {path}"
    if not as_user(given, lambda: os.access(file, os.R_OK)):
        return f"user {user} cannot read {file} ({owner_and_mode(file)})"
    return ""


def as_user(given: Surroundings, question: Callable[[], Any]) -> Any:
    """The answer (anything that JSON can say) that the function gives in a child process with that identity."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        answer: dict[str, Any] = {}
        try:
            given.enter()
            answer = {"answer": question()}
        except Exception as error:
            # Whatever it is, the parent must hear of it: this process ends here and now.
            answer = {"error": f"{type(error).__name__}: {error}"}
        finally:
            os.write(writing, json.dumps(answer).encode())
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    told = json.loads(text or b"{}")
    if "answer" not in told:
        raise OSError(f"as uid {given.uid}: {told.get('error', 'the process ended without an answer')}")
    return told["answer"]
