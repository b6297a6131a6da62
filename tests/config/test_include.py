"""`include`: several files are one configuration, with the right file and line in every message."""

import os
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from postroom import config
from postroom.cli import main
from postroom.config import load
from postroom.status import ConfigurationFault

RULE = '[[rule]]\nid = "{0}"\nat = "rcpt"\nmatch = {{ sender = "list:{0}" }}\naction = "550 5.7.1 {0}"\n'
LIST = '[list.{0}]\nvalues = ["a@{0}.example"]\n'
TEST = '[[test]]\nat = "rcpt"\ngiven = {{ sender = "a@{0}.example" }}\nexpect = "550"\nexpect_rule = "{0}"\n'


def write(folder: Path, **files: str) -> str:
    for name, text in files.items():
        file = folder / name.replace("__", "/").replace("_toml", ".toml")
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    return str(folder / "postroom.toml")


def whole(name: str) -> str:
    return LIST.format(name) + RULE.format(name) + TEST.format(name)


MAIN = 'include = ["one.toml", "rules.d"]\n'


def test_all_parts_are_one_file_in_their_order(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        postroom_toml=MAIN + whole("main"),
        one_toml=whole("one"),
        rules_d__b_toml="",
        **{"rules.d__20_toml": whole("twenty"), "rules.d__10_toml": whole("ten"), "rules.d__10_toml~": "nonsense ["},
    )
    rules = load(path).rules["stages"]["rcpt"]
    assert [rule[0] for rule in rules] == ["main", "one", "ten", "twenty"]
    result = CliRunner().invoke(main, ["check", path])
    assert result.exit_code == 0, result.output
    assert "4 rules, 4 of 4 tests passed, 0 errors, 0 warnings" in result.output


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\n\n" + RULE.format("x").replace("sender", "sendr"), 'one.toml:6: error: rule "x": match.sendr: unknown key'),
        (LIST.format("main"), "one.toml:1: error: list.main: is there already, in postroom.toml"),
        ('deadline = "2m"\n', 'one.toml:1: error: deadline: "deadline" stands in the main file'),
        ('include = ["postroom.toml"]\n', "one.toml:1: error: include: an included file includes nothing"),
        ("\nx = [\n", "one.toml:3: error: is not TOML"),
        (
            LIST.format("main2") + RULE.format("main"),
            'one.toml:4: error: rule "main": id: is the id of the rule on line',
        ),
        ("rule = 5\n", "one.toml:1: error: rule: expected [[rule]]"),
        (LIST.format("spare"), "one.toml:1: warning: list.spare: no rule uses this list"),
    ],
)
def test_a_mistake_is_told_with_its_own_file_and_line(tmp_path: Path, text: str, said: str) -> None:
    path = write(tmp_path, postroom_toml='include = ["one.toml"]\n' + whole("main"), one_toml=text)
    result = CliRunner().invoke(main, ["check", path])
    assert f"{tmp_path}/{said}" in result.output
    assert result.exit_code == (0 if "warning" in said else 78)


@pytest.mark.parametrize(
    ("include", "said"),
    [
        ('["gone.toml"]', "gone.toml: No such file"),
        ('["postroom.toml"]', "names the file itself"),
        ('["."]', "names the file itself"),
        ('"one.toml"', "expected a list"),
        ("[5]", "expected a list"),
    ],
)
def test_what_cannot_be_included(tmp_path: Path, include: str, said: str) -> None:
    path = write(tmp_path, postroom_toml=f"include = {include}\n")
    with pytest.raises(ConfigurationFault, match=said):
        load(path)


def test_many_small_files_are_no_way_round_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, postroom_toml='include = ["d"]\n', d__1_toml="#" * 600, d__2_toml="#" * 600)
    monkeypatch.setattr(config, "FILE_LIMIT", 1000)
    with pytest.raises(ConfigurationFault, match="at most 1000 bytes together"):
        load(path)


def test_a_change_of_a_part_is_a_change_also_for_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    monkeypatch.setattr(config, "_ours", lambda status: True)
    path = write(tmp_path, postroom_toml=f'state = "{tmp_path}/state"\ninclude = ["d"]\n', d__1_toml=whole("one"))
    (tmp_path / "state").mkdir()
    for file in tmp_path.rglob("*.toml"):
        os.utime(file, (time.time() - 9, time.time() - 9))
    monkeypatch.setattr(config, "SETTLED", 0.0)
    first = load(path)
    assert list((tmp_path / "state" / "cache").iterdir()) and not first.changed()
    write(tmp_path, d__2_toml=whole("two"))
    assert first.changed()
    assert [rule[0] for rule in load(path).rules["stages"]["rcpt"]] == ["one", "two"]
    (tmp_path / "d" / "1.toml").unlink()
    assert [rule[0] for rule in load(path).rules["stages"]["rcpt"]] == ["two"]
    (tmp_path / "d" / "2.toml").unlink()
    assert load(path).rules["stages"]["rcpt"] == ()


def test_a_part_that_has_just_become_shorter_is_being_written(tmp_path: Path) -> None:
    path = write(tmp_path, postroom_toml='include = ["d"]\n', d__1_toml=whole("one") + whole("two"))
    configuration = load(path)
    write(tmp_path, d__1_toml=whole("one"))
    assert configuration.changed() and configuration.being_written()
