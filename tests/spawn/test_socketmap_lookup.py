"""socketmap-lookup as spawn(8) runs it: every table, and what comes of what cannot be told."""

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from spawn.tables import Socketmap

from postroom.deadline import Deadline
from postroom.store import Suppression
from postroom.store import open as open_store

Start = Callable[..., Socketmap]

OVERRIDES = '[list.fixed]\ntable = "texthash:fixed"\n[route]\noverrides = "list:fixed"\n'
SLOW = '[[rule]]\nid = "slow"\nat = "route"\nmatch = { recipient_domain = "slow.test" }\naction = "slow:"\n'
BY_MX = '[[rule]]\nid = "mx"\nat = "route"\nmatch = { every_mx = ".big.test" }\naction = "big:{recipient_domain}"\n'
AT_RCPT = '[[rule]]\nid = "r"\nat = "rcpt"\nmatch = { recipient = "a@x.test" }\naction = "550 5.7.1 not {recipient}"\n'


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Socketmap] = []

    def begin(rules: str, *options: str) -> Socketmap:
        started.append(Socketmap(tmp_path, rules, *options))
        return started[-1]

    yield begin
    for one in started:
        assert one.close() == 0


@pytest.fixture
def silent() -> Iterator[str]:
    """[dns] of a server that never answers."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        yield f'[dns]\nservers = ["127.0.0.1:{server.getsockname()[1]}"]\n'


# route


def test_the_first_rule_that_matches_routes_and_nothing_is_found_without_one(start: Start) -> None:
    table = start(SLOW + SLOW.replace("slow", "other", 1).replace('"slow:"', '"never:"'))
    assert table.ask("route", "a@slow.test") == "OK slow:"
    assert table.ask("route", "A.B+c@SLOW.test") == "OK slow:"
    assert table.ask("route", "a@elsewhere.test") == "NOTFOUND"


@pytest.mark.parametrize("key", ["*", "<>", '"<>"', "", "slow.test", ".slow.test", "@slow.test", "a@", "slow.test "])
def test_what_is_no_address_is_not_decided_by_rules(start: Start, key: str) -> None:
    """Else a rule would speak twice for a recipient: Postfix asks other tables for the domain after the address."""
    table = start(SLOW + '[[rule]]\nid = "all"\nat = "route"\nmatch = {}\naction = "all:"\n')
    assert table.ask("route", key) == "NOTFOUND"
    assert table.ask("route", "a@b.test") == "OK all:"


def test_both_spellings_of_a_quoted_address_are_one_recipient(start: Start) -> None:
    rule = SLOW.replace('recipient_domain = "slow.test"', r"recipient = 'a \"b@slow.test'")
    table = start(rule.replace("\\", ""))
    assert table.ask("route", 'a "b@slow.test') == "OK slow:"
    assert table.ask("route", '"a \\"b"@slow.test') == "OK slow:"
    assert table.ask("route", '"a\\ \\"b"@slow.test') == "OK slow:"


def test_overrides_come_before_rules_and_before_dns(start: Start, tmp_path: Path, silent: str) -> None:
    (tmp_path / "fixed").write_text("vip@slow.test fast:[192.0.2.1]\nours.test relay:inside\n.ours.test relay:sub\n")
    table = start(OVERRIDES + silent + SLOW + BY_MX)
    begin = time.monotonic()
    assert table.ask("route", "vip@slow.test") == "OK fast:[192.0.2.1]"
    assert table.ask("route", "Vip+x@Slow.test") == "OK fast:[192.0.2.1]"
    assert table.ask("route", "ann@ours.test") == "OK relay:inside"
    assert table.ask("route", "ann@deep.ours.test") == "OK relay:sub"
    assert time.monotonic() - begin < 2, "the start of Python, and no wait for DNS"
    assert table.ask("route", "other@slow.test") == "OK slow:"
    assert "override=fixed, answer=fast:[192.0.2.1]" in table.logged("override=fixed")


def test_an_entry_without_a_transport_exempts_from_the_rules(start: Start, tmp_path: Path) -> None:
    rules = '[list.fixed]\nvalues = ["vip@slow.test"]\n[route]\noverrides = "list:fixed"\n'
    table = start(rules + SLOW)
    assert table.ask("route", "vip@slow.test") == "NOTFOUND"
    assert table.ask("route", "b@slow.test") == "OK slow:"


def test_an_override_that_is_no_route_is_not_passed_on(start: Start, tmp_path: Path) -> None:
    (tmp_path / "fixed").write_text("vip@slow.test fast\n")
    table = start(OVERRIDES + SLOW)
    assert table.ask("route", "vip@slow.test") == "NOTFOUND"
    assert "expected transport:nexthop" in table.logged("fault=handler")


@pytest.mark.parametrize(("temp", "answer"), [("", "NOTFOUND"), ("temp = true\n", "TEMP")])
def test_what_cannot_be_told_is_not_found_unless_temp_is_asked_for(
    start: Start, tmp_path: Path, silent: str, temp: str, answer: str
) -> None:
    """A list that is gone, DNS that is silent: each within a second, the start of the program left out."""
    listed = '[list.gone]\nfile = "gone"\n'
    rule = (
        '[[rule]]\nid = "gone"\nat = "route"\nmatch = { recipient = "list:gone" }\naction = "x:"\non_error = "skip"\n'
    )
    route = "[route]\ndeadline = 0.3\n" + temp
    table = start(listed + route + silent + rule + BY_MX)
    table.ask("route", "*")
    table.ask("route", "warm@up.test")
    begin = time.monotonic()
    assert table.ask("route", "a@victim.test").split()[0] == answer
    assert time.monotonic() - begin < 1
    assert "rule=mx, on_error=MX of victim.test: " in table.logged("on_error=MX of victim.test")


@pytest.mark.parametrize(("temp", "answer"), [("", "NOTFOUND"), ("temp = true\n", "TEMP")])
def test_overrides_that_cannot_be_read_leave_the_rules_unasked(start: Start, temp: str, answer: str) -> None:
    table = start(OVERRIDES + temp + SLOW)
    assert table.ask("route", "a@slow.test").split()[0] == answer
    assert "on_error=list fixed: " in table.logged("on_error")


def test_an_action_for_on_error_is_the_answer(start: Start, silent: str) -> None:
    table = start("[route]\ndeadline = 0.2\n" + silent + BY_MX + 'on_error = "careful:"\n')
    assert table.ask("route", "a@victim.test") == "OK careful:"


def test_a_plan_of_yesterday_is_better_than_none(start: Start, silent: str, tmp_path: Path) -> None:
    """Learnt by a process that is gone; this one has never had an answer of DNS."""
    cache = tmp_path / "state" / "cache"
    cache.mkdir(parents=True)
    when = int(time.time()) - 80_000
    (cache / "plans").write_text(
        f"victim.test {when} mx 300 10:mx1.big.test 20:mx2.big.test\nold.test {when - 9000} mx 300 10:mx1.big.test\n"
    )
    table = start("[route]\ndeadline = 0.3\n" + silent + BY_MX)
    assert table.ask("route", "a@victim.test") == "OK big:victim.test"
    assert table.ask("route", "b@old.test") == "NOTFOUND"


def test_a_broken_configuration_routes_nothing_and_defers_the_rest(start: Start) -> None:
    table = start("[[rule\n")
    assert table.ask("route", "a@slow.test") == "NOTFOUND"
    assert table.ask("suppressed", "a@slow.test").startswith("TEMP configuration problem")
    assert table.ask("verdict", "a@slow.test").startswith("TEMP configuration problem")


def test_a_new_configuration_is_in_force_and_a_broken_one_is_not(start: Start) -> None:
    table = start(SLOW)
    assert table.ask("route", "a@slow.test") == "OK slow:"
    table.write(SLOW.replace('"slow:"', '"slower:"'))
    time.sleep(1.1)
    assert table.ask("route", "a@slow.test") == "OK slower:"
    table.write("[[rule\n")
    time.sleep(1.1)
    assert table.ask("route", "a@slow.test") == "OK slower:"


# The other tables


def test_suppressed(start: Start) -> None:
    table = start("")
    assert table.ask("suppressed", "gone@x.test") == "NOTFOUND"
    store = open_store(str(table.state), Deadline(10))
    store.suppress(
        Suppression("gone@x.test", 0, "bad-mailbox", "5.1.1", why="550 no\n\x07such \udcff user " + "x" * 500)
    )
    store.suppress(Suppression("by.hand@x.test", 86400))
    store.close()
    answer = table.ask("suppressed", "Gone@X.test")
    assert answer.startswith("OK 550 5.1.1 not sent to since 1970-01-01: 550 no ?such ? user xxx")
    assert len(answer) < 260
    assert table.ask("suppressed", '"by.hand"@x.test') == "OK 550 5.1.1 not sent to since 1970-01-02: manual"
    for key in ("<>", "x.test", "*", ""):
        assert table.ask("suppressed", key) == "NOTFOUND"


def test_a_state_that_cannot_be_used_puts_off(start: Start) -> None:
    table = start("")
    (table.state / "state.db").write_bytes(b"this is no database, but long enough to be looked at " * 100)
    assert table.ask("suppressed", "a@x.test").startswith("TEMP ")
    assert "on_error=" in table.logged("on_error=")


def test_verdicts(start: Start) -> None:
    mail = '[[rule]]\nid = "m"\nat = "mail"\nmatch = { sender = ["s@x.test", ""] }\naction = "HANGUP"\n'
    never = '[[rule]]\nid = "n"\nat = "rcpt"\nmatch = { recipient = "b@x.test" }\nunless = { sender = "s@x.test" }\n'
    table = start(AT_RCPT + mail + never + 'action = "REJECT"\n')
    assert table.ask("verdict", "A@x.test") == "OK 550 5.7.1 not A@x.test"
    assert table.ask("verdict", "b@x.test") == "NOTFOUND", "of the sender nothing is known"
    assert table.ask("sender-verdict", "s@x.test") == "OK HANGUP"
    assert table.ask("sender-verdict", "<>") == "OK HANGUP"
    assert table.ask("sender-verdict", "a@x.test") == "NOTFOUND"
    assert table.ask("verdict", "<>") == "NOTFOUND"
    assert table.ask("verdict", "x.test") == "NOTFOUND"


def test_a_verdict_that_cannot_be_had_is_what_on_error_says(start: Start) -> None:
    rule = '[[rule]]\nid = "g"\nat = "rcpt"\nmatch = { recipient = "list:gone" }\naction = "REJECT"\n'
    table = start('[list.gone]\nfile = "gone"\n' + rule)
    assert table.ask("verdict", "a@x.test").startswith("OK DEFER_IF_PERMIT 4.3.0 ")


def test_lists(start: Start, tmp_path: Path) -> None:
    (tmp_path / "t").write_text("a@x.test REJECT a\nx.test REJECT x\n.sub.test REJECT sub\n192.0.2 REJECT net\n")
    lists = '[list.t]\ntable = "texthash:t"\n[list.v]\nvalues = ["a@x.test"]\n[list.gone]\nfile = "gone"\n'
    table = start(lists)
    assert table.ask("list.t", "A+ext@x.test") == "OK REJECT a"
    assert table.ask("list.t", "b@x.test") == "OK REJECT x"
    assert table.ask("list.t", "deep.sub.test") == "OK REJECT sub"
    assert table.ask("list.t", "192.0.2.7") == "OK REJECT net"
    assert table.ask("list.t", "192.0.3.7") == "NOTFOUND"
    assert table.ask("list.v", "a@x.test") == "OK DUNNO", "an entry alone must not let anybody in"
    assert table.ask("list:v", "b@x.test") == "NOTFOUND"
    assert table.ask("list.gone", "a@x.test").startswith("TEMP list gone: ")
    assert table.ask("list.nope", "a@x.test") == "PERM no list nope"
    assert table.ask("nope", "a@x.test") == "PERM no table nope"


# The connection


def test_shadow_rules_are_logged_and_repeated_answers_are_not(start: Start) -> None:
    table = start(SLOW + 'mode = "shadow"\n' + SLOW.replace('"slow"', '"two"', 1))
    for _ in range(3):
        assert table.ask("route", "a@slow.test") == "OK slow:"
    assert table.ask("route", "b@slow.test") == "OK slow:"
    lines = table.logged("b@slow.test").splitlines()
    assert len(lines) == 2
    assert "table=route, key=<a@slow.test>, shadow=slow: slow:, rule=two, answer=slow:" in lines[0]


@pytest.mark.parametrize(
    "key", ["a\0b@slow.test", "a\nb@slow.test", "\udcff\udcfe@slow.test", "a@b@slow.test", "@@slow.test", "ü@slow.test"]
)
def test_hostile_keys_are_answered(start: Start, key: str) -> None:
    table = start(SLOW)
    assert table.ask("route", key) == "OK slow:"
    for name in ("suppressed", "verdict", "sender-verdict"):
        assert table.ask(name, key) == "NOTFOUND"
    assert table.ask("\udcff\n", key).startswith("PERM ")


def test_a_key_of_100_kilobytes(start: Start) -> None:
    table = start(SLOW)
    assert table.ask("route", "x" * 100_000 + "@slow.test") == "OK slow:"
    assert table.ask("suppressed", "x" * 100_000 + "@slow.test") == "NOTFOUND"
    assert len(table.logged("answer=slow:")) < 2500


def test_what_is_no_request_is_answered_before_the_end(tmp_path: Path) -> None:
    table = Socketmap(tmp_path, SLOW)
    table.socket.sendall(b"get a@slow.test\n")
    assert table.netstring() == "TEMP not understood"
    with pytest.raises((EOFError, ConnectionError)):
        table.receive()
    assert table.close() == 75


def test_an_unknown_option_puts_off_and_is_named(start: Start, tmp_path: Path) -> None:
    table = start(SLOW, "--table", "route", "--log", str(tmp_path / "log"))
    assert table.ask("suppressed", "a@x.test").startswith("TEMP configuration problem")


def test_two_requests_in_one_write(start: Start) -> None:
    table = start(SLOW)
    table.socket.sendall(b"17:route a@slow.test," * 2)
    data = b""
    while data.count(b",") < 2:
        data += table.receive()
    assert data == b"8:OK slow:,8:OK slow:,"
