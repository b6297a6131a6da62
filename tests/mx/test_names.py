"""Domains as strangers write them: which are asked about, under which name, and which Postfix refuses unasked."""

from __future__ import annotations

import pytest

from postroom import mx

SYNTAX = "bounce 5.1.3 Bad recipient address syntax"


@pytest.mark.parametrize(
    ("domain", "asked"),
    [
        ("Example.COM", "example.com"),
        ("example.com.", "example.com"),
        ("localhost", "localhost"),
        ("_dmarc.example.com", "_dmarc.example.com"),
        ("1-2.example", "1-2.example"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.Example.", "xn--bcher-kva.example"),
        ("straße.example", "xn--strae-oqa.example"),  # IDNA 2003 would ask strasse.example, somebody else
        ("例え。テスト", "xn--r8jz45g.xn--zckzah"),
        ("☃.net", "xn--n3h.net"),  # not in IDNA 2008; Postfix asks for it all the same
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("a" * 63 + ".example", "a" * 63 + ".example"),
    ],
)
def test_the_name_that_is_asked_for(world, domain: str, asked: str) -> None:
    net = world()
    assert net.plan(domain).domain == asked
    assert net.asked[0] == f"{asked} MX"


@pytest.mark.parametrize(
    "domain",
    [
        "",
        ".",
        "a..b",
        ".a.test",
        "a.test..",
        "-a.test",
        "a-.test",
        "a b.test",
        "a.test\n",
        "a\0.test",
        "../../etc/passwd",
        "123",
        "1.2.3",
        "192.0.2.1",
        "a" * 64 + ".test",
        "a." * 200 + "test",
        "x" * 1_000_000,
        "ü" * 1_000_000,
        "\udcff.test",
        "ü..test",
        "ü" * 70 + ".test",
        "[mail.example.com]",
        "[]",
        "[",
        "[1.2.3]",
        "[IPv6:1.2.3.4]",
        "[::1]",
        "[IPv6:::1%eth0]",
        "user@a.test",
    ],
)
def test_refused_without_a_question(world, domain: str) -> None:
    net = world()
    plan = net.plan(domain)
    assert (plan.state, plan.outcome, plan.hosts) == ("none", SYNTAX, ())
    assert net.asked == []
    assert len(plan.reason) < 700
    assert plan.reason.isprintable()
    assert len(plan.domain) <= mx.MAX_DOMAIN


@pytest.mark.parametrize(
    ("domain", "host"),
    [
        ("[192.0.2.1]", "192.0.2.1"),
        ("[IPv6:2001:DB8:0:0::1]", "2001:db8::1"),
        ("[ipv6:::ffff:192.0.2.1]", "::ffff:192.0.2.1"),
    ],
)
def test_address_literals_are_their_own_host(world, domain: str, host: str) -> None:
    net = world()
    plan = net.plan(domain)
    assert (plan.state, plan.hosts, plan.primary, plan.outcome) == ("literal", ((0, host),), (host,), "deliver")
    assert net.asked == []


def test_a_missing_idna_package_is_our_fault(world, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "idna", None)
    plan = world().plan("bücher.example")
    assert plan.state == "error"
    assert "idna" in plan.reason
    assert plan.outcome.startswith("defer 4.3.5")


def test_ascii_names_load_nothing(tmp_path) -> None:
    """The machine is in every program run for each mail."""
    import subprocess
    import sys
    from pathlib import Path

    source = Path(mx.__file__).parents[1]
    code = f"import sys; sys.path.insert(0, {str(source)!r}); before = set(sys.modules); import postroom.mx as m\n"
    code += "machine = m.resolution('a.test'); next(machine); print(*set(sys.modules) - before)"
    run = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert set(run.stdout.split()) <= {"__future__", "_socket", "postroom", "postroom.mx"}
