"""What the store promises to its callers, engine or not."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroom import store
from postroom.deadline import Deadline
from postroom.store import Event, Reported, Suppression
from postroom.store.address import fold
from postroom.store.engine import PAGE
from postroom.store.sqlite import DELIVERY_LIFETIME, EVENT_LIFETIME, PRUNED_PER_CALL

if TYPE_CHECKING:
    from postroom.store import Store


def test_a_suppressed_address_tells_all_about_itself(opened: Store) -> None:
    assert opened.suppression("bob@example.com") is None
    entry = Suppression(
        "Bob@example.com", 1700000000, "bad-mailbox", "5.1.1", "550 no such user", "message <1@x>", 4000000000
    )
    assert opened.suppress(entry)
    found = opened.suppression("bob@example.com")
    assert found is not None
    assert {name: getattr(found, name) for name in Suppression.__slots__} == {
        name: getattr(entry, name) for name in Suppression.__slots__
    }


@pytest.mark.parametrize("spelling", ["BOB@example.com", "bob@EXAMPLE.COM", "bob@example.com."])
def test_another_spelling_is_the_same_address(opened: Store, spelling: str) -> None:
    opened.suppress(Suppression("Bob@Example.com", 1))
    assert opened.suppression(spelling) is not None


@pytest.mark.parametrize("other", ["bob@example.org", "bo@example.com", "bob+x@example.com", "bob", "@example.com"])
def test_another_address_is_another_address(opened: Store, other: str) -> None:
    opened.suppress(Suppression("bob@example.com", 1))
    assert opened.suppression(other) is None


def test_labels_and_composition_do_not_matter(opened: Store) -> None:
    opened.suppress(Suppression("jos\u00e9@b\u00fccher.example", 1))
    assert opened.suppression("jose\u0301@xn--bcher-kva.example") is not None
    assert opened.suppression("JOS\u00c9@B\u00dcCHER.example") is not None
    assert opened.suppression("jose@xn--bcher-kva.example") is None


def test_bytes_that_are_no_text_are_kept(opened: Store) -> None:
    opened.suppress(Suppression("\udcff'\"%\0x@example.com", 1, why="\udcfe"))
    found = opened.suppression("\udcff'\"%\0X@example.com")
    assert found is not None
    assert (found.address, found.why) == ("\udcff'\"%\0x@example.com", "\udcfe")
    assert opened.suppression("\udcfe'\"%\0x@example.com") is None


def test_the_first_reason_stays_and_the_later_end_counts(opened: Store) -> None:
    soon, late = int(time.time()) + 1000, int(time.time()) + 2000
    assert opened.suppress(Suppression("a@example.com", 1, "first", until=soon))
    assert not opened.suppress(Suppression("A@example.com", 2, "second", until=late))
    found = opened.suppression("a@example.com")
    assert found is not None
    assert (found.reason, found.since, found.until) == ("first", 1, late)
    assert not opened.suppress(Suppression("a@example.com", 3, until=soon))
    assert not opened.suppress(Suppression("a@example.com", 3, until=None))
    assert not opened.suppress(Suppression("a@example.com", 4, until=late))
    found = opened.suppression("a@example.com")
    assert found is not None and found.until is None


def test_an_expired_entry_is_none_and_is_replaced(opened: Store) -> None:
    assert opened.suppress(Suppression("a@example.com", 1, "old", until=int(time.time()) - 1))
    assert opened.suppression("a@example.com") is None
    assert list(opened.suppressions()) == []
    assert not opened.unsuppress("a@example.com")
    assert opened.suppress(Suppression("a@example.com", 2, "new"))
    assert [entry.reason for entry in opened.suppressions()] == ["new"]


def test_what_is_taken_off_the_list_is_off(opened: Store) -> None:
    opened.suppress(Suppression("a@example.com", 1))
    assert opened.unsuppress("A@example.com")
    assert not opened.unsuppress("a@example.com")
    assert opened.suppression("a@example.com") is None


def test_a_long_list_comes_whole_and_once(opened: Store) -> None:
    count = 2 * PAGE + 1
    event = Event(b"k", int(time.time()), "failed")
    opened.record(event, [Suppression(f"user{number}@example.com", 1) for number in range(count)])
    listed = [entry.address for entry in opened.suppressions()]
    assert listed == sorted(f"user{number}@example.com" for number in range(count))


def test_a_delivery_is_started_then_done(opened: Store) -> None:
    assert opened.claim(b"key") is None
    assert opened.claim(b"key") is None, "started but not done: a process died, so it is tried again"
    opened.done(b"key", "2.0.0 saved")
    assert opened.claim(b"key") == "2.0.0 saved"
    assert opened.claim(b"other") is None


def test_done_holds_even_where_the_claim_was_lost(opened: Store) -> None:
    opened.done(b"key", "2.0.0 saved")
    assert opened.claim(b"key") == "2.0.0 saved"


def test_a_claim_is_seen_by_the_next_process(state: Path, spawn: Callable[..., Any]) -> None:
    def deliver(tell: Callable[[bytes], None]) -> None:
        one = store.open(str(state), Deadline(5))
        tell(repr(one.claim(b"key")).encode())
        one.done(b"key", "2.0.0 saved")

    first = spawn(deliver)
    assert (first.heard(), first.end()) == (b"None", 0)
    second = spawn(deliver)
    assert (second.heard(), second.end()) == (b"'2.0.0 saved'", 0)


def test_an_event_comes_back_as_it_was(opened: Store) -> None:
    reported = Reported(
        "Bob@example.com", "bob@old.example", "failed", "5.1.1", "invalid", "bad-mailbox", True, "550 no", "mx.example"
    )
    now = int(time.time())
    event = Event(
        b"\0key", now, "failed", "verified", "4XyzQ", [reported, Reported("\udcff@x")], {"subject": "caf\u00e9"}
    )
    assert opened.record(event)
    (found,) = opened.events()
    assert (found.key, found.at, found.kind, found.authentic, found.queue_id) == (
        b"\0key", now, "failed", "verified", "4XyzQ",
    )  # fmt: skip
    assert found.fields == {"subject": "caf\u00e9"}
    assert found.id > 0
    assert [[getattr(r, name) for name in Reported.__slots__] for r in found.recipients] == [
        [getattr(r, name) for name in Reported.__slots__] for r in event.recipients
    ]


def test_a_report_counts_once_and_so_does_what_follows(opened: Store) -> None:
    now = int(time.time())
    assert opened.record(Event(b"k", now, "failed"), [Suppression("a@example.com", 1)])
    assert opened.unsuppress("a@example.com")
    assert not opened.record(Event(b"k", now, "failed"), [Suppression("a@example.com", 1)])
    assert opened.suppression("a@example.com") is None, "taken off by hand, put on again by the same report"
    assert len(list(opened.events())) == 1


def test_events_by_kind_and_time(opened: Store) -> None:
    now = int(time.time())
    for number, (kind, age) in enumerate([("failed", 300), ("notice", 200), ("failed", 100)]):
        opened.record(Event(bytes([number]), now - age, kind))
    assert [event.key for event in opened.events("failed")] == [b"\0", b"\2"]
    assert [event.key for event in opened.events(since=now - 200)] == [b"\1", b"\2"]
    assert [event.key for event in opened.events("failed", now - 200)] == [b"\2"]


def test_many_events_come_whole_and_in_order(opened: Store) -> None:
    now = int(time.time())
    keys = [number.to_bytes(2, "big") for number in range(PAGE + 7)]
    for key in keys:
        opened.record(Event(key, now, "delayed", recipients=[Reported("a@example.com")]))
    assert [event.key for event in opened.events()] == keys


def test_old_deliveries_go_a_few_with_each_new_one(timed: Store, clock: Any) -> None:
    count = 3 * PRUNED_PER_CALL
    for number in range(count):
        timed.claim(bytes([number]))
        timed.done(bytes([number]), "2.0.0 ok")
    clock.now += DELIVERY_LIFETIME + 10
    assert timed.claim(b"new 1") is None
    assert timed.claim(bytes([PRUNED_PER_CALL])) == "2.0.0 ok", "more rows went than one call may take"
    assert timed.claim(bytes([0])) is None, "the oldest is forgotten"
    for number in range(4):
        timed.claim(b"another %d" % number)
    assert timed.claim(bytes([count - 1])) is None


def test_old_events_go_with_all_that_belongs_to_them(opened: Any) -> None:
    now = int(time.time())
    opened.record(Event(b"new", now, "failed", recipients=[Reported("a@x")], fields={"a": "b"}))
    for number in range(3):
        old = Event(
            bytes([number]), now - EVENT_LIFETIME - 10, "failed", recipients=[Reported("a@x")], fields={"a": "b"}
        )
        opened.record(old)
    assert [event.key for event in opened.events()] == [b"new"]
    for table in ("events", "event_recipients", "event_fields"):
        assert opened.read("SELECT count(*) FROM " + table) == [(1,)]


def test_events_of_a_clock_that_was_wrong_keep_no_older_ones(timed: Store, clock: Any) -> None:
    now = int(clock.now)
    for number in range(2 * PRUNED_PER_CALL):
        timed.record(Event(b"future %d" % number, now + 400 * 86400, "failed"))
    timed.record(Event(b"old", now, "failed"))
    clock.now += EVENT_LIFETIME + 10
    timed.record(Event(b"new", int(clock.now), "failed"))
    assert b"old" not in {event.key for event in timed.events()}


def test_long_texts_are_cut(opened: Store) -> None:
    opened.record(Event(b"k", int(time.time()), "failed", fields={"subject": "x" * 5000}))
    (event,) = opened.events()
    assert len(event.fields["subject"]) == 1000


@given(st.text(), st.text())
def test_folding_is_idempotent_and_keeps_the_domain_apart(local: str, domain: str) -> None:
    once = fold(f"{local}@{domain}")
    assert fold(once) == once


@given(st.binary(max_size=40))
def test_folding_takes_any_bytes(data: bytes) -> None:
    fold(data.decode("utf-8", "surrogateescape"))


def test_opening_costs_no_module_before_it_happens() -> None:
    import subprocess
    import sys

    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\nimport postroom.store\n"
        "print(*sorted({'sqlite3', 'typing', 're', 'datetime', 'random'} & set(sys.modules)))"
    )
    source = os.path.dirname(os.path.dirname(os.path.dirname(store.__file__)))
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code, source], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
