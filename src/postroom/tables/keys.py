"""Under which keys a value is looked up in a table: whole first, then ever less of it, in each of its spellings.

Postfix holds an address without quotes and looks up a domain as it was spelled. Who writes a list does not know in
which form mail will come: a domain is found by its U-labels and by its A-labels, a local part with quotes and without.
"""

from __future__ import annotations

from postroom.envelope import quote
from postroom.mx import to_ascii
from postroom.rules.lookup import NAME_LIMIT, keys_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

# What isspace() of C is in Postfix, which never leaves the C locale: a no-break space is part of a word.
BLANK = " \t\n\v\f\r"


def table_keys(kind: str, value: str, delimiter: str, quoted: bool = False) -> Iterator[str]:
    """access(5)'s order. `quoted`: also with the quotes that the local part needs in a file that Postfix made."""
    value = fold_key(value)
    forms = _spellings(kind, value)
    for level in zip(*(keys_of(kind, form, delimiter) for form in forms), strict=True):
        for key in level:
            if quoted and kind == "address" and "@" in key:
                written = written_form(key)
                if written != key:
                    yield written
            yield key


def fold_key(key: str) -> str:
    """As Postfix folds keys of fixed tables: full Unicode case folding (src/util/casefold.c)."""
    return key.lower() if key.isascii() else key.casefold()


def coded(key: str) -> bytes:
    """The bytes that a key came as. A lone surrogate, which no bytes stand for, is in no table either."""
    try:
        return key.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return key.encode("utf-8", "surrogatepass")


def full_key(kind: str, value: str) -> str:
    """What a table that takes no partial keys is asked for."""
    return "<>" if kind == "address" and not value else value


def written_form(key: str) -> str:
    """`"a b"@example.com` for `a b@example.com`; `"a b"@` for `a b@`."""
    if not key.rpartition("@")[0]:
        return key
    return quote(key) if key[-1] != "@" else quote(key + "x")[:-1]


def _spellings(kind: str, value: str) -> tuple[str, ...]:
    """The value, and the same with its domain in the other of its spellings."""
    if kind not in ("address", "domain") or (value.isascii() and "xn--" not in value):
        return (value,)
    local, at, domain = value.rpartition("@") if kind == "address" else ("", "", value)
    if not domain or len(domain) > NAME_LIMIT or (kind == "address" and not at):
        return (value,)
    try:
        other = _to_unicode(domain) if domain.isascii() else to_ascii(domain)
    except UnicodeError:
        return (value,)
    return (value,) if other == domain or other.count(".") != domain.count(".") else (value, local + at + other)


def _to_unicode(domain: str) -> str:
    """A-labels as U-labels; UnicodeError where there is no such form."""
    labels = [
        label[4:].encode("ascii").decode("punycode") if label.startswith("xn--") else label
        for label in domain.split(".")
    ]
    return fold_key(".".join(labels))
