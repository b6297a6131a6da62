"""Whether a user can run a program is asked for real, and the first thing in the way is named."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from postroom.postfix import access
from postroom.postfix.emulator import Surroundings
from postroom.postfix.postconf import Postconf, settle

NOBODY = Surroundings(65534, pwd.getpwnam("nobody").pw_gid, "/", {})
GOOD = "#!/bin/sh\necho usage\n"


@pytest.fixture
def postconf(tmp_path: Path) -> Postconf:
    (tmp_path / "main.cf").write_text("")
    (tmp_path / "master.cf").write_text("")
    settle(tmp_path / "main.cf")
    return Postconf(tmp_path)


def program(path: Path, text: str = GOOD, mode: int = 0o755) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def reasons(path: Path) -> list[str]:
    return access.program_reasons(path, NOBODY, "nobody")


@pytest.mark.parametrize(
    ("user", "said"),
    [
        ("root", "has uid 0"),
        ("nobody:root", "has gid 0"),
        ("postfix", "Postfix's own user"),
        ("nobody:postfix", "group of Postfix's own user"),
        ("nobody:postdrop", "group postdrop"),
        ("no-such-user", "user no-such-user does not exist"),
        ("nobody:no-such-group", "group no-such-group does not exist"),
    ],
)
def test_accounts_that_pipe_refuses(user: str, said: str, postconf: Postconf) -> None:
    assert said in " ".join(access.account_reasons(user, postconf))


@pytest.mark.parametrize("user", ["nobody", "nobody:nogroup", "daemon", "nobody:daemon"])
def test_accounts_that_pipe_takes(user: str, postconf: Postconf) -> None:
    assert access.account_reasons(user, postconf) == []


def test_a_program_that_runs(open_path: Path) -> None:
    assert reasons(program(open_path / "bin" / "good")) == []


def test_a_program_that_is_not_there(open_path: Path) -> None:
    assert "does not exist: install the package" in reasons(open_path / "none")[0]


def test_a_folder_on_the_way_is_shut(open_path: Path) -> None:
    path = program(open_path / "home" / "bin" / "good")
    (open_path / "home").chmod(0o700)
    (reason,) = reasons(path)
    assert reason == (
        f"user nobody cannot enter {open_path}/home (owner 0:0, mode 700), on the way to {open_path}/home/bin/good"
    )


def test_a_folder_behind_a_link_is_shut(open_path: Path) -> None:
    program(open_path / "secret" / "good")
    (open_path / "secret").chmod(0o700)
    (open_path / "link").symlink_to("secret/good")
    (reason,) = reasons(open_path / "link")
    assert reason.startswith(f"user nobody cannot enter {open_path}/secret ")


def test_the_file_cannot_be_executed(open_path: Path) -> None:
    path = program(open_path / "good", mode=0o644)
    assert reasons(path) == [f"user nobody cannot execute {path} (owner 0:0, mode 644)"]


def test_the_file_cannot_be_read(open_path: Path) -> None:
    path = program(open_path / "good", mode=0o711)
    assert reasons(path) == [f"user nobody cannot read {path} (owner 0:0, mode 711)"]


def test_the_interpreter_lies_in_a_home_of_mode_700(open_path: Path) -> None:
    home = open_path / "home"
    (home / "venv" / "bin").mkdir(parents=True)
    (home / "venv" / "bin" / "python").symlink_to("/bin/sh")
    home.chmod(0o700)
    path = program(open_path / "good", f"#!{home}/venv/bin/python\necho usage\n")
    (reason,) = reasons(path)
    assert reason.startswith(f"user nobody cannot enter {home} ")
    assert reason.endswith(f"on the way to {home}/venv/bin/python")


def test_the_interpreter_is_gone(open_path: Path) -> None:
    path = program(open_path / "good", f"#!{open_path}/venv/bin/python\n")
    assert reasons(path) == [f"{open_path}/venv does not exist, on the way to {open_path}/venv/bin/python"]


def test_the_first_line_was_never_rewritten(open_path: Path) -> None:
    path = program(open_path / "good", "#!python\n")
    assert "names no interpreter by its path (#!python)" in reasons(path)[0]


def test_a_program_that_fails_tells_why(open_path: Path) -> None:
    path = program(open_path / "good", "#!/bin/sh\necho 4.3.5 No module named postroom\nexit 75\n")
    assert reasons(path) == [f"user nobody cannot run {path} --help (exit status 75): 4.3.5 No module named postroom"]


def test_the_environment_is_pipes_not_the_administrators(open_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    path = program(open_path / "good", '#!/bin/sh\n[ -z "$PYTHONPATH" ] && [ "$PATH" = /usr/bin:/bin ] && [ $# = 1 ]\n')
    assert reasons(path) == []


# Configuration and state


@pytest.fixture
def config(open_path: Path) -> Path:
    state = open_path / "state"
    state.mkdir()
    os.chown(state, NOBODY.uid, NOBODY.gid)
    path = open_path / "etc" / "postroom.toml"
    path.parent.mkdir()
    path.write_text(f'state = "{state}"\ndeadline = 42\n')
    return path


def configuration(path: Path) -> tuple[list[str], float | None]:
    finding = access.configuration(path, NOBODY, "nobody")
    return finding.reasons, finding.deadline


def test_a_configuration_that_can_be_read(config: Path) -> None:
    assert configuration(config) == ([], 42)


def test_a_configuration_that_is_not_there(config: Path) -> None:
    (reason,) = configuration(config.parent / "other.toml")[0]
    assert "other.toml" in reason and "No such file" in reason


def test_a_configuration_that_is_wrong(config: Path) -> None:
    config.write_text("nonsense = 1\n")
    assert "nonsense" in configuration(config)[0][0]


def test_a_configuration_that_only_root_reads(config: Path) -> None:
    config.chmod(0o600)
    assert configuration(config)[0] == [f"user nobody cannot read {config} (owner 0:0, mode 600)"]


def test_a_folder_that_only_root_enters(config: Path) -> None:
    config.parent.chmod(0o700)
    assert configuration(config)[0] == [
        f"user nobody cannot enter {config.parent} (owner 0:0, mode 700), on the way to {config}"
    ]


def test_a_state_directory_that_is_not_there(config: Path) -> None:
    (config.parents[1] / "state").rmdir()
    (reason,) = configuration(config)[0]
    assert reason.endswith(f"it does not exist: install -d -o nobody -m 700 {config.parents[1]}/state")


def test_a_state_directory_that_is_roots(config: Path) -> None:
    os.chown(config.parents[1] / "state", 0, 0)
    assert configuration(config)[0] == [f"user nobody cannot write state directory {config.parents[1]}/state"]


def test_a_file_in_the_state_that_root_made(config: Path) -> None:
    file = config.parents[1] / "state" / "state.db"
    file.touch()
    assert configuration(config)[0] == [f"user nobody cannot write {file}, a part of the state"]
    file.unlink()
    file.mkdir()
    assert configuration(config)[0] == [f"user nobody cannot write {file}, a part of the state"]


def test_a_list_that_only_root_reads(config: Path) -> None:
    listed = config.parent / "blocked"
    listed.write_text("a@b.test\n")
    listed.chmod(0o600)
    config.write_text(f'{config.read_text()}[list.blocked]\nfile = "blocked"\n')
    assert configuration(config)[0] == [f"user nobody cannot read {listed} (owner 0:0, mode 600)"]


def test_an_answer_of_another_user() -> None:
    ids = access.as_user(NOBODY, lambda: [*os.getresuid(), *os.getresgid(), *os.getgroups()])
    assert ids == [NOBODY.uid] * 3 + [NOBODY.gid] * 4
    assert os.getuid() == 0


def test_a_question_that_fails_is_told() -> None:
    with pytest.raises(OSError, match="ZeroDivisionError"):
        access.as_user(NOBODY, lambda: 1 // 0)
