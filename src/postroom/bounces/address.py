"""Addresses as reports write them, into Postfix's internal form (unquoted)."""

from __future__ import annotations

# RFC 5321 allows 64 + 1 + 255; UTF-8 and quoting take more.
ADDRESS_LIMIT = 1000


def recipient(value: bytes) -> str:
    """The address of a Final-Recipient or Original-Recipient field (RFC 3464 section 2.3); "" where it is none.

    Postfix writes `rfc822; x` and `rfc822;x`, `utf-8; x` with the address as it is (RFC 6533), and an ORCPT decoded and
    unquoted (`a@b@host`): so the last `@` counts, here as everywhere. A program, a file or a bare name is no address.
    """
    if len(value) > ADDRESS_LIMIT:
        return ""
    text = value.decode("utf-8", "surrogateescape").strip()
    kind, semicolon, rest = text.partition(";")
    if semicolon and "@" not in kind and '"' not in kind:
        text = rest.strip()
        if kind.strip().lower() == "utf-8":
            text = _unescape(text)
    text = _bare(text)
    for prefix in ("smtp:", "mailto:"):  # left in by Exchange, and by readers of HTML
        if text[: len(prefix)].lower() == prefix:
            text = text[len(prefix) :]
    return unquote(text)


def unquote(address: str) -> str:
    """`"john doe"@example.com` as Postfix has it inside: `john doe@example.com`; "" where it is no address."""
    local, at, domain = address.rpartition("@")
    if len(local) > 1 and local[0] == local[-1] == '"':
        local = _unbackslash(local[1:-1])
    domain = domain.rstrip(".")
    good = at and local and domain and local[0] not in "|/" and not any(c in domain for c in ' \t"<>(),;:\\')
    printable = not any(c < " " or c == "\x7f" for c in local + domain)
    return f"{local}@{domain}" if good and printable else ""


def _bare(text: str) -> str:
    """Without angle brackets, route (`@a,@b:user@c`), and what follows the address."""
    if text.startswith("<") and ">" in text:
        text = text[1 : text.rindex(">")]
    if text.startswith("@") and ":" in text:
        text = text.partition(":")[2]
    return text.strip()


def _unbackslash(text: str) -> str:
    parts = text.split("\\\\")
    return "\\".join(part.replace("\\", "") for part in parts)


def _unescape(text: str) -> str:
    r"""utf-8-addr-xtext (RFC 6533 section 3): `\x{FC}` is one character."""
    first, *pieces = text.split("\\x{")
    for piece in pieces:
        digits, brace, rest = piece.partition("}")
        try:
            first += chr(int(digits, 16)) + rest if brace else "\\x{" + piece
        except (ValueError, OverflowError):
            first += "\\x{" + piece
    return first
