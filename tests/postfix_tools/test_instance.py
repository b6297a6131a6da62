"""The private Postfix: it starts, serves, and ends with everything that it started, also when starting fails."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from postroom.postfix import processes
from postroom.postfix.instance import Instance, InstanceError, free_port, missing

MESSAGE = b"Subject: hello\n\nhello\n"


@pytest.fixture(autouse=True)
def possible() -> None:
    reason = missing()
    if reason:
        pytest.fail(reason, pytrace=False)


@pytest.fixture(scope="module")
def postfix() -> Iterator[Instance]:
    with Instance(parameters={"default_transport": "discard:", "defer_transports": "hold"}) as started:
        yield started


def test_mail_by_smtp_and_by_sendmail(postfix: Instance) -> None:
    since = postfix.log.size()
    with postfix.session() as session:
        replies = session.mail("a@client.test", ["b@x.test", "c@x.test"], MESSAGE)
    assert [reply.code for reply in replies if reply] == [250, 250, 250, 250, 354, 250, 221]
    postfix.sendmail("a@client.test", ["d@x.test"], MESSAGE)
    postfix.wait_for("to=<d@x.test>.*status=sent", since=since)
    postfix.wait_for("to=<c@x.test>.*status=sent", since=since)
    assert {line.recipient for line in postfix.log.deliveries(since)} == {"b@x.test", "c@x.test", "d@x.test"}


def test_the_systems_postfix_is_not_touched(postfix: Instance) -> None:
    for name in ("queue_directory", "data_directory", "maillog_file"):
        assert Path(postfix.postconf(name)).is_relative_to(postfix.directory)
    assert postfix.postconf("config_directory") == str(postfix.config_directory)


def test_changed_parameters_count_at_once(postfix: Instance) -> None:
    postfix.set({"default_transport": "hold:", "defer_transports": "hold"})
    with postfix.session() as session:
        session.mail("a@client.test", ["kept@x.test"], MESSAGE)
    postfix.wait_for("to=<kept@x.test>.*status=deferred")
    assert [mail["recipients"][0]["address"] for mail in postfix.queue()] == ["kept@x.test"]
    postfix.set({"default_transport": "discard:", "defer_transports": ""})
    postfix.flush()
    postfix.wait_for("to=<kept@x.test>.*status=sent")
    postfix.wait_until_empty()


def flush_until_empty(postfix: Instance) -> None:
    """A flush that meets qmgr(8) while it restarts after a reload is lost, so it is asked for until it is heard."""
    for _ in range(30):
        postfix.flush()
        with contextlib.suppress(InstanceError):
            return postfix.wait_until_empty(1)
    return postfix.wait_until_empty(1)


def test_it_starts_again_with_the_same_queue_and_port(postfix: Instance) -> None:
    postfix.set({"default_transport": "hold:", "defer_transports": "hold"})
    with postfix.session() as session:
        session.mail("a@client.test", ["later@x.test"], MESSAGE)
    port = postfix.port
    postfix.stop()
    assert not postfix.running and processes.of_postfix(postfix.config_directory) == []
    postfix.start()
    assert postfix.port == port and [mail["sender"] for mail in postfix.queue()] == ["a@client.test"]
    postfix.set({"default_transport": "discard:", "defer_transports": ""})
    flush_until_empty(postfix)


def test_programs_of_pipe_are_ended_too_and_nobody_elses() -> None:
    # By themselves, with an environment of their own, and as the child of such a one.
    sleeper = "sleeper unix - n n - - pipe user=nobody argv=/bin/sh -c\n"
    sleeper += (
        "  {/bin/sleep 300 & env -i /bin/sleep 301 & env -i setsid /bin/sleep 302 & exec env -i /bin/sleep 303}\n"
    )
    bystander = subprocess.Popen(["/bin/sleep", "300"], env={"MAIL_CONFIG": "/etc/postfix"})
    with Instance(parameters={"default_transport": "sleeper:"}, services=sleeper) as started:
        with started.session() as session:
            session.mail("a@client.test", ["b@x.test"], MESSAGE)
        end = time.monotonic() + 30
        while len(found := commands(started)) < 4:
            assert time.monotonic() < end
            time.sleep(0.05)
        directory = started.directory
    assert not [pid for pid in found if os.path.exists(f"/proc/{pid}/exe")]
    assert not directory.exists()
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()


def commands(started: Instance) -> list[int]:
    pids = processes.of_postfix(started.config_directory)
    return [pid for pid in pids if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"/bin/sleep")]


def test_a_start_that_fails_leaves_nothing() -> None:
    instance = Instance(services="nonsense\n")
    with pytest.raises(InstanceError, match="bad field count"):
        instance.start()
    assert not instance.directory.exists()
    assert processes.of_postfix(instance.config_directory) == []


def test_nobody_else_gets_the_port(postfix: Instance) -> None:
    """master(8) would share it with a second Postfix and say nothing."""
    assert postfix.port not in {free_port() for _ in range(200)}
    postfix.stop()
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="in use"):
            other.bind(postfix.address)
    postfix.start()


def test_a_folder_that_others_cannot_enter_is_refused(tmp_path: Path) -> None:
    shut = tmp_path / "shut"
    shut.mkdir(mode=0o700)
    with pytest.raises(InstanceError, match="other users than its owner cannot enter it"):
        Instance(directory=shut / "postfix")


def test_a_folder_that_was_there_stays_with_what_it_held(open_path: Path) -> None:
    (open_path / "mine").touch()
    with Instance(directory=open_path) as started:
        assert started.config_directory.parent == open_path
    assert [path.name for path in open_path.iterdir()] == ["mine"]


def test_without_root_or_postfix_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: 1000)
        assert missing() == "a private Postfix needs root: master(8), pipe(8) and spawn(8) change to other users"
        with pytest.raises(InstanceError, match="needs root"):
            Instance()
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr("postroom.postfix.postconf.COMMAND_DIRECTORIES", ())
    assert missing() == "postfix: not found; install Postfix (Debian: apt-get install postfix)"


def test_an_exception_inside_ends_it() -> None:
    started = Instance()
    with pytest.raises(ZeroDivisionError), started:
        raise ZeroDivisionError
    assert not started.directory.exists()
    assert processes.of_postfix(started.config_directory) == []


def test_kept_is_left_as_it_is() -> None:
    instance = Instance(keep=True)
    instance.start()
    instance.close()
    assert (instance.config_directory / "main.cf").exists() and not instance.running
    instance.keep = False
    instance.close()
    assert not instance.directory.exists()
