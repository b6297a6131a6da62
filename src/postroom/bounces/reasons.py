"""Why a recipient failed, in the words the trade uses, from the enhanced status code.

Sources: RFC 3463 and the IANA registry of enhanced status codes; Postfix's src/smtp/smtp_addr.c (nullMX); Microsoft's
list of NDR codes for 5.1.10, 5.7.606-649 and 5.7.509/515; Google's list of SMTP errors for 4.2.1 and 5.7.26. Reply
texts are read only where a code of several meanings needs it.
"""

from __future__ import annotations

from postroom.status import is_status

# The two axes that users mix up: a category says what to do, a reason says what happened.
CATEGORIES = {
    "bad-mailbox": "invalid",
    "inactive-mailbox": "invalid",
    "moved-mailbox": "invalid",
    "bad-domain": "invalid",
    "no-mail-domain": "invalid",
    "mailbox-full": "mailbox",
    "recipient-refused": "mailbox",
    "blocklisted": "block",
    "bad-reputation": "block",
    "auth-failure": "block",
    "rate-limited": "block",
    "greylisted": "block",
    "relay-denied": "block",
    "bad-sender": "block",
    "policy": "block",
    "spam-content": "content",
    "virus": "content",
    "content-rejected": "content",
    "message-too-large": "content",
    "dns-failure": "infrastructure",
    "connection-failed": "infrastructure",
    "expired": "infrastructure",
    "routing-loop": "infrastructure",
    "tls-failure": "infrastructure",
    "protocol-error": "infrastructure",
    "system-error": "infrastructure",
    "delivery-agent-error": "infrastructure",
    "undetermined": "undetermined",
}

# (code, words of the diagnostic text in lower case, reason), the first row that fits counts. `?` is any class, `*` any
# rest. Rows with words stand before the row of the same code without.
TABLE: tuple[tuple[str, str, str], ...] = (
    ("?.1.0", "nullmx", "no-mail-domain"),
    ("?.1.0", "unknown address error", "bad-mailbox"),
    ("?.1.1", "", "bad-mailbox"),
    ("?.1.2", "", "bad-domain"),
    ("?.1.3", "", "bad-mailbox"),
    ("?.1.6", "", "moved-mailbox"),
    ("?.1.7", "", "bad-sender"),
    ("?.1.8", "", "bad-sender"),
    ("?.1.10", "recipientnotfound", "bad-mailbox"),
    ("?.1.10", "recipient not found", "bad-mailbox"),
    ("?.1.10", "", "no-mail-domain"),
    ("?.2.0", "greylist", "greylisted"),
    ("?.2.0", "graylist", "greylisted"),
    ("5.2.1", " rate ", "rate-limited"),
    ("5.2.1", "temporar", "recipient-refused"),
    ("5.2.1", "", "inactive-mailbox"),
    ("4.2.1", "", "rate-limited"),
    ("?.2.2", "", "mailbox-full"),
    ("?.2.3", "", "message-too-large"),
    ("?.3.0", "command died", "delivery-agent-error"),
    ("?.3.4", "", "message-too-large"),
    ("4.3.2", "", "rate-limited"),
    ("?.3.*", "", "system-error"),
    ("?.4.1", "", "connection-failed"),
    ("?.4.2", "", "connection-failed"),
    ("?.4.3", "", "dns-failure"),
    ("5.4.4", "", "bad-domain"),
    ("4.4.4", "", "dns-failure"),
    ("?.4.6", "", "routing-loop"),
    ("?.4.14", "", "routing-loop"),
    ("?.4.7", "", "expired"),
    ("?.5.3", "", "rate-limited"),
    ("?.5.*", "", "protocol-error"),
    ("?.6.*", "", "content-rejected"),
    ("?.7.4", "", "tls-failure"),
    ("?.7.5", "", "tls-failure"),
    ("?.7.10", "", "tls-failure"),
    ("?.7.13", "", "inactive-mailbox"),
    ("?.7.17", "", "bad-mailbox"),
    ("?.7.18", "", "bad-domain"),
    ("?.7.25", "", "blocklisted"),
    ("?.7.27", "", "bad-sender"),
    ("?.7.28", "", "rate-limited"),
    ("?.7.2*", "", "auth-failure"),
    ("?.7.30", "", "auth-failure"),
    ("?.7.509", "", "auth-failure"),
    ("?.7.515", "", "auth-failure"),
    ("?.7.54", "", "relay-denied"),
    ("?.7.60*", "", "blocklisted"),
    ("?.7.61*", "", "blocklisted"),
    ("?.7.62*", "", "blocklisted"),
    ("?.7.63*", "", "blocklisted"),
    ("?.7.64*", "", "blocklisted"),
    ("?.7.*", "greylist", "greylisted"),
    ("?.7.*", "graylist", "greylisted"),
    ("?.7.*", "relay access denied", "relay-denied"),
    ("?.7.*", "relaying denied", "relay-denied"),
    ("?.7.*", "blocked using", "blocklisted"),
    ("?.7.*", "blacklist", "blocklisted"),
    ("?.7.*", "blocklist", "blocklisted"),
    ("?.7.*", "dnsbl", "blocklisted"),
    ("?.7.*", "reputation", "bad-reputation"),
    ("?.7.*", "virus", "virus"),
    ("?.7.*", "spam", "spam-content"),
    ("?.7.*", "", "policy"),
)

# RFC 3463 section 2: a code with these subjects says no more than its class.
_VAGUE = (".0.0",)
# Characters that stand round a code in a reply: 550-5.1.1 (5.1.1) #5.1.1 5.1.1: <5.1.1>
_ROUND = "()[]<>#:;,'\""


def classify(outcome: str, status: str, diagnostic: str) -> str:
    """The reason for `outcome`, from the code and, where the code alone does not tell, the text."""
    if not status:
        return "undetermined"
    # Mail given up after days of trying: Postfix reports the last try's code, 4.x.x, with `Action: failed`.
    # The cause of a full mailbox is told apart from that of a dead server: the address may well come back.
    words = diagnostic.lower()
    for pattern, needle, reason in TABLE:
        if _fits(status, pattern) and needle in words:
            given_up = outcome == "failed" and status[0] == "4" and CATEGORIES[reason] != "mailbox"
            return "expired" if given_up else reason
    return "expired" if outcome == "failed" and status[0] == "4" else "undetermined"


def is_hard(outcome: str, status: str, reason: str) -> bool:
    """Whether the address itself is bad for good, so that mail to it had better stop."""
    return outcome == "failed" and status.startswith("5.") and CATEGORIES[reason] == "invalid"


def refine(status: str, diagnostic: str) -> str:
    """The code to go by: one in the diagnostic text beats a Status without one, or one that says its class only."""
    if status and not status.endswith(_VAGUE):
        return status
    for code in codes(diagnostic):
        if (not status or code[0] == status[0]) and not code.endswith(_VAGUE):
            return code
    return status


def codes(text: str) -> list[str]:
    """The enhanced codes in a reply text. A part of an address (192.5.1.1), of a version or of a URL is none."""
    found = []
    for word in text.split():
        # A multi-line reply, joined by the server that passes it on: 550-5.1.1 550 5.1.1
        if word[3:4] in ("-", " ") and word[:3].isdigit():
            word = word[4:]
        word = word.strip(_ROUND).rstrip(".")
        if is_status(word) and int(word.split(".")[1]) <= 7:
            found.append(word)
    return found


def reply_code(diagnostic: str) -> str:
    """The SMTP reply code that a diagnostic text begins with; empty where it does not."""
    code = diagnostic[:3]
    good = code.isascii() and code.isdigit() and "200" <= code < "600" and not diagnostic[3:4].isalnum()
    return code if good else ""


def _fits(status: str, pattern: str) -> bool:
    if pattern[0] not in ("?", status[0]):
        return False
    return status[1:].startswith(pattern[1:-1]) if pattern[-1] == "*" else status[1:] == pattern[1:]
