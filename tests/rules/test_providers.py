"""The catalogue of providers: sound data, and what "provider:NAME" makes of it beside the file's own."""

from __future__ import annotations

import pytest

from postroom.mx import Plan, to_ascii, valid_hostname
from postroom.rules.providers import CATALOGUE, catalogue, provider_of

RULE = '[[rule]]\nid = "a"\nat = "rcpt"\nmatch = {{ primary_mx = "provider:{}" }}\naction = "REJECT"\n'
HOSTS = [(name, host) for name, hosts in catalogue().items() for host in hosts]


def decided(rules, text: str, *hosts: str) -> str:
    plan = Plan("a.example", "mx", tuple((10, host) for host in hosts))
    return str(rules(text).decide("rcpt", {"recipient": "b@a.example"}, {"mx": plan}).action)


def test_it_knows_those_that_everybody_meets() -> None:
    wanted = (
        "google microsoft yahoo icloud gmx ionos t-online proofpoint mimecast zoho fastmail yandex mailru qq netease "
        "barracuda messagelabs ironport trendmicro sophos hornetsecurity spamexperts ovh gandi protonmail rackspace "
        "godaddy namecheap migadu amazon cloudflare mailgun sendgrid"
    )
    assert set(wanted.split()) <= set(CATALOGUE)


@pytest.mark.parametrize(("name", "host"), HOSTS, ids=[host for _, host in HOSTS])
def test_hosts_are_names_in_the_form_they_are_compared_in(name: str, host: str) -> None:
    bare = host.removeprefix(".")
    assert valid_hostname(bare)
    assert to_ascii(bare) == bare
    assert bare.count(".") >= 1, "a whole top-level domain"
    assert provider_of(f"mx1{host}" if host.startswith(".") else host) == name


def test_no_host_belongs_to_two() -> None:
    for name, host in HOSTS:
        for other, suffix in HOSTS:
            if (name, host) != (other, suffix) and suffix.startswith("."):
                assert not host.endswith(suffix), f"{host} of {name} is below {suffix} of {other}"
    assert len({host for _, host in HOSTS}) == len(HOSTS)


@pytest.mark.parametrize("name", CATALOGUE)
def test_names_can_be_written_in_a_file(name: str) -> None:
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert CATALOGUE[name][0].strip()


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("aspmx.l.google.com", "google"),
        ("ALT1.ASPMX.L.Google.COM.", "google"),
        ("example-com.mail.protection.outlook.com", "microsoft"),
        ("example-com.a-v1.mx.microsoft", "microsoft"),
        ("mx0a-00123456.pphosted.com", "proofpoint"),
        ("eu-smtp-inbound-1.mimecast.com", "mimecast"),
        ("in1-smtp.messagingengine.com", "fastmail"),
        ("inbound-smtp.eu-west-1.amazonaws.com", "amazon"),
        ("mx00.t-online.de", "t-online"),
        ("mta5.am0.yahoodns.net", "yahoo"),
        ("google.com", ""),  # the domain is no host below it
        ("notgoogle.com", ""),
        ("mx.google.com.evil.example", ""),
        ("ec2-192-0-2-1.compute-1.amazonaws.com", ""),
        ("c-192-0-2-1.hsd1.ca.comcast.net", ""),
        ("ns1.ovh.net", ""),
        ("mx.example.com", ""),
        ("com", ""),
        (".", ""),
        ("", ""),
        ("192.0.2.1", ""),
        ("a." * 300_000, ""),
    ],
)
def test_whose_host_it_is(host: str, name: str) -> None:
    assert provider_of(host) == name


def test_a_rule_may_name_one_that_the_file_does_not(rules) -> None:
    text = RULE.format("google")
    assert decided(rules, text, "aspmx.l.google.com") == "REJECT"
    assert decided(rules, text, "mx.example.net") == "DUNNO"


def test_the_files_own_takes_the_place_of_the_whole_entry(rules) -> None:
    text = '[provider.google]\nmx = ["gw.example.net"]\n' + RULE.format("google")
    assert decided(rules, text, "gw.example.net") == "REJECT"
    assert decided(rules, text, "aspmx.l.google.com") == "DUNNO"


def test_a_wrong_one_in_the_file_is_not_made_good_by_the_catalogue(problems) -> None:
    (problem,) = problems('[provider.google]\nmx = ["a b"]\n' + RULE.format("google"))
    assert (problem.key, problem.level) == ("provider.google.mx", "error")


@pytest.mark.parametrize(
    ("name", "said"),
    [("gogle", 'did you mean "google"?'), ("xyzzy-nothing", "expected a [provider.NAME] of the file or a shipped one")],
)
def test_a_name_that_nobody_has(problems, name: str, said: str) -> None:
    (problem,) = problems(RULE.format(name))
    assert said in problem.text


def test_no_word_about_shipped_providers_that_no_rule_uses(problems) -> None:
    assert problems(RULE.format("google")) == []
