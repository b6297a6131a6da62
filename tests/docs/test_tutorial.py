"""docs/tutorial.md, typed as it stands there, on a private Postfix and a name server of our own.

What is put in place of the reader's machine: paths, the domain, the port, the user; and commands that would change the
machine itself (apt-get, useradd, userdel, the installation) or read its journal. All else runs as printed.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from docs.mdoc import ROOT, fenced

from postroom.lab import place
from postroom.lab.nameserver import Nameserver
from postroom.postfix.instance import Instance, missing

TUTORIAL = ROOT / "docs" / "tutorial.md"
BLOCKS = fenced(TUTORIAL, "sh")
ZONES = {
    "victim.test": "@ MX 10 mx1.shadysmtpd.test.\n@ MX 20 mx.good.test.\n",
    "shadysmtpd.test": "mx1 A 127.0.0.1\n",
    "good.test": "mx A 127.0.0.1\n",
}


class Desk:
    """The reader's machine."""

    def __init__(self, folder: Path, programs: Path, postfix: Instance, server: str) -> None:
        self.folder = folder
        self.programs = programs
        self.postfix = postfix
        self.log = folder / "log"
        self.texts = {
            "[[rule]]": f'state = "{folder}/state"\nlog = "{self.log}"\n[dns]\nservers = ["{server}"]\n[[rule]]',
            "/opt/postroom": f"{folder}/opt",
            "/etc/postroom": f"{folder}/etc",
            "/var/lib/postroom": f"{folder}/state",
            "-o postroom -g postroom": "-o nobody -g nogroup",
            "gmail.com": "victim.test",
            ".google.com": ".shadysmtpd.test",
            '"localhost", 25': f'"{postfix.address[0]}", {postfix.port}',
        }
        toml, config = f"{folder}/etc/postroom.toml", postfix.config_directory
        self.prelude = f"""
set -eu
PATH={programs}:$PATH
apt-get() {{ :; }}; useradd() {{ :; }}; userdel() {{ :; }}
postfix() {{ command postfix -c {config} "$@"; }}
journalctl() {{ tail -n 1 {self.log}; }}
postroom() {{
    verb=$1; shift
    case $verb in
    check) command postroom check {toml} "$@" ;;
    explain) command postroom explain --config {toml} "$@" ;;
    mx) command postroom mx --server {server} "$@" ;;
    wire) command postroom wire --postfix {config} --config {toml} --user nobody "$@" ;;
    unwire) command postroom unwire --postfix {config} "$@" ;;
    try) command postroom try --user nobody "$@" ;;
    esac
}}
"""

    def type(self, block: str) -> str:
        for text, here in self.texts.items():
            block = block.replace(text, here)
        done = subprocess.run(
            ["bash", "-c", self.prelude + block], capture_output=True, text=True, timeout=120, cwd="/", check=False
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}{done.stderr}"
        return done.stdout

    def files(self) -> tuple[bytes, bytes]:
        directory = self.postfix.config_directory
        return (directory / "main.cf").read_bytes(), (directory / "master.cf").read_bytes()


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    reason = missing()
    if reason:
        pytest.fail(reason, pytrace=False)
    folder = tmp_path_factory.mktemp("tutorial")
    for above in (folder, *folder.parents):  # the user nobody has to come through
        if above.owner() == "root" and above != Path("/tmp") and str(above).startswith("/tmp"):
            above.chmod(0o755)
    installed = place.install(folder, "nobody")
    log = folder / "log"
    log.touch(0o666)
    log.chmod(0o666)
    with (
        Nameserver(ZONES) as server,
        Instance(parameters={"default_transport": "discard:"}, directory=folder / "postfix") as postfix,
    ):
        yield Desk(folder, installed.programs, postfix, server.address)


def block(start: str) -> str:
    (found,) = [text for text in BLOCKS if text.startswith(start)]
    return found


def test_the_installation_is_what_is_left_out_here() -> None:
    """Done by place.install() in these tests, and by `make` in the demo."""
    assert block("apt-get").splitlines() == [
        "apt-get install python3-venv",
        "python3 -m venv /opt/postroom",
        "/opt/postroom/bin/pip install .",
        "export PATH=/opt/postroom/bin:$PATH",
    ]
    assert 20 <= sum(len(re.sub(r"<<'END'\n(?s:.*?)^END$", "", text, flags=re.M).splitlines()) for text in BLOCKS) <= 30


def test_from_nothing_to_the_rule_and_back(desk: Desk) -> None:
    before = desk.files()
    (desk.folder / "opt").mkdir()
    desk.type(block("useradd"))
    desk.type(block("cat >"))
    asked = desk.type(block("postroom check\npostroom mx"))
    assert "1 rule, no tests, 0 errors, 0 warnings" in asked
    assert "mx1.shadysmtpd.test" in asked
    assert "Decision: HANGUP" in asked

    assert "+rule-policy unix" in desk.type(block("postroom wire").splitlines()[0])
    assert desk.files() == before, "--dry-run has changed something"
    desk.type(block("postroom wire"))
    assert desk.files() != before

    seen = desk.type(block("python3 -"))
    assert "hung up: Connection unexpectedly closed" in seen
    assert "rule=google-primary-mx, action=HANGUP" in seen
    assert "hangup: RCPT from" in desk.postfix.log.text()

    desk.type(block("sed -i"))
    seen = desk.type(block("python3 -"))
    assert "(521, b'5.7.1 <postroom.tutorial@victim.test>" in seen
    assert "through mx1.shadysmtpd.test" in seen

    desk.type(block("postroom unwire"))
    assert desk.files() == before
    seen = desk.type(block("python3 -"))
    assert "(250, b'2.1.5 Ok')" in seen

    desk.type(block("rm -r"))
    assert not any((desk.folder / name).exists() for name in ("etc", "state", "opt"))


def test_a_handler_is_tried_as_the_text_says(desk: Desk) -> None:
    """The first program and the first command of docs/writing-a-handler.md; without the folder of tickets it defers."""
    handler = ROOT / "docs" / "writing-a-handler.md"
    program = desk.folder / "ticket-deliver"
    program.write_text(fenced(handler, "python")[0].replace("/opt/postroom/bin", str(desk.programs)))
    program.chmod(0o755)
    shown = desk.type(f"cd {desk.folder}; {fenced(handler, 'sh')[0].rstrip()} || [ $? = 75 ]")
    assert "ended    with exit status 75" in shown
    assert "output   4.3.0 tickets are closed at the moment" in shown
    assert "Postfix  dsn=4.3.0, status=deferred (tickets are closed at the moment" in shown


def test_every_command_of_the_tutorial_was_typed() -> None:
    starts = ("apt-get", "useradd", "cat >", "postroom check\npostroom mx", "postroom wire", "python3 -", "sed -i")
    starts += ("postroom unwire", "rm -r")
    assert [text for text in BLOCKS if not text.startswith(starts)] == []
