"""The pages of the programs against fragments, options, exit statuses, and what the programs really say."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from docs.mdoc import PAGES, ROOT, displays, no_library, page, plain, prose, section, words

from postroom import envelope
from postroom.bounces import keys, verp
from postroom.postfix.fragment import read
from postroom.rules.settings import DEFAULT_DEADLINE, DEFAULT_STATE
from postroom.runners import lmtp, options, pipe, stdio, tables
from postroom.status import CODES
from postroom.store.sqlite import EVENT_LIFETIME

PROGRAMS = [path.stem for path in PAGES if path.suffix == ".8"]
TABLES = ("socketmap-lookup", "tcp-lookup")
PIPE = [name for name in PROGRAMS if name not in ("rule-policy", "lmtp-deliver", *TABLES)]
SPAWN = {"rule-policy": stdio, "lmtp-deliver": lmtp, **dict.fromkeys(TABLES, tables)}

each = pytest.mark.parametrize("name", PROGRAMS)


@each
def test_wiring_by_hand_is_what_wire_does(name: str) -> None:
    fragment = read(name)
    entry, settings, *_ = displays(section(page(f"{name}.8"), "Wiring", "Ss"))
    assert entry == fragment.entry
    lines = [f"{one.name} = {'... ,' if one.operator == '+=' else ''} {one.value}" for one in fragment.requirements]
    assert settings.split() == " ".join(lines).split()


@each
def test_what_is_left_to_do_is_on_the_page(name: str) -> None:
    """Of each `to do` line, the parameter of main.cf that it speaks of."""
    text = page(f"{name}.8")
    for todo in read(name).todo:
        for parameter in re.findall(r"[a-z0-9]+_[a-z_]+", todo):
            assert parameter in text, todo


@each
def test_options_and_their_defaults(name: str) -> None:
    text = section(page(f"{name}.8"), "DESCRIPTION")
    listed = re.findall(r"^\.It Fl -(\S+)", text, re.MULTILINE)
    more = ["--table"] if name == "tcp-lookup" else []
    assert [f"--{option}" for option in listed] == [*options._VALUED, *more, "--help"]
    told = prose(text)
    assert f"Default: {options.DEFAULT_CONFIG} ." in told
    assert f"else {DEFAULT_STATE} ." in told
    if name not in PIPE:
        assert f"Default: {SPAWN[name].DEFAULT_DEADLINE:g}, or" in told
        assert f"after {stdio.IDLE_LIMIT:g} seconds without a request, after {stdio.LIFETIME:g} seconds in all" in told
    else:
        assert DEFAULT_DEADLINE == pipe.DEFAULT_DEADLINE
        assert f"else {pipe.DEFAULT_DEADLINE:g}." in told


def test_the_words_after_the_options() -> None:
    text = section(page("rule-deliver.8"), "DESCRIPTION").partition("After\n")[2].partition("With its name")[0]
    assert set(words(text, "Cm")) == {*envelope.NAMES, "recipient", "original_recipient"}
    required = text.partition("are required")[0]
    assert set(words(required, "Cm")) == {*envelope.REQUIRED, "recipient"}


@pytest.mark.parametrize("name", ["bounce-record", "notify-record"])
def test_events_are_kept_as_long_as_the_page_says(name: str) -> None:
    assert f"for {EVENT_LIFETIME // 86400} days" in prose(section(page(f"{name}.8"), "FILES"))


def test_the_signed_address_is_one(tmp_path: Path) -> None:
    (shown,) = [text.strip() for text in displays(page("bounce-record.8")) if text.startswith("bounces+")]
    key = keys.Key("b", b"x" * 16)
    verdict = verp.check(envelope.localpart(shown), [], [key], "bounces", 0.0, 86400.0)
    assert verdict.authentic == verp.FORGED, "the tag has another form, or key, than the programs know"
    made = verp.make(key, "bounces", "bob@example.net", 1.8e9)
    assert (len(made), made[-16:]) == (len(envelope.localpart(shown)), "-bob=example.net")


# Exit statuses


def statuses(name: str) -> set[int]:
    lines = re.findall(r"^\.It (\d.*)$", section(page(f"{name}.8"), "EXIT STATUS"), re.MULTILINE)
    return {int(number) for line in lines for number in re.findall(r"\d+", line)}


def test_exit_statuses_of_rule_deliver() -> None:
    assert statuses("rule-deliver") == {exit_status for _, exit_status, _ in CODES}
    told = plain(section(page("rule-deliver.8"), "EXIT STATUS"))
    by_exit: dict[int, list[str]] = {}
    for code, exit_status, _ in CODES:
        if code.startswith("5."):
            by_exit.setdefault(exit_status, []).append(code)
    assert [by_exit[number] for number in (65, 67, 68, 73, 76, 77)] == [
        ["5.6."], ["5.1.1", "5.1.6"], ["5.1.2"], ["5.2.2", "5.2."], ["5.5."], ["5.7."],
    ]  # fmt: skip
    assert "5.6.N, 5.1.1 and 5.1.6, 5.1.2, any other 5.N.N, 5.2.N, 5.5.N, 5.7.N." in told.replace("\n", " ")


@pytest.mark.parametrize("name", ["bounce-record", "notify-record", "rule-policy", "lmtp-deliver", *TABLES])
def test_the_others_know_two(name: str) -> None:
    assert statuses(name) == {0, 75}


# Diagnostics: each fault made, and what Postfix would log looked for on the page


Done = subprocess.CompletedProcess[str]


def run(name: str, *arguments: str, library: Path = ROOT / "src") -> Done:
    home = "agents" if name == "rule-deliver" else "bounce"
    return subprocess.run(
        [sys.executable, "-s", str(ROOT / home / f"{name}.py"), *arguments],
        input="Received: by x; Sun, 22 Nov 2026 15:04:54 +0000\nSubject: x\n\nx\n",
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(library), "PYTHONDONTWRITEBYTECODE": "1"},
        check=False,
    )


def on_the_page(name: str, said: str) -> bool:
    """Whether DIAGNOSTICS has an entry for this output; `...` in the entry stands for anything."""
    code, _, text = said.strip().partition(" ")
    for line in section(page(f"{name}.8"), "DIAGNOSTICS").split("\n"):
        shown = plain(line.removeprefix(".It "))
        pattern = re.escape(shown).replace(r"\.\.\.", ".*")
        if line.startswith(".It dsn=") and re.fullmatch(pattern, f"dsn={code} ({text})"):
            return True
    return False


WORDS = ("--", "sender=b@example.net", "queue_id=4jXYHj0RN5zJJXJ", "recipient=ann@example.com")
RULE = '[[rule]]\nid = "{}"\nat = "deliver"\nmatch = {{ recipient = "{}" }}\naction = "{}"\n'


def deliver(folder: Path, configuration: str) -> str:
    """What rule-deliver says, with this configuration, to pipe(8): a deferral."""
    (folder / "state").mkdir(exist_ok=True)
    file = folder / "postroom.toml"
    file.write_text(configuration)
    place = ("--config", str(file), "--state", str(folder / "state"), "--log", str(folder / "log"))
    done = run("rule-deliver", *place, "--deadline", "2", *WORDS)
    assert done.returncode == 75, done
    return done.stdout


def _failing_command(folder: Path) -> str:
    (folder / "ticket").write_text("#!/bin/sh\nexit 1\n")
    (folder / "ticket").chmod(0o755)
    return RULE.format("x", "ann@example.com", f"command {folder}/ticket")


FAULTS: dict[str, Callable[[Path], str]] = {
    "no rule": lambda folder: "# nothing yet\n",
    "an empty configuration": lambda folder: "",
    "a command that fails": _failing_command,
    "a list that is gone": lambda folder: (
        '[list.gone]\nfile = "gone"\n' + RULE.format("listed", "list:gone", "discard")
    ),
    "a wrong key": lambda folder: "\n" * 37 + RULE.format("later", "x", "discard").replace("recipient", "recipent"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_rule_deliver_are_on_its_page(fault: str, tmp_path: Path) -> None:
    said = deliver(tmp_path, FAULTS[fault](tmp_path))
    assert on_the_page("rule-deliver", said), said


def test_a_locked_state_is_on_the_page(tmp_path: Path) -> None:
    deliver(tmp_path, RULE.format("x", "ann@example.com", "command /bin/false"))  # makes the database
    with closing(sqlite3.connect(tmp_path / "state" / "state.db", isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        said = deliver(tmp_path, RULE.format("x", "ann@example.com", "command /bin/true"))
    assert on_the_page("rule-deliver", said), said


def test_missing_words_are_on_the_page(tmp_path: Path) -> None:
    done = run("rule-deliver", "--log", str(tmp_path / "log"), "--", "sender=", "recipient=ann@example.com")
    assert on_the_page("rule-deliver", done.stdout), done.stdout


def test_a_missing_library_is_on_the_page(tmp_path: Path) -> None:
    library = no_library(tmp_path)
    done = run("rule-deliver", *WORDS, library=library)
    assert on_the_page("rule-deliver", done.stdout), done.stdout
    for name in ("bounce-record", "notify-record"):
        done = run(name, *WORDS, library=library)
        assert on_the_page(name, done.stdout), done.stdout


def test_what_is_not_on_the_page_is_noticed() -> None:
    assert not on_the_page("rule-deliver", "4.3.5 something new")


def test_faults_of_the_key_file_are_on_the_page(tmp_path: Path) -> None:
    (tmp_path / "postroom.toml").write_text('[bounces]\nkey = "key"\ndomain = "bounces.example.com"\n')
    (tmp_path / "state").mkdir()
    place = ("--config", str(tmp_path / "postroom.toml"), "--state", str(tmp_path / "state"), "--log", "/dev/null")
    said = [run("bounce-record", *place, *WORDS).stdout]
    (tmp_path / "key").write_text("this is no key\n")
    said.append(run("bounce-record", *place, *WORDS).stdout)
    os.chmod(tmp_path / "key", 0o600)
    said.append(run("bounce-record", *place, *WORDS).stdout)
    assert len(set(said)) == 3
    for one in said:
        assert on_the_page("bounce-record", one), one
