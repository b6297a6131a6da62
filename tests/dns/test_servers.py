"""Whom the resolver asks: what is given, else resolv.conf(5); and what is loaded before the first question."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from postroom import dnsquery
from postroom.deadline import Deadline
from postroom.dns import Resolver
from postroom.dnsquery import parse_server, show_server


@pytest.mark.parametrize(
    ("text", "server", "shown"),
    [
        ("192.0.2.1", ("192.0.2.1", 53), "192.0.2.1:53"),
        ("127.0.0.1:5353", ("127.0.0.1", 5353), "127.0.0.1:5353"),
        ("::1", ("::1", 53), "[::1]:53"),
        ("[::1]", ("::1", 53), "[::1]:53"),
        ("[::1]:5353", ("::1", 5353), "[::1]:5353"),
        ("fe80::1%eth0", ("fe80::1%eth0", 53), "[fe80::1%eth0]:53"),
    ],
)
def test_addresses_of_servers(text: str, server: tuple[str, int], shown: str) -> None:
    assert parse_server(text) == server
    assert show_server(server) == shown


@pytest.mark.parametrize(
    "text",
    [
        "",
        "localhost",
        "ns.example.com:53",
        "1.2.3",
        "010.0.0.1",
        "127.0.0.1:",
        "127.0.0.1:dns",
        "127.0.0.1:0",
        "127.0.0.1:65536",
        "127.0.0.1:-1",
        "[::1",
        "[::1]5353",
        "[127.0.0.1:53",
        "::1:53:",
        "\0",
        "é",
    ],
)
def test_what_is_no_server_is_refused_at_once(text: str) -> None:
    with pytest.raises(ValueError, match=r"name server|no such port"):
        Resolver((text,))


def test_resolv_conf(tmp_path: Path) -> None:
    conf = tmp_path / "resolv.conf"
    conf.write_text(
        "# nameserver 192.0.2.99\nsearch example.com\nnameserver\t192.0.2.1\nnameserver fe80::1%eth0\n"
        "nameserver nonsense\n  nameserver 192.0.2.3 # third\nnameserver 192.0.2.4\noptions timeout:30 attempts:9\n"
    )
    resolver = Resolver(resolv_conf=str(conf))
    assert resolver.servers() == (("192.0.2.1", 53), ("fe80::1%eth0", 53), ("192.0.2.3", 53))
    conf.write_text("nameserver 192.0.2.5\n")
    os.utime(conf, ns=(1, 1))
    assert resolver.servers() == (("192.0.2.5", 53),)


@pytest.mark.parametrize("text", [None, "", "options edns0\n", "nameserver\n", "\xff\0\n", "nameserver x\n" * 100_000])
def test_without_a_server_in_it_the_local_host_is_asked(tmp_path: Path, text: str | None) -> None:
    conf = tmp_path / "resolv.conf"
    if text is not None:
        conf.write_bytes(text.encode("latin-1"))
    assert Resolver(port=5353, resolv_conf=str(conf)).servers() == (("127.0.0.1", 5353),)


def test_resolv_conf_that_is_a_directory(tmp_path: Path) -> None:
    assert Resolver(resolv_conf=str(tmp_path)).servers() == (("127.0.0.1", 53),)


def test_the_port_is_for_servers_without_one(nsd) -> None:
    resolver = Resolver(("127.0.0.1",), port=nsd.port)
    assert resolver.plan("victim.test", Deadline(5)).state == "mx"


def test_nothing_heavy_is_loaded_before_the_first_question() -> None:
    """Literals, refused domains and cached plans cost no import either."""
    source = Path(dnsquery.__file__).parents[1]
    code = f"import sys; sys.path.insert(0, {str(source)!r}); before = set(sys.modules)\n"
    code += "from postroom.dns import Resolver; from postroom.deadline import Deadline\n"
    code += "Resolver().plan('[192.0.2.1]', Deadline(1)); Resolver().plan('a..b', Deadline(1))\n"
    code += "print(*set(sys.modules) - before)"
    run = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    cheap = {
        "__future__",
        "_socket",
        "time",
        "os",
        "stat",
        "_stat",
        "posixpath",
        "genericpath",
        "os.path",
        "_collections_abc",
    }
    loaded = {name for name in run.stdout.split() if not name.startswith("postroom")}
    assert loaded <= cheap
