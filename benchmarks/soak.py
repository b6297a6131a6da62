"""soak - everything at once at full rate, for a long time: does anything grow, or become slower?

    benchmarks/soak.py [--minutes M] [--workers W] [--window SECONDS]

At the same time, each as fast as it is answered: policy requests by a hundred rules on 10 connections, routes on 10
(a thousand domains, and a few new ones in each window), mail over LMTP on 4 into a maildir (which is emptied), and
rule-deliver started again and again, as pipe(8) does, and handed off. Connections are opened anew in each window.

Before it begins, so many domains are asked for once that the bounded memories of DNS are full: what grows after that is
not their filling. Then a line for each window: rates, p99 in milliseconds, memory, descriptors and threads of all
processes of the resident, and the size of its state, which does grow: a row for each delivery, for thirty days. At the
end the drift: the median of the last quarter against that of the second, the first being warm-up.

Exit status 1: pss drifts by more than TARGET, or descriptors or threads become more by over TARGET_MORE.
"""

import argparse
import contextlib
import itertools
import multiprocessing
import os
import pwd
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path

from load import rulesets
from resident import figures, lmtpload, place, servers, usage
from resident.load import Done, Load, done

from postroom.lab.nameserver import Nameserver
from postroom.lab.place import install

TARGET = 1.05
TARGET_MORE = 4
RULES = 100
KNOWN, NEW = 1000, 50
FILL = 30_000
ZONE = "* MX 10 mx1.shady.example.\n"
ROUTE = '[[rule]]\nid = "wild"\nat = "route"\nmatch = {{ primary_mx = ".shady.example" }}\naction = "slow-one:"\n\n'
DELIVER = """
[[rule]]
id = "bob"
at = "deliver"
match = {{ recipient = "bob@example.org" }}
action = "maildir {folder}/mail/bob"
"""
LISTENERS = dict.fromkeys(("policy", "socketmap", "lmtp", "handoff"), "")
COLUMNS = ("policy/s", "p99", "route/s", "p99", "mails/s", "p99", "programs/s", "p99",
           "rss MB", "pss MB", "descriptors", "threads", "state MB")  # fmt: skip

Part = Callable[[Path, float], Done]
NUMBERS = itertools.count()


def configure(folder: Path, dns: str, workers: int) -> Path:
    install(folder, place.USER)
    path = folder / "postroom.toml"
    head = place.head(folder, LISTENERS, workers, dns)
    path.write_text(rulesets.postroom(RULES, head) + (ROUTE + DELIVER).format(folder=folder))
    return path


def policy(folder: Path, seconds: float) -> Done:
    with Load(f"{folder}/policy", 10, rulesets.requests(RULES), b"\n\n") as load:
        return load.run(seconds)


def route(folder: Path, seconds: float) -> Done:
    names = [b"d%d" % n for n in range(KNOWN)] + [b"n%d" % next(NUMBERS) for _ in range(NEW)]
    payloads = [b"route a@%b.wild.test" % name for name in names]
    with Load(f"{folder}/socketmap", 10, [b"%d:%b," % (len(one), one) for one in payloads], b",") as load:
        return load.run(seconds)


def fill(folder: Path) -> None:
    payloads = [b"route a@f%d.wild.test" % n for n in range(FILL)]
    with Load(f"{folder}/socketmap", 20, [b"%d:%b," % (len(one), one) for one in payloads], b",") as load:
        load.all(b"12:OK slow-one:,")


def lmtp(folder: Path, seconds: float) -> Done:
    return lmtpload.run(f"{folder}/lmtp", 4, seconds)


def programs(folder: Path, seconds: float) -> Done:
    """rule-deliver as pipe(8) starts it; as the user that the hand-off is allowed to."""
    words = ["sender=a@example.com", "recipient=bob@example.org", "original_recipient=bob@example.org", "size=4096"]
    options = ["--config", f"{folder}/postroom.toml", "--handoff", f"{folder}/handoff", "--"]
    latencies, start, now = [], time.perf_counter(), 0.0
    while now < seconds:
        before = time.perf_counter()
        identity = f"queue_id=4Q{next(NUMBERS)}"
        run([f"{folder}/venv/bin/rule-deliver", *options, *words, identity, "nexthop=", "client_address=192.0.2.1"])
        latencies.append(time.perf_counter() - before)
        now = time.perf_counter() - start
    return done(latencies, now)


def run(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.write(writer, lmtpload.mail(4096).replace(b"\r\n", b"\n"))
    os.close(writer)
    pid = os.posix_spawn(
        arguments[0],
        arguments,
        {"PATH": "/usr/bin:/bin"},
        file_actions=[(os.POSIX_SPAWN_DUP2, reader, 0), (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
    )
    os.close(reader)
    _, status = os.waitpid(pid, 0)
    if status:
        sys.exit(f"{arguments[0]}: wait status {status}")


PARTS: tuple[Part, ...] = (policy, route, lmtp, programs)


def repeat(part: Part, folder: Path, window: float, to: Connection) -> None:
    """Of a process of its own: one Done for each window, until it is ended."""
    account = pwd.getpwnam(place.USER)
    os.setgroups([])
    os.setgid(account.pw_gid)
    os.setuid(account.pw_uid)
    while True:
        to.send(part(folder, window))


@contextlib.contextmanager
def loads(folder: Path, window: float) -> Iterator[list[Connection]]:
    context = multiprocessing.get_context("fork")
    pipes = [context.Pipe(duplex=False) for _ in PARTS]
    processes = [
        context.Process(target=repeat, args=(part, folder, window, to), daemon=True)
        for part, (_, to) in zip(PARTS, pipes, strict=True)
    ]
    for process, (_, to) in zip(processes, pipes, strict=True):
        process.start()
        to.close()
    try:
        yield [come for come, _ in pipes]
    finally:
        for process in processes:
            process.kill()
            process.join()


def sample(folder: Path, server: servers.Server, results: list[Done]) -> list[float]:
    pids = server.pids()
    held = usage.memory(pids)
    row = [value for result in results for value in (result.count / result.seconds, result.p99 / 1000)]
    state = sum(file.stat().st_size for file in (folder / "state").glob("state.db*")) / 1e6
    for kind in ("new", "cur"):
        for mail in os.scandir(folder / "mail" / "bob" / kind):
            os.unlink(mail.path)
    (folder / "mail" / "log").write_bytes(b"")
    return [*row, held["rss"], held["pss"], usage.descriptors(pids), usage.threads(pids), state]


def watch(folder: Path, server: servers.Server, come: list[Connection], minutes: float) -> list[list[float]]:
    print("| minute | " + " | ".join(COLUMNS) + " |\n" + "|---" * (len(COLUMNS) + 1) + "|")
    rows, start = [], time.monotonic()
    while time.monotonic() - start < minutes * 60:
        rows.append(sample(folder, server, [pipe.recv() for pipe in come]))
        minute = (time.monotonic() - start) / 60
        print(f"| {minute:.1f} | " + " | ".join(f"{value:,.1f}" for value in rows[-1]) + " |", flush=True)
    return rows


def report(rows: list[list[float]]) -> bool:
    quarter = max(1, len(rows) // 4)
    early, late = rows[quarter : 2 * quarter], rows[-quarter:]
    print("\n| | second quarter | last quarter | ratio |\n|---|---|---|---|")
    medians: dict[int, tuple[float, float]] = {}
    for place_, name in enumerate(COLUMNS):
        before, after = (statistics.median(row[place_] for row in part) for part in (early, late))
        medians[place_] = before, after
        print(f"| {name} | {before:,.1f} | {after:,.1f} | {after / before if before else 0:.3f} |")
    before, after = medians[COLUMNS.index("pss MB")]
    more = max(medians[place_][1] - medians[place_][0] for place_ in map(COLUMNS.index, ("descriptors", "threads")))
    met = figures.verdict("pss of the last quarter, of the second's", after / before, TARGET, most=True)
    return figures.verdict("descriptors and threads more", more, TARGET_MORE, most=True) and met


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--window", type=float, default=10.0)
    given = parser.parse_args()
    with ExitStack() as stack:
        folder = stack.enter_context(place.folder())
        nameserver = stack.enter_context(Nameserver({"wild.test": ZONE}))
        configuration = configure(folder, nameserver.address, given.workers)
        sockets = [f"{folder}/{name}" for name in LISTENERS]
        server = stack.enter_context(servers.resident(configuration, sockets))
        fill(folder)
        come = stack.enter_context(loads(folder, given.window))
        rows = watch(folder, server, come, given.minutes)
    return 0 if report(rows) else 1


if __name__ == "__main__":
    sys.exit(main())
