"""How a value is looked up: the keys it is tried under, in Postfix's order. Used by evaluation and by lists alike.

No regular expressions, no imports but the standard's C modules: this runs for every mail.
"""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, inet_pton

from postroom.envelope import extension

# No domain name is longer (RFC 1035 section 2.3.4), and none configured may be. A stranger's name of a megabyte and
# half a million dots has at most this many parents that can be listed anywhere.
NAME_LIMIT = 255


def keys_of(kind: str, value: str, delimiter: str) -> tuple[str, ...]:
    """The keys under which a folded value of this kind is found: whole first, then ever less of it."""
    if kind == "address":
        return address_keys(value, delimiter)
    if kind == "domain":
        return (value, *parents(value))
    if kind == "ip":
        return ip_keys(value)
    return (value,)


def whole_keys(kind: str, value: str, delimiter: str) -> tuple[str, ...]:
    """Of these keys those of one value only: the value, and an address also without its extension."""
    if kind != "address":
        return (value,)
    local, _, domain = value.rpartition("@")
    base = without_extension(local, delimiter)
    return (value,) if base == local else (value, f"{base}@{domain}")


def fold(kind: str, value: str) -> str:
    """The form in which values of this kind are compared."""
    if kind == "text":
        return value
    value = value.lower()
    if kind in ("domain", "address") and value.endswith("."):
        return value[:-1]
    return value


def parents(domain: str) -> list[str]:
    """`.b.c` and `.c` for `a.b.c`, the longest first: how access(5) tables list subdomains."""
    found: list[str] = []
    dot = domain.rfind(".")
    while dot >= 0 and len(domain) - dot <= NAME_LIMIT:
        if dot:
            found.append(domain[dot:])
        dot = domain.rfind(".", 0, dot)
    found.reverse()
    return found


def address_keys(address: str, delimiter: str) -> tuple[str, ...]:
    """access(5), EMAIL ADDRESS PATTERNS: user+ext@domain, user@domain, domain, .parents, user+ext@, user@.

    The null sender is looked up as `<>` (postconf(5) smtpd_null_access_lookup_key).
    """
    if not address:
        return ("<>",)
    local, at, domain = address.rpartition("@")
    if not at:
        return (address,)
    base = without_extension(local, delimiter)
    if base == local:
        return (address, domain, *parents(domain), local + "@")
    return (address, f"{base}@{domain}", domain, *parents(domain), local + "@", base + "@")


def without_extension(local: str, delimiter: str) -> str:
    """The local part before its extension (envelope.extension); `bob+` has one that is empty."""
    for character in delimiter:
        if character in local:
            break
    else:
        return local  # as nearly always
    found = extension(local + "@", delimiter)
    if found:
        return local[: -len(found) - 1]
    return local[:-1] if len(local) > 1 and local[-1] in delimiter else local


def ip_keys(address: str) -> tuple[str, ...]:
    """access(5), HOST NAME/ADDRESS PATTERNS: the address, then ever shorter networks at `.` or `:`."""
    found = [address]
    separator = ":" if ":" in address else "."
    while (cut := found[-1].rfind(separator)) > 0 and len(found) < 16:
        found.append(found[-1][:cut].rstrip(":"))
    return tuple(found)


def parse_ip(text: str) -> tuple[int, int] | None:
    """(4 or 6, the address as a number); an IPv4 address mapped into IPv6 is the IPv4 address (RFC 4291, 2.5.5.2)."""
    family = AF_INET6 if ":" in text else AF_INET
    try:
        packed = inet_pton(family, text)
    except (OSError, ValueError):  # ValueError: a NUL in it, or characters that are not even UTF-8
        return None
    if len(packed) == 16 and packed[:12] == b"\0" * 10 + b"\xff\xff":
        packed = packed[12:]
    return (4 if len(packed) == 4 else 6), int.from_bytes(packed, "big")


def in_nets(address: tuple[int, int], nets: tuple[tuple[int, int, frozenset[int]], ...]) -> bool:
    """Whether one of the networks holds it: nets are (version, host bits, network numbers), one per prefix length."""
    version, number = address
    return any(version == v and number >> host_bits in numbers for v, host_bits, numbers in nets)


def glob_matches(pieces: tuple[str, ...], text: str) -> bool:
    """Whether text is the pieces with anything between them: `*` globs, split at the star, in linear time.

    Taking the leftmost place for each piece is enough, since what follows may be anything.
    """
    first, last = pieces[0], pieces[-1]
    if len(text) < len(first) + len(last) or not text.startswith(first) or not text.endswith(last):
        return False
    position, end = len(first), len(text) - len(last)
    for piece in pieces[1:-1]:
        position = text.find(piece, position, end)
        if position < 0:
            return False
        position += len(piece)
    return True


def part_of(text: str, part: str, delimiter: str) -> str:
    """A part of an address: localpart, user, extension or domain; all of it where no part is asked for."""
    if not part:
        return text
    local, at, domain = text.rpartition("@")
    if part == "domain":
        return domain if at else ""
    if part == "extension":
        return extension(text, delimiter)
    local = local if at else text
    return without_extension(local, delimiter) if part == "user" else local
