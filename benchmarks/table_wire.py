"""table_wire - lookups per second on one connection, against the smallest server one can write

    benchmarks/table_wire.py [--seconds S] [--rounds N]

Each server is a process whose descriptors 0, 1 and 2 are one unix socket, as under spawn(8). Measured in turns, one
after the other in each round, on one CPU with the client, so that a noisy spell of the machine meets all of them:

    floor              a blocking loop: os.read, find the key, look into a dict, os.write
    socketmap          runners.tables with a handler that looks into the same dict
    tcp_table          the same over tcp_table
    socketmap-lookup   the program, its table `route`: ten rules, the tenth a list, no DNS

`cpu` is the server's own user and system time for a lookup; start-up included, which the number of them makes small.

Exit status 1: socketmap is below TARGET of the floor.
"""

import argparse
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TARGET = 0.5
NAMES = ("floor", "socketmap", "tcp_table", "socketmap-lookup")
KEYS = [f"someone{number}@domain{number % 100}.example.com" for number in range(1000)]
TABLE = dict.fromkeys(KEYS[::2], "slow:")


def serve_floor() -> None:
    while data := os.read(0, 16384):
        length, _, rest = data.partition(b":")
        answer = TABLE.get(rest[: int(length)].partition(b" ")[2].decode())
        payload = b"NOTFOUND " if answer is None else b"OK " + answer.encode()
        os.write(1, b"%d:%b," % (len(payload), payload))


def serve_ours(protocol: str) -> None:
    from postroom.lookup import Answer, Table, found, notfound
    from postroom.runners.tables import run
    from postroom.wire import socketmap, tcp_table

    def lookup(table: Table, key: str) -> Answer:
        answer = TABLE.get(key)
        return notfound() if answer is None else found(answer)

    sys.argv[1:] = []
    run(lookup, socketmap if protocol == "socketmap" else tcp_table)


def configuration(folder: Path) -> Path:
    """Ten rules of at = "route"; half of the keys are on the list of the last."""
    folder.mkdir()
    (folder / "listed").write_text("".join(f"{key}\n" for key in TABLE))
    rules = "".join(
        f'[[rule]]\nid = "r{number}"\nat = "route"\nmatch = {{ recipient_domain = "other{number}.example" }}\n'
        'action = "other:"\n'
        for number in range(9)
    )
    last = '[[rule]]\nid = "last"\nat = "route"\nmatch = { recipient = "list:listed" }\naction = "slow:"\n'
    file = folder / "postroom.toml"
    file.write_text(f'state = "{folder}"\nlog = "{folder}/log"\n[list.listed]\nfile = "listed"\n{rules}{last}')
    return file


def requests(name: str) -> list[bytes]:
    if name == "tcp_table":
        return [f"get {key}\n".encode() for key in KEYS]
    return [b"%d:route %b," % (len(key) + 6, key.encode()) for key in KEYS]


def measure(command: list[str], seconds: float, sent: list[bytes], cpu: int) -> tuple[float, float]:
    """(lookups a second, the server's CPU microseconds a lookup)."""
    ours, theirs = socket.socketpair()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=lambda: os.sched_setaffinity(0, {cpu})
    )
    theirs.close()
    for request in sent[:100]:
        ask(ours, request)
    count, start, now = 0, time.perf_counter(), 0.0
    while now < seconds:
        for request in sent:
            ask(ours, request)
        count += len(sent)
        now = time.perf_counter() - start
    ours.close()
    process.wait(timeout=30)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return count / now, used / (count + 100) * 1e6


def ask(connection: socket.socket, request: bytes) -> None:
    connection.send(request)
    answer = connection.recv(4096)
    if b"slow:" not in answer and b"NOTFOUND" not in answer and b"500 " not in answer:
        sys.exit(f"the server answered {answer!r}")


def report(rates: dict[str, list[float]], cpu: dict[str, list[float]]) -> int:
    print("| server | lookups/s | min - max | cpu µs | x floor |\n|---|---|---|---|---|")
    ratios = {}
    for name, values in rates.items():
        ratios[name] = statistics.median(a / b for a, b in zip(values, rates["floor"], strict=True))
        print(
            f"| {name} | {statistics.median(values):,.0f} | {min(values):,.0f} - {max(values):,.0f} "
            f"| {statistics.median(cpu[name]):.1f} | {ratios[name]:.2f} |"
        )
    return 1 if ratios["socketmap"] < TARGET else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0, help="per server and round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--serve", choices=NAMES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve_floor() if arguments.serve == "floor" else serve_ours(arguments.serve)
        return 0
    os.environ["PYTHONPATH"] = str(ROOT / "src")
    cpu = min(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cpu})
    rates: dict[str, list[float]] = {name: [] for name in NAMES}
    used: dict[str, list[float]] = {name: [] for name in NAMES}
    with tempfile.TemporaryDirectory() as folder:
        commands = {name: [sys.executable, __file__, "--serve", name] for name in NAMES}
        config = configuration(Path(folder) / "postroom")
        program = str(ROOT / "spawn" / "socketmap-lookup.py")
        commands["socketmap-lookup"] = [sys.executable, program, "--config", str(config)]
        for _ in range(arguments.rounds):
            for name in NAMES:
                rate, cost = measure(commands[name], arguments.seconds, requests(name), cpu)
                rates[name].append(rate)
                used[name].append(cost)
    return report(rates, used)


if __name__ == "__main__":
    sys.exit(main())
