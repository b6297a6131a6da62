"""The name servers to ask: which, in which order, how often, and what is said of those that gave no answer.

dnsquery.py holds the exchange with one of them.
"""

from __future__ import annotations

import os

from postroom import mx
from postroom.dnsquery import Failure, Server, ask, parse_server, show_server

TYPE_CHECKING = False
if TYPE_CHECKING:
    from postroom.deadline import Deadline

# A recursive resolver that walks from the root answers within a second as a rule; one that is down must leave time for
# the next inside the 10 s or so that a policy decision may take. Two rounds, since UDP loses packets.
TRY_SECONDS = 2.0
ROUNDS = 2

# As the C library: it reads no more than three servers (MAXNS), and asks the local host where there is none.
RESOLV_CONF = "/etc/resolv.conf"
MAX_SERVERS = 3
MAX_RESOLV_CONF = 64 * 1024
LOCAL = "127.0.0.1"


class Servers:
    """`given` ("192.0.2.1", "127.0.0.1:5353"; none: resolv.conf's). ValueError for one that is no address."""

    def __init__(self, given: tuple[str, ...], port: int, timeout: float, resolv_conf: str) -> None:
        self._port = port
        self._timeout = timeout
        self._given = tuple(parse_server(server, port) for server in given)
        self._resolv_conf = resolv_conf
        self._read: tuple[tuple[int, int], tuple[Server, ...]] = ((0, 0), ())
        self._good: Server | None = None

    def all(self) -> tuple[Server, ...]:
        """Whom it asks: the servers given, else resolv.conf's, read again when it changes; the last good one first."""
        servers = self._given or self._configured()
        if self._good in servers:
            return (self._good, *(server for server in servers if server != self._good))
        return servers

    def ask(self, question: mx.Question, deadline: Deadline) -> mx.Answer:
        """Ask the servers in turn, those that stay silent a second time; what each of them did is in the text."""
        broken = load()
        if broken:
            return mx.Answer(mx.SERVFAIL, text=broken)
        servers = self.all()
        turns = servers * ROUNDS
        failures: dict[Server, Failure] = {}
        for turn, server in enumerate(turns):
            if server in failures and not failures[server].again:
                continue
            left = deadline.remaining()
            if left <= 0:
                break
            try:
                seconds = min(self._timeout, left / (len(turns) - turn))
                answer = ask(question, server, seconds, edns=turn < len(servers))  # some firewalls drop EDNS
            except Failure as failure:
                failures[server] = failure
                continue
            self._good = server
            return answer
        return _failed(question, failures)

    def _configured(self) -> tuple[Server, ...]:
        try:
            stat = os.stat(self._resolv_conf)
            stamp = (stat.st_mtime_ns, stat.st_ino)
            if self._read[0] != stamp:
                self._read = (stamp, _read_resolv_conf(self._resolv_conf, self._port))
        except OSError:
            return ((LOCAL, self._port),)
        return self._read[1]


def load() -> str:
    """Load the codec; what is wrong with it where that fails, so that it does not show as a dead server."""
    try:
        import dns.message  # noqa: F401  (loaded with the first question, never before)
    except Exception as fault:  # a half-installed package may raise anything; our fault, not the domain's
        return f"dnspython cannot be loaded: {fault}"
    return ""


def _read_resolv_conf(path: str, port: int) -> tuple[Server, ...]:
    """The `nameserver` lines of resolv.conf(5). Its options are not read: the deadline is the caller's."""
    servers = []
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file.read(MAX_RESOLV_CONF).splitlines():
            words = line.split()
            if len(words) > 1 and words[0] == "nameserver":
                try:
                    servers.append(parse_server(words[1], port))
                except ValueError:
                    continue
    return tuple(servers[:MAX_SERVERS]) or ((LOCAL, port),)


def _failed(question: mx.Question, failures: dict[Server, Failure]) -> mx.Answer:
    """The answer when no server gave one. Hard only if all said so: one that may pass says nothing for sure."""
    name, kind = question
    if not failures:
        return mx.Answer(mx.TIMEOUT, text=f"no time left to ask for {kind} {name}")
    soft = [failure.kind for failure in failures.values() if failure.kind != mx.FAILED]
    said = ", ".join(f"{failure.text} from {show_server(server)}" for server, failure in failures.items())
    return mx.Answer(soft[-1] if soft else mx.FAILED, text=f"{said} for {kind} {name}")
