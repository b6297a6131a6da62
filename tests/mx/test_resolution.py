"""Every case of what smtp(8) does, as seen in a running smtp(8) 3.7.11 with the same answers before it."""

from __future__ import annotations

import pytest

from postroom import mx

NOT_FOUND = "bounce 5.4.4 Host or domain name not found"
TRY_AGAIN = "defer 4.4.3 Host or domain name not found, try again"
MALFORMED = "bounce 5.4.4 Malformed or unexpected name server reply"


def test_hosts_come_by_preference_and_cost_one_question(world) -> None:
    net = world("a.test 300 MX 20 backup.test\na.test 300 MX 10 mx2.test\na.test 300 MX 10 mx1.test")
    plan = net.plan("a.test")
    assert plan.state == "mx"
    assert plan.hosts == ((10, "mx1.test"), (10, "mx2.test"), (20, "backup.test"))
    assert plan.primary == ("mx1.test", "mx2.test")
    assert plan.every == ("mx1.test", "mx2.test", "backup.test")
    assert (plan.outcome, plan.ttl, plan.notes) == ("deliver", 300, ())
    assert net.asked == ["a.test MX"]


def test_the_same_host_twice_is_one_name(world) -> None:
    plan = world("a.test 9 MX 10 m.test\na.test 9 MX 10 m.test\na.test 9 MX 20 m.test").plan("a.test")
    assert plan.hosts == ((10, "m.test"), (20, "m.test"))
    assert plan.primary == plan.every == ("m.test",)


@pytest.mark.parametrize("beside", ["", "a.test 60 MX 10 mx.test\n", "a.test 60 MX 5 bad\\032name.test\n"])
@pytest.mark.parametrize("preference", [0, 20])
def test_null_mx_even_beside_others(world, beside: str, preference: int) -> None:
    plan = world(f"{beside}a.test 60 MX {preference} .").plan("a.test")
    assert (plan.state, plan.hosts, plan.ttl) == ("null", (), 60)
    assert plan.outcome == "bounce 5.1.0 Domain a.test does not accept mail (nullMX)"


@pytest.mark.parametrize(("kind", "address"), [("A", "192.0.2.1"), ("AAAA", "2001:db8::1")])
def test_no_mx_but_an_address_is_its_own_host(world, kind: str, address: str) -> None:
    net = world(f"a.test 300 {kind} {address}")
    plan = net.plan("a.test")
    assert (plan.state, plan.hosts, plan.primary) == ("implicit", ((0, "a.test"),), ("a.test",))
    assert (plan.outcome, plan.ttl) == ("deliver", 60)  # the missing MX holds for less long than the address
    assert net.asked == ["a.test MX", "a.test A"] + (["a.test AAAA"] if kind == "AAAA" else [])


def test_nxdomain_for_mx_still_asks_for_addresses_as_smtp_does(world) -> None:
    plan = world("a.test 300 A 192.0.2.1", failing={"a.test MX": "NXDOMAIN"}).plan("a.test")
    assert (plan.state, plan.outcome) == ("implicit", "deliver")


def test_no_mx_and_no_address(world) -> None:
    plan = world("a.test 300 TXT v=spf1").plan("a.test")
    assert (plan.state, plan.outcome, plan.reason) == ("none", NOT_FOUND, "no MX or address records")


def test_nxdomain(world) -> None:
    plan = world().plan("nx.test")
    assert (plan.state, plan.outcome, plan.ttl) == ("none", NOT_FOUND, 60)
    assert "NXDOMAIN" in plan.reason


@pytest.mark.parametrize("trouble", ["SERVFAIL", "REFUSED", "TIMEOUT", "GARBAGE"])
def test_what_may_pass_is_an_error_with_its_reason(world, trouble: str) -> None:
    net = world("a.test 300 A 192.0.2.1", failing={"a.test MX": trouble})
    plan = net.plan("a.test")
    assert (plan.state, plan.outcome, plan.hosts) == ("error", TRY_AGAIN, ())
    assert plan.reason == f"{trouble} from 127.0.0.1:53 for MX a.test"
    assert net.asked == ["a.test MX"]  # smtp(8) does not fall back to the address (ignore_mx_lookup_error = no)


def test_formerr_is_non_recoverable(world) -> None:
    plan = world(failing={"a.test MX": "FORMERR"}).plan("a.test")
    assert (plan.state, plan.outcome) == ("error", "bounce 5.4.3 Non-recoverable error")


@pytest.mark.parametrize(
    ("first", "second", "state", "outcome"),
    [
        ("SERVFAIL", "", "error", TRY_AGAIN),
        ("", "SERVFAIL", "error", TRY_AGAIN),
        ("FORMERR", "", "error", "bounce 5.4.3 Non-recoverable error"),
        ("", "FORMERR", "error", "bounce 5.4.3 Non-recoverable error"),
        ("FORMERR", "SERVFAIL", "error", TRY_AGAIN),
        ("SERVFAIL", "FORMERR", "error", TRY_AGAIN),
        ("NXDOMAIN", "", "none", NOT_FOUND),
    ],
)
def test_of_two_failures_without_mx_the_soft_one_counts(world, first, second, state, outcome) -> None:
    failing = {"a.test A": first, "a.test AAAA": second}
    plan = world("a.test 9 TXT x", failing={k: v for k, v in failing.items() if v}).plan("a.test")
    assert (plan.state, plan.outcome) == (state, outcome)


@pytest.mark.parametrize("trouble", ["SERVFAIL", "FORMERR"])
def test_one_address_is_enough_without_mx(world, trouble: str) -> None:
    plan = world("a.test 9 AAAA ::9", failing={"a.test A": trouble}).plan("a.test")
    assert plan.state == "implicit"


def test_cname_at_the_domain_takes_the_mx_of_its_target(world) -> None:
    net = world("www.test 30 CNAME a.test\na.test 300 MX 10 mx.test")
    plan = net.plan("www.test")
    assert (plan.domain, plan.state, plan.primary, plan.ttl) == ("www.test", "mx", ("mx.test",), 30)
    assert plan.notes == ("alias of a.test",)
    assert net.asked == ["www.test MX"]


def test_cname_to_a_name_that_does_not_exist(world) -> None:
    plan = world("www.test 30 CNAME nx.test").plan("www.test")
    assert (plan.state, plan.outcome) == ("none", NOT_FOUND)


def test_cname_to_a_host_without_mx_is_its_own_host(world) -> None:
    plan = world("www.test 30 CNAME h.test\nh.test 30 A 192.0.2.1").plan("www.test")
    assert (plan.state, plan.hosts, plan.notes) == ("implicit", ((0, "www.test"),), ("alias of h.test",))


class Links:
    """A server that tells one CNAME at a time: l3 -> l2 -> l1 -> l0, which has an MX."""

    def __init__(self) -> None:
        self.questions = 0

    def plan(self, links: int) -> mx.Plan:
        machine = mx.resolution(f"l{links}.test")
        try:
            name, _ = next(machine)
            while True:
                self.questions += 1
                number = int(name.removeprefix("l").removesuffix(".test"))
                alias = (name, "CNAME", 60, 0, f"l{number - 1}.test")
                end = (name, "MX", 60, 10, "mx.test")
                name, _ = machine.send(mx.Answer(mx.RECORDS, (alias,) if number else (end,)))
        except StopIteration as stop:
            return stop.value


def test_ten_questions_follow_nine_links_and_no_more() -> None:
    assert Links().plan(9).primary == ("mx.test",)
    links = Links()
    plan = links.plan(10)
    assert (plan.state, plan.outcome) == ("none", "bounce 5.4.4 Name server loop")
    assert links.questions == 3 * mx.MAX_QUESTIONS  # for MX, A and AAAA


def test_any_number_of_links_in_one_reply(world) -> None:
    chain = "".join(f"l{n}.test 60 CNAME l{n + 1}.test\n" for n in range(30))
    net = world(chain + "l30.test 60 MX 10 mx.test")
    assert net.plan("l0.test").primary == ("mx.test",)
    assert net.asked == ["l0.test MX"]


@pytest.mark.parametrize("text", ["a.test 9 CNAME b.test\nb.test 9 CNAME a.test", "a.test 9 CNAME a.test"])
def test_cname_loop(world, text: str) -> None:
    net = world(text)
    plan = net.plan("a.test")
    assert (plan.state, plan.outcome) == ("none", "bounce 5.4.4 Name server loop")
    assert net.asked == ["a.test MX", "a.test A", "a.test AAAA"]


@pytest.mark.parametrize("target", ["a\\032b.test", ".", "-x.test", "x" * 64 + ".test"])
def test_cname_to_a_malformed_name(world, target: str) -> None:
    plan = world(f"a.test 9 CNAME {target}").plan("a.test")
    assert (plan.state, plan.outcome) == ("none", MALFORMED)


def test_records_of_other_names_are_not_the_domains() -> None:
    machine = mx.resolution("a.test")
    next(machine)
    strange = (("elsewhere.test", "MX", 60, 10, "evil.test"), ("b.test", "CNAME", 60, 0, "a.test"))
    assert machine.send(mx.Answer(mx.RECORDS, strange)) == ("a.test", "A")


@pytest.mark.parametrize("target", ["127.0.0.9", "01.2.3.4", "::1"])
def test_an_address_as_target_is_taken_with_a_note(world, target: str) -> None:
    plan = world(f"a.test 9 MX 10 {target}").plan("a.test")
    assert (plan.state, plan.primary) == ("mx", (target,))
    assert "an address as MX target" in plan.notes[0]


@pytest.mark.parametrize("target", ["_a.test", "1_2", "1-2", "a.123", "*", "*.test", "xn--a.test", "x" * 63 + ".test"])
def test_odd_targets_that_postfix_takes(world, target: str) -> None:
    assert world(f"a.test 9 MX 10 {target}").plan("a.test").primary == (target,)


BAD = ["a\\032b.test", "0.1.2.3", "256.1.1.1", "1.2.3", "123", "1.2.3.4.5", "a-.test", "a\\.b.test", "a/b.test"]
BAD += ["[127.0.0.9]", "*a.test", "a.*.test", "ipv6:::1", "-a.test"]


@pytest.mark.parametrize("target", BAD)
def test_malformed_targets_are_left_out_or_all_there_is(world, target: str) -> None:
    plan = world(f"a.test 9 MX 10 {target}").plan("a.test")
    assert (plan.state, plan.outcome, plan.hosts) == ("none", MALFORMED, ())
    mixed = world(f"a.test 9 MX 10 {target}\na.test 9 MX 20 ok.test").plan("a.test")
    assert (mixed.state, mixed.primary) == ("mx", ("ok.test",))
    assert mixed.notes == ("malformed MX records ignored: 1",)


def test_a_flood_of_hosts_keeps_the_ones_that_get_mail(world) -> None:
    net = world("".join(f"a.test 9 MX {n} m{n}.test\n" for n in range(3000, 0, -1)))
    plan = net.plan("a.test")
    assert plan.primary == ("m1.test",)
    assert len(plan.hosts) == mx.MAX_HOSTS
    assert plan.notes == (f"{mx.MAX_HOSTS} of 3000 MX records kept, lowest preference first",)


def test_the_shortest_ttl_counts(world) -> None:
    assert world("a.test 300 MX 10 x.test\na.test 20 MX 20 y.test").plan("a.test").ttl == 20
