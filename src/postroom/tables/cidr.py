"""cidr_table(5): networks in the order of the file, `!`, if and endif; the first that holds the address counts.

Ten thousand plain networks are not tried one by one: they are kept by prefix length, each with its place in the file.
What is negated, or stands between if and endif, is tried in order.
"""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, inet_pton

from postroom.rules.lookup import parse_ip
from postroom.status import ConfigurationFault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from postroom.deadline import Deadline

    # family (4 or 6), host bits, number of the network, whether it is a `!`
    Net = tuple[int, int, int, bool]
    # place in the file, network, text; for `if` the place of its endif instead of the text
    Odd = tuple[int, Net, str | int]


class Cidr:
    __slots__ = ("_by_length", "_odd")

    def __init__(self, rules: Iterable[tuple[str, str]]) -> None:
        self._by_length: dict[tuple[int, int], dict[int, tuple[int, str]]] = {}
        self._odd: list[Odd] = []
        opened: list[tuple[int, str]] = []
        for index, (place, line) in enumerate(rules):
            self._rule(index, place, line, opened)
        if opened:
            raise ConfigurationFault(f"{opened[-1][1]}: if without endif")

    def _rule(self, index: int, place: str, line: str, opened: list[tuple[int, str]]) -> None:
        word, rest = _split(line)
        if word.lower() == "endif":
            if rest or not opened:
                raise ConfigurationFault(f"{place}: " + ("garbage after endif" if rest else "endif without if"))
            start = opened.pop()[0]
            number, net, _ = self._odd[start]
            self._odd[start] = (number, net, len(self._odd))
        elif line[:2].lower() == "if" and not line[2:3].isalnum():
            opened.append((len(self._odd), place))
            self._odd.append((index, _net(line[2:], place), 0))
        else:
            self._network(index, place, line, bool(opened))

    def _network(self, index: int, place: str, line: str, inside: bool) -> None:
        bare = line.lstrip("! \t")
        pattern, text = _split(bare)
        net = _net(line[: len(line) - len(bare)] + pattern, place)
        if not text:
            raise ConfigurationFault(f"{place}: expected a network, white space and a text")
        family, host_bits, number, negated = net
        if inside or negated:
            self._odd.append((index, net, text))
        else:
            self._by_length.setdefault((family, host_bits), {}).setdefault(number, (index, text))

    def find(self, kind: str, value: str, delimiter: str, deadline: Deadline | None = None) -> bool | str:
        """What is no address is in no network. An IPv4 address mapped into IPv6 is also looked up as IPv4."""
        family, packed = _packed(value)
        if not family:
            return False
        found = self._first(family, int.from_bytes(packed, "big"))
        plain = parse_ip(value)
        if found is False and plain is not None and plain[0] != family:
            found = self._first(*plain)
        return found

    def _first(self, family: int, number: int) -> bool | str:
        best: tuple[float, bool | str] = (float("inf"), False)
        for (version, host_bits), networks in self._by_length.items():
            if version == family and number >> host_bits in networks:
                best = min(best, networks[number >> host_bits], key=lambda found: found[0])
        position = 0
        while position < len(self._odd) and self._odd[position][0] < best[0]:
            _, net, then = self._odd[position]
            holds = _holds(net, family, number)
            if isinstance(then, str):
                if holds:
                    return then
                position += 1
            else:
                position = position + 1 if holds else then
        return best[1]


def _holds(net: Net, family: int, number: int) -> bool:
    """`!` holds what is outside of its network, but no address of the other family (src/util/cidr_match.c)."""
    version, host_bits, network, negated = net
    return version == family and (number >> host_bits == network) is not negated


def _split(line: str) -> tuple[str, str]:
    words = line.split(None, 1)
    return words[0] if words else "", words[1] if len(words) > 1 else ""


def _net(pattern: str, place: str) -> Net:
    bare = pattern.strip().lstrip("! \t")
    negated = pattern.count("!") % 2 == 1
    host, slash, length = bare.partition("/")
    if host[:1] == "[" and host[-1:] == "]":
        host = host[1:-1]
    family, packed = _packed(host)
    bits = len(packed) * 8
    if not family or (slash and not (length.isascii() and length.isdigit() and int(length[:4]) <= bits)):
        raise ConfigurationFault(f"{place}: expected a network such as 192.0.2.0/24, found {bare[:60]}")
    host_bits = bits - int(length) if slash else 0
    number = int.from_bytes(packed, "big")
    if number & ((1 << host_bits) - 1):
        raise ConfigurationFault(f"{place}: {bare[:60]} has bits set behind its prefix length; which network is meant?")
    return family, host_bits, number >> host_bits, negated


def _packed(text: str) -> tuple[int, bytes]:
    family = AF_INET6 if ":" in text else AF_INET
    try:
        return (6 if family == AF_INET6 else 4), inet_pton(family, text)
    except (OSError, ValueError):  # ValueError: a NUL in it, or characters that are not even UTF-8
        return 0, b""
