"""One question to one name server: what goes over the wire, and what is believed of what comes back.

dnspython's codec makes the query and reads the reply; its resolver and its query module are not used. The exchange here
costs 15 to 20 ms less to load, sees a dead server at once (connected sockets get its ICMP error), and checks a reply
against the question before a parser sees it. Nothing of dnspython is loaded before the first question.
"""

from __future__ import annotations

import time
from _socket import AF_INET, AF_INET6, inet_pton

from postroom import mx

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Generator

    import dns.message

Server = tuple[str, int]

# What fits through any path unfragmented (DNS flag day 2020); a longer reply comes by TCP.
UDP_PAYLOAD = 1232

# The types that the machines ask for, by number, with dnspython's name of what is in them.
FIELDS = {
    15: ("MX", "exchange"),
    5: ("CNAME", "target"),
    1: ("A", "address"),
    28: ("AAAA", "address"),
    2: ("NS", "target"),
    12: ("PTR", "target"),
}


class Failure(Exception):
    """A server that gave no answer. `again`: another try may help (it was silent), else it has spoken."""

    def __init__(self, kind: str, text: str, again: bool = False) -> None:
        super().__init__(text)
        self.kind = kind
        self.text = text
        self.again = again


def parse_server(text: str, port: int = 53) -> Server:
    """Read "192.0.2.1", "192.0.2.1:5353", "::1", "[::1]:5353", "fe80::1%eth0"; ValueError where it is none of these."""
    host, number = text, ""
    if text.startswith("["):
        host, bracket, number = text[1:].partition("]")
        if not bracket or number[:1] not in ("", ":"):
            raise ValueError(f"not the address of a name server: {text!r}")
    elif text.count(":") == 1:
        host, _, number = text.partition(":")
    number = number.removeprefix(":")
    try:
        inet_pton(AF_INET6 if ":" in host else AF_INET, host.partition("%")[0])
        value = int(number) if number or text.endswith(":") else port
    except (OSError, ValueError):
        raise ValueError(f"not the address of a name server: {text!r}") from None
    if not 0 < value < 65536:
        raise ValueError(f"no such port: {text!r}")
    return host, value


def show_server(server: Server) -> str:
    host, port = server
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def ask(question: mx.Question, server: Server, seconds: float, edns: bool = True) -> mx.Answer:
    """One question to one server: by UDP, by TCP where that was truncated, without EDNS where the server refuses it."""
    end = time.monotonic() + seconds
    try:
        reply = _exchange(question, server, end, edns)
        if edns and reply.rcode() in (1, 4, 16):  # FORMERR, NOTIMP, BADVERS (RFC 6891 section 7)
            reply = _exchange(question, server, end, edns=False)
    except TimeoutError:
        raise Failure(mx.TIMEOUT, f"no answer within {seconds:.1f} s", again=True) from None
    except OSError as error:
        raise Failure(mx.REFUSED, (error.strerror or str(error)).lower()) from None
    return _answer(reply, question[1])


def _exchange(question: mx.Question, server: Server, end: float, edns: bool) -> dns.message.Message:
    import dns.message

    name, kind = question
    try:
        query = dns.message.make_query(name, kind, use_edns=0 if edns else False, payload=UDP_PAYLOAD).to_wire()
    except Exception:  # a name out of a stranger's record: mx.py lets only some of them pass, the codec may be stricter
        raise Failure(mx.MALFORMED, "no name to ask for") from None
    reply = _udp(query, server, end)
    if reply[2] & 2:  # TC: whatever came with it may be cut anywhere
        reply = _tcp(query, server, end)
    return _parse(reply)


def _parse(reply: bytes) -> dns.message.Message:
    import dns.message

    try:
        return dns.message.from_wire(reply, ignore_trailing=True)
    except Exception:  # a stranger's bytes: whatever the codec makes of them, they are no answer
        raise Failure(mx.MALFORMED, "malformed reply") from None


def _udp(query: bytes, server: Server, end: float) -> bytes:
    """The first datagram that answers this query. Others (late ones, forged ones) are passed over (RFC 5452)."""
    noise = False
    with _connect(server, end, stream=False) as sock:  # a socket each: a random port beside the random id
        sock.send(query)
        while True:
            try:
                sock.settimeout(_left(end))
                reply = sock.recv(65535)
            except TimeoutError:
                if noise:
                    raise Failure(mx.MALFORMED, "malformed reply", again=True) from None
                raise
            if _is_reply(query, reply):
                return reply
            noise = True


def _tcp(query: bytes, server: Server, end: float) -> bytes:
    with _connect(server, end, stream=True) as sock:
        sock.sendall(len(query).to_bytes(2) + query)
        reply = _receive(sock, int.from_bytes(_receive(sock, 2, end)), end)
    if not _is_reply(query, reply):
        raise Failure(mx.MALFORMED, "malformed reply")
    return reply


def _receive(sock: socket.socket, size: int, end: float) -> bytes:
    data = b""
    while len(data) < size:
        sock.settimeout(_left(end))
        piece = sock.recv(size - len(data))
        if not piece:
            raise Failure(mx.MALFORMED, "connection closed")
        data += piece
    return data


def _connect(server: Server, end: float, stream: bool) -> socket.socket:
    import socket

    family = socket.AF_INET6 if ":" in server[0] else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM if stream else socket.SOCK_DGRAM)
    try:
        sock.settimeout(_left(end))
        sock.connect(server)
    except OSError:
        sock.close()
        raise
    return sock


def _left(end: float) -> float:
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _is_reply(query: bytes, reply: bytes) -> bool:
    """Whether the bytes answer this very query: id, QR, opcode, and the question repeated (RFC 5452 section 9.1)."""
    if len(reply) < 12 or reply[:2] != query[:2] or reply[2] & 0xF8 != 0x80:
        return False
    if reply[4:6] == b"\0\0":  # FORMERR, SERVFAIL, NOTIMP, REFUSED may come as a bare header
        return reply[3] & 15 in (1, 2, 4, 5)
    end = 12
    while query[end]:
        end += query[end] + 1
    return reply[4:6] == b"\0\1" and reply[12 : end + 5].lower() == query[12 : end + 5].lower()


def _answer(reply: dns.message.Message, kind: str) -> mx.Answer:
    """The reply in the words of the machine; Failure where the server could not or would not tell."""
    import dns.rcode

    code = int(reply.rcode())
    lame = code == 0 and not reply.answer and not reply.flags & 0x0480  # neither AA nor RA: it points elsewhere
    if lame:
        raise Failure(mx.REFUSED, "referral")
    if code not in (0, 3):
        kinds = {2: mx.SERVFAIL, 4: mx.REFUSED, 5: mx.REFUSED}
        name = dns.rcode.to_text(dns.rcode.Rcode.make(code))
        raise Failure(kinds.get(code, mx.FAILED), f"response code {code}" if name.isdigit() else name)
    records = tuple(_records(reply, kind))
    missing = mx.NXDOMAIN if code == 3 else mx.NODATA
    return mx.Answer(mx.RECORDS if records and code == 0 else missing, records, _negative_ttl(reply))


def _records(reply: dns.message.Message, kind: str) -> Generator[mx.Record, None, None]:
    """The records of the answer section that are of this kind or CNAMEs, of class IN."""
    for rrset in reply.answer:
        found, field = FIELDS.get(int(rrset.rdtype), ("", ""))
        if rrset.rdclass != 1 or found not in (kind, "CNAME"):
            continue
        for rdata in rrset:
            if not hasattr(rdata, field):  # dnspython without the module of that type: the raw bytes
                raise Failure(mx.MALFORMED, f"unreadable {found} record")
            yield _text(rrset.name), found, rrset.ttl, getattr(rdata, "preference", 0), _text(getattr(rdata, field))


def _text(name: object) -> str:
    """A name or address as the machine has it: lower case, no trailing dot, the root "."."""
    text = str(name).lower()
    return text.removesuffix(".") or text


def _negative_ttl(reply: dns.message.Message) -> int:
    """How long "no such record" holds: the lesser of the SOA's TTL and its minimum (RFC 2308 section 5)."""
    for rrset in reply.authority:
        if rrset.rdtype == 6 and rrset.rdclass == 1:
            return int(min(rrset.ttl, rrset[0].minimum))
    return 0
