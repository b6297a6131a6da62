"""policy_wire - policy requests per second on one connection, against the smallest servers one can write

    benchmarks/policy_wire.py [--seconds S] [--rounds N] [--apart] [-- SERVER COMMAND ...]

Each server is a process whose descriptors 0, 1 and 2 are one unix socket, as under spawn(8). Measured in turns, one
after the other in each round, so that a noisy spell of the machine meets all of them:

    stdio              runners.stdio with a handler that looks at three attributes and says DUNNO; or SERVER COMMAND
    asyncio protocol   asyncio.Protocol, the same three attributes by bytes.find, the same answer
    asyncio buffered   asyncio.BufferedProtocol, which avoids the 256 KB that asyncio else allocates for each read

The client sends the next request when it has the reply, as smtpd does. All run on one CPU, which makes the servers'
cost show: on two (--apart) the wake-up across CPUs is most of the time, whatever answers. `cpu` is the server's own
user and system time for a request; start-up included, which the number of requests makes small.

Exit status 1: less than TARGET of either asyncio server.
"""

import argparse
import asyncio
import os
import resource
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

TARGET = 0.7
NAMES = ("stdio", "asyncio protocol", "asyncio buffered")
WANTED = (b"\nsender=", b"\nrecipient=", b"\nclient_address=")
VARIANTS = 1000


def requests() -> list[bytes]:
    """What Postfix 3.7 sends at RCPT, with changing addresses."""
    template = (
        "request=smtpd_access_policy\nprotocol_state=RCPT\nprotocol_name=ESMTP\nclient_address=203.0.113.{small}\n"
        "client_name=mail{n}.example.org\nclient_port=4{small:04}\nreverse_client_name=mail{n}.example.org\n"
        "server_address=192.0.2.1\nserver_port=25\nhelo_name=mail{n}.example.org\nsender=sender{n}@example.org\n"
        "recipient=someone{n}@victim.example.com\nrecipient_count=0\nqueue_id=\ninstance=1f4c.672f6a3b.4fa2c.{n}\n"
        "size=12{small}\netrn_domain=\nstress=\nsasl_method=\nsasl_username=\nsasl_sender=\nccert_subject=\n"
        "ccert_issuer=\nccert_fingerprint=\nccert_pubkey_fingerprint=\nencryption_protocol=TLSv1.3\n"
        "encryption_cipher=TLS_AES_256_GCM_SHA384\nencryption_keysize=256\npolicy_context=\n\n"
    )
    return [template.format(n=n, small=n % 250).encode() for n in range(VARIANTS)]


# The servers. Each is this file again, with --serve.


def serve_stdio() -> None:
    from postroom.policy import PolicyRequest
    from postroom.runners.stdio import run

    def decide(request: PolicyRequest) -> str:
        return "DUNNO" if request["sender"] and request["recipient"] and request["client_address"] else "REJECT"

    sys.argv[1:] = []
    run(decide)


def _answer(block: bytes) -> bytes:
    """The least that a server can do."""
    for name in WANTED:
        start = block.find(name) + len(name)
        if not block[start : block.find(b"\n", start)]:
            return b"action=REJECT\n\n"
    return b"action=DUNNO\n\n"


class Plain(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.data = b""

    def data_received(self, data: bytes) -> None:
        self.data += data
        while (end := self.data.find(b"\n\n")) >= 0:
            block, self.data = self.data[: end + 1], self.data[end + 2 :]
            self.transport.write(_answer(block))  # type: ignore[attr-defined]  # of a socket's transport

    def connection_lost(self, error: Exception | None) -> None:
        os._exit(0)


class Buffered(asyncio.BufferedProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.buffer = bytearray(65536)
        self.filled = 0

    def get_buffer(self, sizehint: int) -> memoryview:
        return memoryview(self.buffer)[self.filled :]

    def buffer_updated(self, size: int) -> None:
        self.filled += size
        start = 0
        while (end := self.buffer.find(b"\n\n", start, self.filled)) >= 0:
            self.transport.write(_answer(bytes(memoryview(self.buffer)[start : end + 1])))  # type: ignore[attr-defined]
            start = end + 2
        if start:
            self.buffer[: self.filled - start] = self.buffer[start : self.filled]
            self.filled -= start

    def connection_lost(self, error: Exception | None) -> None:
        os._exit(0)


def serve_asyncio(protocol: type[asyncio.BaseProtocol]) -> None:
    async def serve() -> None:
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(protocol, socket.socket(fileno=os.dup(0)))
        await asyncio.Event().wait()

    asyncio.run(serve())


SERVERS = {
    "stdio": serve_stdio,
    "asyncio protocol": lambda: serve_asyncio(Plain),
    "asyncio buffered": lambda: serve_asyncio(Buffered),
}


def measure(command: list[str], seconds: float, sent: list[bytes], cpu: set[int]) -> tuple[float, float]:
    """(requests a second, the server's CPU microseconds a request)."""
    ours, theirs = socket.socketpair()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=lambda: os.sched_setaffinity(0, cpu)
    )
    theirs.close()
    for _ in range(100):
        ask(ours, sent[0])
    count, start, now = 0, time.perf_counter(), 0.0
    while now < seconds:
        for request in sent[:200]:
            ask(ours, request)
        count += 200
        sent = sent[200:] + sent[:200]
        now = time.perf_counter() - start
    ours.close()
    process.wait(timeout=30)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return count / now, used / (count + 100) * 1e6


def ask(connection: socket.socket, request: bytes) -> None:
    connection.send(request)
    answer = connection.recv(4096)
    if not (answer.startswith(b"action=") and answer.endswith(b"\n\n")):
        sys.exit(f"the server answered {answer!r}")


def report(rates: dict[str, list[float]], cpu: dict[str, list[float]]) -> int:
    peers = NAMES[1:]
    print("| server | requests/s | min - max | cpu µs | x " + " | x ".join(peers) + " |")
    print("|---|---|---|---|" + "---|" * len(peers))
    status = 0
    for name, values in rates.items():
        ratios = []
        for peer in peers:
            ratio = statistics.median(a / b for a, b in zip(values, rates[peer], strict=True))
            ratios.append(f"{ratio:.2f}")
            if name == NAMES[0] and ratio < TARGET:
                status = 1
        print(
            f"| {name} | {statistics.median(values):,.0f} | {min(values):,.0f} - {max(values):,.0f} "
            f"| {statistics.median(cpu[name]):.1f} | " + " | ".join(ratios) + " |"
        )
    return status


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0, help="per server and round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--apart", action="store_true", help="client and server each on a CPU of its own")
    parser.add_argument("--serve", choices=SERVERS, help=argparse.SUPPRESS)
    parser.add_argument("command", nargs="*", help="the server to measure instead of runners.stdio's trivial one")
    arguments = parser.parse_args()
    if arguments.serve:
        SERVERS[arguments.serve]()
        return 0
    commands = {name: [sys.executable, __file__, "--serve", name] for name in NAMES}
    commands[NAMES[0]] = arguments.command or commands[NAMES[0]]
    os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[1] / "src")
    cpus = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cpus[0]})
    rates: dict[str, list[float]] = {name: [] for name in NAMES}
    cpu: dict[str, list[float]] = {name: [] for name in NAMES}
    sent = requests()
    for _ in range(arguments.rounds):
        for name in NAMES:
            rate, used = measure(commands[name], arguments.seconds, sent, {cpus[-1 if arguments.apart else 0]})
            rates[name].append(rate)
            cpu[name].append(used)
    return report(rates, cpu)


if __name__ == "__main__":
    sys.exit(main())
