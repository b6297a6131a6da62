"""Load on an LMTP server as Postfix's lmtp(8) makes it: connections that stay, commands in one piece, then the mail.

    done = run(path, 20, 1.0)       # .count mails taken, .seconds, .p50, .p99 in microseconds

Each mail has a number of its own, so that none is one that was delivered before.
"""

import contextlib
import itertools
import select
import socket
import sys
import time

from resident.load import Done, connect, done

RECIPIENT = b"bob@example.org"
ENVELOPE = b"MAIL FROM:<a@example.com>\r\nRCPT TO:<%b>\r\nDATA\r\n" % RECIPIENT
TAKEN = [b"250", b"250", b"354"]
LINES = b"A line of some sixty characters, as they are in most mails.\r\n"

# Of both kinds of server, taken together; a run of its own begins where the one before ended.
NUMBERS = itertools.count(time.time_ns() // 1000)


def mail(size: int) -> bytes:
    head = (
        b"Received: from c.example (c.example [192.0.2.1]) by m.example (Postfix) with ESMTP id 4Q%d\r\n"
        b"\tfor <bob@example.org>; Sun, 22 Nov 2026 15:04:54 +0000 (UTC)\r\nFrom: a@example.com\r\nSubject: %d\r\n\r\n"
    )
    number = next(NUMBERS)
    return head % (number, number) + LINES * (size // len(LINES)) + b".\r\n"


class Session:
    """One connection, in the middle of an envelope or of a mail."""

    def __init__(self, path: str, size: int) -> None:
        self.size = size
        self.connection = connect(path)
        self.data, self.since, self.in_mail = b"", 0.0, False
        self._said()
        self.connection.sendall(b"LHLO bench.test\r\n")
        self._said()

    def _said(self) -> None:
        """Wait for the end of a reply, of several lines or one."""
        said = b""
        while not (said.endswith(b"\r\n") and said.split(b"\r\n")[-2][3:4] == b" "):
            data = self.connection.recv(65536)
            if not data:
                sys.exit(f"the server closed after {said!r}")
            said += data
        if said[:1] != b"2":
            sys.exit(f"the server said {said!r}")

    def begin(self, now: float) -> None:
        self.since, self.in_mail = now, False
        self.connection.sendall(ENVELOPE)

    def step(self) -> bool:
        """Read; go on where it is our turn. True: a mail has been taken."""
        data = self.connection.recv(65536)
        if not data:
            sys.exit("the server closed the connection")
        self.data += data
        if self.data.count(b"\r\n") < (1 if self.in_mail else len(TAKEN)):
            return False
        codes = [line[:3] for line in self.data.split(b"\r\n")[:-1]]
        if codes != ([b"250"] if self.in_mail else TAKEN):
            sys.exit(f"the server said {self.data!r}")
        self.data = b""
        if self.in_mail:
            return True
        self.in_mail = True
        self.connection.sendall(mail(self.size))
        return False

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.connection.sendall(b"QUIT\r\n")
            self.connection.shutdown(socket.SHUT_WR)
        self.connection.close()


def run(path: str, count: int, seconds: float, size: int = 4096) -> Done:
    """Mails on `count` connections for so long; those under way at the end are waited for, and counted."""
    sessions = {session.connection.fileno(): session for session in (Session(path, size) for _ in range(count))}
    latencies: list[float] = []
    clock = time.perf_counter
    with contextlib.closing(select.epoll()) as poll:
        start = clock()
        for number, session in sessions.items():
            poll.register(number, select.EPOLLIN)
            session.begin(start)
        busy, now = len(sessions), start
        while busy:
            for number, _ in poll.poll():
                session = sessions[number]
                if not session.step():
                    continue
                now = clock()
                latencies.append(now - session.since)
                if now - start < seconds:
                    session.begin(now)
                else:
                    busy -= 1
    for session in sessions.values():
        session.close()
    return done(latencies, now - start)
