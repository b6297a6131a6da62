"""Writing the files: all or nothing, whatever goes wrong, and no trace of the attempt."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from postroom.postfix import commit as module
from postroom.postfix.commit import Change, Refusal, commit, lock, rehearse, write
from postroom.postfix.postconf import Postconf, PostconfError, settle

MASTER = "smtp inet n - n - - smtpd\n"
ADDED = "prog unix - n n - - pipe user=nobody argv=/bin/true {}\n"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "main.cf").write_text("myhostname = a.test\n")
    (tmp_path / "master.cf").write_text(MASTER)
    (tmp_path / "master.cf").chmod(0o640)
    settle(tmp_path / "main.cf")
    return tmp_path


def changes(directory: Path, main: str = "myhostname = b.test\n", master: str = MASTER + ADDED) -> list[Change]:
    old = [(directory / name).read_text() for name in ("master.cf", "main.cf")]
    return [Change(directory / "master.cf", old[0], master), Change(directory / "main.cf", old[1], main)]


def snapshot(directory: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mode) for path in directory.iterdir()}


def test_both_files_are_written_with_their_mode_and_owner(directory: Path) -> None:
    os.chown(directory / "master.cf", 1, 2)
    commit(Postconf(directory), changes(directory), ["prog/unix"])
    assert (directory / "master.cf").read_text() == MASTER + ADDED
    assert (directory / "main.cf").read_text() == "myhostname = b.test\n"
    status = (directory / "master.cf").stat()
    assert (status.st_mode & 0o777, status.st_uid, status.st_gid) == (0o640, 1, 2)
    assert len(list(directory.iterdir())) == 2


def test_an_unreadable_result_is_rolled_back(directory: Path) -> None:
    before = snapshot(directory)
    with pytest.raises(PostconfError):
        commit(Postconf(directory), changes(directory, master="one two\n"), [])
    assert snapshot(directory) == before


def test_a_service_that_is_not_there_afterwards_is_rolled_back(directory: Path) -> None:
    before = snapshot(directory)
    with pytest.raises(PostconfError, match="does not show other/unix"):
        commit(Postconf(directory), changes(directory), ["other/unix"])
    assert snapshot(directory) == before


def test_a_write_that_fails_half_way_is_rolled_back(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, replace = snapshot(directory), os.replace
    done: list[object] = []

    def full_disk(source: str, target: Path) -> None:
        done.append(target)
        if len(done) == 2:
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(module.os, "replace", full_disk)
    with pytest.raises(OSError, match="No space left"):
        commit(Postconf(directory), changes(directory), [])
    assert snapshot(directory) == before
    assert len(done) == 4, "two files written, two put back"


def test_a_new_file_goes_again_on_failure(directory: Path) -> None:
    before = snapshot(directory)
    new = Change(directory / "table", None, "x y\n")
    with pytest.raises(PostconfError):
        commit(Postconf(directory), [new, *changes(directory)], ["other/unix"])
    assert snapshot(directory) == before


def test_a_file_that_somebody_changed_meanwhile_is_not_overwritten(directory: Path) -> None:
    planned = changes(directory)
    (directory / "main.cf").write_text("myhostname = theirs.test\n")
    with pytest.raises(Refusal, match=r"main\.cf was changed by somebody else"):
        commit(Postconf(directory), planned, [])
    assert (directory / "master.cf").read_text() == MASTER


def test_another_edit_is_waited_for_and_then_refused(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOCK_SECONDS", 0.3)
    descriptor = os.open(directory, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(Refusal, match="under way"):
        commit(Postconf(directory), changes(directory), [])
    os.close(descriptor)
    with lock(directory):
        pass


def test_a_symbolic_link_stays_one(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    real = tmp_path_factory.mktemp("elsewhere") / "main.cf"
    (directory / "main.cf").rename(real)
    (directory / "main.cf").symlink_to(real)
    write(directory / "main.cf", "new = 1\n")
    assert (directory / "main.cf").is_symlink()
    assert real.read_text() == "new = 1\n"


def test_bytes_that_are_no_text_stay(directory: Path) -> None:
    (directory / "main.cf").write_bytes(b"# \xff\r\nmyhostname = a.test\r\n")
    old = module.current(directory / "main.cf")
    assert old is not None
    write(directory / "main.cf", old + "x = y\n")
    assert (directory / "main.cf").read_bytes() == b"# \xff\r\nmyhostname = a.test\r\nx = y\n"


# The rehearsal


def test_a_good_change_is_accepted_and_nothing_is_touched(directory: Path) -> None:
    before = snapshot(directory)
    rehearse(Postconf(directory), changes(directory), ["prog/unix"])
    assert snapshot(directory) == before


@pytest.mark.parametrize(
    ("main", "master", "said"),
    [
        ("myhostname = a.test\n", "one two\n", "bad field count"),
        ("myhostname = a.test\nnonsense\n", MASTER + ADDED, "missing '=' after attribute name"),
        ("myhostname = a.test\nno_such_parameter = 1\n", MASTER + ADDED, "unused parameter: no_such_parameter=1"),
        ("myhostname = a.test\n", MASTER, "does not show prog/unix"),
        ("myhostname = a.test\nmessage_size_limit = many\n", MASTER + ADDED, "many"),
    ],
)
def test_what_postfix_complains_of_is_refused(directory: Path, main: str, master: str, said: str) -> None:
    before = snapshot(directory)
    with pytest.raises(Refusal) as refused:
        rehearse(Postconf(directory), changes(directory, main, master), ["prog/unix"])
    assert said in str(refused.value)
    assert snapshot(directory) == before


def test_complaints_that_were_there_before_are_no_reason(directory: Path) -> None:
    (directory / "main.cf").write_text("myhostname = a.test\nno_such_parameter = 1\nx = 1\nx = 2\n")
    settle(directory / "main.cf")
    new = "# a line more\n" + (directory / "main.cf").read_text()
    rehearse(Postconf(directory), changes(directory, main=new), ["prog/unix"])


def test_the_diff_shows_a_missing_last_newline() -> None:
    diff = Change(Path("/etc/postfix/main.cf"), "a = 1", "a = 1\nb = 2").diff()
    assert diff.startswith("--- /etc/postfix/main.cf\n+++ /etc/postfix/main.cf\n")
    assert diff.count("\\ No newline at end of file\n") == 2
    assert Change(Path("/t"), None, "x\n").diff().startswith("--- /dev/null\n+++ /t\n")


def test_without_a_terminal_the_exit_status_tells(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_ptmx() -> tuple[int, int]:
        raise OSError(2, "No such file or directory")

    monkeypatch.setattr(module.os, "openpty", no_ptmx)
    assert module.on_terminal(["/bin/sh", "-c", "echo said >&2; exit 3"]) == (3, "said\n")
    rehearse(Postconf(directory), changes(directory), ["prog/unix"])


def test_a_folder_that_cannot_be_written_is_named_with_the_remedy(directory: Path) -> None:
    planned = changes(directory)
    assert module.unwritable(planned) == []
    directory.chmod(0o555)
    pid = os.fork()
    if pid == 0:
        os.setresuid(65534, 65534, 65534)
        os._exit(0 if module.unwritable(planned) == [f"cannot write {directory}: run this as root"] else 1)
    assert os.waitpid(pid, 0)[1] == 0
