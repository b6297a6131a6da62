"""Rule sets and requests of any size, from one description: for Postroom, and the same for postfwd.

    python benchmarks/load/rulesets.py postroom|postfwd|requests SIZE

A rule set is list-like: each rule rejects one recipient, sender, parent domain of senders, client network or HELO name,
in turns. Requests are what Postfix 3.7 sends at RCPT. One in ten is hit by a rule, the place of which moves through the
whole set; the others by none, which for who tries rules one by one is the dearest case and with lists the usual one.
"""

import sys
from dataclasses import dataclass

SIZES = (1, 10, 100, 1000, 10_000)

# So many different requests; a cache of replies holds them all. It takes postfwd a quarter of a minute to answer each
# once by a thousand rules.
VARIANTS = 250
HIT_EVERY = 10

TEMPLATE = (
    "request=smtpd_access_policy\nprotocol_state=RCPT\nprotocol_name=ESMTP\nclient_address={client_address}\n"
    "client_name={helo_name}\nclient_port=4{n:04}\nreverse_client_name={helo_name}\nserver_address=192.0.2.1\n"
    "server_port=25\nhelo_name={helo_name}\nsender={sender}\nrecipient={recipient}\nrecipient_count=0\nqueue_id=\n"
    "instance=1f4c.672f6a3b.4fa2c.{n}\nsize=12{n}\netrn_domain=\nstress=\nsasl_method=\nsasl_username=\n"
    "sasl_sender=\nccert_subject=\nccert_issuer=\nccert_fingerprint=\nccert_pubkey_fingerprint=\n"
    "encryption_protocol=TLSv1.3\nencryption_cipher=TLS_AES_256_GCM_SHA384\nencryption_keysize=256\n"
    "policy_context=\n\n"
)


@dataclass(frozen=True)
class Rule:
    """`attribute` and `value` of a request that it rejects; the condition as the one and the other write it."""

    attribute: str
    value: str
    postroom: str
    postfwd: str


def rule(number: int) -> Rule:
    place = f"{number}.example"
    net = f"10.{number // 256 % 256}.{number % 256}"
    return (
        Rule("recipient", f"gone@r{place}", f'recipient = "gone@r{place}"', f"recipient==gone@r{place}"),
        Rule("sender", f"spam@s{place}", f'sender = "spam@s{place}"', f"sender==spam@s{place}"),
        Rule("sender", f"a@b.d{place}", f'sender_domain = ".d{place}"', rf"sender_domain=\.d{number}\.example$"),
        Rule("client_address", f"{net}.9", f'client_address = "{net}.0/24"', f"client_address={net}.0/24"),
        Rule("helo_name", f"h{place}", f'helo_name = "h{place}"', f"helo_name==h{place}"),
    )[number % 5]


def postroom(size: int, head: str = "") -> str:
    rules = [
        f'[[rule]]\nid = "R{number}"\nat = "rcpt"\nmatch = {{ {rule(number).postroom} }}\n'
        f'action = "550 5.7.1 rule {number}"\n'
        for number in range(size)
    ]
    return "\n".join([head, *rules])


def postfwd(size: int) -> str:
    return "".join(f"id=R{number}; {rule(number).postfwd}; action=550 5.7.1 rule {number}\n" for number in range(size))


def attributes(n: int, size: int) -> dict[str, str]:
    """Of the n-th request."""
    given = {
        "client_address": f"203.0.113.{n % 250}",
        "helo_name": f"mail{n}.example.org",
        "sender": f"sender{n}@example.org",
        "recipient": f"someone{n}@victim.example.com",
    }
    if (number := hit(n, size)) is not None:
        given[rule(number).attribute] = rule(number).value
    return given


def hit(n: int, size: int) -> int | None:
    """The number of the rule that the n-th request is hit by."""
    return None if n % HIT_EVERY else n // HIT_EVERY * 7919 % size


def requests(size: int) -> list[bytes]:
    return [TEMPLATE.format(n=n, **attributes(n, size)).encode() for n in range(VARIANTS)]


def answer(n: int, size: int) -> bytes:
    """What the n-th request must be answered, but for the case of the letters."""
    number = hit(n, size)
    return b"action=dunno\n\n" if number is None else f"action=550 5.7.1 rule {number}\n\n".encode()


if __name__ == "__main__":
    made = {"postroom": postroom, "postfwd": postfwd, "requests": lambda size: b"".join(requests(size)).decode()}
    sys.stdout.write(made[sys.argv[1]](int(sys.argv[2])))
