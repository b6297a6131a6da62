"""The values of a condition, by the kind of its key: text from the file in, a typed Match out, or Refused.

What a value may be
    exact text          compared without case for addresses, names and headers, with case for the rest
    ".suffix"           names and addresses below it, label by label; not the name itself
    "*" inside          a glob: the star stands for anything
    "192.0.2.0/24"      a network, for addresses of hosts
    ">N" "<N" N         for numbers
    true, false         for flags
    "re:PATTERN"        a regular expression found anywhere in the text, without case
    "list:NAME"         an entry of a [list.NAME] (looked up in access(5)'s order)
    "provider:NAME"     a host of a [provider.NAME] or of a shipped provider, for MX keys
    "attr:NAME"         equal to another attribute of the same request
    "08:00-18:00", "mon-fri", "DE", "zen.example=127.0.0.2*3"    for time, weekday, country and the DNS lists
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from postroom.envelope import unquoted
from postroom.mx import to_ascii
from postroom.rules import clock, dnsbl, keys, patterns
from postroom.rules.lookup import NAME_LIMIT, fold, parse_ip
from postroom.rules.problems import Refused, unknown

# An integer of more digits is nothing Postfix sends.
_DIGITS = 18


@dataclass(frozen=True)
class Match:
    """What a condition accepts: any of these. `shown` is how the file put it."""

    shown: tuple[str, ...] = ()
    entries: frozenset[str] = frozenset()
    globs: tuple[tuple[str, ...], ...] = ()
    patterns: tuple[tuple[str, int], ...] = ()
    lists: tuple[str, ...] = ()
    numbers: tuple[tuple[str, int], ...] = ()
    nets: tuple[tuple[int, int, frozenset[int]], ...] = ()
    flag: bool | None = None
    others: tuple[tuple[str, str], ...] = ()
    spans: tuple[tuple[int, int], ...] = ()
    days: frozenset[int] = frozenset()
    zones: tuple[tuple[Any, ...], ...] = ()
    at_least: int = 1
    counted: tuple[tuple[Any, ...], ...] = ()

    def __or__(self, other: Match) -> Match:
        return Match(
            self.shown + other.shown,
            self.entries | other.entries,
            self.globs + other.globs,
            self.patterns + other.patterns,
            self.lists + other.lists,
            self.numbers + other.numbers,
            _merge(self.nets + other.nets),
            other.flag if self.flag is None else self.flag,
            self.others + other.others,
            self.spans + other.spans,
            self.days | other.days,
            self.zones + other.zones,
            max(self.at_least, other.at_least),
            self.counted + other.counted,
        )


def united(parts: Sequence[Match]) -> Match:
    """What any of them accepts. Half and half, since each step copies what it joins: there can be 100,000 values."""
    if len(parts) < 2:
        return parts[0] if parts else Match()
    middle = len(parts) // 2
    return united(parts[:middle]) | united(parts[middle:])


@dataclass(frozen=True)
class Names:
    """What values may refer to. `attributes`: those of the stage, for "attr:"."""

    lists: frozenset[str] = frozenset()
    providers: Mapping[str, Match] = field(default_factory=dict)
    attributes: Mapping[str, keys.Key] = field(default_factory=dict)


# Kinds that are true or false.
FLAGS = ("flag", "null", "literal", "fcrdns", "yes")


def parse(kind: str, value: object, names: Names) -> Match:
    """One value of a key of this kind. Raises Refused."""
    if kind in FLAGS:
        if not isinstance(value, bool):
            raise Refused(f"expected true or false, found {show(value)}")
        return Match((show(value),), flag=value)
    if kind == "number":
        return _number(value)
    if kind == "dnsbl" and isinstance(value, dict):
        return _blocklists(value)
    if not isinstance(value, str):
        raise Refused(f"expected a text in quotes, found {show(value)}")
    return replace(_text(kind, value, names), shown=(value,))


def show(value: object) -> str:
    """A value as TOML writes it, short enough for a message."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict | list):
        return "a table" if isinstance(value, dict) else "a list"
    text = f'"{value}"' if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def show_table(value: object) -> str:
    """A table of settings in one line, for who explains a condition: key=sender limit=100/1h."""
    if not isinstance(value, dict):
        return show(value)
    texts = {name: ",".join(map(str, one)) if isinstance(one, list) else str(one) for name, one in value.items()}
    return " ".join(f"{name}={text}" for name, text in texts.items())


def _number(value: object) -> Match:
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if isinstance(text, str):
        operator = text[:1] if text[:1] in ("<", ">") else ""
        digits = text[len(operator) :].strip()
        if digits.isascii() and digits.isdigit() and len(digits) <= _DIGITS:
            return Match((text,), numbers=((operator or "=", int(digits)),))
    raise Refused(f'expected a number, ">N" or "<N", found {show(value)}')


def _text(kind: str, value: str, names: Names) -> Match:
    if kind in _OWN:
        return _OWN[kind](value)
    prefix, colon, rest = value.partition(":")
    if colon and prefix in _REFERENCES:
        return _reference(prefix, kind, rest, names)
    if kind in ("ip", "mx_address"):
        return _network(value)
    compared = "domain" if kind in ("mx", "ns") else kind
    if compared in ("domain", "address"):
        _single(compared, value)
    if "*" in value:
        return Match(globs=(tuple(fold(compared, _clean(value)).split("*")),))
    checked = {_clean(value)}
    if compared in ("domain", "address"):
        checked = _name(value) if compared == "domain" else _address(value)
    return Match(entries=frozenset(fold(compared, entry) for entry in checked))


def _list(kind: str, name: str, names: Names) -> Match:
    if name not in names.lists:
        raise Refused(unknown(name, names.lists, "list"))
    return Match(lists=(name,))


def _provider(kind: str, name: str, names: Names) -> Match:
    if kind != "mx":
        raise Refused("a provider is a set of MX hosts; expected at primary_mx, any_mx or every_mx")
    if name not in names.providers:
        raise Refused(unknown(name, names.providers, "provider", "a [provider.NAME] of the file or a shipped one"))
    return names.providers[name]


def _pattern(kind: str, pattern: str) -> Match:
    if kind in ("ip", "mx_address"):
        raise Refused("a pattern cannot be used here, expected an address or a network")
    return Match(patterns=((pattern, patterns.check(pattern)),))


def _other(kind: str, name: str, names: Names) -> Match:
    if kind not in keys.TEXTS:
        raise Refused("another attribute can only be compared with one that is a text")
    known = {other for other, key in names.attributes.items() if key.kind in keys.TEXTS and key.cost == keys.ATTRIBUTE}
    if name not in known:
        raise Refused(unknown(name, known, "attribute at this stage"))
    return Match(others=((names.attributes[name].source, names.attributes[name].part),))


_REFERENCES = ("list", "provider", "re", "attr")


def _reference(prefix: str, kind: str, name: str, names: Names) -> Match:
    if prefix == "list":
        return _list(kind, name, names)
    if prefix == "attr":
        return _other(kind, name, names)
    return _provider(kind, name, names) if prefix == "provider" else _pattern(kind, name)


def _clean(text: str) -> str:
    if any(character in text for character in "\0\r\n"):
        raise Refused("holds a line end or a NUL, which no attribute can hold")
    return text


def _single(kind: str, text: str) -> None:
    """Refuses several values in one text, which would never match, and a pattern as other files write it.

    Postfix holds "a b"@example.com as `a b@example.com`: of an address with a blank, lint() asks what is meant.
    """
    if len(text) > 2 and text[0] == text[-1] == "/":
        raise Refused(f'{show(text)} is written as a pattern of another kind of file; expected "re:{text[1:-1]}"')
    if kind == "address" and unquoted(text) != text:
        return
    words = text.split()
    if "," in text:
        sign, parts = "comma", [part.strip() for part in text.split(",") if part.strip()]
    elif len(words) > 1 and (kind == "domain" or "@" not in text or any("@" in word for word in words[:-1])):
        sign, parts = "blank", words
    else:
        return
    raise Refused(f"{show(text)} holds a {sign}; several values are a list: [{', '.join(map(show, parts))}]")


def _name(text: str, shown: str = "") -> set[str]:
    """A host or domain name, or with a leading dot all names below one; in both its spellings, U-labels and A-labels.

    `shown` is the whole value where the name is only a part of it.
    """
    bare = _clean(text).removesuffix(".").removeprefix(".")
    if "@" in text or "/" in text or any(character.isspace() for character in text):
        raise Refused(f'expected a name, ".suffix", a glob, "re:" or "list:", found {show(shown or text)}')
    if (text and not bare) or ".." in text or len(bare) > NAME_LIMIT:
        raise Refused(f"{show(shown or text)} is no domain name")
    return {text, *_spellings(text)}


def _spellings(name: str) -> set[str]:
    """The name as DNS has it, and in letters beyond ASCII: mail comes with either (RFC 6531 section 3.7.1)."""
    if name.isascii() and "xn--" not in name.lower():
        return set()
    dot = "." if name.startswith(".") else ""
    try:
        coded = to_ascii(name.strip("."))
    except UnicodeError as error:
        raise Refused(f"{show(name)} is no domain name: {error}") from error
    try:
        letters = [one[4:].encode().decode("punycode") if one[:4] == "xn--" else one for one in coded.split(".")]
    except UnicodeError:  # a label that only looks like one of these
        return {dot + coded}
    return {dot + coded, dot + ".".join(letters)}


def _address(text: str) -> set[str]:
    """An entry as access(5) has it: user@domain, domain, .domain, user@; empty or <> for the null sender.

    A local part may stand in quotes, without which Postfix holds it.
    """
    if text in ("", "<>"):
        return {""}
    local, at, domain = unquoted(_clean(text)).rpartition("@")
    if at and not local:
        raise Refused(f'expected "{domain}" for all addresses in it, found {show(text)}')
    if not at:
        return _name(text) if "." in text or not text.isascii() else {text}
    if not domain:
        return {f"{local}@"}
    return {f"{local}@{name}" for name in _name(domain, text)}


def _network(text: str) -> Match:
    host, slash, length = text.partition("/")
    parsed = parse_ip(host)
    if parsed is None:
        raise Refused(f'expected an address or a network such as "192.0.2.0/24", found {show(text)}')
    version, number = parsed
    bits = 32 if version == 4 else 128
    if not slash:
        return Match(nets=((version, 0, frozenset({number})),))
    if not (length.isascii() and length.isdigit() and int(length[:4]) <= bits):
        raise Refused(f"expected a prefix length of 0 to {bits} after the slash, found {show(text)}")
    host_bits = bits - int(length)
    if number & ((1 << host_bits) - 1):
        raise Refused(f"{show(text)} has bits set behind its prefix length; which network is meant?")
    return Match(nets=((version, host_bits, frozenset({number >> host_bits})),))


def list_entry(text: str) -> set[str]:
    """An entry of a list, folded; what a list cannot hold is refused, since it would never be found."""
    prefix, colon, _ = text.partition(":")
    if "*" in text or (colon and prefix in _REFERENCES) or text != text.strip():
        raise Refused(f"a list holds addresses, names and networks, one each, not {show(text)}")
    if "/" in text and "@" not in text:
        _network(text)
        return {text}
    _single("address", text)
    return {fold("domain", entry) for entry in _address(text)} - {""} or {"<>"}


def _merge(nets: tuple[tuple[int, int, frozenset[int]], ...]) -> tuple[tuple[int, int, frozenset[int]], ...]:
    merged: dict[tuple[int, int], frozenset[int]] = {}
    for version, host_bits, numbers in nets:
        merged[version, host_bits] = merged.get((version, host_bits), frozenset()) | numbers
    return tuple((version, host_bits, numbers) for (version, host_bits), numbers in merged.items())


def _mx_state(text: str) -> Match:
    if text not in keys.MX_STATES:
        raise Refused(unknown(text, keys.MX_STATES, "state"))
    return Match(entries=frozenset({text}))


def _country(text: str) -> Match:
    """ISO 3166-1 alpha-2, as country databases have it."""
    if len(text) != 2 or not (text.isascii() and text.isalpha()):
        raise Refused(f'expected a country of two letters, such as "DE", found {show(text)}')
    return Match(entries=frozenset({text.upper()}))


def _blocklists(table: dict[str, Any]) -> Match:
    """{ zones = [...], at_least = N }: the weights of the zones that list the client together."""
    for name in table:
        if name not in ("zones", "at_least"):
            raise Refused(unknown(name, ("zones", "at_least"), "setting"))
    zones = table.get("zones")
    if not isinstance(zones, list) or not zones or not all(isinstance(zone, str) for zone in zones):
        raise Refused('zones: expected a list of texts, zones = ["zen.example", "bl.example*2"]')
    at_least = table.get("at_least", 1)
    if isinstance(at_least, bool) or not isinstance(at_least, int) or not 0 < at_least < 10**6:
        raise Refused(f"at_least: expected a whole number above 0, found {show(at_least)}")
    found = tuple(dnsbl.parse_zone(zone) for zone in zones)
    return Match(shown=(f"{', '.join(zones)} at least {at_least}",), zones=found, at_least=at_least)


_OWN: dict[str, Callable[[str], Match]] = {
    "mx_state": _mx_state,
    "country": _country,
    "time": lambda text: Match(spans=(clock.span(text),)),
    "weekday": lambda text: Match(days=clock.days(text)),
    "dnsbl": lambda text: Match(zones=(dnsbl.parse_zone(text),)),
}
