"""The lab's name server: starts where it may, leaves nothing behind, says what is wrong."""

from __future__ import annotations

import os
import pwd
import socket
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from postroom.deadline import Deadline
from postroom.dns import Resolver
from postroom.lab import nameserver
from postroom.lab.nameserver import Nameserver, NameserverError


def processes_with(text: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if text.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of this test's own for temporary files, that nobody can enter."""
    with tempfile.TemporaryDirectory(prefix="postroom-test-") as folder:
        Path(folder).chmod(0o755)
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


def test_it_leaves_no_process_and_no_file(place: Path) -> None:
    server = Nameserver({"a.test": "@ MX 10 mx.test."})
    with server:
        (folder,) = place.iterdir()
        pid = server.pid
        assert processes_with(str(folder))
        assert Path(f"/proc/{pid}").stat().st_uid == (
            pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else os.geteuid()
        )
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert list(place.iterdir()) == []
    end = time.monotonic() + 2  # a child of nsd ends a moment after its parent
    while processes_with(str(folder)) and time.monotonic() < end:
        time.sleep(0.02)
    assert processes_with(str(folder)) == []
    assert not Path(f"/proc/{pid}").exists()
    server.stop()  # twice does no harm


def test_two_at_once_have_two_ports() -> None:
    with Nameserver({"a.test": "@ MX 10 a.test."}) as one, Nameserver({"a.test": "@ MX 10 b.test."}) as two:
        assert one.port != two.port
        for server, host in ((one, "a.test"), (two, "b.test")):
            assert Resolver((server.address,)).plan("a.test", Deadline(5)).primary == (host,)


def test_only_servfail() -> None:
    with Nameserver({}, servfail=("broken.test",)) as server:
        for name in ("broken.test", "under.broken.test"):
            assert Resolver((server.address,)).plan(name, Deadline(5)).reason.startswith("SERVFAIL")


def test_a_zone_with_its_own_soa() -> None:
    soa = "@ 3600 IN SOA ns.test. h.test. 7 3600 900 604800 77\n@ 3600 IN NS ns.test.\n"
    with Nameserver({"a.test.": soa}) as server:
        assert Resolver((server.address,)).plan("a.test", Deadline(5)).ttl == 77


def test_a_wrong_zone_is_refused_in_the_words_of_nsd(place: Path) -> None:
    with pytest.raises(NameserverError, match=r"zone a\.test: (.|\n)*integer value is expected"):
        Nameserver({"a.test": "@ MX ten mx.test."}).start()
    assert list(place.iterdir()) == []


def test_a_missing_nsd_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nameserver.shutil, "which", lambda *_args, **_keywords: None)
    with pytest.raises(NameserverError, match="apt-get install nsd"):
        Nameserver({"a.test": ""}).start()


def test_a_port_that_is_taken_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = iter([taken.getsockname()[1], nameserver._free_port()])
        monkeypatch.setattr(nameserver, "_free_port", lambda: next(ports))
        with Nameserver({"a.test": "@ MX 10 mx.test."}) as server:
            assert server.port != taken.getsockname()[1]
            assert Resolver((server.address,)).plan("a.test", Deadline(5)).state == "mx"


def test_an_nsd_that_ends_at_once_is_an_error_with_its_last_words(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nameserver, "_SERVER", "server:\n  no-such-option: yes\n")
    with pytest.raises(NameserverError, match=r"nsd did not start: .+"):
        Nameserver({"a.test": ""}).start()
    assert list(place.iterdir()) == []


def test_a_folder_of_roots_own_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TMPDIR may be one that nobody can enter."""
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    monkeypatch.setattr(tempfile, "tempdir", str(private))
    with Nameserver({"a.test": "@ MX 10 mx.test."}) as server:
        assert Resolver((server.address,)).plan("a.test", Deadline(5)).state == "mx"
    assert list(private.iterdir()) == []
