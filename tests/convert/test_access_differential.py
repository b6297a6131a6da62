"""The file made of an access(5) table decides as Postfix does: each key in smtpd(8)'s order, put to `postmap -q`."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest
from convert.desk import decision, made

from postroom.convert import access
from postroom.convert.subject import Subject

DOMAINS = ["example.com", "mail.example.com", "a.mail.example.com", "example.net", "test", "b.test"]
LOCALS = ["ann", "bob", "ann+x", "ann+y", "root", "ann-x"]
ADDRESSES = ["192.0.2.1", "192.0.2.77", "192.0.3.1", "10.1.2.3", "10.1.9.9", "2001:db8:1:2::5", "2001:db8:7::1"]
RESULTS = ["OK", "REJECT", "reject go away", "DUNNO", "550 5.7.1 no {here}", "HOLD", "450 later", "WARN", "DISCARD x"]


def parents(domain: str, dotted: bool) -> list[str]:
    """check_domain_access: with parent_domain_matches_subdomains, parents have no dot."""
    labels = domain.split(".")
    return [("." if dotted else "") + ".".join(labels[index:]) for index in range(1, len(labels))]


def keys(subject: Subject, attributes: dict[str, str], indexed: bool) -> list[str]:
    """What smtpd(8) looks up, in its order (src/smtpd/smtpd_check.c); tables of patterns get whole keys only."""
    if subject.addresses:
        address = attributes[subject.what]
        if not address:
            return ["<>"]
        local, _, domain = address.rpartition("@")
        cut = min((index for sign in subject.delimiter if (index := local.find(sign)) > 0), default=None)
        bare = [local[:cut]] if cut else []
        if not indexed:
            return [address]
        users = [local, *bare]
        return [
            *(f"{user}@{domain}" for user in users),
            domain,
            *parents(domain, subject.dotted),
            *(f"{user}@" for user in users),
        ]
    name = attributes["helo_name" if subject.what == "helo" else "client_name"]
    found = [name, *(parents(name, subject.dotted) if indexed else [])]
    if subject.what == "client":
        address = attributes["client_address"]
        found.append(address)
        while indexed and (cut := max(address.rfind("."), address.rfind(":"))) > 0:
            address = address[:cut]
            found.append(address)
    return found


@pytest.fixture(scope="module")
def postfix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration for postmap(1), made once: what has just been written is waited for, for a second or two."""
    folder = tmp_path_factory.mktemp("postfix")
    (folder / "main.cf").write_text("myhostname = mx.test\n")
    return folder


class Postmap:
    """One run of postmap(1) answers for all keys."""

    def __init__(self, table: str, wanted: set[str], postfix: Path) -> None:
        text = "\n".join(sorted(wanted)) + "\n"
        command = ["postmap", "-c", postfix, "-q", "-", table]
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=30, check=False)
        self.found = dict(line.split("\t", 1) for line in done.stdout.splitlines())

    def first(self, asked: list[str]) -> str:
        return next((self.found[key] for key in asked if key in self.found), "DUNNO")


def requests(rng: random.Random) -> list[dict[str, str]]:
    return [
        {
            "protocol_state": "RCPT",
            "sender": rng.choice(["", f"{rng.choice(LOCALS)}@{rng.choice(DOMAINS)}"]),
            "recipient": f"{rng.choice(LOCALS)}@{rng.choice(DOMAINS)}",
            "helo_name": rng.choice(DOMAINS),
            "client_name": rng.choice(["unknown", *DOMAINS]),
            "client_address": rng.choice(ADDRESSES),
        }
        for _ in range(60)
    ]


class Table:
    """A table in a file of its own folder, and the mail that it is asked about."""

    def __init__(self, text: str, kind: str, subject: Subject, rng: random.Random, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "table").write_text(text)
        self.text, self.kind, self.subject, self.folder = text, kind, subject, folder
        self.asked = requests(rng)

    def compare(self, postfix: Path) -> None:
        conversion = access.convert(self.text, "table", self.kind, self.subject)
        assert conversion.complete, conversion.findings
        sources = made(conversion, self.folder)
        found = [keys(self.subject, one, self.kind == "texthash") for one in self.asked]
        postmap = Postmap(f"{self.kind}:{self.folder}/table", {key for one in found for key in one}, postfix)
        for one, tried in zip(self.asked, found, strict=True):
            theirs, ours = postmap.first(tried), decision(sources, one).action
            toml = (self.folder / "postroom.toml").read_text()
            assert ours.upper() == theirs.upper(), f"{one}\nPostfix: {theirs}\nours: {ours}\n{self.text}\n{toml}"


def indexed(rng: random.Random, subject: Subject) -> str:
    domains = DOMAINS + (["." + domain for domain in DOMAINS] if subject.dotted else [])
    kinds = [lambda: rng.choice(domains)]
    if subject.addresses:
        kinds += [
            lambda: f"{rng.choice(LOCALS)}@{rng.choice(DOMAINS)}",
            lambda: f"{rng.choice(LOCALS)}@",
            lambda: rng.choice(["<>", "ROOT@Example.com"]),
        ]
    if subject.what == "client":
        kinds += [
            lambda: rng.choice(
                ["192.0.2", "192.0.2.77", "192.0", "10", "10.1.2", "2001:db8", "2001:db8:1:2::5", "unknown"]
            )
        ]
    lines = [f"{rng.choice(kinds)()} {rng.choice(RESULTS)}" for _ in range(rng.choice([3, 8, 15, 30]))]
    # postmap(1) warns of a key that is there twice, and takes a second to log that where there is no syslog.
    unique = {line.partition(" ")[0].lower(): line for line in lines}
    return "# a table\n" + "\n".join(unique.values()) + "\n"


@pytest.mark.parametrize("what", access.SUBJECTS)
def test_indexed_tables(what: str, tmp_path: Path, postfix: Path) -> None:
    tables = []
    for seed in range(15):
        rng = random.Random(seed)
        subject = Subject(what, "rcpt", ["", "+", "+-"][seed % 3], seed % 2 == 1)
        tables.append(Table(indexed(rng, subject), "texthash", subject, rng, tmp_path / str(seed)))
    for table in tables:
        table.compare(postfix)


NETS = [
    "192.0.2.0/24",
    "192.0.0.0/16",
    "192.0.2.77",
    "10.0.0.0/8",
    "2001:db8::/32",
    "2001:db8:1:2::5",
    "0.0.0.0/0",
    "::/0",
]


@pytest.mark.parametrize("seed", range(12))
def test_cidr_tables(seed: int, tmp_path: Path, postfix: Path) -> None:
    rng = random.Random(seed)
    lines = []
    for _ in range(rng.choice([2, 6, 10])):
        line = f"{rng.choice(['', '', '!'])}{rng.choice(NETS)} {rng.choice(RESULTS)}"
        nested = rng.random() < 0.3
        lines += [f"if {rng.choice(['', '!'])}{rng.choice(NETS)}", line, "endif"] if nested else [line]
    Table("\n".join(lines) + "\n", "cidr", Subject("client"), rng, tmp_path).compare(postfix)


PATTERNS = [r"/^ann/", r"/@example\.com$/", r"/@(.*\.)?test$/", r"/^<>$/", r"/ROOT/i", "/./", r"/\+/", "/[[:upper:]]/"]
NAMES = [r"/^unknown$/", r"/\.example\.com$/", r"/^(a|b)\./", r"/^mail\.example\.com$/", r"/NET$/"]


@pytest.mark.parametrize("kind", ["regexp", "pcre"])
@pytest.mark.parametrize("what", ["recipient", "sender", "helo"])
@pytest.mark.parametrize("seed", range(5))
def test_tables_of_patterns(what: str, kind: str, seed: int, tmp_path: Path, postfix: Path) -> None:
    rng = random.Random(seed)
    patterns = NAMES if what == "helo" else PATTERNS
    lines = []
    for _ in range(rng.choice([2, 5, 8])):
        line = f"{rng.choice(['', '', '!'])}{rng.choice(patterns)} {rng.choice(RESULTS)}"
        nested = rng.random() < 0.3
        lines += [f"if {rng.choice(['', '!'])}{rng.choice(patterns)}", line, "endif"] if nested else [line]
    Table("\n".join(lines) + "\n", kind, Subject(what), rng, tmp_path).compare(postfix)
