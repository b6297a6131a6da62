"""lmtp - rule-deliver over LMTP, run by the resident, against the smallest LMTP server that writes a file for each mail

    benchmarks/lmtp.py [--rounds N] [--seconds S] [--mails M] [--workers W] [direct] [postfix]

`direct`: a load client, one mail at a time on each of 1 and 20 connections; client and server have a CPU each.
`postfix`: a private Postfix empties a filled queue, at 20 deliveries at once; Postfix and the servers share all CPUs,
and CPU is that of Postfix and the server together.

The resident judges ten rules, the last of which writes into a maildir; it takes the mail once, whatever is killed, and
logs it. The sink looks at nothing, writes a file, and forgets. Queue, state and mail are on tmpfs.

Exit status 1: through Postfix less than TARGET_RATE of the sink's mails a second, or more than TARGET_CPU of its CPU.
"""

import argparse
import os
import statistics
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from resident import figures, lmtpload, mailflow, place, servers

TARGET_RATE = 0.7
TARGET_CPU = 1.4
SINK, OURS = "minimal sink", "rule-deliver"
CONNECTIONS = (1, 20)
PARTS = ["direct", "postfix"]

RULE = '[[rule]]\nid = "r{n}"\nat = "deliver"\nmatch = {{ recipient = "{recipient}" }}\naction = "{action}"\n\n'
SERVICES = "lmtpsink unix - - n - - lmtp\nlmtpours unix - - n - - lmtp\n"


def configure(folder: Path, workers: int) -> Path:
    path = folder / "postroom.toml"
    rules = "".join(RULE.format(n=n, recipient=f"user{n}@other.example", action="5.1.1 gone") for n in range(9))
    rules += RULE.format(n=9, recipient="bob@example.org", action=f"maildir {folder}/mail/bob")
    path.write_text(place.head(folder, {"lmtp": ""}, workers) + rules)
    return path


def direct(path: str, server: servers.Server, count: int, seconds: float) -> figures.Figure:
    before = server.cpu()
    done = lmtpload.run(path, count, seconds)
    return figures.figure(done.count, done.seconds, server.cpu() - before, done.p50, done.p99)


def measure_direct(folder: Path, configuration: Path, rounds: int, seconds: float) -> None:
    client, server = figures.cpus()
    with ExitStack() as stack:
        sink = stack.enter_context(servers.peer("sink", f"{folder}/sink", f"{folder}/mail/sink", cpu=server))
        ours = stack.enter_context(servers.resident(configuration, [f"{folder}/lmtp"], server))
        allowed = os.sched_getaffinity(0)
        os.sched_setaffinity(0, client)
        for count in CONNECTIONS:
            taken = figures.rounds(
                {
                    SINK: partial(direct, f"{folder}/sink", sink, count, seconds),
                    OURS: partial(direct, f"{folder}/lmtp", ours, count, seconds),
                },
                rounds,
            )
            figures.table(f"LMTP mails, connections: {count}", taken, SINK)
        os.sched_setaffinity(0, allowed)


def measure_postfix(folder: Path, configuration: Path, rounds: int, mails: int) -> bool:
    drained: dict[str, list[mailflow.Drained]] = {SINK: [], OURS: []}
    with ExitStack() as stack:
        sink = stack.enter_context(servers.peer("sink", f"{folder}/sink", f"{folder}/mail/sink"))
        ours = stack.enter_context(servers.resident(configuration, [f"{folder}/lmtp"]))
        flow = stack.enter_context(mailflow.Flow(folder, SERVICES, ["lmtpsink", "lmtpours"]))
        for _ in range(rounds):
            for name, transport, server in (
                (SINK, f"lmtpsink:unix:{folder}/sink", sink),
                (OURS, f"lmtpours:unix:{folder}/lmtp", ours),
            ):
                flow.fill(mails)
                drained[name].append(flow.drain(transport, server.cpu))
    return report(drained)


def report(drained: dict[str, list[mailflow.Drained]]) -> bool:
    print("| lmtp(8) to | mails/s (min-max) | CPU µs a mail, all | Postfix | server |\n|---|---|---|---|---|")
    for name, found in drained.items():
        cells = [figures.span([getattr(one, field) for one in found]) for field in ("rate", "cpu", "postfix", "server")]
        print(f"| {name} | " + " | ".join(cells) + " |")
    pairs = list(zip(drained[OURS], drained[SINK], strict=True))
    rate = statistics.median(a.rate / b.rate for a, b in pairs)
    cpu = statistics.median(a.cpu / b.cpu for a, b in pairs)
    met = figures.verdict("mails/s through Postfix, of the sink's", rate, TARGET_RATE)
    return figures.verdict("CPU a mail, of the sink's", cpu, TARGET_CPU, most=True) and met


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--mails", type=int, default=2000, help="in the queue, for each contender and round")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="PART")
    given = parser.parse_args()
    parts, met = given.parts or PARTS, True
    with place.folder() as folder:
        configuration = configure(folder, given.workers)
        if "direct" in parts:
            measure_direct(folder, configuration, given.rounds, given.seconds)
        if "postfix" in parts:
            met = measure_postfix(folder, configuration, given.rounds, given.mails)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
