"""tcp-lookup as spawn(8) runs it: one table for each service, and never an end without a reply."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from spawn.tables import Tcp

Start = Callable[..., Tcp]

SLOW = '[[rule]]\nid = "slow"\nat = "route"\nmatch = { recipient_domain = "slow.test" }\naction = "slow:[192.0.2.1]"\n'
REJECT = '[[rule]]\nid = "r"\nat = "rcpt"\nmatch = { recipient = "a b@x.test" }\naction = "550 5.7.1 100% no"\n'
LIST = '[list.t]\ntable = "texthash:t"\n'


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Tcp] = []

    def begin(rules: str, *options: str) -> Tcp:
        started.append(Tcp(tmp_path, rules, *options))
        return started[-1]

    yield begin
    for one in started:
        assert one.close() == 0


def test_route_is_the_table_where_none_is_named(start: Start) -> None:
    table = start(SLOW)
    assert table.ask("a@slow.test") == "200 slow:[192.0.2.1]"
    assert table.ask("a@x.test") == "500 not found"
    assert table.ask("*") == "500 not found"


@pytest.mark.parametrize("option", [("--table", "verdict"), ("--table=verdict",)])
def test_another_table_by_option(start: Start, option: tuple[str, ...]) -> None:
    table = start(REJECT, *option)
    assert table.ask('"a b"@x.test') == "200 550 5.7.1 100% no"
    assert table.ask("b@x.test") == "500 not found"


def test_a_list(start: Start, tmp_path: Path) -> None:
    (tmp_path / "t").write_text("a@x.test ü and %\n")
    assert start(LIST, "--table", "list.t").ask("a@x.test") == "200 ü and %"


def test_a_table_that_is_not_there_puts_off(start: Start) -> None:
    assert start(SLOW, "--table", "rout").ask("a@slow.test") == "400 no table rout"


def test_an_answer_too_long_for_the_protocol_puts_off_and_is_logged(start: Start, tmp_path: Path) -> None:
    (tmp_path / "t").write_text("a@x.test " + "%" * 1400 + "\nb@x.test fine\n")
    table = start(LIST, "--table", "list.t")
    assert table.ask("a@x.test").startswith("400 local problem")
    assert table.ask("b@x.test") == "200 fine"
    assert "found 4205 bytes; Postfix reads 4096" in table.logged("fault=handler")


def test_a_broken_configuration(start: Start) -> None:
    assert start("[[rule\n", "--table", "suppressed").ask("a@x.test").startswith("400 configuration problem")


def test_what_is_no_request_is_answered_before_the_end(tmp_path: Path) -> None:
    """Without a reply Postfix sleeps a second and tries again, ten times."""
    table = Tcp(tmp_path, SLOW)
    table.socket.sendall(b"put a b\nget a@slow.test\n")
    assert table.receive() == b"400 not%20understood\n"
    with pytest.raises((EOFError, ConnectionError)):
        table.receive()
    assert table.close() == 75
