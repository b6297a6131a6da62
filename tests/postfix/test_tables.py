"""Lookups as Postfix makes them: mail leaves by the transport that the rules name, and also where they are silent."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import dns
import pytest
from click.testing import CliRunner

import postroom
from postroom.cli import main
from postroom.deadline import Deadline
from postroom.lab.nameserver import Nameserver
from postroom.lab.place import choose_python
from postroom.postfix import processes
from postroom.postfix.instance import Instance, free_port, missing
from postroom.store import Suppression
from postroom.store import open as open_store

USER = "nobody"
SOURCE = Path(__file__).parents[2]
PROGRAMS = ("socketmap-lookup", "tcp-lookup")
ZONES = {
    "one.test": "@ MX 10 mx1.big.test.\n@ MX 20 mx2.big.test.",
    "mixed.test": "@ MX 10 mx1.big.test.\n@ MX 20 mx.small.test.",
    "small.test": "@ MX 10 mx.small.test.",
}
RULES = """\
state = "{folder}/state"
log = "{folder}/log"
[dns]
servers = ["{dns}"]
[route]
overrides = "list:fixed"
[list.fixed]
table = "texthash:fixed"
[[rule]]
id = "big"
at = "route"
match = {{ every_mx = ".big.test" }}
action = "big:{{recipient_domain}}"
"""
FIXED = "vip@one.test fast:[192.0.2.1]\nours.test fast:ours\n"
# What stood in transport_maps before: a whole address, and a domain.
BEFORE = "inline:{{plain@one.test = fast:plain}, {one.test = fast:bydomain}, {hash.test = fast:bydomain}}"


class Desk:
    """A private Postfix with both programs wired into it by `postroom wire`, and a name server."""

    def __init__(self, folder: Path, nameserver: Nameserver) -> None:
        self.folder, self.nameserver = folder, nameserver
        self.python = choose_python(USER)[0]
        folder.chmod(0o755)
        for name in ("state", "etc", "bin", "lib"):
            (folder / name).mkdir()
        self._install()
        (folder / "etc" / "fixed").write_text(FIXED)
        self.configure(nameserver.address)
        for path in (folder / "state", folder / "log"):
            path.touch()
            os.chown(path, pwd.getpwnam(USER).pw_uid, pwd.getpwnam(USER).pw_gid)
        transports = "".join(
            f"{name} unix - - n - - discard -o syslog_name=postfix/{name}\n" for name in ("big", "fast", "usual")
        )
        self.port = free_port()
        tcp = f"127.0.0.1:{self.port} inet n n n - 0 spawn user={USER}\n  argv={self.program('tcp-lookup')}\n"
        tcp += f"    --config {self.config}\n"
        self.postfix = Instance(
            {"default_transport": "usual:", "transport_maps": BEFORE, "smtp_host_lookup": "native"}, transports + tcp
        )

    def _install(self) -> None:
        """Where nobody can read it: the library, dnspython, and the programs under their names."""
        ignored = shutil.ignore_patterns("__pycache__")
        for package in (Path(postroom.__file__).parent, Path(dns.__file__).parent):
            shutil.copytree(package, self.folder / "lib" / package.name, ignore=ignored)
        for name in PROGRAMS:
            shutil.copy(SOURCE / "spawn" / f"{name}.py", self.folder / "lib")
            start = f'PYTHONPATH={self.folder}/lib exec {self.python} {self.folder}/lib/{name}.py "$@"'
            self.program(name).write_text(f"#!/bin/sh\n{start}\n")
            self.program(name).chmod(0o755)

    def program(self, name: str) -> Path:
        return self.folder / "bin" / name

    @property
    def config(self) -> Path:
        return self.folder / "etc" / "postroom.toml"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def configure(self, dns_server: str, extra: str = "") -> None:
        draft = self.config.with_suffix(".new")
        draft.write_text(RULES.format(folder=self.folder, dns=dns_server) + extra)
        draft.rename(self.config)

    def cli(self, *words: str) -> str:
        done = CliRunner().invoke(main, [*words, "--postfix", str(self.postfix.config_directory), "--yes"])
        assert done.exit_code == 0, done.output
        return done.output

    def wire(self) -> str:
        options = ("--user", USER, "--config", str(self.config), "--programs", str(self.folder / "bin"))
        return self.cli("wire", "socketmap-lookup", *options)

    def socketmap(self, table: str) -> str:
        return f"socketmap:unix:{self.postfix.queue_directory}/private/socketmap-lookup:{table}"

    def postmap(self, table: str, key: str, lines: str = "") -> tuple[int, str]:
        done = subprocess.run(
            ["/usr/sbin/postmap", "-c", str(self.postfix.config_directory), "-q", key, table],
            input=lines,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout

    def deliver(self, recipient: str) -> tuple[str, str]:
        """(transport, nexthop) by which a mail for the recipient left."""
        since = self.postfix.log.size()
        with self.postfix.session() as smtp:
            replies = smtp.mail("a@client.test", [recipient], b"Subject: hello\n\nhello\n")
        assert [reply.code for reply in replies if reply] == [250, 250, 250, 354, 250, 221], replies
        left = self.postfix.wait_for(r"postfix/(\w+)/discard\[\d+\]: .*status=sent \((.*)\)", 30, since)
        return left[1], left[2]

    def running(self) -> list[int]:
        """The processes of the program that Postfix has running now."""
        found = []
        for pid in processes.of_postfix(self.postfix.config_directory):
            with contextlib.suppress(OSError):
                if b"lookup.py" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
        return found


@pytest.fixture(scope="module")
def desk() -> Iterator[Desk]:
    reason = missing()
    if reason:
        pytest.fail(reason, pytrace=False)
    folder = Path(tempfile.mkdtemp(prefix="postroom-tables-"))
    try:
        with Nameserver(ZONES) as nameserver:
            made = Desk(folder, nameserver)
            with made.postfix:
                assert "transport_maps" in made.wire()
                yield made
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def silent(desk: Desk) -> Iterator[None]:
    """The rules ask a name server that never answers."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        desk.configure(f"127.0.0.1:{server.getsockname()[1]}")
        time.sleep(1.1)
        yield
    desk.configure(desk.nameserver.address)
    time.sleep(1.1)


def test_mail_leaves_by_the_transport_that_the_rule_names(desk: Desk) -> None:
    assert desk.deliver("a@one.test") == ("big", "one.test")
    assert desk.deliver("A.User+ext@ONE.test") == ("big", "ONE.test")
    assert desk.deliver('"a b"@one.test') == ("big", "one.test")
    assert desk.deliver("a@mixed.test") == ("usual", "mixed.test")
    assert desk.deliver("a@small.test") == ("usual", "small.test")


def test_overrides_come_first(desk: Desk) -> None:
    assert desk.deliver("vip@one.test") == ("fast", "[192.0.2.1]")
    assert desk.deliver("Vip+x@one.test") == ("fast", "[192.0.2.1]")
    assert desk.deliver("a@ours.test") == ("fast", "ours")


def test_what_the_tables_before_say_of_an_address_wins_and_of_a_domain_where_no_rule_speaks(desk: Desk) -> None:
    """Postfix asks all tables for the whole address first; the fragment and the page say so."""
    assert desk.deliver("plain@one.test") == ("fast", "plain")
    assert desk.deliver("a@one.test") == ("big", "one.test")
    assert desk.deliver("a@hash.test") == ("fast", "bydomain")


def test_postmap_is_told_the_same_and_a_hundred_lookups_take_one_program(desk: Desk) -> None:
    assert desk.postmap(desk.socketmap("route"), "a@one.test") == (0, "big:one.test\n")
    assert desk.postmap(desk.socketmap("route"), "*") == (1, "")
    assert desk.postmap(desk.socketmap("list.fixed"), "vip@one.test") == (0, "fast:[192.0.2.1]\n")
    keys = [f"user{number}@{'one' if number % 2 else 'small'}.test" for number in range(100)]
    before = len(desk.log)
    status, found = desk.postmap(desk.socketmap("route"), "-", "".join(f"{key}\n" for key in keys))
    assert status == 0
    assert found.splitlines() == [f"{key}\tbig:one.test" for key in keys if "one" in key]
    assert len(set(re.findall(r"socketmap-lookup\[(\d+)\]", desk.log[before:]))) == 1


def test_the_same_over_tcp(desk: Desk) -> None:
    table = f"tcp:127.0.0.1:{desk.port}"
    assert desk.postmap(table, "a b@one.test") == (0, "big:one.test\n")
    assert desk.postmap(table, "vip@one.test") == (0, "fast:[192.0.2.1]\n")
    assert desk.postmap(table, "a@small.test") == (1, "")
    keys = "".join(f"u{number}%@one.test\n" for number in range(100))
    assert len(desk.postmap(table, "-", keys)[1].splitlines()) == 100


def test_a_program_killed_in_the_middle_is_started_again_and_nothing_waits(desk: Desk) -> None:
    assert desk.deliver("a@one.test") == ("big", "one.test")
    since = desk.postfix.log.size()
    for number in range(5):
        killed = desk.running()
        assert killed, "trivial-rewrite keeps its connection for 10 s at least"
        for pid in killed:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert desk.deliver(f"k{number}@one.test") == ("big", "one.test")
    assert "status=deferred" not in desk.postfix.log.text(since)


def test_suppressed_recipients_are_refused_by_smtpd(desk: Desk) -> None:
    restrictions = desk.postfix.postconf("smtpd_recipient_restrictions")
    table = "check_recipient_access socketmap:unix:private/socketmap-lookup:suppressed"
    desk.postfix.set({"smtpd_recipient_restrictions": table})
    store = open_store(str(desk.folder / "state"), Deadline(10))
    store.suppress(Suppression("gone@one.test", 0, why="550 no such user"))
    store.close()
    for path in (desk.folder / "state").iterdir():
        os.chown(path, pwd.getpwnam(USER).pw_uid, pwd.getpwnam(USER).pw_gid)
    with desk.postfix.session() as smtp:
        replies = smtp.mail("a@client.test", ["Gone@one.test", "a@one.test"], b"Subject: x\n\nx\n")
    said = [(reply.code, reply.text) for reply in replies if reply]
    assert said[2][0] == 550
    assert said[2][1].startswith("5.1.1 <Gone@one.test>: Recipient address rejected: not sent to since 1970-01-01")
    assert said[3][0] == 250
    done = CliRunner().invoke(
        main, ["unwire", "socketmap-lookup", "--postfix", str(desk.postfix.config_directory), "--yes"]
    )
    assert done.exit_code == 78
    assert "smtpd_recipient_restrictions still names unix:private/socketmap-lookup" in done.output
    desk.postfix.set({"smtpd_recipient_restrictions": restrictions})


@pytest.mark.usefixtures("silent")
def test_where_dns_is_silent_mail_goes_as_it_would_without_rules_and_at_once(desk: Desk) -> None:
    start = time.monotonic()
    assert desk.deliver("a@never-seen.test") == ("usual", "never-seen.test")
    assert time.monotonic() - start < 8, "each of Postfix's lookups within a second, and then none for a while"
    assert desk.deliver("a@one.test") == ("big", "one.test"), "by the plan as it was"
    assert desk.deliver("vip@one.test") == ("fast", "[192.0.2.1]")
    start = time.monotonic()
    assert desk.postmap(desk.socketmap("route"), "a@unheard.test") == (1, "")
    assert time.monotonic() - start < 3, "half a second, and the start of a program"


def test_a_broken_configuration_stops_no_mail(desk: Desk) -> None:
    for pid in desk.running():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    desk.configure(desk.nameserver.address, "[[rule\n")
    assert desk.deliver("b@one.test") == ("fast", "bydomain")
    desk.configure(desk.nameserver.address)
    time.sleep(1.1)


def test_temp_holds_mail_back_where_it_is_asked_for(desk: Desk) -> None:
    table = '[list.gone]\nfile = "gone"\n[[rule]]\nid = "g"\nat = "route"\nmatch = { recipient = "list:gone" }\n'
    desk.configure(desk.nameserver.address, table + 'action = "big:"\n')
    time.sleep(1.1)
    assert desk.deliver("g@small.test") == ("usual", "small.test")
    text = desk.config.read_text().replace("[route]\n", "[route]\ntemp = true\n")
    desk.config.with_suffix(".new").write_text(text)
    desk.config.with_suffix(".new").rename(desk.config)
    time.sleep(1.1)
    with desk.postfix.session() as smtp:  # another recipient: smtpd(8) remembers what it was told of the last hundred
        replies = smtp.mail("a@client.test", ["h@small.test"], b"Subject: x\n\nx\n")
    assert [reply.code for reply in replies if reply][2] == 451
    desk.configure(desk.nameserver.address)


def test_unwired_the_tables_before_are_left(desk: Desk) -> None:
    assert "socketmap" in desk.postfix.postconf("transport_maps")
    desk.cli("unwire", "socketmap-lookup")
    assert desk.postfix.postconf("transport_maps") == BEFORE
    assert desk.deliver("z@one.test") == ("fast", "bydomain")
