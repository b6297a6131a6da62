"""Load on a server of requests and replies: so many connections, on each the next request when the reply is there.

    with Load(path, 50, requests, b"\\n\\n") as load:
        done = load.run(1.0)        # .count, .seconds, .p50, .p99 in microseconds

That is what smtpd(8) and trivial-rewrite(8) do. A reply is over with `end`; all of it comes in one read, or in more.
"""

import contextlib
import select
import socket
import sys
import time
from dataclasses import dataclass

REPLY = 65536

# Latencies are sorted: more than this many are thinned out, evenly.
KEPT = 200_000


@dataclass(frozen=True)
class Done:
    count: int
    seconds: float
    p50: float
    p99: float


def connect(path: str, timeout: float = 30.0) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(timeout)
    connection.connect(path)
    return connection


def ask(connection: socket.socket, request: bytes, end: bytes) -> bytes:
    connection.sendall(request)
    reply = b""
    while not reply.endswith(end):
        data = connection.recv(REPLY)
        if not data:
            sys.exit(f"the server closed after {reply!r}")
        reply += data
    return reply


class Load:
    def __init__(self, path: str, count: int, requests: list[bytes], end: bytes) -> None:
        self.requests, self.end, self.place = requests, end, 0
        self.connections = [connect(path) for _ in range(count)]

    def __enter__(self) -> "Load":
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self.connections:
            connection.close()

    def verify(self, wanted: list[bytes], count: int = 200) -> None:
        """Who is fast because it answers something else is not measured."""
        for request, reply in list(zip(self.requests, wanted, strict=True))[:count]:
            for connection in self.connections[:2]:
                said = ask(connection, request, self.end)
                if said.lower() != reply.lower():
                    sys.exit(f"answered {said!r}, expected {reply!r}, to {request!r}")

    def run(self, seconds: float) -> Done:
        return self._one(seconds) if len(self.connections) == 1 else self._many(seconds)

    def _one(self, seconds: float) -> Done:
        connection, end, latencies = self.connections[0], self.end, []
        clock = time.perf_counter
        start = now = clock()
        while now - start < seconds:
            ask(connection, self._next(), end)
            then, now = now, clock()
            latencies.append(now - then)
        return done(latencies, now - start)

    def _many(self, seconds: float) -> Done:
        """Time is read once for all that epoll tells at once: what is late by that is the client's own slowness."""
        by_number = {connection.fileno(): connection for connection in self.connections}
        latencies: list[float] = []
        clock = time.perf_counter
        with contextlib.closing(select.epoll()) as poll:
            sent = dict.fromkeys(by_number, clock())
            for number, connection in by_number.items():
                poll.register(number, select.EPOLLIN)
                connection.sendall(self._next())
            start = now = clock()
            while now - start < seconds:
                ready = poll.poll()
                now = clock()
                for number, _ in ready:
                    if by_number[number].recv(REPLY).endswith(self.end):
                        latencies.append(now - sent[number])
                        sent[number] = now
                        by_number[number].send(self._next())
        for connection in self.connections:  # the last reply of each, so that it can be used again
            while not connection.recv(REPLY).endswith(self.end):
                pass
        return done(latencies, now - start)

    def all(self, wanted: bytes) -> None:
        """Each request once, side by side on all connections."""
        left = iter(self.requests)
        by_number = {connection.fileno(): connection for connection in self.connections}
        with contextlib.closing(select.epoll()) as poll:
            for number, connection in by_number.items():
                poll.register(number, select.EPOLLIN)
                connection.sendall(next(left))
            under_way = len(by_number)
            while under_way:
                for number, _ in poll.poll():
                    said = by_number[number].recv(REPLY)
                    if said != wanted:
                        sys.exit(f"answered {said!r}, expected {wanted!r}")
                    if request := next(left, b""):
                        by_number[number].sendall(request)
                    else:
                        under_way -= 1

    def _next(self) -> bytes:
        self.place = (self.place + 1) % len(self.requests)
        return self.requests[self.place]


def done(latencies: list[float], seconds: float) -> Done:
    count = len(latencies)
    kept = sorted(latencies[:: count // KEPT + 1]) or [0.0]
    return Done(count, seconds, kept[len(kept) // 2] * 1e6, kept[int(len(kept) * 0.99)] * 1e6)
