"""Which address an address is to trivial-rewrite(8): the one that mail for it is delivered to.

At the SMTP stages Postfix passes a recipient as the client typed it. What it then makes of it, it makes in two steps:
cleanup(8) has it rewritten, whatever its domain is, and the resolver takes domains of this host away for as long as
another address stands before them (src/trivial-rewrite/rewrite.c, resolve.c; src/global/quote_822_local.c). Postfix's
own access tables are asked for the result (src/smtpd/smtpd_check.c, check_mail_access), and so are our rules: where
they were asked for what was typed, whoever types knew how to stand outside of them.

    example.com!staff                   swap_bangpath; whatever the domain is
    staff%example.com                   allow_percent_hack; the same
    @relay.example:staff@example.com    a source route, which smtpd(8) leaves in place where it is in quotes
    staff                               append_at_myorigin
    example.com!staff@                  no domain at all, which is this host
    staff%example.com@example.com       the domain at the end has to be one of this host
    staff@example.com@example.com       resolve_dequoted_address: "staff@example.com"@example.com

`local` is mydestination as compile.py has it: names, and (version, number) for address literals.
"""

from __future__ import annotations

from postroom.rules.lookup import parse_ip

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Set

    # (mydestination, myorigin)
    Local = tuple[Set[str | tuple[int, int]], str]

# What an address can be hidden behind.
_OPERATORS = frozenset("@%!")

# No local part holds them without quotes (src/global/quote_822_local.c, is_822_dot_string).
_SPECIAL = frozenset(' ()<>@,;:\\"[]\x7f' + "".join(map(chr, range(32))))
# Outside of words, signs stand by themselves. Those that are quoted mean nothing, and are kept meanwhile as what
# can come in no request (surrogateescape makes others).
_BLANKS = " \t\n\v\f\r"
_SIGNS = frozenset("@%!.:,;<>)]")
_HIDDEN = {"@": "\ud800", "%": "\ud801", "!": "\ud802", ":": "\ud803", ".": "\ud804"}
_SHOWN = {ord(hidden): sign for sign, hidden in _HIDDEN.items()}
_BRACKETS = {'"': '"', "(": ")", "[": "]"}
_ODD = _SPECIAL - {"@"} | {"%", "!"}


def resolved(address: str, local: Set[str | tuple[int, int]], origin: str) -> str:
    """`origin`, myorigin, may be empty: what has no domain then stays without."""
    if not address or (address.count("@") == 1 and address[0] != "@" and _ODD.isdisjoint(address)):
        return address  # as nearly always
    address = _rewritten(address, origin)
    while True:
        before, at, domain = address.rpartition("@")
        if not at:
            return address
        domain = _domain(domain)
        if domain and not _is_local(domain, local):
            return f"{before}@{domain}".translate(_SHOWN)
        if _OPERATORS.isdisjoint(before):
            return f"{before or 'MAILER-DAEMON'}@{domain or origin}".translate(_SHOWN)
        address = _rewritten(_uncovered(before), origin)


def _rewritten(address: str, origin: str) -> str:
    """rewrite.c, rewrite_tree(): what is done to every address, without a look at whose domain it is."""
    if address.startswith("@"):
        address = _without_route(address)
    if "@" not in address:
        if ("!" in address or "%" in address) and not _needs_quotes(address):
            address = _swapped(address, "!" if "!" in address else "%")
        elif origin:
            address = f"{address}@{origin}"
    before, at, domain = address.rpartition("@")
    return before + at + _domain(domain) if at else address


def _without_route(address: str) -> str:
    route, colon, behind = address.partition(":")
    if not colon:
        return address
    if not _scanned(route + colon).endswith(":"):  # that one is quoted; the next may stand in the domain
        _, another, end = address.rpartition("@")[2].partition(":")
        return end if another else behind
    return behind


def _domain(text: str) -> str:
    domain = _scanned(text)
    if domain.endswith(".") and not domain.endswith("..") and domain != ".":
        domain = domain[:-1]
    return domain.translate(_SHOWN)


def _uncovered(before: str) -> str:
    """The address in a local part. In quotes, `%` goes before `!`; without them it is the other way round."""
    if "@" in before:
        return before
    if not _needs_quotes(before):
        return _swapped(before, "!" if "!" in before else "%")
    if "%" in before:
        return _swapped(before, "%")
    text = _scanned(before)
    if "!" not in text:  # all of it may have been in quotes of its own, which are gone now
        shown = text.translate(_SHOWN)
        return shown if len(shown) < len(before) else text
    text = _swapped(text, "!")
    return text.replace(" ", "").translate(_SHOWN) if text.endswith("@") else text


def _swapped(text: str, operator: str) -> str:
    if operator == "!":
        site, _, user = text.partition("!")
    else:
        user, _, site = text.rpartition("%")
    return f"{user}@{site}"


def _needs_quotes(local: str) -> bool:
    return not local or local[0] == "." or local[-1] == "." or ".." in local or not _SPECIAL.isdisjoint(local)


def _scanned(text: str) -> str:
    """What stands outside of a quoted local part is taken apart each time (src/global/tok822_parse.c): without quotes,
    backslashes and blanks, but for one between two words.
    """
    if _SPECIAL.isdisjoint(text):
        return text
    found: list[str] = []
    after_word, place = False, 0
    while place < len(text):
        if text[place] in _BLANKS:
            place += 1
        elif text[place] in _SIGNS:
            found.append(text[place])
            after_word, place = False, place + 1
        else:
            word, place = _word(text, place)
            found.append(" " + word if after_word else word)
            after_word = True
    return "".join(found)


def _word(text: str, start: int) -> tuple[str, int]:
    """The word that begins there, and where it ends. One kept in brackets of any kind ends with the last of them."""
    opening = text[start]
    closing = _BRACKETS.get(opening, "")
    found: list[str] = []
    depth, place = 0, start + 1 if closing else start
    while place < len(text):
        character = text[place]
        if character == closing and depth == 0:
            place += 1
            break
        if not closing and (character in _SIGNS or character in _BRACKETS or character in _BLANKS):
            break
        if opening == "(":
            depth += (character == "(") - (character == ")")
        if character == "\\":
            place += 1
            character = text[place : place + 1]
        found.append(_HIDDEN.get(character, character))
        place += 1
    word = "".join(found)
    return (word if opening not in "([" else opening + word + closing), place


def _is_local(domain: str, local: Set[str | tuple[int, int]]) -> bool:
    domain = domain.lower()
    if domain.startswith("[") and domain.endswith("]"):
        return parse_ip(domain[1:-1].removeprefix("ipv6:")) in local
    return domain in local
