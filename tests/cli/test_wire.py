"""`postroom wire` and `unwire` as an administrator uses them, on configuration folders and on a running Postfix."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from readable import home, python

from postroom.cli import main
from postroom.postfix import fragment
from postroom.postfix.instance import Instance, missing
from postroom.postfix.postconf import settle

STOCK = Path("/etc/postfix/master.cf.proto")
PROGRAMS = ("rule-deliver", "bounce-record", "notify-record", "rule-policy")
HELP = '#!/bin/sh\n[ "$1" = --help ] && exit 0\n'
MAIN = """\
# The host's own
myhostname = a.test
queue_directory = QUEUE
smtpd_recipient_restrictions =
    permit_mynetworks,
    # strangers
    reject_unauth_destination
"""


class Host:
    """A folder with a Postfix configuration, installed programs, postroom.toml and a state directory."""

    def __init__(self, folder: Path, directory: Path) -> None:
        self.folder, self.directory = folder, directory
        self.main, self.master = directory / "main.cf", directory / "master.cf"
        for name in PROGRAMS:
            self.program(name, HELP + "exit 1\n")
        (folder / "state").mkdir()
        shutil.chown(folder / "state", "nobody", "nogroup")
        self.config = folder / "postroom.toml"
        self.config.write_text(f'state = "{folder}/state"\ndeadline = 20\n')

    def program(self, name: str, text: str) -> None:
        path = self.folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def run(self, *arguments: str, answer: str | None = None) -> Result:
        return CliRunner().invoke(main, [*arguments, "--postfix", str(self.directory)], input=answer)

    def wire(self, *arguments: str, answer: str | None = None) -> Result:
        options = ("--user", "nobody", "--config", str(self.config), "--programs", str(self.folder / "bin"))
        return self.run("wire", *options, *arguments, answer=answer)

    def texts(self) -> tuple[bytes, bytes]:
        return self.master.read_bytes(), self.main.read_bytes()


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A folder that user nobody can enter; pytest's tmp_path is not one."""
    made = Path(tempfile.mkdtemp(prefix="postroom-test-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def host(open_path: Path) -> Host:
    directory = open_path / "postfix"
    directory.mkdir()
    # Not the queue of the machine: a Postfix that runs there would be reloaded.
    (open_path / "queue" / "pid").mkdir(parents=True)
    (directory / "main.cf").write_text(MAIN.replace("QUEUE", f"{open_path}/queue"))
    settle(directory / "main.cf")
    shutil.copy(STOCK, directory / "master.cf")
    # An entry that postconf would harm.
    with (directory / "master.cf").open("a") as file:
        file.write("odd unix - n n - - pipe # no comment\n  # but this is\n  user=nobody argv=/bin/true {} { a b }\n")
    return Host(open_path, directory)


def test_where_a_service_answers_instead_is_said_as_main_cf_names_it(host: Host) -> None:
    text = host.config.read_text()
    host.config.write_text(
        f'{text}[listen.policy]\nat = "unix:{host.folder}/queue/postroom/policy"\n'
        '[listen.other]\nprotocol = "policy"\nat = "127.0.0.1:2527"\n[listen.lmtp]\nat = "unix:/run/postroom/lmtp"\n'
    )
    lines = host.wire("rule-policy", "rule-deliver", "--dry-run").output.splitlines()
    assert lines[:3] == [
        "rule-policy: `postroom serve` answers without a process for it: check_policy_service unix:postroom/policy",
        "rule-policy: `postroom serve` answers without a process for it: check_policy_service inet:127.0.0.1:2527",
        "rule-deliver: `postroom serve` answers without a process for it: lmtp:unix:/run/postroom/lmtp",
    ]
    host.config.write_text(text)
    assert "postroom serve" not in host.wire("rule-policy", "--dry-run").output


def test_wire_again_and_unwire(host: Host) -> None:
    before = host.texts()
    result = host.wire(*PROGRAMS, "--yes")
    assert (result.exit_code, result.stderr) == (0, "")
    assert host.texts()[0].startswith(before[0])
    assert "+rule-deliver unix - n n - - pipe" in result.stdout
    assert "+    check_policy_service unix:private/rule-policy" in result.stdout
    assert 'rule-deliver: send mail to it with a line such as "example.com rule-deliver:"' in result.stdout
    assert "Postfix is not running: nothing to reload" in result.stdout
    assert f"postfix -c {host.directory} reload" not in result.stdout
    wired, inodes = host.texts(), [path.stat().st_ino for path in (host.main, host.master)]

    result = host.wire(*PROGRAMS, "--yes")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "nothing to change\n", "")
    assert [path.stat().st_ino for path in (host.main, host.master)] == inodes, "not even rewritten"

    result = host.run("unwire", "rule-policy", "notify-record", "--yes")
    assert result.exit_code == 0 and host.texts() != wired
    result = host.run("unwire", *PROGRAMS, "--yes")
    assert result.exit_code == 0 and host.texts() == before
    assert host.run("unwire", *PROGRAMS, "--yes").stdout == "nothing to change\n"


def test_a_dry_run_prints_the_change_and_makes_none(host: Host) -> None:
    before = host.texts()
    result = host.wire("rule-deliver", "--dry-run")
    assert result.exit_code == 0 and host.texts() == before
    lines = result.stdout.splitlines()
    assert lines[0] == f"--- {host.master}" and f"--- {host.main}" in lines
    assert "left to do:" in lines and lines[-1] == "nothing was changed"
    assert sum(line.startswith("-") and not line.startswith("---") for line in lines) == 0


def test_thin_is_put_in_front_and_stays(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-ins are shell scripts, which thin.py becomes, as nobody, for --help."""
    start = (python(), "-I", "-S", str(home() / "src/postroom/thin.py"))
    monkeypatch.setattr("postroom.cli.wire.thin_start", lambda: start)
    assert host.wire("rule-deliver", "--yes", "--no-reload").exit_code == 0
    assert "thin.py" not in host.master.read_text()
    result = host.wire("rule-deliver", "rule-policy", "--thin", "--yes", "--no-reload")
    assert result.exit_code == 0, result.output
    assert host.master.read_text().count(f"argv={' '.join(start)} {host.folder}/bin/rule-") == 2
    assert host.wire("rule-deliver", "rule-policy", "--yes", "--no-reload").stdout == "nothing to change\n"
    assert host.run("unwire", "rule-deliver", "rule-policy", "--yes", "--no-reload").exit_code == 0
    assert "thin.py" not in host.master.read_text()


def test_who_never_gets_to_the_policy_service_is_told(host: Host) -> None:
    with host.master.open("a") as file:
        file.write("submission inet n - n - - smtpd\n  -o smtpd_recipient_restrictions=permit_mynetworks,reject\n")
    lines = host.wire("rule-policy", "--dry-run").stdout.splitlines()
    assert "  rule-policy: stands behind permit_mynetworks: those clients are not asked" in lines
    assert "  submission: has its own -o smtpd_recipient_restrictions: the service is not asked there" in lines


def test_a_missing_key_file_is_refused_with_the_remedy(host: Host) -> None:
    with host.config.open("a") as file:
        file.write('[bounces]\nkey = "bounce.key"\ndomain = "bounces.test"\n')
    said = refused(host, "bounce-record")
    assert f"{host.folder}/bounce.key does not exist: make it with: postroom verp key" in said


@pytest.mark.parametrize(("answer", "done"), [("y\n", True), ("n\n", False), ("", False)])
def test_it_asks_first(host: Host, answer: str, done: bool) -> None:
    before = host.texts()
    result = host.wire("rule-deliver", answer=answer)
    assert result.exit_code == (0 if done else 1)
    assert (host.texts() != before) == done


def refused(host: Host, *arguments: str) -> str:
    """What a refusal says; nothing may have been changed."""
    before = host.texts()
    result = host.wire(*arguments, "--yes")
    assert (result.exit_code, result.stdout) == (78, "")
    assert host.texts() == before
    assert all(line.startswith("postroom: ") for line in result.stderr.splitlines())
    return result.stderr


def test_refusals(host: Host) -> None:
    assert "no such program" in refused(host, "rule-delivery")
    assert "user postfix is Postfix's own user" in refused(host, "rule-deliver", "--user", "postfix")
    assert "user root has uid 0" in refused(host, "rule-deliver", "--user", "root")
    assert "user nobody:root has gid 0" in refused(host, "rule-deliver", "--user", "nobody:root")
    assert "does not exist: install the package" in refused(host, "rule-deliver", "--programs", "/nonexistent")
    assert "No such file" in refused(host, "rule-deliver", "--config", "/nonexistent.toml")


def test_a_program_in_a_shut_folder_is_refused_by_the_folders_name(host: Host) -> None:
    (host.folder / "bin").chmod(0o700)
    assert f"user nobody cannot enter {host.folder}/bin (owner 0:0, mode 700)" in refused(host, "rule-deliver")


def test_every_reason_is_told_at_once(host: Host) -> None:
    host.program("rule-deliver", "#!/bin/sh\necho 4.3.5 broken; exit 75\n")
    host.program("bounce-record", "#!python\n")
    shutil.chown(host.folder / "state", "root")
    assert len(refused(host, "rule-deliver", "bounce-record").splitlines()) == 3


def test_a_time_limit_at_the_deadline_is_refused(host: Host) -> None:
    with host.main.open("a") as file:
        file.write("bounce-record_time_limit = 20s\n")
    assert "not above the deadline of bounce-record (20 s)" in refused(host, "rule-deliver", "bounce-record")


def test_a_policy_service_behind_reject_is_refused(host: Host) -> None:
    with host.main.open("a") as file:
        file.write("    reject\n")
    assert "smtpd_recipient_restrictions ends in reject" in refused(host, "rule-policy")


def test_a_broken_configuration_is_refused_before_anything_is_written(host: Host) -> None:
    with host.master.open("a") as file:
        file.write("nonsense\n")
    before = host.texts()
    result = host.wire("rule-deliver", "--yes")
    assert result.exit_code == 78 and host.texts() == before
    assert "bad field count" in result.stderr or "fields" in result.stderr


def test_a_postfix_without_main_cf_is_refused(host: Host) -> None:
    host.main.unlink()
    result = host.wire("rule-deliver", "--yes")
    assert result.exit_code == 78
    assert result.stderr.startswith(f"postroom: {host.main} does not exist: configure Postfix first")


def test_wrong_usage(host: Host) -> None:
    assert host.wire().exit_code == 64


# On a running Postfix

POLICY = """\
while read line; do
    [ -z "$line" ] && printf 'action=521 5.7.1 asked by spawn\\n\\n'
done
"""


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[Host, Instance]]:
    """Programs that fail in the ways that Postfix bounces, wired into a Postfix that runs."""
    reason = missing()
    if reason:
        pytest.fail(reason, pytrace=False)
    folder = Path(tempfile.mkdtemp(prefix="postroom-test-"))
    folder.chmod(0o755)
    plain = "".join(f"plain-{name} unix - n n - - pipe user=nobody argv={folder}/bin/{name}\n" for name in PROGRAMS)
    names = [name for program in PROGRAMS for name in (program, f"plain-{program}")]
    table = ", ".join(f"{name}.test={name}:" for name in names)
    parameters = {
        "transport_maps": f"inline:{{{table}}}",
        "command_time_limit": "2s",
        "minimal_backoff_time": "1000s",
        "maximal_backoff_time": "1000s",
        # An administrator's own, above the deadline: wire leaves it.
        "notify-record_time_limit": "2s",
    }
    with Instance(parameters=parameters, services=plain) as postfix:
        host = Host(folder, postfix.config_directory)
        host.config.write_text(f'state = "{folder}/state"\ndeadline = 1\n')
        host.program("rule-deliver", f"{HELP}exec cat >/dev/null /no/such/file\n")
        host.program("bounce-record", f"{HELP}exit 127\n")
        host.program("notify-record", f"{HELP}sleep 60\n")
        host.program("rule-policy", HELP + POLICY)
        result = host.wire(*PROGRAMS, "--yes")
        assert result.exit_code == 0, result.output
        # No reload but its own.
        assert f"running postfix -c {host.directory} reload" in result.stdout.splitlines()
        settle(host.main)
        yield host, postfix
    shutil.rmtree(folder)


def test_what_postfix_would_bounce_for_our_fault_is_deferred(running: tuple[Host, Instance]) -> None:
    _, postfix = running
    expected = {
        "rule-deliver": "Command died with status 1: ",
        "bounce-record": "Command died with status 127: ",
        "notify-record": "Command time limit exceeded: ",
    }
    for name in expected:
        for transport in (name, f"plain-{name}"):
            postfix.sendmail("", [f"x@{transport}.test"], b"Subject: x\n\nx\n")
    for name, text in expected.items():
        for transport, status, dsn in ((name, "deferred", "4.3.0"), (f"plain-{name}", "bounced", "5.3.0")):
            line = postfix.wait_for(f"to=<x@{transport}.test>.*")[0]
            assert f"dsn={dsn}, status={status} ({text}" in line
    assert "warning: " not in "".join(line for line in postfix.log.text().splitlines() if "status_filter" in line)


def test_the_policy_service_is_asked(running: tuple[Host, Instance]) -> None:
    _, postfix = running
    with postfix.session() as session:
        session.command("EHLO client.test")
        session.command("MAIL FROM:<a@client.test>")
        reply = session.command("RCPT TO:<b@lab.test>")
        assert reply is not None and (reply.code, "asked by spawn" in reply.text) == (521, True)


def test_unwired_from_a_running_postfix(running: tuple[Host, Instance]) -> None:
    host, postfix = running
    since = len(postfix.log.text())
    result = host.run("unwire", "rule-policy", "--yes", "--no-reload")
    assert result.exit_code == 0, result.output
    assert f"  postfix -c {host.directory} reload, now: " in result.stdout
    assert "reload -- version" not in postfix.log.text()[since:]
    settle(host.main)
    postfix.reload()
    deadline = time.monotonic() + 20
    while True:
        # smtpd(8) processes from before the reload may still answer.
        with postfix.session() as session:
            session.command("EHLO client.test")
            session.command("MAIL FROM:<a@client.test>")
            reply = session.command("RCPT TO:<b@lab.test>")
        if reply is not None and reply.code == 250:
            break
        assert time.monotonic() < deadline, reply
        time.sleep(0.2)


def test_without_root_only_a_dry_run_is_possible(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """As another user, who may read the configuration and not write it."""
    host.directory.chmod(0o755)
    # That user may not be able to read this checkout: what is needed of it is imported, or copied, before.
    assert host.wire("rule-deliver", "--dry-run").exit_code == 0
    copied = shutil.copytree(fragment.folder(), host.folder / "fragments")
    monkeypatch.setattr(fragment, "folder", lambda: copied)
    pid = os.fork()
    if pid == 0:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        dry, real = host.wire("rule-deliver", "--dry-run"), host.wire("rule-deliver", "--yes")
        good = dry.exit_code == 0 and "not root: whether nobody can run" in dry.stderr
        os._exit(
            0
            if good and real.exit_code == 78 and f"cannot write {host.directory}: run this as root" in real.stderr
            else 1
        )
    before = host.texts()
    assert os.waitpid(pid, 0)[1] == 0
    assert host.texts() == before
