"""The fragments as they are shipped: complete, readable, and what Postfix itself accepts."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroom.postfix import entry
from postroom.postfix.fragment import NoFragment, filled, folder, read, start_of, thin_start, understood
from postroom.postfix.logical import SyntaxFault
from postroom.postfix.pipe_request import RECIPIENT_MACROS, REQUEST_MACROS
from postroom.postfix.pipe_verdict import FILTERED
from postroom.postfix.postconf import settle

PROGRAMS = sorted(path.stem for path in folder().glob("*.cf"))
PIPE = [program for program in PROGRAMS if read(program).service.command == "pipe"]
each = pytest.mark.parametrize("program", PROGRAMS)
each_pipe = pytest.mark.parametrize("program", PIPE)


def test_there_are_fragments() -> None:
    assert {"rule-deliver", "bounce-record", "notify-record", "rule-policy", "socketmap-lookup", "tcp-lookup"} <= set(
        PROGRAMS
    )


@each
def test_name_user_and_fields_are_what_pipe_and_spawn_need(program: str) -> None:
    fragment = read(program)
    service, command = fragment.service, entry.command(fragment.service)
    expected = ("127.0.0.1:2527", "inet", "n") if program == "tcp-lookup" else (program, "unix", "-")
    assert (service.name, service.type, service.private) == expected  # tcp_table(5) knows TCP only
    assert (service.unprivileged, service.chroot) == ("n", "n")
    assert Path(command.program).name == program
    assert command.attributes["user"] == "postroom"
    assert command.config == "/etc/postroom/postroom.toml"


@each_pipe
def test_a_pipe_program_gets_each_macro_in_a_word_of_its_own_behind_the_options(program: str) -> None:
    command = entry.command(read(program).service)
    words = command.words[command.words.index("--") + 1 :]
    assert len(words) == 14
    for word in words:
        name, _, macro = word.partition("=")
        assert macro == "${" + name + "}"
        assert name in (*RECIPIENT_MACROS, *REQUEST_MACROS)
    assert command.attributes["null_sender"] == "", "the null sender is empty, not MAILER-DAEMON"
    assert "flags" not in command.attributes, "flags would change the message"


@each_pipe
def test_a_pipe_program_has_one_recipient_a_limit_and_the_filter(program: str) -> None:
    needed = {(line.name, line.operator): line.value for line in read(program).requirements}
    assert needed[(f"{program}_destination_recipient_limit", "=")] == "1"
    assert (f"{program}_time_limit", ">=") in needed
    assert read(program).service.options == {"pipe_delivery_status_filter": "$postroom_status_filter"}
    assert needed[("postroom_status_filter", "=")].startswith("regexp:{{")


def test_all_filters_are_one() -> None:
    filters = {line.value for name in PIPE for line in read(name).requirements if line.name == "postroom_status_filter"}
    assert len(filters) == 1


def test_the_filter_in_postfixs_own_words(tmp_path: Path) -> None:
    """postmap asks the table as pipe(8) does: our two faults become 4.3.0, and nothing else is touched."""
    value = next(line.value for line in read(PIPE[0]).requirements if line.name == "postroom_status_filter")
    (tmp_path / "main.cf").write_text("default_database_type = hash\n")
    settle(tmp_path / "main.cf")
    faults = ['Command died with status 1: "/p". Command output: x ', 'Command time limit exceeded: "/p"']
    others = ["user unknown", "internal software error", 'no Command died with status 1: "/p"']
    keys = [f"5.3.0 {text}" for text in faults + others] + [f"5.1.1 {faults[0]}", f"4.3.0 {faults[0]}"]
    done = subprocess.run(
        ["/usr/sbin/postmap", "-c", str(tmp_path), "-q", "-", value.replace("$$", "$")],
        input="".join(f"{key}\n" for key in keys),
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [f"5.3.0 {text}\t4.3.0 {text}" for text in faults]
    assert [bool(FILTERED.match(text)) for text in faults + others] == [True, True, False, False, False]


def test_a_policy_service_has_no_process_limit() -> None:
    assert read("rule-policy").service.process_limit == "0"


@each
def test_postconf_takes_the_fragment_as_it_is(program: str, tmp_path: Path) -> None:
    text = (folder() / f"{program}.cf").read_text()
    (tmp_path / "master.cf").write_text(text)
    needed = [f"{line.name} = {line.value}\n" for line in read(program).requirements]
    (tmp_path / "main.cf").write_text("".join(needed))
    settle(tmp_path / "main.cf")
    for option in ("-M", "-n"):
        done = subprocess.run(["/usr/sbin/postconf", "-c", str(tmp_path), option], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")


@each
def test_each_line_that_looks_like_a_requirement_is_read_as_one(program: str) -> None:
    text = (folder() / f"{program}.cf").read_text()
    fragment = read(program)
    assert len(re.findall(r"^#\s*main\.cf", text, re.MULTILINE)) == len(fragment.requirements)
    assert len(re.findall(r"^#\s*to do", text, re.MULTILINE)) == len(fragment.todo)


def test_an_unknown_program_is_named_with_those_there_are() -> None:
    with pytest.raises(NoFragment, match=r"rule-deliv: no such program.*rule-deliver"):
        read("rule-deliv")
    with pytest.raises(NoFragment):
        read("../rule-deliver")


@each
def test_filling_in_changes_three_words(program: str) -> None:
    text = filled(read(program).entry, "/opt/x/bin/prog", "nobody:nogroup", "/opt/x/p.toml")
    command = entry.command(entry.read(text))
    assert (command.program, command.attributes["user"], command.config) == (
        "/opt/x/bin/prog", "nobody:nogroup", "/opt/x/p.toml",
    )  # fmt: skip
    before, after = read(program).entry.split(), text.split()
    assert sum(a != b for a, b in zip(before, after, strict=True)) == 3


def test_what_stands_behind_the_double_dash_is_not_filled_in() -> None:
    text = "p unix - n n - - pipe user=a argv=/p --config=/c -- argv=x user=y --config z\n"
    assert (
        filled(text, "/q", "b", "/d")
        == "p unix - n n - - pipe user=b argv=/q --config=/d -- argv=x user=y --config z\n"
    )


@given(st.text(max_size=5))
def test_what_would_break_master_cf_is_refused(text: str) -> None:
    path = f"/opt/{text}"
    try:
        command = entry.command(entry.read(filled(read("rule-deliver").entry, path, "nobody", "/c")))
    except SyntaxFault:
        assert re.search(r"[\s{}$,#]", path)
    else:
        assert command.program == path


def test_a_broken_fragment_is_refused() -> None:
    with pytest.raises(SyntaxFault):
        understood("x", "# y - no\nx unix - n n - - pipe\n")
    with pytest.raises(SyntaxFault):
        understood("x", "# x - two\nx unix - n n - - pipe\ny unix - n n - - pipe\n")


START = ("/opt/x/bin/python", "-I", "-S", "/opt/x/lib/postroom/thin.py")


@each
def test_what_stands_in_front_of_a_program_is_put_there_kept_and_taken_away(program: str) -> None:
    plain = filled(read(program).entry, "/opt/x/bin/prog", "nobody", "/c")
    thin = filled(plain, "/opt/x/bin/prog", "nobody", "/c", START)
    assert (start_of(plain), start_of(thin)) == ((), START)
    words = entry.command(entry.read(thin))
    assert (words.program, words.words[:4]) == (START[0], (*START[1:], "/opt/x/bin/prog"))
    assert words.config == "/c"
    assert filled(thin, "/opt/y/prog", "nobody", "/c", START) == thin.replace("/opt/x/bin/prog", "/opt/y/prog")
    assert filled(thin, "/opt/x/bin/prog", "nobody", "/c") == plain


def test_the_start_of_this_installation_is_there() -> None:
    python, *options, script = thin_start()
    assert options == ["-I", "-S"]
    done = subprocess.run([python, *options, script, "/bin/echo", "x"], capture_output=True, check=False)
    assert done.stdout == b"x --handoff no\n"
