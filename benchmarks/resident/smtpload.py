"""RCPT commands on many SMTP connections to a real smtpd(8), each timed from the command to its reply.

Between two of them come RSET and MAIL, in one piece, and not timed. The recipient is refused by the configuration
after the policy service was asked, so that no mail and no queue file is made.
"""

import contextlib
import itertools
import select
import socket
import sys
import time

from resident.load import Done, done

NUMBERS = itertools.count()


class Session:
    def __init__(self, address: tuple[str, int]) -> None:
        self.connection = socket.create_connection(address, timeout=60)
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.in_recipient, self.since, self.data = False, 0.0, b""
        self._until(b"220 ")
        self.connection.sendall(b"EHLO load.test\r\n")
        self._until(b"250 ")

    def _until(self, code: bytes) -> None:
        data = b""
        while not any(line.startswith(code) for line in data.split(b"\r\n")[:-1]):
            more = self.connection.recv(65536)
            if not more:
                sys.exit(f"smtpd closed after {data!r}")
            data += more

    def begin(self) -> None:
        self.in_recipient = False
        self.connection.sendall(b"RSET\r\nMAIL FROM:<a%d@client.example>\r\n" % (next(NUMBERS) % 1000))

    def step(self) -> float:
        """Read; go on where it is our turn. The seconds that a RCPT took, or nothing."""
        data = self.connection.recv(65536)
        if not data:
            sys.exit("smtpd closed the connection")
        self.data += data
        if self.data.count(b"\r\n") < (1 if self.in_recipient else 2):
            return 0.0
        said, self.data, now = self.data, b"", time.perf_counter()
        if self.in_recipient:
            if not said.startswith(b"554 5.7.1"):
                sys.exit(f"smtpd said {said!r}")
            self.begin()
            return now - self.since
        self.in_recipient, self.since = True, now
        self.connection.sendall(b"RCPT TO:<someone%d@victim.example.com>\r\n" % (next(NUMBERS) % 1000))
        return 0.0


class Sessions:
    """`count` connections, opened once and used for all runs."""

    def __init__(self, address: tuple[str, int], count: int) -> None:
        self.sessions = {session.connection.fileno(): session for session in (Session(address) for _ in range(count))}
        for session in self.sessions.values():
            session.begin()

    def __enter__(self) -> "Sessions":
        return self

    def __exit__(self, *_: object) -> None:
        for session in self.sessions.values():
            session.connection.close()

    def run(self, seconds: float) -> Done:
        latencies: list[float] = []
        start = now = time.perf_counter()
        with contextlib.closing(select.epoll()) as poll:
            for number in self.sessions:
                poll.register(number, select.EPOLLIN)
            while now - start < seconds:
                for number, _ in poll.poll():
                    if took := self.sessions[number].step():
                        latencies.append(took)
                now = time.perf_counter()
        return done(latencies, now - start)
