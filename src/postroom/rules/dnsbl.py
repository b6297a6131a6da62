"""Lists of addresses and domains that DNS is asked for (RFC 5782), in the words of postscreen_dnsbl_sites; no I/O.

    zones = tuple(parse_zone(text) for text in ("zen.example=127.0.0.[2..11]*2", "white.example*-4"))
    judge(zones, 2, {"zen.example": ("127.0.0.2",), "white.example": Unknown("time-out")})      # Unknown

Rules for this file
* Syntax and score are postscreen(8)'s (postconf(5), src/postscreen/postscreen_dnsbl.c, src/util/ip_match.c), but for
  two things that a list says without meaning "listed": see _is_listing() and REFUSAL.
* A zone that did not answer may have listed the name or not. The verdict is the one that stands whichever it was.
* parse_zone() runs when a file is checked. The rest runs while mail waits, on tuples that marshal can keep.
"""

from __future__ import annotations

from postroom.mx import to_ascii, valid_hostname
from postroom.rules import Unknown
from postroom.rules.lookup import parse_ip

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    # For each octet the ranges that fit; None: any listing.
    Filter = tuple[tuple[tuple[int, int], ...], ...]
    Zone = tuple[str, Filter | None, int]
    Answers = Mapping[str, tuple[str, ...] | Unknown]

# Each zone is a question that strangers make us ask. postscreen(8) is run with ten of them; dns.py asks all at the same
# time, with a socket and a thread for each.
ZONES_LIMIT = 64

# No list is worth more; and a sum stays readable in a log.
WEIGHT_LIMIT = 1000

# What a list answers to a client that it does not serve, for every name: 127.255.255.252 a mistyped zone, .254 an open
# resolver, .255 too many questions (docs.spamhaus.com, "Return codes"; others have taken it over). It says nothing
# about the name, and taken for a listing it refuses all mail.
REFUSAL = ((127 << 24) | (255 << 16) | (255 << 8)) >> 8

_REASONS = 3


def parse_zone(text: str) -> Zone:
    """`zone[=filter][*weight]`: the zone in lower case and A-labels, the filter, the weight. Raises Refused."""
    from postroom.rules.problems import Refused  # only where a file is checked: it costs a program 15 ms

    if any(sign in text for sign in ", \t\n"):
        raise Refused(f'expected one "zone[=filter][*weight]"; several are a list, found "{text[:60]}"')
    rest, star, weight = text.partition("*")
    zone, equals, reply = rest.partition("=")
    try:
        name = to_ascii(zone)
    except UnicodeError:
        name = ""
    if not valid_hostname(name):
        raise Refused(f'expected the domain name of a list before any "=" or "*", found "{text[:60]}"')
    try:
        return name, _filter(reply) if equals else None, _weight(weight) if star else 1
    except ValueError as error:
        raise Refused(f'"{text[:60]}": {error}') from None


def zone_names(zones: tuple[Zone, ...]) -> tuple[str, ...]:
    """Whom to ask, each once: one zone may stand in several entries, with different filters."""
    return tuple(dict.fromkeys(name for name, _, _ in zones))


def score(zones: tuple[Zone, ...], answers: Answers) -> tuple[int, int, tuple[str, ...]]:
    """The least and the most that the weights can come to, and why these differ.

    The weight of an entry counts once, however many addresses fit. Each entry of a silent zone is taken to be free of
    the others: with two filters on one such zone the bounds may be wider than they have to be, never narrower.
    """
    least = most = 0
    reasons: dict[str, None] = {}
    for name, reply, weight in zones:
        answer = answers.get(name)
        hit = None if answer is None or isinstance(answer, Unknown) else _hit(reply, answer)
        least += weight if hit or (hit is None and weight < 0) else 0
        most += weight if hit or (hit is None and weight > 0) else 0
        if hit is None:
            reasons[f"{name}: {_why(answer)}"] = None
    return least, most, tuple(reasons)


def judge(zones: tuple[Zone, ...], at_least: int, answers: Answers) -> bool | Unknown:
    """Whether the weights come to `at_least`; Unknown where that depends on a zone that did not tell."""
    least, most, reasons = score(zones, answers)
    if least >= at_least:
        return True
    return Unknown("; ".join(reasons[:_REASONS])) if most >= at_least else False


def _hit(reply: Filter | None, addresses: tuple[str, ...]) -> bool | None:
    """Whether the entry counts; None where the zone refused to say."""
    numbers = [number for version, number in filter(None, map(parse_ip, addresses)) if version == 4]
    hit = any(_is_listing(number) if reply is None else _fits(reply, number) for number in numbers)
    return None if not hit and any(number >> 8 == REFUSAL for number in numbers) else hit


def _is_listing(number: int) -> bool:
    """RFC 5782 section 2.1: listings are in 127.0.0.0/8. Anything else is a resolver that answers for names that do not
    exist, or the web server of whoever bought a dead list's domain; postscreen(8) takes it for a listing of everybody.
    """
    return number >> 24 == 127 and number >> 8 != REFUSAL


def _fits(reply: Filter, number: int) -> bool:
    octets = (number >> 24, number >> 16 & 255, number >> 8 & 255, number & 255)
    return all(any(low <= octet <= high for low, high in ranges) for octet, ranges in zip(octets, reply, strict=True))


def _why(answer: tuple[str, ...] | Unknown | None) -> str:
    if isinstance(answer, Unknown):
        return answer.reason
    return "was not asked" if answer is None else f"does not serve us ({', '.join(answer)[:60]})"


def _filter(text: str) -> Filter:
    """`d.d.d.d`, each d a number or `[1;3..5]`; brackets around all of it are taken off. ValueError otherwise."""
    if text.startswith("[") and _closing(text) == len(text) - 1:
        text = text[1:-1]
    octets = _octets(text)
    if len(octets) != 4:
        raise ValueError('expected a filter such as "127.0.0.2" or "127.0.0.[2..11]" after the "="')
    return tuple(_ranges(octet) for octet in octets)


def _closing(text: str) -> int:
    """Where the bracket closes that opens the text; -1 where it does not."""
    depth = 0
    for place, character in enumerate(text):
        depth += (character == "[") - (character == "]")
        if depth == 0:
            return place
    return -1


def _octets(text: str) -> list[str]:
    """Parted at the dots outside of brackets; inside, two of them make a range."""
    octets, depth = [""], 0
    for character in text:
        depth += (character == "[") - (character == "]")
        if character == "." and depth == 0:
            octets.append("")
        else:
            octets[-1] += character
    return octets


def _ranges(octet: str) -> tuple[tuple[int, int], ...]:
    if not octet.startswith("["):
        return ((_number(octet), _number(octet)),)
    if not octet.endswith("]"):
        raise ValueError(f'missing "]" after "{octet}"')
    found = []
    for member in octet[1:-1].split(";"):
        low, dots, high = member.partition("..")
        first, last = _number(low), _number(high if dots else low)
        if first > last:
            raise ValueError(f'"{member}" runs backwards')
        found.append((first, last))
    return tuple(found)


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 3 and int(text) <= 255):
        raise ValueError(f'expected a number from 0 to 255 in the filter, found "{text}"')
    return int(text)


def _weight(text: str) -> int:
    digits = text.removeprefix("-") if text.startswith("-") else text.removeprefix("+")
    if not (digits.isascii() and digits.isdigit() and int(digits[:9]) <= WEIGHT_LIMIT):
        raise ValueError(f'expected a whole number up to {WEIGHT_LIMIT} after the "*", found "{text}"')
    return int(text)
