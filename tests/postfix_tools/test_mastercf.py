"""master.cf as text, against what postconf makes of the same file."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroom.postfix.logical import SyntaxFault, words
from postroom.postfix.mastercf import MasterFile, Service, service
from postroom.postfix.postconf import settle

STOCK = Path("/etc/postfix/master.cf.proto")
ODD = """\
# head
smtp inet n - y - - smtpd
  -o a=b
# between
   # indented
  -o { c = d e }

  -oe=f
# behind
prog unix - n n - 10 pipe
  flags=DR user=x argv=/p {} { two words } -o not-an-option=1
dup unix - n n - - pipe user=first argv=/1
dup unix - n n - - pipe user=second argv=/2
"""


def test_the_fields_and_options_of_an_entry() -> None:
    entry = MasterFile(ODD).get("smtp/inet")
    assert entry is not None
    assert (entry.name, entry.type, entry.chroot, entry.command) == ("smtp", "inet", "y", "smtpd")
    assert entry.options == {"a": "b", "c": "d e", "e": "f"}


def test_empty_arguments_stay_and_a_programs_words_are_no_options() -> None:
    entry = MasterFile(ODD).get("prog/unix")
    assert entry is not None
    assert entry.options == {}
    assert entry.own_arguments == (
        "flags=DR", "user=x", "argv=/p", "", "two words", "-o", "not-an-option=1",
    )  # fmt: skip


def test_the_last_of_two_entries_is_the_one() -> None:
    entry = MasterFile(ODD).get("dup/unix")
    assert entry is not None and "user=second" in entry.arguments


def test_the_stock_file_reads_as_postconf_reads_it(tmp_path: Path) -> None:
    text = STOCK.read_text() + ODD.replace("{} ", "").replace("smtp inet", "smtp2 inet")
    (tmp_path / "master.cf").write_text(text)
    (tmp_path / "main.cf").touch()
    settle(tmp_path / "main.cf")
    listed = subprocess.run(
        ["/usr/sbin/postconf", "-c", str(tmp_path), "-M"], capture_output=True, text=True, check=True
    ).stdout
    mine = [comparable(entry) for entry in MasterFile(text).services()]
    assert mine == [comparable(service(line)) for line in listed.replace("\n ", " ").splitlines()]
    assert len(mine) > 25


def comparable(entry: Service) -> list[object]:
    """postconf writes options in one of their three forms."""
    return [entry.key, entry.chroot, entry.process_limit, entry.command, entry.options, entry.own_arguments]


@given(st.sampled_from(["smtp/inet", "prog/unix", "dup/unix"]))
def test_an_edit_leaves_every_other_line_alone(key: str) -> None:
    file = MasterFile(ODD)
    number = file.index(key)
    assert number is not None
    block = file.blocks[number].text
    before, after = ODD[: ODD.rindex(block)], ODD[ODD.rindex(block) + len(block) :]
    assert file.removed(key).text == before + after
    assert file.replaced(key, "new unix - - n - - smtp\n").text == before + "new unix - - n - - smtp\n" + after


def test_removing_with_the_comment_above() -> None:
    file = MasterFile("a unix - - n - - smtp\n# one\n# two\nb unix - - n - - smtp\n  -o x=y\n# end\n")
    assert file.line_above("b/unix") == "# two"
    assert file.removed("b/unix", comments=1).text == "a unix - - n - - smtp\n# one\n# end\n"


@pytest.mark.parametrize(
    "line", ["a unix - n n - -", "a mail - n n - - smtp", "a unix - n n - - pipe {x", "a unix - n n - - pipe {x}y"]
)
def test_what_master_refuses_is_refused(line: str, tmp_path: Path) -> None:
    with pytest.raises(SyntaxFault):
        service(line)
    (tmp_path / "master.cf").write_text(line + "\n")
    (tmp_path / "main.cf").touch()
    settle(tmp_path / "main.cf")
    done = subprocess.run(["/usr/sbin/postconf", "-c", str(tmp_path), "-M"], capture_output=True, text=True)
    # Braces that do not match are a warning for postconf and fatal for master(8).
    assert done.returncode != 0 or "warning: master.cf: " in done.stderr


def test_postconf_would_lose_an_empty_argument_which_is_why_this_exists(tmp_path: Path) -> None:
    text = "prog unix - n n - 10 pipe user=x argv=/p {} y\n"
    (tmp_path / "master.cf").write_text(text)
    (tmp_path / "main.cf").touch()
    settle(tmp_path / "main.cf")
    subprocess.run(["/usr/sbin/postconf", "-c", str(tmp_path), "-P", "prog/unix/a=b"], check=True)
    assert "{}" not in (tmp_path / "master.cf").read_text()
    assert words(MasterFile(text).text)[-2:] == ["{}", "y"]
