"""Which clients count as one: those of a sender that sends from many hosts, and tries again from another one.

    mail-ej1-f54.google.com            google.com
    a8-31.smtp-out.amazonses.com       smtp-out.amazonses.com
    mail.example.com                   mail.example.com
    mx1.example.co.uk                  example.co.uk
    host-192-0-2-7.isp.example         192.0.2.0/24: the name is made of the address, and says nothing of who sends
    2001-db8-7--25.isp.example         2001:db8:7::/64: the same
    unknown                            192.0.2.0/24

The name has to be verified: it leads back to the address (smtpd(8)'s client_name, which else is `unknown`). Of it, the
labels at the front that carry digits are taken off, for as long as two labels stay, or three where the last two look
like a registry's (`co.uk`). Where that is in doubt, the pool is the smaller one.
"""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, inet_ntop

from postroom.rules.lookup import NAME_LIMIT, parse_ip

_NAME = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_")
_DIGITS = frozenset("0123456789")
# Below a country's domain, second-level names of up to three letters are mostly the registry's (co, com, ac, gov);
# these are longer.
_REGISTRY = frozenset(("asso", "firm", "gouv", "govt", "info", "name", "police", "school"))


def pool(client_address: str, reverse_client_name: str, client_name: str, mask: tuple[int, int] = (24, 64)) -> str:
    """A domain, or a network by `mask` (of IPv4 and IPv6); the address as it is where it is none."""
    address = parse_ip(client_address)
    name = client_name.lower().removesuffix(".")
    # smtpd(8) takes client_name from reverse_client_name. Where they differ, somebody else has set one of them.
    claimed = reverse_client_name.lower().removesuffix(".")
    if claimed in ("", name) and not _made_of(name, address):
        domain = _domain(name)
        if domain:
            return domain
    return client_address.lower() if address is None else network(address, mask)


def _domain(name: str) -> str:
    """What is left of a host's name; empty where it is none that can be gone by."""
    labels = name.split(".")
    if len(name) > NAME_LIMIT or len(labels) < 2 or not all(label and _NAME.issuperset(label) for label in labels):
        return ""
    if _DIGITS.issuperset(labels[-1]):
        return ""  # an address where a name should be
    keep = 3 if len(labels[-1]) == 2 and (len(labels[-2]) <= 3 or labels[-2] in _REGISTRY) else 2
    first = 0
    while len(labels) - first > keep and not _DIGITS.isdisjoint(labels[first]):
        first += 1
    return ".".join(labels[first:])


def _made_of(name: str, address: tuple[int, int] | None) -> bool:
    """Whether all of an address is in the name: of IPv4 four numbers in any order, or hexadecimal digits."""
    if address is None:
        return False
    if address[0] == 6:
        return _made_of_ipv6(name, f"{address[1]:032x}")
    octets = [address[1] >> shift & 255 for shift in (24, 16, 8, 0)]
    if f"{address[1]:08x}" in name or "".join(f"{octet:03}" for octet in octets) in name:
        return True
    words = "".join(character if character in _DIGITS else " " for character in name[:NAME_LIMIT]).split()
    numbers = [int(word) for word in words]
    return all(numbers.count(octet) >= octets.count(octet) for octet in octets)


def _made_of_ipv6(name: str, digits: str) -> bool:
    """As 32 digits in either direction, parted or not; or as the groups that are not zero, 2001-db8-7--25."""
    words = name[:NAME_LIMIT].replace("-", ".").split(".")
    if digits in "".join(words) or digits[::-1] in "".join(words):
        return True
    groups = {digits[place : place + 4].lstrip("0") for place in range(0, 32, 4)} - {""}
    return len(groups) > 2 and groups <= {word.lstrip("0") for word in words}


def network(address: tuple[int, int], mask: tuple[int, int]) -> str:
    version, number = address
    bits, length, family = (32, mask[0], AF_INET) if version == 4 else (128, mask[1], AF_INET6)
    number = number >> (bits - length) << (bits - length)
    return f"{inet_ntop(family, number.to_bytes(bits // 8, 'big'))}/{length}"
