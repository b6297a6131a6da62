"""pipe - what a mail costs behind pipe(8): handed to the resident, by bare Python, and by a script as they usually are

    benchmarks/pipe.py [--rounds N] [--mails M]

A private Postfix empties a filled queue, 20 deliveries at once, by

    bare      python -I -S, reads standard input and ends: the least that a program in Python costs
    usual     click, dnspython and email imported at the top, the mail parsed
    discard   rule-deliver handed to the resident by postroom/thin.py, as `postroom wire` wires it; a rule says discard
    maildir   the same, the rule says maildir: locked, recorded, written and synced
    program   the same as maildir, without thin.py: the program is started and hands itself off
    alone     the same without a resident

CPU is that of Postfix, of the programs and of the resident together. Queue, state and mail are on tmpfs. It needs
root, and Postroom installed (`make bench`).

Exit status 1: `discard` costs more than TARGET_BARE of `bare`, or `usual` is not TARGET_USUAL times as dear as it.
"""

import argparse
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from resident import figures, mailflow, place, servers

from postroom.lab.place import install

TARGET_BARE = 1.15
TARGET_USUAL = 12.0

BARE = "import sys\nsys.stdin.buffer.read()\n"
USUAL = """\
import email.parser
import email.policy
import sys

import click
import dns.resolver


@click.command()
@click.argument("sender")
@click.argument("recipient")
def main(sender, recipient):
    message = email.parser.BytesParser(policy=email.policy.default).parse(sys.stdin.buffer)
    click.echo(message["subject"])


main()
"""
RULES = """\
[[rule]]
id = "alice"
at = "deliver"
match = {{ recipient = "alice@example.org" }}
action = "discard"

[[rule]]
id = "bob"
at = "deliver"
match = {{ recipient = "bob@example.org" }}
action = "maildir {folder}/mail/bob"
"""
WORDS = (
    "sender=${sender} recipient=%s original_recipient=${original_recipient} queue_id=${queue_id} size=${size} "
    "nexthop=${nexthop} client_address=${client_address} client_hostname=${client_hostname}"
)
SERVICE = "{name} unix - n n - 20 pipe flags=Rq user=nobody argv={argv}\n"
# So many times fewer mails of a contender that takes so many times longer.
FEWER = {"usual": 10, "alone": 3}


def services(folder: Path, programs: Path, python: str) -> dict[str, str]:
    deliver = f"{programs}/rule-deliver --config {folder}/postroom.toml --handoff %s -- {WORDS}"
    library = subprocess.run(
        [programs / "python", "-c", "import postroom; print(postroom.__path__[0])"], stdout=subprocess.PIPE, check=True
    )
    thin = f"{programs}/python -I -S {library.stdout.decode().strip()}/thin.py {deliver}"
    return {
        "bare": f"{python} -I -S {folder}/bare.py",
        "discard": thin % (f"{folder}/handoff", "alice@example.org"),
        "maildir": thin % (f"{folder}/handoff", "bob@example.org"),
        "program": deliver % (f"{folder}/handoff", "bob@example.org"),
        "alone": deliver % ("no", "bob@example.org"),
        "usual": f"{programs}/python {folder}/usual.py ${{sender}} ${{recipient}}",
    }


@contextmanager
def ready(folder: Path) -> Iterator[tuple[servers.Server, mailflow.Flow, list[str]]]:
    """The resident, and a Postfix with a service for each contender."""
    installed = install(folder, place.USER)
    (folder / "bare.py").write_text(BARE)
    (folder / "usual.py").write_text(USUAL)
    configuration = folder / "postroom.toml"
    configuration.write_text(place.head(folder, {"handoff": ""}) + RULES.format(folder=folder))
    argv = services(folder, installed.programs, installed.python)
    master = "".join(SERVICE.format(name=name, argv=words) for name, words in argv.items())
    with ExitStack() as stack:
        server = stack.enter_context(servers.resident(configuration, [f"{folder}/handoff"]))
        yield server, stack.enter_context(mailflow.Flow(folder, master, list(argv))), list(argv)


def measure(folder: Path, rounds: int, mails: int) -> dict[str, list[mailflow.Drained]]:
    with ready(folder) as (server, flow, names):
        found: dict[str, list[mailflow.Drained]] = {name: [] for name in names}
        for _ in range(rounds):
            for name in names:
                flow.fill(mails // FEWER.get(name, 1))
                found[name].append(flow.drain(f"{name}:", server.cpu))
    return found


def of(found: dict[str, list[mailflow.Drained]], one: str, other: str) -> float:
    return statistics.median(a.cpu / b.cpu for a, b in zip(found[one], found[other], strict=True))


def report(found: dict[str, list[mailflow.Drained]]) -> bool:
    print("| pipe(8) to | mails/s (min-max) | CPU ms a mail, all | x bare | Postfix and programs | resident |")
    print("|---" * 6 + "|")
    for name, figures_ in found.items():
        cells = [figures.span([one.rate for one in figures_])]
        cells += [figures.span([one.cpu / 1000 for one in figures_], 2), f"{of(found, name, 'bare'):.2f}"]
        cells += [f"{statistics.median(getattr(one, f) for one in figures_) / 1000:.2f}" for f in ("postfix", "server")]
        print(f"| {name} | " + " | ".join(cells) + " |")
    met = figures.verdict("CPU handed off (discard), of bare Python's", of(found, "discard", "bare"), TARGET_BARE, True)
    return figures.verdict("CPU of the usual script, of that", of(found, "usual", "discard"), TARGET_USUAL) and met


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mails", type=int, default=1000, help="in the queue, for each contender and round")
    given = parser.parse_args()
    with place.folder() as folder:
        return 0 if report(measure(folder, given.rounds, given.mails)) else 1


if __name__ == "__main__":
    sys.exit(main())
