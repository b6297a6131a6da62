"""Run by test_mx.py in namespaces of its own, where 127.0.0.1:53 is nsd and nobody listens on port 25.

Writes, as JSON, for each domain what mx.py says and what smtp(8) did with a mail for it.
"""

from __future__ import annotations

import fcntl
import json
import re
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from postroom.deadline import Deadline
from postroom.dns import Resolver
from postroom.lab import nameserver
from postroom.postfix.instance import Instance

SIOCSIFFLAGS, UP_AND_RUNNING = 0x8914, 0x41
# Mail that goes nowhere must not make more mail; and every domain is tried once while we look.
PARAMETERS = {
    "inet_protocols": "all",
    "notify_classes": "",
    "default_transport": "smtp",
    "relay_transport": "smtp",
    "minimal_backoff_time": "300s",
    "maximal_backoff_time": "300s",
    "queue_run_delay": "300s",
    "transport_retry_time": "300s",
    "smtp_connect_timeout": "2s",
    "smtputf8_enable": "no",
    "append_dot_mydomain": "no",
}


def use_our_own_network(folder: Path) -> None:
    """Bring up the loopback of this namespace, and put a resolv.conf over the host's that only we see."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", UP_AND_RUNNING))
    conf = folder / "resolv.conf"
    conf.write_text("nameserver 127.0.0.1\n")
    subprocess.run(["mount", "--bind", str(conf), "/etc/resolv.conf"], check=True)
    nameserver._free_port = lambda: 53
    nameserver._account = lambda: None  # only root may have that port


def planned(domain: str) -> dict[str, object]:
    resolver = Resolver(("127.0.0.1",))
    plan = resolver.plan(domain, Deadline(10))
    hosts, outcome = resolver.reach(plan, Deadline(10))
    return {"outcome": outcome, "hosts": [(host.preference, host.name) for host in hosts if host.addresses]}


def tried(log: str) -> dict[str, list[str]]:
    """The hosts that smtp(8) tried to connect to, in order, by the queue id that its process was at."""
    found: dict[str, list[str]] = {}
    waiting: dict[str, list[str]] = {}
    for line in log.splitlines():
        process = re.search(r"/smtp\[(\d+)\]: ", line)
        if process is None:
            continue
        connect = re.search(r": connect to ([^\[]*)\[[^\]]*\]:25: ", line)
        done = re.search(r"\]: ([0-9A-Za-z]+): to=<", line)
        if connect:
            waiting.setdefault(process[1], []).append(connect[1].lower())
        elif done:
            found.setdefault(done[1], waiting.pop(process[1], []))
    return found


def delivered(postfix: Instance, domains: list[str]) -> dict[str, dict[str, object]]:
    """A mail of its own for each domain, and what became of it."""
    for number, domain in enumerate(domains):
        postfix.sendmail("", [f"u{number}@{domain}"], b"Subject: where\n\n")
    end = time.monotonic() + 40
    while len({d.queue_id for d in postfix.log.deliveries()}) < len(domains) and time.monotonic() < end:
        time.sleep(0.1)
    hosts = tried(postfix.log.text())
    found = {}
    for one in postfix.log.deliveries():
        number = int(re.match(r"u(\d+)", one.recipient.strip('"'))[1])
        found.setdefault(
            domains[number],
            {"dsn": one.dsn, "status": one.status, "text": one.text, "tried": hosts.get(one.queue_id, [])},
        )
    return found


def main() -> None:
    given = json.loads(sys.stdin.read())
    with tempfile.TemporaryDirectory(prefix="postroom-mx-") as folder:
        use_our_own_network(Path(folder))
        with nameserver.Nameserver(given["zones"], tuple(given["servfail"])), Instance(PARAMETERS) as postfix:
            plans = {domain: planned(domain) for domain in given["domains"]}
            print(json.dumps({"plans": plans, "deliveries": delivered(postfix, given["domains"])}))


if __name__ == "__main__":
    main()
