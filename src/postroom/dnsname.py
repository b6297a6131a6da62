"""The names under which DNS keeps what is asked about addresses and domains, and who serves a domain; no I/O.

For what is asked about mail hosts see mx.py, whose Question and Answer these are.
"""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, inet_ntop, inet_pton

from postroom import mx

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator

# A name has up to 127 labels, and each one stands for a question. Who serves a name deeper than this is not found out.
MAX_PARENTS = 10

# "::ffff:192.0.2.1": an IPv4 client as an IPv6 socket shows it (RFC 4291 section 2.5.5.2).
_MAPPED = b"\0" * 10 + b"\xff\xff"


def packed(address: str) -> bytes | None:
    """The 4 or 16 octets of an address, 4 for an IPv4 address mapped into IPv6; None where it is none."""
    try:
        octets = inet_pton(AF_INET6 if ":" in address else AF_INET, address)
    except (OSError, ValueError):  # ValueError: a NUL in it, or what is not even UTF-8
        return None
    return octets[12:] if octets.startswith(_MAPPED) else octets


def unpacked(octets: bytes) -> str:
    """The usual form of an address, in which the same address is the same text."""
    return inet_ntop(AF_INET if len(octets) == 4 else AF_INET6, octets)


def reversed_address(octets: bytes) -> str:
    """The octets of an IPv4 address, the nibbles of an IPv6 one, last first (RFC 1035 3.5, RFC 3596 2.5, RFC 5782)."""
    if len(octets) == 4:
        return ".".join(str(octet) for octet in reversed(octets))
    return ".".join(reversed(octets.hex()))


def reverse_name(octets: bytes) -> str:
    """Where the names of an address stand."""
    return reversed_address(octets) + (".in-addr.arpa" if len(octets) == 4 else ".ip6.arpa")


def listed_as(name: str) -> str:
    """What stands before a list's zone when it is asked about this address or domain; empty: no list can hold it."""
    octets = packed(name)
    if octets is not None:
        return reversed_address(octets)
    try:
        domain = mx.to_ascii(name)
    except UnicodeError:
        return ""
    return domain if mx.valid_hostname(domain) else ""


def name_servers(domain: str) -> Generator[mx.Question, mx.Answer, mx.Answer]:
    """Ask for the NS records of `domain`, then of its parents; end with the first ones found, or what went wrong.

    As check_sender_ns_access does (src/smtpd/smtpd_check.c, check_server_access()): a top-level domain is asked, the
    root is not, and a name that does not exist is one without records of its own.
    """
    name, ttl = domain, 1 << 31
    for _ in range(MAX_PARENTS):
        found = yield from mx.chase(name, "NS")
        ttl = min(ttl, found.ttl)
        _, _, parent = name.partition(".")
        if found.kind not in (mx.NODATA, mx.NXDOMAIN, mx.LOOP) or not parent:
            return mx.Answer(found.kind, found.records, ttl, found.text)
        name = parent
    return mx.Answer(mx.FAILED, text=f"no name servers within {MAX_PARENTS} labels of {domain}")
