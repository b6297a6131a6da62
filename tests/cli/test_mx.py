"""`postroom mx` as a person and as a script see it, in front of a real nsd."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest
from click.testing import CliRunner, Result

from postroom.cli import main
from postroom.lab.nameserver import Nameserver

ZONES = {
    "victim.test": "@ MX 10 mx1.shady.test.\n@ MX 20 b.good.test.\n@ MX 20 a.good.test.\n",
    "shady.test": "mx1 A 192.0.2.1\nmx1 AAAA 2001:db8::1\n",
    "good.test": "a A 192.0.2.2\nb A 192.0.2.3\n",
    "twice.test": "@ MX 10 a.good.test.\n@ MX 20 a.good.test.\n",
    "null.test": "@ MX 0 .\n",
    "empty.test": "",
    "implicit.test": "@ A 192.0.2.7\n",
    "half.test": "@ MX 10 a.broken.test.\n@ MX 20 a.good.test.\n",
    "dead.test": "@ MX 10 a.broken.test.\n@ MX 20 nx.good.test.\n",
    "gone.test": "@ MX 10 nx.good.test.\n",
    "big.test": "@ MX 10 aspmx.l.google.com.\n@ MX 10 mxa.mailgun.org.\n@ MX 20 mx.zoho.eu.\n"
    "@ MX 30 alt1.aspmx.l.google.com.\n",
    "google.com": "aspmx.l A 192.0.2.5\nalt1.aspmx.l A 192.0.2.6\n",
    "mailgun.org": "mxa A 192.0.2.7\n",
    "zoho.eu": "mx A 192.0.2.8\n",
}


@pytest.fixture(scope="module")
def nsd() -> Iterator[Nameserver]:
    with Nameserver(ZONES, servfail=("broken.test",)) as server:
        yield server


def postroom(*words: str) -> Result:
    return CliRunner().invoke(main, ["mx", *words])


def test_a_plan_reads_like_this(nsd) -> None:
    result = postroom("victim.test", "--server", nsd.address)
    assert result.exit_code == 0
    assert result.output == (
        "victim.test: MX records (for 300 s)\n"
        "     10  mx1.shady.test  primary  192.0.2.1, 2001:db8::1\n"
        "     20  a.good.test     backup   192.0.2.2\n"
        "     20  b.good.test     backup   192.0.2.3\n"
        "  smtp(8): deliver to mx1.shady.test, then a.good.test or b.good.test\n"
    )


@pytest.mark.parametrize(
    ("domain", "said", "status"),
    [
        ("null.test", "smtp(8): bounce 5.1.0 Domain null.test does not accept mail (nullMX)", 0),
        ("empty.test", "smtp(8): bounce 5.4.4 Host or domain name not found", 0),
        ("nx.empty.test", "because: no such name (NXDOMAIN)", 0),
        ("implicit.test", "no MX record: the domain is its own mail host", 0),
        ("implicit.test", "smtp(8): deliver to implicit.test", 0),
        ("gone.test", "smtp(8): bounce 5.4.4 Host or domain name not found", 0),
        ("half.test", "smtp(8): deliver to a.good.test", 0),
        ("[192.0.2.9]", "smtp(8): deliver to 192.0.2.9", 0),
        ("a..b", "smtp(8): bounce 5.1.3 Bad recipient address syntax", 0),
        ("broken.test", "smtp(8): defer 4.4.3 Host or domain name not found, try again", 75),
        ("broken.test", "because: SERVFAIL from 127.0.0.1:", 75),
        ("dead.test", "smtp(8): defer 4.4.4 Host or domain name not found", 75),
        ("elsewhere.example", "because: REFUSED from 127.0.0.1:", 75),
    ],
)
def test_what_smtp_would_do_and_why(nsd, domain: str, said: str, status: int) -> None:
    result = postroom("--server", nsd.address, domain)
    assert said in result.output
    assert result.exit_code == status


def test_one_failure_among_several_domains_shows_in_the_status(nsd) -> None:
    result = postroom("--server", nsd.address, "victim.test", "broken.test", "null.test")
    assert [line.split(":")[0] for line in result.output.splitlines() if not line.startswith(" ")] == [
        "victim.test",
        "broken.test",
        "null.test",
    ]
    assert result.exit_code == os.EX_TEMPFAIL


def test_json_is_one_object_a_line_with_these_fields(nsd) -> None:
    result = postroom("--json", "--server", nsd.address, "TWICE.test.", "broken.test")
    first, second = (json.loads(line) for line in result.output.splitlines())
    host = {"name": "a.good.test", "provider": "", "addresses": ["192.0.2.2"], "trouble": ""}
    assert first == {
        "asked": "TWICE.test.",
        "domain": "twice.test",
        "state": "mx",
        "hosts": [{"preference": 10, "primary": True, **host}, {"preference": 20, "primary": False, **host}],
        "primary": ["a.good.test"],
        "every": ["a.good.test"],
        "providers": [],
        "ttl": 300,
        "reason": "",
        "notes": [],
        "outcome": "deliver",
    }
    assert (second["state"], second["hosts"]) == ("error", [])
    assert second["reason"] == f"SERVFAIL from {nsd.address} for MX broken.test"


def test_it_names_the_providers_as_rules_do(nsd) -> None:
    lines = postroom("--server", nsd.address, "big.test").output.splitlines()
    assert lines[-4:-1] == [
        "  provider:google (Gmail, Google Workspace)",
        "  provider:mailgun (Mailgun)",
        "  provider:zoho (Zoho Mail), backup only",
    ]
    told = json.loads(postroom("--json", "--server", nsd.address, "big.test").output)
    assert [host["provider"] for host in told["hosts"]] == ["google", "mailgun", "zoho", "google"]
    assert told["providers"] == ["google", "mailgun"]


def test_json_of_text_that_is_no_text(nsd) -> None:
    result = postroom("--json", "--server", nsd.address, "a\udcff.test")
    assert json.loads(result.output)["asked"] == "a\udcff.test"
    assert result.output.isascii()


def test_control_characters_of_a_domain_do_not_reach_the_terminal(nsd) -> None:
    result = postroom("--server", nsd.address, "a\x1b[2J\n.test")
    assert "\x1b" not in result.output
    assert result.exit_code == 0


@pytest.mark.parametrize(
    "words",
    [[], ["--nonsense", "a.test"], ["--server", "ns.example.com", "a.test"], ["--deadline", "0", "a.test"]],
)
def test_wrong_usage_is_64(words: list[str]) -> None:
    result = postroom(*words)
    assert result.exit_code == os.EX_USAGE
    assert "Error: " in result.stderr


def test_the_deadline_is_for_each_domain() -> None:
    import socket
    import time

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        start = time.monotonic()
        result = postroom("--server", f"127.0.0.1:{silent.getsockname()[1]}", "--deadline", "0.3", "a.test", "b.test")
        assert 0.5 < time.monotonic() - start < 2
    assert result.exit_code == os.EX_TEMPFAIL


def test_help_says_what_the_exit_status_means() -> None:
    result = postroom("--help")
    assert result.exit_code == 0
    assert "75 DNS failed" in result.output


@pytest.mark.parametrize(
    ("asked", "said"), [("user@gmail.test", "expected a domain; did you mean gmail.test?"), ("user@", "a domain\n")]
)
def test_an_address_is_no_domain(asked: str, said: str) -> None:
    result = postroom(asked)
    assert result.exit_code == os.EX_USAGE
    assert said in result.output
