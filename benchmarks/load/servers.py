"""The servers to be measured, each a process of its own that is ended by its number."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FLOOR = [sys.executable, str(ROOT / "benchmarks/policy_wire.py"), "--serve", "asyncio buffered"]

# postfwd keeps a reply this long: longer than a measurement takes.
CACHED = 3600


def rule_policy(configuration: Path, log: Path) -> list[str]:
    return [sys.executable, str(ROOT / "spawn/rule-policy.py"), "--config", str(configuration), "--log", str(log)]


def postfwd(rules: Path, cache: int) -> list[str]:
    """In the foreground: it talks on its standard input and output. Without DNS and without a log line a hit (-P)."""
    return [postfwd_program(), "-P", "-n", f"--cache={cache}", "-f", str(rules)]


def postfwd_program() -> str:
    found = shutil.which("postfwd1", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if not found:
        sys.exit("postfwd is not installed: apt-get install postfwd")
    return found


@contextmanager
def connected(command: list[str], cpu: set[int], count: int = 1) -> Iterator[list[socket.socket]]:
    """A process for each of `count` connections, as under spawn(8): the socket is its standard input and output."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    ours, processes = [], []
    try:
        for _ in range(count):
            near, far = socket.socketpair()
            processes.append(
                subprocess.Popen(
                    command, stdin=far, stdout=far, env=environment, preexec_fn=lambda: os.sched_setaffinity(0, cpu)
                )
            )
            far.close()
            ours.append(near)
        yield ours
    finally:
        for connection in ours:
            connection.close()
        for process in processes:
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def postfwd_daemon(rules: Path, cache: int, cpu: set[int], count: int) -> Iterator[list[socket.socket]]:
    """One process for all connections, over TCP, as it is used with more than one."""
    port, pid_file = _free_port(), rules.with_suffix(".pid")
    pid_file.unlink(missing_ok=True)
    words = ["-d", "-i", "127.0.0.1", "-p", str(port), "--pidfile", str(pid_file), "-u", "nobody", "-g", "nogroup"]
    command = [*postfwd(rules, cache), *words]
    subprocess.run(command, check=True, preexec_fn=lambda: os.sched_setaffinity(0, cpu))
    ours: list[socket.socket] = []
    try:
        ours += [_connect(port) for _ in range(count)]
        yield ours
    finally:
        for connection in ours:
            connection.close()
        os.kill(int(pid_file.read_text()), signal.SIGTERM)


def _connect(port: int) -> socket.socket:
    for _ in range(100):
        try:
            connection = socket.create_connection(("127.0.0.1", port))
        except OSError:
            time.sleep(0.1)
        else:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connection
    sys.exit(f"postfwd does not listen on port {port}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
