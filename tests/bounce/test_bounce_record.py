"""bounce-record, from the message on its standard input to the suppression in the store."""

from __future__ import annotations

import re

import pytest

PROGRAM = "bounce-record"
GONE = "nosuch@remote.example"


def test_a_bounce_of_our_mail_suppresses_its_recipient(place, read_sample) -> None:
    to = place.signed(GONE)
    status, output = place.run(PROGRAM, read_sample("postfix-failed"), to)
    assert (status, output) == (0, "recorded: failed, verified\n")
    assert place.suppressed() == [GONE]
    state = place.store()
    entry = state.suppression(GONE)
    state.close()
    assert entry.reason == "bad-mailbox"
    assert entry.status == "5.1.1"
    assert entry.why.startswith("550-5.1.1 The email account")
    assert entry.source == "bounce 4Xyz <4jXXmb5wHwzJ9qV@mail.example.com>"
    (event,) = place.events()
    assert (event.kind, event.authentic, event.queue_id) == ("failed", "verified", "4Xyz")
    assert event.fields["proven"] == GONE
    assert event.fields["to"] == to
    line = place.last_line()
    assert re.search(r"4Xyz: .*kind=failed, authentic=verified, about=<nosuch@remote.example>, ", line)
    assert f"suppressed=<{GONE}>" in line
    assert "status=sent" in line


def test_told_twice_it_counts_once_and_does_not_undo_what_a_person_did(place, read_sample) -> None:
    to = place.signed(GONE)
    place.run(PROGRAM, read_sample("postfix-failed"), to)
    state = place.store()
    state.unsuppress(GONE)
    state.close()
    assert place.run(PROGRAM, read_sample("postfix-failed"), to) == (0, "recorded before\n")
    assert place.suppressed() == []
    assert len(place.events()) == 1
    assert "suppressed=" not in place.last_line()


@pytest.mark.parametrize(
    ("recipient", "authentic"),
    [
        ("bounces@bounces.example.com", "unverified"),
        (f"bounces+{'a' * 21}@bounces.example.com", "forged"),
        (f"bounces+z{'a' * 20}@bounces.example.com", "unverified"),
        ("postmaster@bounces.example.com", "unverified"),
        ("bounces+@bounces.example.com", "unverified"),
        ("../../etc/passwd@bounces.example.com", "unverified"),
    ],
)
def test_a_strangers_forgery_is_recorded_and_suppresses_nobody(place, read_sample, recipient, authentic) -> None:
    place.key.write_text(place.key.read_text().replace(place.ring[0].id, "a", 1))
    status, output = place.run(PROGRAM, read_sample("postfix-failed"), recipient)
    assert (status, output) == (0, f"recorded: failed, {authentic}\n")
    assert place.suppressed() == []
    (event,) = place.events()
    assert (event.authentic, event.recipients[0].address) == (authentic, GONE)
    assert f"authentic={authentic}, because=" in place.last_line()


def test_a_tag_of_ones_own_suppresses_nobody_else(place, read_sample) -> None:
    place.run(PROGRAM, read_sample("postfix-failed"), place.signed("mallory@example.net"))
    assert place.suppressed() == []
    assert [event.authentic for event in place.events()] == ["unverified"]


def test_a_tag_past_its_lifetime_suppresses_nobody(place, read_sample) -> None:
    place.run(PROGRAM, read_sample("postfix-failed"), place.signed(GONE, age=40 * 86400))
    assert place.suppressed() == []
    assert "40 days old" in place.events()[0].fields["why"]


@pytest.mark.parametrize(
    ("name", "recipient", "kind"),
    [
        ("postfix-delayed", "later@remote.example", "delayed"),
        ("postfix-expired", "down@down.example", "failed"),
        ("postfix-delivered", "x@ok.example", "delivered"),
        ("postfix-probed", "nosuch@remote.example", "notice"),
        ("notice-copy-bounce", "nosuch@remote.example", "notice"),
        ("notice-copy-2bounce", "nosuch@remote.example", "notice"),
        ("notice-server-bounce-unknown", "n@alias.example.com", "notice"),
        ("postfix-failed-alias", "team@alias.example.com", "failed"),
        ("postfix-failed-orcpt", "Fwd+x@alias.example.com", "failed"),
        ("postfix-failed-fake-inside", "victim@example.org", "failed"),
        ("no-bounce", "nosuch@remote.example", "not-a-bounce"),
    ],
)
def test_whatever_else_comes_is_recorded_and_suppresses_nobody(place, read_sample, name, recipient, kind) -> None:
    status, _ = place.run(PROGRAM, read_sample(name), place.signed(recipient))
    assert status == 0
    assert place.suppressed() == []
    assert [event.kind for event in place.events()] == [kind]


def test_an_address_in_utf_8_is_suppressed(place, read_sample) -> None:
    place.run(PROGRAM, read_sample("postfix-failed-global"), place.signed("nosuch\u00fc@remote.example"))
    assert place.suppressed() == ["nosuch\u00fc@remote.example"]


@pytest.mark.parametrize(
    "message",
    [b"", b"\n", b"\0" * 1000, b"Subject: hi\n\nhello\n", b"\xff" * 100_000, b"Content-Type: multipart/x\n\n--\n"],
)
def test_any_message_is_recorded(place, message) -> None:
    status, output = place.run(PROGRAM, message, place.signed(GONE))
    assert status == 0
    assert output.startswith("recorded: not-a-bounce")


def test_what_breaks_the_reader_is_recorded_as_unreadable(place, broken_library, read_sample) -> None:
    """A bug in a reader: at every try the same, so that deferring would only lose the report later."""
    broken_library("bounces/dialects/postfix.py", "def read(", "def read(mail):\n    raise IndexError(7)\n\ndef _(")
    status, output = place.run(PROGRAM, read_sample("postfix-failed"), place.signed(GONE))
    assert (status, output) == (0, "recorded: unreadable, unverified\n")
    assert place.suppressed() == []
    assert [event.kind for event in place.events()] == ["unreadable"]
    assert "trouble=IndexError: 7" in place.last_line()


def deferred(place, message: bytes, status: str) -> None:
    code, output = place.run(PROGRAM, message, place.signed(GONE))
    assert code == 75
    assert output.startswith(f"{status} ")
    assert output.count("\n") == 1
    assert str(place.folder) not in output or "postroom.toml" in output, "paths of the state are for the log"
    assert "status=deferred" in place.last_line()


def test_a_missing_key_file_defers(place, read_sample) -> None:
    place.key.rename(place.folder / "elsewhere")
    deferred(place, read_sample("postfix-failed"), "4.3.5")
    assert str(place.key) in place.log.read_text()
    (place.folder / "elsewhere").rename(place.key)
    assert place.run(PROGRAM, read_sample("postfix-failed"), place.signed(GONE))[0] == 0
    assert place.suppressed() == [GONE]


def test_a_key_file_open_to_all_defers(place, read_sample) -> None:
    place.key.chmod(0o644)
    deferred(place, read_sample("postfix-failed"), "4.3.5")


def test_a_state_that_is_no_database_defers(place, read_sample) -> None:
    (place.state / "state.db").write_bytes(b"garbage " * 1000)
    deferred(place, read_sample("postfix-failed"), "4.3.0")
    assert str(place.state) in place.log.read_text()


def test_a_missing_state_directory_defers(place, read_sample) -> None:
    place.state.rename(place.folder / "elsewhere")
    deferred(place, read_sample("postfix-failed"), "4.3.0")


def test_a_locked_state_defers_at_the_deadline(place, read_sample) -> None:
    import sqlite3
    import time

    place.store().suppression(GONE)
    holder = sqlite3.connect(place.state / "state.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    start = time.monotonic()
    code, output = place.run(PROGRAM, read_sample("postfix-failed"), place.signed(GONE), "--deadline", "1.5")
    assert code == 75
    assert output == "4.3.0 the state is locked\n"
    assert time.monotonic() - start < 10
    holder.execute("ROLLBACK")
    holder.close()
    assert place.run(PROGRAM, read_sample("postfix-failed"), place.signed(GONE))[0] == 0
    assert place.suppressed() == [GONE]


def test_a_broken_configuration_defers(place, read_sample) -> None:
    place.config.write_text("this is no TOML\n")
    code, output = place.run(PROGRAM, read_sample("postfix-failed"), place.signed(GONE))
    assert code == 75
    assert output.startswith("4.3.5 ")


def test_without_bounces_in_the_configuration_nothing_is_verified(place, read_sample) -> None:
    place.config.write_text(place.config.read_text().partition("[bounces]")[0])
    assert place.run(PROGRAM, read_sample("postfix-failed"), place.signed(GONE))[0] == 0
    assert place.suppressed() == []
    assert "no [bounces]" in place.events()[0].fields["why"]


def test_a_crowd_of_reports_on_one_recipient(place, read_sample) -> None:
    """As after a mailing to many lists: each report is an event, the recipient is suppressed once."""
    import threading

    results = []

    def one(number: int) -> None:
        message = read_sample("postfix-failed").replace(b"Message-Id: <", b"Message-Id: <%d." % number)
        results.append(place.run(PROGRAM, message, place.signed(GONE)))

    crowd = [threading.Thread(target=one, args=(number,)) for number in range(12)]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join()
    assert results == [(0, "recorded: failed, verified\n")] * 12
    assert len(place.events()) == 12
    assert place.suppressed() == [GONE]
