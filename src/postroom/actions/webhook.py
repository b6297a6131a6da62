"""`webhook URL [ca=PATH] [secret=PATH]`: POST the mail to an HTTP server. Its answer is the outcome:

    2xx                         sent
    4xx, body "5.N.N text"      bounced, in these words; not for 401, 407, 408, 421, 425, 429
    410, 413, 422               bounced: gone for good, too large, not acceptable (RFC 9110 section 15.5)
    "4.N.N text"                deferred, in these words
    anything else, or nothing   deferred

400, 401, 403 and 404 are what a slip in a URL, a proxy or a password looks like: on their own they bounce nothing. A
redirect is not followed. The body is the mail as a maildir has it: Return-Path, X-Original-To and Delivered-To on top.
With `secret=` the request is signed as www.standardwebhooks.com has it.
"""

from __future__ import annotations

from postroom import __version__
from postroom.actions import failed
from postroom.actions.http import Answer, Url, post
from postroom.actions.maildir import header_lines
from postroom.actions.session import Ended
from postroom.envelope import NAMES
from postroom.status import BOUNCED, DEFERRED, ConfigurationFault, Outcome, bounced, clean, deferred, parse, sent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from postroom.delivery import Mail

# What these say is about this very mail, or this very URL, and for good.
NEVER = {410: "5.2.1", 413: "5.3.4", 422: "5.6.0"}
# Who is not let in, or shall come back later, is told nothing about the mail, whatever the body says.
NOT_ABOUT_THE_MAIL = (401, 407, 408, 421, 425, 429)

_PLAIN = frozenset(map(chr, range(33, 127))) - {"%"}


def deliver(words: tuple[str, ...], mail: Mail) -> Outcome:
    head = header_lines(mail)

    def body() -> Iterator[bytes]:
        yield head
        yield from mail.message.chunks()

    return send(words, mail, "message/rfc822", envelope(mail), body, len(head) + mail.message.size, mail.key().hex())


def send(
    words: tuple[str, ...],
    mail: Mail,
    content_type: str,
    more: dict[str, str],
    body: Callable[[], Iterator[bytes]],
    size: int,
    identity: str,
) -> Outcome:
    """POST `body`, which may be asked for twice. `identity` is the same whenever this is tried again."""
    url, options = words[1], dict(option.split("=", 1) for option in words[2:])
    headers = {
        "Content-Type": content_type,
        "Content-Length": str(size),
        "User-Agent": f"Postroom/{__version__}",
        "Connection": "close",
        "Idempotency-Key": identity,
        **more,
    }
    if "secret" in options:
        headers |= signed(options["secret"], identity, body())
    try:
        answer = post(Url(url), headers, body(), options.get("ca", ""), mail.deadline)
    except Ended as end:
        return end.outcome
    mail.log["retry_after"] = clean(answer.retry_after)[:40] or None
    return verdict(answer)


def verdict(answer: Answer) -> Outcome:
    if 200 <= answer.code < 300:
        return sent(str(answer))
    about_the_mail = 400 <= answer.code < 500 and answer.code not in NOT_ABOUT_THE_MAIL
    stated = parse(clean(answer.text)) if 400 <= answer.code < 600 else None
    if stated is not None and (stated.kind == DEFERRED or (stated.kind == BOUNCED and about_the_mail)):
        return stated
    if answer.code in NEVER:
        return bounced(str(answer), NEVER[answer.code])
    if answer.code == 500:  # the program behind the server broke down, perhaps over this very mail
        return failed(str(answer))
    return deferred(str(answer), "4.3.5" if 300 <= answer.code < 400 else "4.3.0")


def envelope(mail: Mail) -> dict[str, str]:
    """The envelope as header fields. Printable ASCII stands for itself; all else, and %, is percent-encoded."""
    values = {name: str(getattr(mail.envelope, name)) for name in NAMES}
    values |= {"recipient": mail.recipient, "original_recipient": mail.original_recipient}
    values["size"] = str(mail.message.size)
    # The null sender is knowledge, and so stands there, empty; whatever else is empty is not known.
    return {
        "Postroom-" + name.replace("_", "-").title(): _encoded(value)
        for name, value in values.items()
        if value or name == "sender"
    }


def _encoded(value: str) -> str:
    data = value.encode("utf-8", "surrogateescape")
    return "".join(chr(byte) if chr(byte) in _PLAIN else f"%{byte:02X}" for byte in data)


def signed(path: str, identity: str, body: Iterator[bytes]) -> dict[str, str]:
    """The three fields of Standard Webhooks: HMAC-SHA256 over `id.timestamp.body`."""
    import hmac
    import time
    from binascii import b2a_base64

    now = str(int(time.time()))
    digest = hmac.new(_key(path), f"{identity}.{now}.".encode(), "sha256")
    for piece in body:
        digest.update(piece)
    signature = b2a_base64(digest.digest(), newline=False).decode()
    return {"Webhook-Id": identity, "Webhook-Timestamp": now, "Webhook-Signature": f"v1,{signature}"}


def _key(path: str) -> bytes:
    """`whsec_` and base64, as the services hand secrets out, or else the line as it is."""
    from binascii import Error, a2b_base64

    from postroom.actions.credentials import secret

    text = secret(path, "secret")
    if not text.startswith("whsec_"):
        return text.encode("utf-8", "surrogateescape")
    try:
        return a2b_base64(text.removeprefix("whsec_"), strict_mode=True)
    except (Error, ValueError):
        raise ConfigurationFault("the file of secret= is not right: expected base64 behind whsec_") from None
