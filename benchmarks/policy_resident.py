"""policy_resident - policy requests to the resident, by a hundred rules, against a minimal server that says DUNNO

    benchmarks/policy_resident.py [--rounds N] [--seconds S] [--rules R] [alone] [blocking] [smtpd]

alone      on 1 and on 50 connections; one worker and the load client have a CPU each (for one connection the same)
blocking   on 50 connections, two workers, with and without handlers that hold every thread of one of them
smtpd      50 SMTP connections to a real smtpd(8), each with its connection to the policy service: RCPT to reply

The minimal server is an asyncio.BufferedProtocol that looks at three attributes (resident/peers.py). One request in
ten is hit by a rule. `busy` near 1 says that the server, and not the load client, was the limit.

Exit status 1: less than TARGET of the minimal server's rate, less than TARGET_BLOCKED of our own while handlers block,
or a p99 behind smtpd of more than TARGET_P99 times the minimal server's.
"""

import argparse
import multiprocessing
import os
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from load import rulesets
from resident import figures, place, servers, smtpload
from resident.load import Load

from postroom.postfix.instance import Instance

TARGET = 0.6
TARGET_BLOCKED = 0.9
TARGET_P99 = 2.0
FLOOR, OURS = "minimal server", "resident"
END = b"\n\n"

# As many as a worker has threads ([serve] threads): a worker of two that got them all could run no other handler.
THREADS = 16
SLOW = """\
#!python
\"\"\"slow-policy - wait for half a second, then say nothing\"\"\"
import time

from postroom.runners.stdio import run


def decide(request):
    time.sleep(0.5)
    return "DUNNO"


run(decide)
"""


def configure(folder: Path, rules: int, workers: int) -> Path:
    slow, path = folder / "slow-policy.py", folder / "postroom.toml"
    slow.write_text(SLOW)
    listeners = {"policy": "", "slow": 'protocol = "policy"\nprogram = "slow-policy"\n'}
    path.write_text(rulesets.postroom(rules, place.head(folder, listeners, workers, programs=(slow,))))
    return path


def alone(folder: Path, rules: int, number: int, seconds: float) -> bool:
    client, other = figures.cpus()
    met = [on_connections(folder, rules, number, seconds, count, cpu) for count, cpu in ((1, client), (50, other))]
    return all(met)


def on_connections(folder: Path, rules: int, number: int, seconds: float, count: int, cpu: set[int]) -> bool:
    requests = rulesets.requests(rules)
    allowed = os.sched_getaffinity(0)
    with ExitStack() as stack:
        floor = stack.enter_context(servers.peer("policy", f"{folder}/floor", cpu=cpu))
        ours = stack.enter_context(servers.resident(configure(folder, rules, 1), [f"{folder}/policy"], cpu))
        os.sched_setaffinity(0, figures.cpus()[0])
        theirs = stack.enter_context(Load(f"{folder}/floor", count, requests, END))
        mine = stack.enter_context(Load(f"{folder}/policy", count, requests, END))
        mine.verify([rulesets.answer(n, rules) for n in range(len(requests))])
        contenders = {
            FLOOR: partial(servers.take, floor, theirs, seconds),
            OURS: partial(servers.take, ours, mine, seconds),
        }
        taken = figures.rounds(contenders, number)
        os.sched_setaffinity(0, allowed)
    figures.table(f"policy, {rules} rules, connections: {count}", taken, FLOOR)
    rate = figures.ratio(taken[OURS], taken[FLOOR], "rate")
    return figures.verdict(f"requests/s on {count} connections, of the minimal server's", rate, TARGET)


def turns(
    contenders: Iterable[tuple[str, servers.Server, servers.Loaded]], number: int, seconds: float
) -> dict[str, list[figures.Figure]]:
    takes = {name: partial(servers.take, server, load, seconds) for name, server, load in contenders}
    return figures.rounds(takes, number)


def block(path: str, requests: list[bytes], seconds: float) -> None:
    with Load(path, THREADS, requests, END) as load:
        load.run(seconds)


def blocked(folder: Path, server: servers.Server, load: Load, seconds: float) -> figures.Figure:
    held = multiprocessing.get_context("fork").Process(
        target=block, args=(f"{folder}/slow", load.requests, seconds * 1.5 + 1)
    )
    held.start()
    try:
        return servers.take(server, load, seconds)
    finally:
        held.join()


def blocking(folder: Path, rules: int, number: int, seconds: float) -> bool:
    free, held = "two workers", "two workers, handlers block"
    with ExitStack() as stack:
        server = stack.enter_context(
            servers.resident(configure(folder, rules, 2), [f"{folder}/policy", f"{folder}/slow"])
        )
        load = stack.enter_context(Load(f"{folder}/policy", 50, rulesets.requests(rules), END))
        contenders = {
            free: partial(servers.take, server, load, seconds),
            held: partial(blocked, folder, server, load, seconds),
        }
        taken = figures.rounds(contenders, number)
    figures.table(f"policy, {rules} rules, 50 connections", taken, free)
    rate = figures.ratio(taken[held], taken[free], "rate")
    return figures.verdict("requests/s while handlers block, of those without", rate, TARGET_BLOCKED)


def smtpd(folder: Path, rules: int, number: int, seconds: float) -> bool:
    with ExitStack() as stack:
        floor = stack.enter_context(servers.peer("policy", f"{folder}/floor"))
        ours = stack.enter_context(servers.resident(configure(folder, rules, 1), [f"{folder}/policy"]))
        theirs = stack.enter_context(behind_smtpd(folder, "floor", stack))
        mine = stack.enter_context(behind_smtpd(folder, "policy", stack))
        taken = turns(((FLOOR, floor, theirs), (OURS, ours, mine)), number, seconds)
    figures.table("RCPT through smtpd(8), 50 connections", taken, FLOOR)
    return figures.verdict("p99 of RCPT, of the minimal server's", figures.ratio(taken[OURS], taken[FLOOR], "p99"),
                           TARGET_P99, most=True)  # fmt: skip


def behind_smtpd(folder: Path, name: str, stack: ExitStack) -> smtpload.Sessions:
    parameters = {
        "smtpd_recipient_restrictions": f"check_policy_service unix:{folder}/{name}, reject",
        "smtpd_relay_restrictions": "",
        "smtpd_hard_error_limit": "100000000",  # each refused RCPT is one of the client's errors
        "smtpd_junk_command_limit": "100000000",
        "smtpd_client_connection_count_limit": "0",
    }
    postfix = stack.enter_context(Instance(parameters, directory=folder / f"postfix-{name}"))
    return smtpload.Sessions(postfix.address, 50)


PARTS = {"alone": alone, "blocking": blocking, "smtpd": smtpd}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rules", type=int, default=100)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="PART")
    given = parser.parse_args()
    met = True
    for part in given.parts or PARTS:
        with place.folder() as folder:
            met = PARTS[part](folder, given.rules, given.rounds, given.seconds) and met
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
