"""The file made of a postfwd policy decides as postfwd itself does: Debian's postfwd 1.35 is asked, and so are we.

Without --daemon, postfwd1 answers requests on its standard input, so nothing listens anywhere.
"""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest
from convert.desk import decision, made

from postroom.convert import NOTE, Conversion, postfwd

POSTFWD = Path("/usr/sbin/postfwd1")

SENDERS = [
    "",
    "ann@example.com",
    "Ann@Example.COM",
    "bob@mail.example.com",
    "ann+x@example.com",
    "news@example.net",
    "x@y",
]
RECIPIENTS = ["root@example.org", "Bob@example.org", "bob+tag@example.org", "postmaster@sub.example.org", "a.b@c.test"]
NAMES = ["unknown", "mail.example.com", "dsl-1-2-3-4.pool.example.net", "MX1.example.org", "a.dynamic.test"]
ADDRESSES = ["192.0.2.1", "192.0.2.77", "10.1.2.3", "172.16.128.40", "2001:db8::1", "2001:db8:1::5"]
USERS = ["", "ann", "Bob", "carol@example.com"]
CIPHERS = ["", "TLS_AES_256_GCM_SHA384", "ECDHE-RSA-AES128-SHA"]

# key -> what it is compared with by == and by pattern
TEXTS = {
    "sender": (["<>", "ann@example.com", "bob@mail.example.com", "x@y", "ann", "example.com"],
               [r"@example\.com$", r"^<>$", r"@(.*\.)?example\.(com|net)$", "ann", r"^news@", "^$", r"^ann@x\.y$"]),
    "recipient": (["root@example.org", "bob@example.org"], [r"@sub\.", r"^(root|postmaster)@", r"\+.*@", "/example/"]),
    "client_name": (["unknown", "mx1.example.org", "mail.example.com"],
                    [r"\.example\.net$", "^unknown$", r"[.\-_](dsl|dynamic)[.\-_]", r"\d{1,3}-\d{1,3}", r"^mx\d\."]),
    "reverse_client_name": (["unknown"], [r"\.example\.org$", "[[:digit:]]"]),
    "helo_name": (["mail.example.com", "localhost", "192.0.2.1"], [r"^[^.]+$", r"^\d+\.\d+", r"\.test$"]),
    "sender_domain": (["example.com", "y"], [r"^example\.", r"\.com$"]),
    "sender_localpart": (["ann", "bob"], [r"\+", "^n"]),
    "recipient_domain": (["example.org"], [r"^sub\.", r"^c\.test$"]),
    "recipient_localpart": (["bob", "a.b"], [r"^(root|abuse)$", r"\."]),
    "sasl_username": (["ann", "bob", "carol@example.com"], [".", "^$", "^(ann|bob)$", "@"]),
    "sasl_method": (["plain"], ["^PLAIN$", "."]),
    "encryption_cipher": (["ECDHE-RSA-AES128-SHA"], ["aes", "^$"]),
    "stress": (["yes"], ["^yes$"]),
    "protocol_name": (["esmtp", "SMTP"], ["^SMTP$"]),
    "ccert_fingerprint": (["11:22:AA:bb"], ["^11:", "."]),
}  # fmt: skip
NUMBERS = {
    "size": ["0", "1", "1000", "50000"],
    "recipient_count": ["0", "1", "5"],
    "encryption_keysize": ["0", "128", "256"],
}
NETS = ["192.0.2.0/24", "192.0.2.1", "10.0.0.0/8", "10.1.2.3/16", "0.0.0.0/0", "172.16.128.32/27", "2001:db8::1"]
ACTIONS = ["REJECT no, {n}", "dunno", "550 5.7.1 rule {n}", "HOLD", "WARN seen {n}", "450 4.7.1 $$sender {n}",
           "PREPEND X-Rule: {n}", "defer_if_permit later {n}", "note({n})", "OK",
           "greylisting", "permit_mynetworks, reject_unverified_recipient"]  # fmt: skip


def item(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.15:
        nets = ", ".join(rng.sample(NETS, rng.choice([1, 1, 2])))
        return f"client_address{rng.choice(['=', '==', '!=', '=', '= !!'])}{nets}"
    if kind < 0.3:
        key = rng.choice(list(NUMBERS))
        return f"{key}{rng.choice(['=', '==', '>=', '<=', '!=', '<', '>', '!>', '!<'])}{rng.choice(NUMBERS[key])}"
    if kind < 0.36:
        return rng.choice(["client_name==$$helo_name", "client_name == !!($$(helo_name))", "helo_name!=$$client_name"])
    key = rng.choice(list(TEXTS))
    whole, patterns = TEXTS[key]
    if rng.random() < 0.45:
        return f"{key}{rng.choice(['==', '==', '!=', '==!!'])}{rng.choice(whole)}"
    value = rng.choice(patterns)
    return f"{key}{rng.choice(['=', '=~', '~=', '!~', '='])}{rng.choice([value, value, f'!!({value})'])}"


def policy(rng: random.Random) -> list[str]:
    """One rule a line, each with an id that finds it again."""
    rules = []
    for number in range(10):
        items = [item(rng) for _ in range(rng.choice([1, 1, 2, 2, 3]))]
        if rng.random() < 0.2:
            items.append(rng.choice(items).partition("!")[0].partition("=")[0] + "==" + rng.choice(["ann", "unknown"]))
        if rng.random() < 0.15:
            items.append(
                f"protocol_state{rng.choice(['==', '=', '!='])}{rng.choice(['RCPT', 'END-OF-MESSAGE', 'DATA'])}"
            )
        action = rng.choice(ACTIONS).format(n=number)
        rules.append(" ; ".join([f"id=R{number}", *items, f"action={action}"]))
    return rules


def request(rng: random.Random, state: str) -> dict[str, str]:
    """The attributes as smtpd(8) sends them in that state."""
    last = state == "END-OF-MESSAGE"
    user = rng.choice(USERS)
    cipher = rng.choice(CIPHERS)
    name = rng.choice(NAMES)
    return {
        "request": "smtpd_access_policy",
        "protocol_state": state,
        "protocol_name": rng.choice(["SMTP", "ESMTP"]),
        "helo_name": rng.choice([*NAMES[1:], name, "localhost", "192.0.2.1"]),
        "queue_id": "4jX1" if last else "",
        "instance": "1a2b.3c",
        "sender": rng.choice(SENDERS),
        "recipient": rng.choice(RECIPIENTS),
        "recipient_count": rng.choice(["1", "5", "9"]) if last else "0",
        "client_address": rng.choice(ADDRESSES),
        "client_name": name,
        "reverse_client_name": rng.choice([name, "unknown"]),
        "size": rng.choice(["1", "999", "1000", "60000"]),
        "sasl_method": "PLAIN" if user else "",
        "sasl_username": user,
        "sasl_sender": "",
        "encryption_cipher": cipher,
        "encryption_keysize": ("256" if "256" in cipher else "128") if cipher else "0",
        "ccert_fingerprint": rng.choice(["", "11:22:AA:BB", "33:44"]),
        "stress": rng.choice(["", "yes"]),
    }


def ask_postfwd(rules: Path, requests: list[dict[str, str]]) -> list[str]:
    text = "".join("".join(f"{key}={value}\n" for key, value in one.items()) + "\n" for one in requests)
    command = [POSTFWD, "-f", rules, "--nodns", "--cache=0", "--perfmon"]
    done = subprocess.run(command, input=text.encode(), capture_output=True, timeout=60, check=True)
    answers = [line.removeprefix("action=") for line in done.stdout.decode().splitlines() if line.startswith("action=")]
    assert len(answers) == len(requests), done.stderr.decode()
    return answers


def carried_over(rules: list[str]) -> tuple[list[str], Conversion]:
    """The rules without those that were listed as lost or changed: of the rest it is claimed that it decides alike."""
    conversion = postfwd.convert("\n".join(rules), "rules")
    listed = {finding.line for finding in conversion.findings if finding.level != NOTE}
    kept = [rule for number, rule in enumerate(rules, 1) if number not in listed]
    stages = list(dict.fromkeys(["rcpt", *(rule.stage for rule in conversion.rules)]))
    again = postfwd.convert("\n".join(kept), "rules", stages)
    assert again.complete
    return kept, again


def same(theirs: str, ours: str) -> bool:
    """Upper and lower case of an action's name are the same to Postfix."""
    return theirs.lower() == ours.lower()


@pytest.mark.parametrize("seed", range(40))
def test_decides_as_postfwd_does(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    kept, conversion = carried_over(policy(rng))
    assert len(kept) >= 3, "the generator makes rules that cannot be carried over; then this test says nothing"
    sources = made(conversion, tmp_path)
    states = ["RCPT", *{rule.stage.upper() for rule in conversion.rules} - {"RCPT"}]
    requests = [request(rng, rng.choice(states)) for _ in range(40)]
    rules = tmp_path / "rules.cf"
    rules.write_text("\n".join(kept) + "\n")
    answers = ask_postfwd(rules, requests)
    for asked, theirs in zip(requests, answers, strict=True):
        ours = decision(sources, asked)
        wrong = (
            f"{asked}\npostfwd: {theirs}\nours: {ours!r}\n"
            + "\n".join(kept)
            + "\n"
            + (tmp_path / "postroom.toml").read_text()
        )
        assert same(theirs, ours.action), wrong
