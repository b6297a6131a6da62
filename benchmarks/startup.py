"""CPU time of a delivery by rule-deliver and of a start of rule-policy, against a bare start of Python.

pipe(8) starts one program per recipient, spawn(8) one per smtpd(8) process: what a start costs is what a mail costs.
Measured is user + system time of the child (wait4), programs in shuffled order, medians of many rounds; said in
multiples of `python3 -I -S -c pass`, measured in the same rounds. The peer is today's usual way of writing such a
program: click, dnspython and email imported at the top.

Run as root (it installs for, and measures as, the user nobody, as pipe(8) would):

    python benchmarks/startup.py [ROUNDS]
"""

import json
import os
import pwd
import random
import resource  # noqa: F401 - os.wait4 imports it, and the user whom we become may not be able to read it
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles

from postroom.lab.place import install

USER = "nobody"
ROUNDS = 60
TARGET = 3.0

# The first rounds read files from disk and fill the cache of the configuration.
WARM_UP = 5

# pipe(8)'s own environment (src/global/pipe_command.c).
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C"}
MAIL = (
    b"Received: from c.example (c.example [192.0.2.1]) by m.example (Postfix) with ESMTP id %d\n"
    b"\tfor <bob@example.org>; Sun, 22 Nov 2026 15:04:54 +0000 (UTC)\nFrom: a@example.com\nSubject: %d\n\n"
) + b"A line of some sixty characters, as they are in most mails.\n" * 64

CONFIGURATION = """\
state = "{folder}/state"
log = "{folder}/mail/log"

[[rule]]
id = "bob"
at = "deliver"
match = {{ recipient = "bob@example.org" }}
action = "maildir {folder}/mail/bob"

[[rule]]
id = "bob-at-rcpt"
at = "rcpt"
match = {{ recipient = "bob@example.org" }}
action = "550 5.7.1 no"
"""

PEER = """\
import sys
import click
import dns.resolver
import email.parser
import email.policy
sys.stdin.buffer.read()
"""

Program = tuple[list[str], Callable[[int], tuple[int, int]]]


def mail(number: int) -> tuple[int, int]:
    """Standard input and output as pipe(8) gives them: a mail that was not there before."""
    reader, writer = os.pipe()
    os.write(writer, MAIL % (number, number))
    os.close(writer)
    return reader, os.open(os.devnull, os.O_WRONLY)


def end_at_once(number: int) -> tuple[int, int]:
    """A connection as spawn(8) gives it, of a client that has left."""
    ours, theirs = socket.socketpair()
    ours.close()
    return theirs.detach(), os.open(os.devnull, os.O_WRONLY)


def programs(folder: Path, venv: Path, python: str) -> dict[str, Program]:
    # {number} becomes the round: no delivery is one that was made before.
    deliver = [str(venv / "rule-deliver"), "--config", f"{folder}/postroom.toml", "--", "sender=a@example.com",
               "recipient=bob@example.org", "original_recipient=bob@example.org", "queue_id=4Q{number}", "size=4096",
               "nexthop=example.org", "client_address=192.0.2.1", "client_hostname=c.example"]  # fmt: skip
    policy = [str(venv / "rule-policy"), "--config", f"{folder}/postroom.toml"]
    return {
        "python3 -I -S -c pass": ([python, "-I", "-S", "-c", "pass"], mail),
        "python3 -c pass, of the venv": ([str(venv / "python"), "-c", "pass"], mail),
        "rule-deliver, into a maildir": (deliver, mail),
        "rule-policy, to the end of input": (policy, end_at_once),
        "click, dnspython, email imported": ([str(venv / "python"), str(folder / "peer.py")], mail),
    }


def cpu(program: Program, number: int) -> float:
    """Seconds of CPU that one run took."""
    arguments, descriptors = program
    stdin, stdout = descriptors(number)
    words = [word.replace("{number}", str(number)) for word in arguments]
    actions = [(os.POSIX_SPAWN_DUP2, stdin, 0), (os.POSIX_SPAWN_DUP2, stdout, 1), (os.POSIX_SPAWN_DUP2, stdout, 2)]
    pid = os.posix_spawn(words[0], words, ENVIRONMENT, file_actions=actions)
    os.close(stdin)
    os.close(stdout)
    _, status, usage = os.wait4(pid, 0)
    if status:
        raise SystemExit(f"{' '.join(words)}: wait status {status}")
    return usage.ru_utime + usage.ru_stime


def measure(folder: Path, venv: Path, python: str, rounds: int) -> dict[str, list[float]]:
    table = programs(folder, venv, python)
    times: dict[str, list[float]] = {name: [] for name in table}
    for number in range(rounds + WARM_UP):
        for name in random.sample(list(table), len(table)):
            seconds = cpu(table[name], number)
            if number >= WARM_UP:
                times[name].append(seconds)
    return times


def as_user(step: Callable[[], object]) -> object:
    """What `step` returns, run by a process of USER's."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            account = pwd.getpwnam(USER)
            os.setgroups([])
            os.setgid(account.pw_gid)
            os.setuid(account.pw_uid)
            os.chdir("/")
            os.write(writer, json.dumps(step()).encode())
        except BaseException as error:
            os.write(2, f"{error}\n".encode())
            os._exit(1)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        answer = stream.read()
    if os.waitpid(pid, 0)[1]:
        raise SystemExit("measuring failed")
    return json.loads(answer)


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    if os.geteuid() != 0:
        raise SystemExit("startup.py measures as the user nobody: run it as root")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        place = install(folder, USER)
        account = pwd.getpwnam(USER)
        for path in (folder / "state", folder / "mail"):
            path.mkdir()
            os.chown(path, account.pw_uid, account.pw_gid)
        (folder / "postroom.toml").write_text(CONFIGURATION.format(folder=folder))
        (folder / "peer.py").write_text(PEER)
        time.sleep(2.5)  # a file that has just changed is not kept in the cache
        times = as_user(lambda: measure(folder, place.programs, place.python, rounds))
        delivered = len(list((folder / "mail" / "bob" / "new").iterdir()))
        assert delivered == rounds + WARM_UP, f"{delivered} mails delivered"  # noqa: S101 - else it measures nothing
    report(times)


def report(times: dict[str, list[float]]) -> None:
    floor = median(next(iter(times.values())))
    print(f"{'':36}{'CPU ms':>8}{'p10-p90':>14}{'x floor':>9}")
    for name, seconds in times.items():
        tenths = quantiles(seconds, n=10)
        spread = f"{tenths[0] * 1000:.1f}-{tenths[-1] * 1000:.1f}"
        print(f"{name:36}{median(seconds) * 1000:8.1f}{spread:>14}{median(seconds) / floor:9.2f}")
    print(f"target for the first two programs: {TARGET:g}")


if __name__ == "__main__":
    main()
