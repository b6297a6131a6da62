"""notify-record: every notice is recorded by its class, no secret is kept, nothing is ever bounced or sent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

PROGRAM = "notify-record"
TO = "error@notices.example.com"
SAMPLES = Path(__file__).parents[1] / "data" / "bounces"
ONE_OF_EACH = {
    "policy": "notice-server-policy-refused",
    "protocol": "notice-server-protocol-nonsense",
    "resource": "notice-server-resource",
    "software": "notice-server-software-polconf",
    "data": "notice-server-data-lookup",
    "bounce": "notice-copy-bounce",
    "2bounce": "notice-copy-2bounce",
    "delay": "notice-copy-delay",
}


@pytest.mark.parametrize("klass", ONE_OF_EACH)
def test_a_notice_of_each_class_is_recorded(place, read_sample, klass) -> None:
    assert place.run(PROGRAM, read_sample(ONE_OF_EACH[klass]), TO) == (0, f"recorded: {klass}\n")
    (event,) = place.events()
    assert (event.kind, event.fields["class"], event.fields["to"]) == ("notice", klass, TO)
    assert f"4Xyz: to=<{TO}>, kind=notice, class={klass}" in place.last_line()
    assert place.suppressed() == []


def test_the_client_and_the_reply_are_recorded_and_logged(place, read_sample) -> None:
    place.run(PROGRAM, read_sample("notice-server-policy-refused"), TO)
    (event,) = place.events()
    assert event.fields["peer"] == "client.example.net"
    assert event.fields["peer_address"] == "192.0.2.7"
    assert event.fields["command"] == "RCPT TO:<refused@example.com>"
    assert event.fields["reply"].startswith("554 5.7.1 <refused@example.com>")
    assert event.fields["subject"] == "Postfix SMTP server: errors from client.example.net[192.0.2.7]"
    assert "peer_address=192.0.2.7, reply=554 5.7.1 <refused@example.com>" in place.last_line()


def test_no_password_reaches_the_disk(place, read_sample) -> None:
    place.run(PROGRAM, read_sample("notice-server-auth"), TO)
    place.run(PROGRAM, read_sample("notice-server-protocol-auth"), TO)
    written = b"".join(path.read_bytes() for path in place.folder.rglob("*") if path.is_file())
    assert b"authentication not enabled" in written
    for secret in (b"AGpvZQBzM2NyZXQ", b"am9l", b"czNjcmV0", b"AAAA"):
        assert secret not in written


def test_told_twice_it_counts_once(place, read_sample) -> None:
    place.run(PROGRAM, read_sample("notice-copy-delay"), TO)
    assert place.run(PROGRAM, read_sample("notice-copy-delay"), TO) == (0, "recorded before\n")
    assert len(place.events()) == 1


@pytest.mark.parametrize(
    "message",
    [b"", b"Subject: lunch?\n\nat noon\n", b"\0\xff" * 5000, b"Subject: Postfix SMTP server: errors from \n\n"],
)
def test_what_is_no_notice_is_recorded_as_such(place, message) -> None:
    assert place.run(PROGRAM, message, TO) == (0, "recorded: not-a-bounce\n")


def test_what_breaks_the_reader_is_recorded_as_unreadable(place, broken_library, read_sample) -> None:
    broken_library("bounces/transcript.py", "def _joined(", "def _joined(text):\n    raise RecursionError\n\ndef _(")
    assert place.run(PROGRAM, read_sample("notice-server-lost"), TO) == (0, "recorded: unreadable\n")


def test_our_own_faults_defer(place, read_sample) -> None:
    (place.state / "state.db").write_bytes(b"garbage " * 1000)
    code, output = place.run(PROGRAM, read_sample("notice-copy-delay"), TO)
    assert (code, output) == (75, "4.3.0 the state file is not a database\n")
    place.config.write_text("no TOML")
    code, output = place.run(PROGRAM, read_sample("notice-copy-delay"), TO)
    assert (code, output[:6]) == (75, "4.3.5 ")


def test_no_program_is_started_and_no_connection_made(place, read_sample, tmp_path) -> None:
    """It could otherwise send mail, and a notice about a notice go in circles."""
    import subprocess
    import sys

    trace = tmp_path / "audit"
    root = SAMPLES.parents[2]
    code = (
        "import sys, os\n"
        f"log = os.open({str(trace)!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)\n"
        "kinds = ('socket.', 'subprocess.', 'os.exec', 'os.posix_spawn', 'os.system', 'os.fork')\n"
        "sys.addaudithook(lambda event, args: event.startswith(kinds) and os.write(log, event.encode()))\n"
        f"sys.argv = ['notify-record', '--config', {str(place.config)!r}, '--']\n"
        "sys.argv += ['sender=', 'recipient=a@b', 'queue_id=4X']\n"
        "import runpy\n"
        f"runpy.run_path({str(root / 'bounce' / 'notify-record.py')!r}, run_name='__main__')\n"
    )
    for name in ONE_OF_EACH.values():
        done = subprocess.run(
            [sys.executable, "-c", code], input=read_sample(name), capture_output=True,
            env={"PATH": os.defpath, "PYTHONPATH": str(root / "src"), "PYTHONDONTWRITEBYTECODE": "1"},
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, b"")
    assert trace.read_text() == ""
