"""An entry against the one that is wanted: the smallest edit, and nothing of the administrator's lost."""

from __future__ import annotations

import pytest

from postroom.postfix import entry
from postroom.postfix.entry import lack, mended

TEXT = """\
p unix - n n - - pipe
  -o a=$b
  user=nobody null_sender=
  argv=/bin/p --config /c --
  s=${sender} r=${recipient}
"""
WANTED = entry.read(TEXT)


def test_the_same_entry_lacks_nothing() -> None:
    assert not lack(WANTED, WANTED)


def test_more_than_is_wanted_lacks_nothing() -> None:
    text = (
        "p unix y n n 60 3 pipe -v -o x={y z} -o { a = $b }\n# why\n  flags=R user=nobody directory=/tmp null_sender=\n"
        "  argv=/bin/p --config=/c --deadline 5 -- s=${sender} {} r=${recipient} more\n"
    )
    assert not lack(entry.read(text), WANTED)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("unix - n n", "unix - - n", "unprivileged is -, not n"),
        ("unix - n n", "unix - n y", "chroot is y, not n"),
        ("unix - n n", "unix n n n", "private is n, not -"),
        ("pipe", "local", "command is local, not pipe"),
        ("user=nobody", "user=root", "user is 'root', not 'nobody'"),
        ("-o a=$b", "-o a=c", "-o a is 'c', not '$b'"),
        ("null_sender=", "null_sender=x", "null_sender is 'x', not ''"),
        ("--config /c", "--config /d", "--config is '/d', not '/c'"),
        ("argv=/bin/p", "argv=/bin/q", "argv is '/bin/q', not '/bin/p'"),
        ("-o a=$b", "", "without -o a=$b"),
        ("null_sender=", "", "without null_sender="),
        ("r=${recipient}", "", "without r=${recipient}"),
    ],
)
def test_what_is_lacking_is_named(old: str, new: str, said: str) -> None:
    assert old in TEXT
    assert str(lack(entry.read(TEXT.replace(old, new)), WANTED)) == said


def test_mending_adds_and_takes_nothing_away() -> None:
    text = """\
p unix - n n - 4 pipe
# mine
  -o x=y
  flags=R user=nobody
  # and mine
  argv=/bin/p --config /c {} -- s=${sender}
"""
    missing = lack(entry.read(text), WANTED)
    assert not missing.conflicts
    new = mended(text, missing)
    assert not lack(entry.read(new), WANTED)
    assert entry.read(new).options == {"a": "$b", "x": "y"}
    rest = iter(new.split())
    assert all(word in rest for word in text.split()), "every word is still there, in its order"
    assert [line for line in new.splitlines() if "#" in line] == ["# mine", "  # and mine"]


def test_an_option_behind_the_double_dash_is_the_strangers() -> None:
    command = entry.command(entry.read("p unix - n n - - pipe user=x argv=/p --deadline 5 -- --config /evil"))
    assert (command.config, command.option("--deadline")) == ("", "5")
