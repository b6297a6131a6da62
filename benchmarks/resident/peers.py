"""The smallest servers that one can write: the floors that the resident is held against.

    python benchmarks/resident/peers.py policy PATH        asyncio.BufferedProtocol, three bytes.find, always DUNNO
    python benchmarks/resident/peers.py socketmap PATH     asyncio.BufferedProtocol, the same answer to all
    python benchmarks/resident/peers.py sink PATH FOLDER   asyncio LMTP sink, a file for each mail
    python benchmarks/resident/peers.py mta-sts PATH [uvloop]
                                                           postfix-mta-sts-resolver as published, its cache filled

Each listens on a unix socket and serves until it is ended.
"""

import asyncio
import itertools
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

WANTED = (b"\nsender=", b"\nrecipient=", b"\nclient_address=")
BUFFER = 65536

# What the socketmap floor answers to each, and the cached policy of each domain of the peer.
ROUTE = b"12:OK slow-one:,"
DOMAINS = 1000
POLICY = {"version": "STSv1", "mode": "enforce", "max_age": 10**8, "mx": ["mx1.shady.example"]}


class Requests(asyncio.BufferedProtocol):
    """Cuts what comes at `end`, and answers each piece by `answer`."""

    end: bytes
    answer: Callable[[bytes], bytes]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.write = transport.write  # type: ignore[attr-defined]  # of a socket's transport
        self.buffer = bytearray(BUFFER)
        self.view = memoryview(self.buffer)
        self.filled = 0

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.view[self.filled :]

    def buffer_updated(self, size: int) -> None:
        self.filled += size
        start = 0
        while (end := self.buffer.find(self.end, start, self.filled)) >= 0:
            self.write(self.answer(bytes(self.view[start : end + 1])))
            start = end + len(self.end)
        if start:
            self.buffer[: self.filled - start] = self.buffer[start : self.filled]
            self.filled -= start


class Policy(Requests):
    end = b"\n\n"

    @staticmethod
    def answer(block: bytes) -> bytes:
        for name in WANTED:
            start = block.find(name) + len(name)
            if not block[start : block.find(b"\n", start)]:
                return b"action=REJECT\n\n"
        return b"action=DUNNO\n\n"


class Socketmap(Requests):
    """A netstring ends in a comma, and no key here has one."""

    end = b","

    @staticmethod
    def answer(request: bytes) -> bytes:
        return ROUTE


class Sink(asyncio.Protocol):
    """LMTP as far as lmtp(8) and a load client need it: no checks, one write and one rename-free file for each mail."""

    folder = ""
    numbers = itertools.count()
    greeting = b"220 sink\r\n"
    replies = (
        (b"LHLO", b"250-sink\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 ENHANCEDSTATUSCODES\r\n"),
        (b"DATA", b"354 go on\r\n"),
        (b"QUIT", b"221 2.0.0 bye\r\n"),
    )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.data, self.in_data, self.recipients = b"", False, 0
        transport.write(self.greeting)  # type: ignore[attr-defined]  # of a socket

    def data_received(self, data: bytes) -> None:
        self.data += data
        out = []
        while piece := self._piece():
            out.append(piece)
        if out:
            self.transport.write(b"".join(out))  # type: ignore[attr-defined]  # of a socket

    def _piece(self) -> bytes:
        """The reply to the next command or to the mail; empty where there is none whole."""
        mark = b"\r\n.\r\n" if self.in_data else b"\r\n"
        end = self.data.find(mark)
        if end < 0:
            return b""
        text, self.data = self.data[:end], self.data[end + len(mark) :]
        return self._mail(text) if self.in_data else self._command(text)

    def _command(self, line: bytes) -> bytes:
        word = line[:4].upper()
        self.in_data = word == b"DATA"
        self.recipients += word == b"RCPT"
        return next((reply for name, reply in self.replies if name == word), b"250 2.0.0 fine\r\n")

    def _mail(self, text: bytes) -> bytes:
        self.in_data = False
        text = text.replace(b"\r\n", b"\n").replace(b"\n..", b"\n.") + b"\n"
        path = f"{self.folder}/new/{next(self.numbers)}.{os.getpid()}"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(descriptor, text)
        os.close(descriptor)
        count, self.recipients = self.recipients, 0
        return b"250 2.0.0 delivered\r\n" * count


def serve(path: str, protocol: Callable[[], asyncio.BaseProtocol]) -> None:
    async def forever() -> None:
        server = await asyncio.get_running_loop().create_unix_server(protocol, path, backlog=1024)
        os.chmod(path, 0o666)  # noqa: S103 - as Postfix's own sockets: its user connects
        await server.serve_forever()

    asyncio.run(forever())


def sink(path: str, folder: str) -> None:
    Sink.folder = folder
    (Path(folder) / "new").mkdir(parents=True, exist_ok=True)
    bytes(4 << 20)  # glibc then keeps the 256 KB that asyncio reads into, instead of mapping it anew for each read
    serve(path, Sink)


def mta_sts(path: str, loops: str = "asyncio") -> None:
    """The published responder, no line of it changed, over its own cache, which holds DOMAINS."""
    from postfix_mta_sts_resolver import utils
    from postfix_mta_sts_resolver.base_cache import CacheEntry
    from postfix_mta_sts_resolver.internal_cache import InternalLRUCache
    from postfix_mta_sts_resolver.responder import STSSocketmapResponder

    if loops == "uvloop" and not utils.enable_uvloop():
        sys.exit("uvloop is not installed: pip install 'postroom[bench]'")

    async def forever() -> None:
        cache = InternalLRUCache(2 * DOMAINS)
        for number in range(DOMAINS):
            await cache.set(f"d{number}.victim.test", CacheEntry(time.time(), "1", POLICY))
        settings = utils.populate_cfg_defaults({"path": path, "mode": 0o666, "cache_grace": 10**8})
        await STSSocketmapResponder(settings, asyncio.get_running_loop(), cache).start()
        await asyncio.Event().wait()

    asyncio.run(forever())


KINDS: dict[str, Callable[..., None]] = {
    "policy": lambda path: serve(path, Policy),
    "socketmap": lambda path: serve(path, Socketmap),
    "sink": sink,
    "mta-sts": mta_sts,
}

if __name__ == "__main__":
    KINDS[sys.argv[1]](*sys.argv[2:])
