"""Whatever comes back, in whatever order: the machine ends, asks a bounded number of questions, never raises."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from postroom import mx

KINDS = ["records", "nodata", "nxdomain", "servfail", "refused", "timeout", "malformed", "failed", "nonsense", ""]
NAMES = st.sampled_from(["a.test", "b.test", "c.test", ".", "", "127.0.0.1", "a\\032b", "x" * 300]) | st.text(
    max_size=9
)
TYPES = st.sampled_from(["MX", "MX", "CNAME", "CNAME", "A", "AAAA", "TXT"])
TTLS = st.integers(0, 2**31 - 1)
RECORDS = st.lists(st.tuples(NAMES, TYPES, TTLS, st.integers(0, 65535), NAMES), max_size=6).map(tuple)
ANSWERS = st.builds(mx.Answer, st.sampled_from(KINDS), RECORDS, TTLS, st.text(max_size=5))
STATES = {"mx", "implicit", "null", "none", "literal", "error"}


def drive(machine, answers, limit):
    """Run to the end on those answers, over and over; the value, and how many questions it took."""
    questions = 0
    try:
        question = next(machine)
        while True:
            name, kind = question
            assert mx.valid_hostname(name) or name.startswith("*")
            assert kind in ("MX", "A", "AAAA")
            questions += 1
            assert questions <= limit
            question = machine.send(answers[questions % len(answers)])
    except StopIteration as end:
        return end.value


@given(st.sampled_from(["a.test", "b.test", "[1.2.3.4]"]) | st.text(), st.lists(ANSWERS, min_size=1, max_size=12))
def test_resolution_and_addresses_end(domain: str, answers: list[mx.Answer]) -> None:
    plan = drive(mx.resolution(domain), answers, 3 * mx.MAX_QUESTIONS)
    check(plan)
    hosts, outcome = drive(mx.addresses(plan), answers, 2 * mx.MAX_QUESTIONS * mx.MAX_HOSTS)
    assert outcome.split()[0] in ("deliver", "bounce", "defer")
    assert [(host.preference, host.name) for host in hosts] == list(plan.hosts)
    assert all(bool(host.addresses) != bool(host.trouble) for host in hosts)


def check(plan: mx.Plan) -> None:
    assert plan.state in STATES
    assert plan.ttl >= 0
    assert bool(plan.hosts) == (plan.state in ("mx", "implicit", "literal")) == (plan.outcome == "deliver")
    assert bool(plan.reason) or plan.state in ("mx", "literal")
    assert list(plan.hosts) == sorted(plan.hosts)
    assert len(plan.hosts) <= mx.MAX_HOSTS
    assert set(plan.primary) <= set(plan.every)
    assert all(name == name.lower() and not name.endswith(".") for name in plan.every)


@given(st.text(), st.text())
def test_what_is_said_of_a_domain_is_one_clean_line(before: str, after: str) -> None:
    machine = mx.resolution(before + "\n" + after)
    try:
        next(machine)
    except StopIteration as end:
        assert end.value.reason.isprintable()


@given(st.text(alphabet="aZ09-_.*é \0[]:", max_size=40))
def test_a_valid_name_is_one_that_dns_can_carry(name: str) -> None:
    if mx.valid_hostname(name):
        assert all(0 < len(label) < 64 for label in name.encode("ascii").split(b"."))
        assert not name.replace(".", "").isdigit()
