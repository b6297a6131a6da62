"""However a client spells a recipient, rules know it as the address that Postfix delivers to.

The oracle is Postfix itself: trivial-rewrite(8), asked as cleanup(8) and qmgr(8) ask it, and a mail for each spelling.
"""

from __future__ import annotations

import random
import re
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from postroom.lab.lab import RELOAD_SECONDS, Lab, replace
from postroom.postfix.session import Session
from postroom.rules.rewrite import resolved

STAFF = "staff@example.com"
HOST = ("example.com", "localhost")
LOCAL = frozenset({*HOST, (4, 0x7F000001)})
HEAD = 'mydestination = ["example.com", "localhost"]\nmyorigin = "example.com"\n'
PARAMETERS = {
    "mydestination": ", ".join(HOST),
    "myorigin": "example.com",
    "virtual_mailbox_domains": "virtual.example",
    "virtual_mailbox_maps": "",
    "local_recipient_maps": "",
    "local_transport": "discard:",
    "virtual_transport": "discard:",
    "default_transport": "discard:",
    "smtpd_recipient_restrictions": "check_policy_service unix:private/rule-policy, permit_mynetworks, reject",
    "relayhost": "",
    "transport_maps": "",
    "virtual_alias_maps": "",
    "virtual_alias_domains": "",
}

# As a client types them.
TO_STAFF = [
    "staff",
    "STAFF@Example.COM.",
    '"staff"@example.com',
    "staff(a comment)@example.com",
    "@a.example,@b.example:staff@example.com",
    '"@a.example:staff"@example.com',
    '"@a.example:staff@example.com"',
    "example.com!staff",
    "example.com.!staff",
    "example.com!staff@",
    "example.com!staff@localhost",
    "localhost!example.com!staff",
    "staff%example.com",
    "staff%example.com@",
    "staff%example.com@example.com",
    "staff%example.com.@example.com.",
    "staff%example.com%localhost%[127.0.0.1]",
    "staff%example.com@[127.0.0.1]",
    '"staff@example.com"@example.com',
    '"staff@example.com"@localhost',
    '"staff%example.com"@example.com',
    '"example.com!staff"@example.com',
    '"staff@exam\\\\ple.com"@example.com',
    '"example.com !staff"@example.com',
    '"\\"example.com!staff"@example.com',
]

# What looks like it, and goes elsewhere.
NOT_TO_STAFF = [
    "staff@virtual.example",
    "staff%example.com@virtual.example",
    "example.com!staff@virtual.example",
    '"staff@example.com"@virtual.example',
    "virtual.example!staff",
    "staff%virtual.example@example.com",
    '"staff@virtual.example"@example.com',
    "staff.@example.com",
    '"staff "@example.com',
    "example.com!x!staff",
    '"(staff)"@example.com',
]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as made:
        made.postfix.set(PARAMETERS)
        yield made


def rules(lab: Lab, text: str) -> None:
    replace(lab.config, f'state = "{lab.state}"\nlog = "{lab.log.path}"\n{HEAD}{text}')
    time.sleep(RELOAD_SECONDS)


def replies(lab: Lab, spellings: list[str]) -> dict[str, int]:
    """The code that RCPT got for each."""
    found = {}
    for spelling in spellings:
        with Session(lab.postfix.address) as session:
            session.command("EHLO client.test")
            session.command("MAIL FROM:<a@client.test>")
            reply = session.command(f"RCPT TO:<{spelling}>")
            found[spelling] = 0 if reply is None else reply.code
    return found


def delivered(lab: Lab, spelling: str) -> str:
    """Whom Postfix delivers a mail to."""
    with Session(lab.postfix.address) as session:
        session.command("EHLO client.test")
        session.command("MAIL FROM:<a@client.test>")
        reply = session.command(f"RCPT TO:<{spelling}>")
        assert reply is not None and reply.code == 250, (spelling, reply)
        session.command("DATA")
        reply = session.command("Subject: hello\r\n\r\nhello\r\n.")
    assert reply is not None and reply.code == 250
    return lab.postfix.wait_for(reply.text.split()[-1] + r": to=<(.*?)>, .*status=").group(1)


def test_postfix_delivers_each_of_them_to_staff_and_the_others_elsewhere(lab: Lab) -> None:
    rules(lab, "")
    assert {spelling: delivered(lab, spelling).lower() for spelling in TO_STAFF} == dict.fromkeys(TO_STAFF, STAFF)
    assert STAFF not in {delivered(lab, spelling).lower() for spelling in NOT_TO_STAFF}


def test_a_rule_that_refuses_cannot_be_evaded(lab: Lab) -> None:
    rules(lab, f'[[rule]]\nid = "closed"\nat = "rcpt"\nmatch = {{ recipient = "{STAFF}" }}\naction = "REJECT no"\n')
    assert replies(lab, TO_STAFF) == dict.fromkeys(TO_STAFF, 554)
    assert replies(lab, NOT_TO_STAFF) == dict.fromkeys(NOT_TO_STAFF, 250)


def test_a_rule_that_accepts_cannot_be_borrowed(lab: Lab) -> None:
    only = f'[[rule]]\nid = "open"\nat = "rcpt"\nmatch = {{ recipient = "{STAFF}" }}\naction = "DUNNO"\n'
    rules(lab, only + '[[rule]]\nid = "rest"\nat = "rcpt"\naction = "REJECT no"\n')
    assert replies(lab, NOT_TO_STAFF) == dict.fromkeys(NOT_TO_STAFF, 554)
    assert replies(lab, TO_STAFF) == dict.fromkeys(TO_STAFF, 250)


def test_the_recipe_of_the_manual_refuses_every_spelling_but_the_usual(lab: Lab) -> None:
    rule = '[[rule]]\nid = "one-spelling"\nat = "rcpt"\n'
    rule += 'match = { recipient_as_typed = ["*!*", "*%*", "*@*@*", "*@", "re:^[^@]*$"] }\n'
    rules(lab, rule + 'action = "REJECT 5.1.3 please write user@domain"\n')
    usual = TO_STAFF[1:5]
    assert replies(lab, usual) == dict.fromkeys(usual, 250)
    odd = [spelling for spelling in TO_STAFF if spelling not in usual]
    assert replies(lab, odd) == dict.fromkeys(odd, 554)


# The whole of it, against trivial-rewrite(8).


class Rewriter:
    """trivial-rewrite(8)'s socket, by the attribute protocol (src/global/rewrite_clnt.c, resolve_clnt.c)."""

    def __init__(self, lab: Lab) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(20)
        self._socket.connect(str(lab.postfix.queue_directory / "private" / "rewrite"))
        self._data = b""
        self._read()  # the protocol's name

    def close(self) -> None:
        self._socket.close()

    def ask(self, **attributes: str) -> dict[str, str]:
        pairs = (f"{name}\0{value}\0".encode() for name, value in attributes.items())
        self._socket.sendall(b"".join(pairs) + b"\0")
        return self._read()

    def _read(self) -> dict[str, str]:
        found = {}
        while name := self._item():
            found[name] = self._item()
        return found

    def _item(self) -> str:
        while b"\0" not in self._data:
            more = self._socket.recv(65536)
            assert more, "trivial-rewrite(8) has gone"
            self._data += more
        item, _, self._data = self._data.partition(b"\0")
        return item.decode()

    def recipient(self, address: str) -> str:
        """What a mail to `address`, as smtpd(8) passes it on, is delivered to; empty where nobody can be."""
        rewritten = self.ask(request="rewrite", rule="local", address=quoted(address))["address"]
        local, at, domain = rewritten.rpartition("@")
        answer = self.ask(request="resolve", sender="", address=unquoted(local) + at + domain if at else rewritten)
        return "" if int(answer["flags"]) & 4 else answer["recipient"]  # RESOLVE_FLAG_ERROR


def quoted(address: str) -> str:
    """src/global/quote_822_local.c: a local part that needs it, in quotes; a source route before it, left as it is."""
    start = address.index(":") + 1 if address.startswith("@") and ":" in address else 0
    end = address.rfind("@", start)
    end = len(address) if end < 0 else end
    local = address[start:end]
    if re.fullmatch(r"[^\x00-\x20()<>@,;:\\\"\[\].\x7f]+(\.[^\x00-\x20()<>@,;:\\\"\[\].\x7f]+)*", local):
        return address
    return address[:start] + '"' + re.sub(r'(["\\\r])', r"\\\1", local) + '"' + address[end:]


def unquoted(text: str) -> str:
    return re.sub(r'\\(.)|"', r"\1", text, flags=re.DOTALL)


WORDS = ["staff", "example.com", "other.example", "virtual.example", "localhost", "x", "EXAMPLE.com", "a:", "\u00e9"]
SIGNS = ["@", "@", "%", "!", "%", "!", ".", ":"]
ODD = ['"', "\\", "(", ")", " ", "(x)", "..", "@a:", "[", "]", ",", ";", "<", ">", "\x01", "\t", *SIGNS]


def any_address(dice: random.Random) -> str:
    return "".join(dice.choice(WORDS + SIGNS) for _ in range(dice.randint(1, 7)))


def odd_spelling(dice: random.Random) -> str:
    """A spelling of an address of ours as smtpd(8) passes it on, with odd signs put in."""
    address = dice.choice([
        STAFF, "staff", "example.com!staff", "staff%example.com", "staff%example.com@example.com", STAFF + "@localhost",
        "localhost!staff%example.com", "@a,@b:staff@virtual.example", "virtual.example!staff", "example.com!staff@",
    ])  # fmt: skip
    for _ in range(dice.randint(1, 3)):
        place = dice.randint(0, len(address))
        address = address[:place] + dice.choice(ODD) + address[place:]
    return address


@pytest.fixture
def rewriter(lab: Lab) -> Iterator[Rewriter]:
    made = Rewriter(lab)
    yield made
    made.close()


def folded(address: str) -> str:
    return address.lower().removesuffix(".")


def test_every_address_without_odd_signs_is_read_as_postfix_reads_it(rewriter: Rewriter) -> None:
    dice, reached = random.Random(1), 0
    for _ in range(6000):
        address = any_address(dice)
        wanted = folded(rewriter.recipient(address))
        found = folded(resolved(address, LOCAL, "example.com"))
        assert not wanted or found in (wanted, folded(unquoted(wanted))), address
        reached += wanted == STAFF
    assert reached > 20


def test_no_odd_sign_hides_an_address_of_ours(rewriter: Rewriter) -> None:
    ours: Callable[[str], object] = re.compile(r"[a-z.]+@(example\.com|localhost|virtual\.example)").fullmatch
    dice, reached = random.Random(2), 0
    for _ in range(6000):
        address = odd_spelling(dice)
        wanted = folded(rewriter.recipient(address))
        if wanted and ours(wanted) and not wanted.startswith((".", "mailer-daemon")) and ".." not in wanted:
            assert folded(resolved(address, LOCAL, "example.com")) == wanted, address
            reached += 1
    assert reached > 200
