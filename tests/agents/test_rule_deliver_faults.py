"""rule-deliver where something of ours is broken, full, slow or too big: the mail waits, and is delivered then."""

import os
import shutil
import socket
import sqlite3
import subprocess
from collections.abc import Callable

import pytest
from agents.desk import DELIVERED, NOBODY, Desk


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("", "ModuleNotFoundError: No module named 'postroom"),
        ("import sys\nsys.exit(1)", "SystemExit: 1"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt:"),
        ("raise OSError('line\\nend\\r\\n\\x00\\u20ac' + 'x' * 9999)", "OSError: line end "),
        ("def (", "SyntaxError: "),
    ],
)
def test_a_broken_library_defers_until_it_is_mended(desk: Desk, broken: str, said: str) -> None:
    desk.library = desk.folder / "lib"
    shutil.copytree(desk.house / "lib", desk.library)
    module = desk.library / "postroom" / "actions" / "by_rule.py"
    shutil.rmtree(module.parent / "__pycache__")
    if broken:
        module.write_text(broken)
    else:
        shutil.rmtree(module.parent)
    status, line = desk.run()
    assert status == 75
    assert line.startswith(f"4.3.5 rule-deliver: {said}")
    desk.library = desk.house / "lib"
    assert desk.run() == DELIVERED


def test_an_action_missing_from_the_library_defers(desk: Desk) -> None:
    desk.library = desk.folder / "lib"
    shutil.copytree(desk.house / "lib", desk.library)
    (desk.library / "postroom" / "actions" / "maildir.py").unlink()
    assert desk.run() == (75, "4.3.5 incomplete installation (ModuleNotFoundError), see the mail log")
    assert "No module named 'postroom.actions.maildir'" in desk.log


def test_a_broken_library_defers_even_if_nobody_listens(desk: Desk) -> None:
    desk.library = desk.folder / "nothing"
    process = desk.start()
    assert process.stdout and process.stdin
    process.stdout.close()
    process.stdin.close()
    assert process.wait(timeout=60) == 75


def test_a_locked_state_defers_before_anything_happens(desk: Desk) -> None:
    assert desk.run(data=b"first\n") == DELIVERED
    holder = sqlite3.connect(desk.state / "state.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    assert desk.run("--deadline", "2") in (
        (75, "4.3.0 the state is locked"),
        (75, "4.3.0 not finished within 2 seconds"),
    )
    assert len(desk.mails) == 1
    holder.close()
    assert desk.run() == DELIVERED
    assert len(desk.mails) == 2


def test_a_state_that_cannot_be_written_defers(desk: Desk) -> None:
    os.chown(desk.state, 0, 0)
    assert desk.run() == (75, "4.3.0 the state cannot be opened")
    assert desk.mails == []
    os.chown(desk.state, NOBODY, NOBODY)
    assert desk.run() == DELIVERED


def test_a_state_that_is_something_else_defers(desk: Desk) -> None:
    (desk.state / "state.db").write_text("not a database\n" * 100)
    os.chown(desk.state / "state.db", NOBODY, NOBODY)
    assert desk.run()[0] == 75
    assert desk.mails == []
    (desk.state / "state.db").unlink()
    assert desk.run() == DELIVERED


def test_a_state_on_a_full_disk_defers(desk: Desk) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=777", "tmpfs", str(desk.state)], check=True)
    try:
        filler = desk.state / "filler"
        filler.write_bytes(b"x" * (1 << 20))
        status, line = desk.run()
        assert (status, line[:4]) == (75, "4.3.")
        assert desk.mails == []
        filler.unlink()
        assert desk.run() == DELIVERED
    finally:
        subprocess.run(["umount", str(desk.state)], check=True)


def test_delivered_but_not_recorded_is_delivered(desk: Desk) -> None:
    database = desk.state / "state.db"
    desk.configure(f"command /bin/sh -c 'rm {database}*; mkdir {database}'")
    assert desk.run() == (0, "delivered to command sh")
    assert "warning: 4XyzQ: to=<bob@example.org> (sent, but that is not recorded: " in desk.log


# --- what is big or slow -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: b"",
        lambda: b"\n",
        lambda: b"\0" * 70_000,
        lambda: b"Subject: x\n\n" + b"y" * 1_000_000,
        lambda: b"a: b\n" * 1_000_000,
        lambda: b" \n" * 1_000_000,
        lambda: b"Subject: big\n\n" + b"0123456789abcde\n" * 6_250_000,
    ],
    ids=["empty", "one line end", "NULs", "a line of 1 MB", "a million headers", "a million blank lines", "100 MB"],
)
def test_any_message_in_bounded_memory(desk: Desk, make: Callable[[], bytes]) -> None:
    rule = '[[rule]]\nid = "h"\nat = "deliver"\nmatch = { "header.x-no" = "y" }\naction = "discard"\n'
    desk.configure(f"maildir {desk.box}", rule)
    data = make()
    # Past this limit malloc fails, which would defer the mail. Bare Python has 6 MB of data, a thread's stack 8.
    process = desk.start(before=("/bin/sh", "-c", 'ulimit -d 32768; exec "$0" "$@"'))
    output, _ = process.communicate(data, timeout=60)
    assert (process.returncode, output) == (0, b"delivered to maildir\n")
    (mail,) = desk.mails
    assert mail.endswith(data) and len(mail) - len(data) < 200


def test_a_name_server_that_is_down_leaves_the_rule_undecided(desk: Desk) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:  # and never read
        bound.bind(("127.0.0.1", 0))
        server = f"127.0.0.1:{bound.getsockname()[1]}"
        rule = (
            '[[rule]]\nid = "by-mx"\nat = "deliver"\nmatch = { sender_primary_mx = ".example" }\naction = "discard"\n'
        )
        desk.configure(
            f"maildir {desk.box}", f'[dns]\nservers = ["{server}"]\ntimeout = 0.2\n{rule}on_error = "defer"\n'
        )
        assert desk.run("--deadline", "5") == (75, "4.3.0 rule by-mx cannot be decided now")
        assert "rule=by-mx, action=4.3.0 rule by-mx cannot be decided now, on_error=MX of example.com: " in desk.log
        desk.configure(
            f"maildir {desk.box}", f'[dns]\nservers = ["{server}"]\ntimeout = 0.2\n{rule}on_error = "skip"\n'
        )
        assert desk.run("--deadline", "5") == DELIVERED


def test_a_server_that_never_answers_is_left_in_time(desk: Desk) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        name = f"[127.0.0.1]:{server.getsockname()[1]}"
        desk.configure(f"relay smtp:{name}")
        assert desk.run("--deadline", "3") == (
            75, f"4.4.2 conversation with relay{name} timed out while waiting for the greeting",
        )  # fmt: skip
