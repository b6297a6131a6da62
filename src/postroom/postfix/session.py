"""An SMTP client for looking at a server: it shows every reply as it came, and a connection that ends without one.

smtplib raises different exceptions for "421 and close", "closed without a word" and "reset"; the difference between
these is what the programs here are about, so this client returns each reply as a value and None for none.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable
from dataclasses import dataclass

# RFC 5321 4.5.3.1.5 allows 512 octets; Postfix's multi-line EHLO reply is longer, a reply without end is refused.
REPLY_LIMIT = 65536


@dataclass(frozen=True)
class Reply:
    """One SMTP reply: its code and its text, the lines of a multi-line reply joined by newlines."""

    code: int
    text: str

    def __str__(self) -> str:
        return f"{self.code} {self.text}"


class Session:
    """One SMTP connection. `replies` keeps everything that the server said."""

    def __init__(self, address: tuple[str, int], timeout: float = 60) -> None:
        self.socket = socket.create_connection(address, timeout=timeout)
        self.buffer = b""
        self.replies: list[Reply | None] = []
        self.greeting = self.reply()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Drop the connection, with no QUIT."""
        self.socket.close()

    def reply(self) -> Reply | None:
        """The next reply; None when the connection ended (closed or reset) before a whole one came."""
        lines: list[bytes] = []
        while True:
            line = self._line()
            if line is None:
                self.replies.append(None)
                return None
            lines.append(line[4:])
            if line[3:4] != b"-":
                reply = Reply(int(line[:3]), b"\n".join(lines).decode("utf-8", "surrogateescape"))
                self.replies.append(reply)
                return reply

    def _line(self) -> bytes | None:
        while b"\n" not in self.buffer:
            try:
                data = self.socket.recv(4096)
            except (ConnectionResetError, BrokenPipeError):
                return None
            if not data:
                return None
            self.buffer += data
            if len(self.buffer) > REPLY_LIMIT:
                raise ValueError("the server's reply has no end")
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line.rstrip(b"\r")

    def command(self, line: str) -> Reply | None:
        """Send one command line, return its reply."""
        return self.send(line.encode("utf-8", "surrogateescape") + b"\r\n")

    def send(self, data: bytes) -> Reply | None:
        """Send bytes as they are, return the reply that follows."""
        # When it fails, what the server said before it left may still be waiting to be read.
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            self.socket.sendall(data)
        return self.reply()

    def mail(
        self, sender: str, recipients: Iterable[str], message: bytes, helo: str = "client.test", parameters: str = ""
    ) -> list[Reply | None]:
        """A whole transaction: the replies to EHLO, MAIL, each RCPT, DATA and the message, up to where it ended."""
        first = len(self.replies)
        self.command(f"EHLO {helo}")
        self.command(f"MAIL FROM:<{sender}>{parameters and ' ' + parameters}")
        accepted = [self.command(f"RCPT TO:<{recipient}>") for recipient in recipients]
        if any(reply and reply.code == 250 for reply in accepted):
            ready = self.command("DATA")
            if ready and ready.code == 354:
                self.send(dot_stuffed(message) + b".\r\n")
        if self.replies[-1] is not None:
            self.command("QUIT")
        return self.replies[first:]


def dot_stuffed(message: bytes) -> bytes:
    """The message with CRLF line ends and leading dots doubled (RFC 5321 4.5.2)."""
    lines = message.replace(b"\r\n", b"\n").split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    return b"".join((b"." + line if line.startswith(b".") else line) + b"\r\n" for line in lines)
