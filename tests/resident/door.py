"""What a resident asks of DNS goes through here, to a real name server, as long as the door is open."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable

# What comes back through a door that is "garbage", in turn: of a query, and of what the server said to it.
GARBAGE: tuple[Callable[[bytes, bytes], bytes], ...] = (
    lambda query, reply: b"",
    lambda query, reply: os.urandom(60),
    lambda query, reply: query,  # no answer at all, its own question
    lambda query, reply: bytes([query[0] ^ 255]) + reply[1:],  # to another question
    lambda query, reply: reply[:20],
    lambda query, reply: query[:2] + b"\x81\x80" + b"\xff" * 8 + query[12:],  # 65535 records of each kind
    lambda query, reply: query[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + b"\xc0\x0c" * 20,  # a name that goes round
    lambda query, reply: reply[:2] + bytes([reply[2] | 2]) + reply[3:],  # cut short: ask by TCP, where nobody is
    lambda query, reply: reply[:-8] + os.urandom(8),
    lambda query, reply: reply + os.urandom(400),
)


class Door:
    """`mode`: open, shut (nobody is at the port), slow (5 s), servfail, garbage."""

    SLOW = 5.0

    def __init__(self, server: int) -> None:
        self._server = ("127.0.0.1", server)
        self._socket = self._bound(0)
        self.port = self._socket.getsockname()[1]
        self.mode = "open"
        self.asked = 0
        self._ended = threading.Event()
        self._late: list[tuple[float, bytes, tuple[str, int]]] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        self._socket.close()

    @staticmethod
    def _bound(port: int) -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind(("127.0.0.1", port))
        made.settimeout(0.05)
        return made

    def _serve(self) -> None:
        while not self._ended.is_set():
            if self.mode == "shut":
                self._stay_away()
            now = time.monotonic()
            while self._late and self._late[0][0] <= now:
                _, answer, client = self._late.pop(0)
                self._socket.sendto(answer, client)
            try:
                query, client = self._socket.recvfrom(4096)
            except TimeoutError:
                continue
            self.asked += 1
            self._answer(query, client)

    def _stay_away(self) -> None:
        self._socket.close()
        while self.mode == "shut" and not self._ended.is_set():
            time.sleep(0.02)
        self._socket = self._bound(self.port)

    def _answer(self, query: bytes, client: tuple[str, int]) -> None:
        if self.mode == "servfail":
            self._socket.sendto(query[:2] + b"\x81\x82\0\1\0\0\0\0\0\0" + _question(query), client)
            return
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there:
            there.settimeout(2)
            there.sendto(query, self._server)
            reply = there.recv(4096)
        if self.mode == "slow":
            self._late.append((time.monotonic() + self.SLOW, reply, client))
        elif self.mode == "garbage":
            self._socket.sendto(GARBAGE[self.asked % len(GARBAGE)](query, reply), client)
        else:
            self._socket.sendto(reply, client)


def _question(query: bytes) -> bytes:
    """Without what may stand behind it, EDNS."""
    return query[12 : query.index(b"\0", 12) + 5]
