"""Every manual page: clean, linked, installed."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from docs.mdoc import MAN, PAGES, ROOT

# Pages of Postfix and of the system that ours point to.
FOREIGN = {
    "access(5)", "bounce(8)", "lmtp(8)", "master(8)", "pipe(8)", "postconf(1)", "postconf(5)", "postmap(1)",
    "cidr_table(5)", "geoipupdate(1)", "lmdb_table(5)", "pcre_table(5)", "postscreen(8)", "regexp_table(5)",
    "sqlite_table(5)",
    "resolv.conf(5)", "sendmail(1)", "smtp(8)", "smtpd(8)", "socketmap_table(5)", "spawn(8)", "syslog(3)", "systemd(1)",
    "tcp_table(5)", "transport(5)", "trivial-rewrite(8)",
}  # fmt: skip
ORDER = [
    "NAME", "SYNOPSIS", "DESCRIPTION", "SETTINGS", "RULES", "CONDITIONS", "RULE ACTIONS", "PROVIDERS", "TESTS", "JSON",
    "ENVIRONMENT", "FILES", "EXIT STATUS", "EXAMPLES", "LOGGING", "DIAGNOSTICS", "SEE ALSO", "STANDARDS", "CAVEATS",
]  # fmt: skip

each = pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)


def mandoc(*arguments: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("mandoc") is None:
        pytest.fail("mandoc is missing: apt-get install mandoc", pytrace=False)
    # In the folder of the pages mandoc finds those that one refers to.
    return subprocess.run(["mandoc", *arguments], cwd=MAN, capture_output=True, text=True, check=False)


@each
def test_mandoc_has_nothing_to_say(path: Path) -> None:
    # Postfix's own pages may not be installed; test_references_lead_somewhere looks after those.
    said = mandoc("-Tlint", "-W", "style", path.name).stdout.splitlines()
    assert [line for line in said if "referenced manual not found" not in line] == []


@each
def test_references_lead_somewhere(path: Path) -> None:
    own = {f"{other.stem}({other.suffix[1:]})" for other in PAGES}
    found = re.findall(r"^\.Xr (\S+) (\d)", path.read_text(), re.MULTILINE)
    assert {f"{name}({number})" for name, number in found} <= own | FOREIGN


@each
def test_see_also_names_all_of_ours_and_each_page_once_in_order(path: Path) -> None:
    see = re.findall(r"^\.Xr (\S+) (\d)", path.read_text().partition(".Sh SEE ALSO")[2], re.MULTILINE)
    assert see == sorted(set(see), key=lambda one: (one[1], one[0]))


@each
def test_sections_stand_in_the_usual_order(path: Path) -> None:
    found = re.findall(r"^\.Sh (.*)$", path.read_text(), re.MULTILINE)
    assert [title for title in found if title not in ORDER] == []
    assert found == sorted(found, key=ORDER.index)


@each
def test_a_line_is_no_wider_than_a_terminal(path: Path) -> None:
    """Displays are not wrapped. What is longer are lines of master.cf, main.cf and TOML, shown as they stand there."""
    lines = [re.sub(".\b", "", line) for line in mandoc("-Tascii", path.name).stdout.splitlines()]
    as_in_the_file = re.compile(r"=\$\{|= regexp:|^ *(given|argv) *=")
    assert [line for line in lines if len(line) > 80 and not as_in_the_file.search(line)] == []


def test_every_page_travels_in_the_wheel() -> None:
    manifest = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    pages = {source: target for source, target in manifest["shared-data"].items() if source.startswith("man")}
    assert pages == {f"man/{path.name}": f"share/man/man{path.suffix[1:]}/{path.name}" for path in PAGES}
