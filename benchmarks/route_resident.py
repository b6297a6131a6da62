"""route_resident - routes from the resident's warm cache, against postfix-mta-sts-resolver's cached answers

    benchmarks/route_resident.py [--rounds N] [--seconds S] [--keys K]

    minimal server   an asyncio.BufferedProtocol that answers all the same (resident/peers.py)
    resident         socketmap table `route`: ten rules, the last by the domain's primary MX; a thousand domains whose
                     plans have been asked of a real name server (nsd) once
    mta-sts          postfix-mta-sts-resolver as published, its own cache filled with a thousand domains; on asyncio,
                     and on uvloop

On 1 and on 50 connections (one worker and the load client have a CPU each; for one connection the same), and by
`postmap -q -`, which asks for one key after the other on one connection and has a ceiling of its own.

Exit status 1: less than TARGET times mta-sts's rate, on asyncio, or `postmap -q -` slower than TARGET_POSTMAP of the
minimal server.
"""

import argparse
import importlib.util
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from resident import figures, place, servers
from resident.load import Load
from resident.peers import DOMAINS, ROUTE

from postroom.lab.nameserver import Nameserver
from postroom.postfix.postconf import command

TARGET = 3.0
TARGET_POSTMAP = 0.9
FLOOR, OURS, STS, STS_UVLOOP = "minimal server", "resident", "mta-sts", "mta-sts, uvloop"
STS_ANSWER = b"OK secure match=mx1.shady.example servername=hostname"

ZONE = "".join(f"d{n} MX 10 mx1.shady.example.\n" for n in range(DOMAINS))
OTHER = '[[rule]]\nid = "r{n}"\nat = "route"\nmatch = {{ primary_mx = ".other{n}.example" }}\naction = "other{n}:"\n\n'
LAST = '[[rule]]\nid = "shady"\nat = "route"\nmatch = { primary_mx = ".shady.example" }\naction = "slow-one:"\n'


def configure(folder: Path, dns: str) -> Path:
    path = folder / "postroom.toml"
    rules = "".join(OTHER.format(n=n) for n in range(9)) + LAST
    path.write_text(place.head(folder, {"socketmap": ""}, dns=dns) + rules)
    return path


def netstring(payload: bytes) -> bytes:
    return b"%d:%b," % (len(payload), payload)


ROUTES = [netstring(b"route user%d@d%d.victim.test" % (n, n)) for n in range(DOMAINS)]
POLICIES = [netstring(b"sts d%d.victim.test" % n) for n in range(DOMAINS)]

# name -> (socket, requests, the answer to each)
ASKED = {
    FLOOR: ("floor", ROUTES, ROUTE),
    OURS: ("socketmap", ROUTES, ROUTE),
    STS: ("sts", POLICIES, netstring(STS_ANSWER)),
    STS_UVLOOP: ("uvloop", POLICIES, netstring(STS_ANSWER)),
}


def start(stack: ExitStack, folder: Path, configuration: Path, cpu: set[int] | None) -> dict[str, servers.Server]:
    started = {
        FLOOR: stack.enter_context(servers.peer("socketmap", f"{folder}/floor", cpu=cpu)),
        OURS: stack.enter_context(servers.resident(configuration, [f"{folder}/socketmap"], cpu)),
        STS: stack.enter_context(servers.peer("mta-sts", f"{folder}/sts", cpu=cpu)),
    }
    if importlib.util.find_spec("uvloop"):
        started[STS_UVLOOP] = stack.enter_context(servers.peer("mta-sts", f"{folder}/uvloop", "uvloop", cpu=cpu))
    return started


def on_connections(folder: Path, configuration: Path, count: int, cpu: set[int], given: argparse.Namespace) -> bool:
    with ExitStack() as stack:
        started = start(stack, folder, configuration, cpu)
        loads = {}
        for name in started:
            path, requests, answer = ASKED[name]
            loads[name] = stack.enter_context(Load(f"{folder}/{path}", count, requests, b","))
            loads[name].verify([answer] * len(requests), len(requests))  # asks for each domain, too
        allowed = os.sched_getaffinity(0)
        os.sched_setaffinity(0, figures.cpus()[0])
        taken = figures.rounds(
            {name: partial(servers.take, started[name], loads[name], given.seconds) for name in started}, given.rounds
        )
        os.sched_setaffinity(0, allowed)
    figures.table(f"socketmap, connections: {count}", taken, FLOOR)
    rate = figures.ratio(taken[OURS], taken[STS], "rate")
    return figures.verdict(f"routes/s on {count} connections, of mta-sts's", rate, TARGET)


def postmap(folder: Path, name: str, server: servers.Server, keys: int) -> figures.Figure:
    path, requests, _ = ASKED[name]
    table, key = requests[0].split(b":", 1)[1][:-1].decode().split(" ", 1)
    lines = "".join(f"{key.replace('d0.', f'd{n % DOMAINS}.')}\n" for n in range(keys))
    words = ["-c", str(folder / "config"), "-q", "-", f"socketmap:unix:{folder}/{path}:{table}"]
    before, start = server.cpu(), time.perf_counter()
    said = subprocess.run([command("postmap"), *words], input=lines, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    found = said.stdout.count("\n")
    if found != keys:
        sys.exit(f"postmap found {found} of {keys} keys: {said.stderr}")
    return figures.figure(keys, seconds, server.cpu() - before)


def by_postmap(folder: Path, configuration: Path, given: argparse.Namespace) -> bool:
    (folder / "config").mkdir()
    (folder / "config" / "main.cf").write_text("compatibility_level = 3.6\n")
    with ExitStack() as stack:
        started = start(stack, folder, configuration, None)
        for name in started:  # each domain once, so that the measured ones are cached
            postmap(folder, name, started[name], DOMAINS)
        taken = figures.rounds(
            {name: partial(postmap, folder, name, started[name], given.keys) for name in started}, given.rounds
        )
    figures.table("postmap -q -", taken, FLOOR)
    rate = figures.ratio(taken[OURS], taken[FLOOR], "rate")
    return figures.verdict("keys/s by postmap, of the minimal server's", rate, TARGET_POSTMAP)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--keys", type=int, default=20_000, help="for postmap, in each round")
    given = parser.parse_args()
    if not importlib.util.find_spec("postfix_mta_sts_resolver"):
        sys.exit("postfix-mta-sts-resolver is not installed: pip install 'postroom[bench]'")
    client, other = figures.cpus()
    with place.folder() as folder, Nameserver({"victim.test": ZONE}) as nameserver:
        configuration = configure(folder, nameserver.address)
        met = on_connections(folder, configuration, 1, client, given)
        met = on_connections(folder, configuration, 50, other, given) and met
        met = by_postmap(folder, configuration, given) and met
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
