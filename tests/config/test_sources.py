"""Where answers come from; and that what cannot be answered is unknown, never no. Lists: tests/tables."""

from pathlib import Path
from typing import Any

import pytest

from postroom.config import Configuration, load
from postroom.deadline import Deadline
from postroom.envelope import Envelope, Recipient
from postroom.message import Message
from postroom.mx import Plan
from postroom.rules import Question, Unknown
from postroom.sources import Given, Sources, delivery_attributes
from postroom.status import Fault
from postroom.store import Suppression


@pytest.fixture
def configuration(tmp_path: Path) -> Configuration:
    (tmp_path / "postroom.toml").write_text(
        '[list.file]\nfile = "list"\n[list.table]\ntable = "texthash:table"\n[list.values]\n'
        'values = ["a@x.example", ".sub.example", "x@", "10.0.0.0/8", "192.0.2.1", "2001:DB8:0::1", "Bob"]\n'
        '[[rule]]\nid = "r"\nat = "rcpt"\nmatch = { recipient = "list:file" }\naction = "HANGUP"\n'
    )
    return load(str(tmp_path / "postroom.toml"))


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
