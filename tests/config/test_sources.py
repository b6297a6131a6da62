"""Lists from files, as Postfix reads them; and that what cannot be answered is unknown, never no."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postroom import sources
from postroom.config import Configuration, load
from postroom.deadline import Deadline
from postroom.envelope import Envelope, Recipient
from postroom.message import Message
from postroom.mx import Plan
from postroom.rules import Question, Unknown
from postroom.sources import Given, Sources, delivery_attributes, table
from postroom.status import ConfigurationFault, Fault
from postroom.store import Suppression


@pytest.fixture
def configuration(tmp_path: Path) -> Configuration:
    (tmp_path / "postroom.toml").write_text(
        '[list.file]\nfile = "list"\n[list.table]\ntable = "texthash:table"\n[list.values]\n'
        'values = ["a@x.example", ".sub.example", "x@", "10.0.0.0/8", "192.0.2.1", "2001:DB8:0::1", "Bob"]\n'
        '[[rule]]\nid = "r"\nat = "rcpt"\nmatch = { recipient = "list:file" }\naction = "HANGUP"\n'
    )
    return load(str(tmp_path / "postroom.toml"))


def ask(configuration: Configuration, name: str, value: str, kind: str = "address") -> Any:
    return Sources(configuration, None, None).answer(Question("list", (name, value, kind)))


@pytest.mark.parametrize(
    ("value", "kind", "found"),
    [
        ("a@x.example", "address", True),
        ("a+news@x.example", "address", True),
        ("b@x.example", "address", False),
        ("b@y.sub.example", "address", True),
        ("b@sub.example", "address", False),
        ("x@anywhere", "address", True),
        ("y.sub.example", "domain", True),
        ("10.1.2.3", "ip", True),
        ("11.1.2.3", "ip", False),
        ("192.0.2.1", "ip", True),
        ("::ffff:10.0.0.1", "ip", True),
        ("2001:db8::1", "ip", True),
        ("Bob", "text", True),
    ],
)
def test_values_are_found_as_in_an_access_table(
    configuration: Configuration, value: str, kind: str, found: bool
) -> None:
    assert ask(configuration, "values", value, kind) is found


def test_a_file_of_one_value_a_line(configuration: Configuration, tmp_path: Path) -> None:
    (tmp_path / "list").write_text("# people\n\nA@X.example  # why\n  b@x.example\r\n#c@x.example\nd#e@x.example\n")
    for value, found in (("a@x.example", True), ("b@x.example", True), ("c@x.example", False), ("d#e@x.example", True)):
        assert ask(configuration, "file", value) is found, value


def test_a_table_says_what_stands_beside_the_entry(configuration: Configuration, tmp_path: Path) -> None:
    (tmp_path / "table").write_text("a@x.example  REJECT no\n  more of it\n# c\n\nx.example OK\nx.example second\n")
    assert ask(configuration, "table", "a@x.example") == "REJECT no  more of it"
    assert ask(configuration, "table", "z@x.example") == "OK"
    assert ask(configuration, "table", "z@y.example") is False


BROKEN: dict[str, Callable[[Path], object]] = {
    "vanished": lambda path: path.unlink(),
    "directory": lambda path: path.unlink() or path.mkdir(),  # type: ignore[func-returns-value]  # one after the other
    "fifo": lambda path: path.unlink() or os.mkfifo(path),  # type: ignore[func-returns-value]  # the same
    "NUL": lambda path: path.write_bytes(b"a@x.example ok\nb\0 ok\n"),
    "key only": lambda path: path.write_text("a@x.example ok\nkey\n"),
    "open quote": lambda path: path.write_text('"a b@x ok\n'),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_list_that_broke_is_unknown_and_comes_back(configuration: Configuration, tmp_path: Path, how: str) -> None:
    path = tmp_path / "table"
    path.write_text("a@x.example ok\n")
    assert ask(configuration, "table", "a@x.example") == "ok"
    BROKEN[how](path)
    answer = ask(configuration, "table", "b@x.example")
    assert isinstance(answer, Unknown)
    assert answer.reason.startswith(f"list table: {path}")
    if path.is_dir():
        path.rmdir()
    path.unlink(missing_ok=True)
    path.write_text("b@x.example back\n")
    assert ask(configuration, "table", "b@x.example") == "back"


def test_a_list_too_big_to_read_is_unknown(configuration: Configuration, tmp_path: Path) -> None:
    with (tmp_path / "list").open("wb") as file:
        file.truncate(sources.LIST_LIMIT + 1)
    assert "expected at most" in ask(configuration, "file", "a@x.example").reason


def test_two_values_in_a_line_are_a_mistake(configuration: Configuration, tmp_path: Path) -> None:
    (tmp_path / "list").write_text("a@x.example\nb@x.example REJECT\n")
    assert "line 2: expected one value, found 2" in ask(configuration, "file", "a@x.example").reason


def test_a_file_is_read_once_and_again_when_it_changes(configuration: Configuration, tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_text("a@x.example\n")
    first = table("file", str(path))
    assert table("file", str(path)) is first
    path.write_text("b@x.example\n")
    assert table("file", str(path)).find("address", "b@x.example", "+") is True


def test_a_million_entries_are_not_scanned(tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_text("".join(f"user{number}@x.example\n" for number in range(100_000)))
    entries = table("file", str(path))
    assert len(entries) == 100_000
    import timeit

    assert timeit.timeit(lambda: entries.find("address", "nobody@y.example", "+"), number=1000) < 0.5


def test_entries_that_are_not_utf8_are_found(configuration: Configuration, tmp_path: Path) -> None:
    (tmp_path / "list").write_bytes(b"\xff@x.example\n")
    assert ask(configuration, "file", "\udcff@x.example") is True


KEYS = ["a@x", "b", "c", '"d e"@x', "f\\ g", "h", "j:", "x.example", "<>", "leading", "none"]


@pytest.fixture(scope="session")
def postmap(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, str]]:
    """What Postfix finds under KEYS in a texthash table."""
    folder = tmp_path_factory.mktemp("postfix")
    (folder / "main.cf").write_text("compatibility_level = 3.6\nmyhostname = mail.example.com\n")
    target = folder / "table"

    def query(content: str) -> dict[str, str]:
        target.write_text(content)
        os.utime(target, (1, 1))  # Postfix waits until a table is older than a second
        command = ["/usr/sbin/postmap", "-c", str(folder), "-q", "-", f"texthash:{target}"]
        done = subprocess.run(command, input="\n".join(KEYS), capture_output=True, text=True, check=False)
        return dict(line.split("\t", 1) for line in done.stdout.splitlines())

    return query


line = st.sampled_from(
    [
        "a@x ok", "A@X upper", "b  two  blanks ", "\tcontinued", "  # comment inside", "# comment", "", "   ", "c\ttab",
        '"d e"@x quoted', "f\\ g escaped", "h  i # no comment", "j: colon", "x.example 1", " leading", "a@x again",
        "<> null",
    ]
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(line, max_size=6))
def test_postfix_reads_tables_alike(postmap: Callable[[str], dict[str, str]], lines: list[str]) -> None:
    content = "\n".join(lines) + "\n"
    try:
        ours = sources._texthash(content, "table")
    except ConfigurationFault:
        return
    assert {key: ours[key] for key in KEYS if key in ours} == postmap(content)


def test_postfix_finds_something_at_all(postmap: Callable[[str], dict[str, str]]) -> None:
    assert postmap("a@x ok\n") == {"a@x": "ok"}


# The other sources.


def test_without_anything_to_ask_everything_is_unknown(configuration: Configuration) -> None:
    bare = Sources(configuration, None, None)
    for question in (
        Question("mx", "x"),
        Question("suppressed", "a@b"),
        Question("header", "subject"),
        Question("list", ("none", "x", "address")),
    ):
        assert isinstance(bare.answer(question), Unknown)


class FakeStore:
    def __init__(self) -> None:
        self.deadline = Deadline(1)
        self.fault: Fault | None = None

    def suppression(self, address: str) -> Suppression | None:
        if self.fault:
            raise self.fault
        return Suppression(address, 1) if address == "a@b" else None


def test_the_store_is_opened_when_it_is_needed_and_once(configuration: Configuration) -> None:
    store, opened = FakeStore(), []
    deadline = Deadline(7)
    asked: Any = Sources(configuration, None, lambda: opened.append(1) or store, deadline=deadline)  # type: ignore[func-returns-value, arg-type, return-value]
    assert opened == []
    assert asked.answer(Question("suppressed", "a@b")).since == 1
    assert asked.answer(Question("suppressed", "b@b")) is None
    assert opened == [1]
    assert store.deadline is deadline
    store.fault = Fault("locked by another")
    assert asked.answer(Question("suppressed", "a@b")).reason == "locked by another"


def test_a_store_that_cannot_be_opened_is_unknown(configuration: Configuration) -> None:
    def broken() -> Any:
        raise Fault("disk is full")

    assert Sources(configuration, None, broken).answer(Question("suppressed", "a@b")).reason == "disk is full"


def test_the_resolver_gets_the_deadline(configuration: Configuration) -> None:
    class Resolver:
        def plan(self, domain: str, deadline: Deadline) -> Plan:
            assert deadline.seconds in (3, configuration.deadline)
            return Plan(domain, "mx", ((1, "mx.example"),))

    resolver = Resolver()
    assert Sources(configuration, resolver, None, deadline=Deadline(3)).answer(Question("mx", "x")).every == (
        "mx.example",
    )
    assert Sources(configuration, resolver, None).answer(Question("mx", "x")).domain == "x"


def test_headers_come_from_the_message(configuration: Configuration) -> None:
    message = Message.of(b"Subject: one\nsubject: two\n\nSubject: body\n")
    assert Sources(configuration, None, None, message).answer(Question("header", "subject")) == ["one", "two"]


def test_a_decision_of_a_broken_list_defers(configuration: Configuration) -> None:
    decision = Sources(configuration, None, None).decide("rcpt", {"recipient": "a@x.example"})
    assert decision.on_error
    assert "list file: " in decision.reason
    assert decision.action.startswith("DEFER_IF_PERMIT 4.3.0")


def test_what_is_given_answers_and_the_rest_is_asked(configuration: Configuration) -> None:
    base = Sources(configuration, None, None)
    attributes = {"recipient": "a@Victim.example.", "sender": "b@other.example"}
    given_ = Given(base, attributes, mx=((10, "mx.example"),), sender_mx="null", suppressed=True)
    assert given_.answer(Question("mx", "victim.example")).primary == ("mx.example",)
    assert given_.answer(Question("mx", "other.example")).state == "null"
    assert isinstance(given_.answer(Question("mx", "third.example")), Unknown)
    assert given_.answer(Question("suppressed", "a@victim.example")).why == "as given"
    assert Given(base, attributes, suppressed=False).answer(Question("suppressed", "x")) is None
    assert isinstance(Given(base, attributes).answer(Question("suppressed", "x")), Unknown)
    assert Given(base, attributes, headers={"subject": ("x",)}).answer(Question("header", "subject")) == ["x"]


def test_a_delivery_has_the_names_of_the_policy_protocol() -> None:
    envelope = Envelope(
        [Recipient("a@b", "c@d")], sender="s@t", queue_id="Q", size="9", client_hostname="h", client_helo="e"
    )

    class Mail:
        recipient, original_recipient, message = "a@b", "c@d", Message.of(b"x")

    Mail.envelope = envelope  # type: ignore[attr-defined]
    attributes = delivery_attributes(Mail)  # type: ignore[arg-type]  # as much of a Mail as it looks at
    assert attributes["client_name"] == "h"
    assert attributes["helo_name"] == "e"
    assert attributes["size"] == "9"
    assert attributes["original_recipient"] == "c@d"


def test_a_list_that_is_being_written_is_unknown_and_an_empty_one_is_empty(
    configuration: Configuration, tmp_path: Path
) -> None:
    (tmp_path / "list").write_text("")
    assert isinstance(ask(configuration, "file", "a@x.example"), Unknown)
    os.utime(tmp_path / "list", (1, 1))
    assert ask(configuration, "file", "a@x.example") is False
