"""Files of many rules: kept so that a program of one mail reads little of them; and files that are too much."""

import marshal
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from postroom import config
from postroom.cli import main
from postroom.config import load
from postroom.rules import packed
from postroom.rules.evaluate import decide
from postroom.status import ConfigurationFault

Nobody = Callable[[Callable[[], Any]], Any]
MANY = 2000


def rules(number: int) -> str:
    return 'state = "state"\n' + "".join(
        f'[[rule]]\nid = "r{n}"\nat = "rcpt"\nmatch = {{ recipient = "u{n}@x.example" }}\naction = "550 5.7.1 r{n}"\n'
        for n in range(number)
    )


def written(folder: Path, text: str) -> Path:
    path = folder / "postroom.toml"
    path.write_text(text)
    path.chmod(0o644)
    (folder / "state").mkdir(exist_ok=True)
    if os.geteuid() == 0:
        os.chown(folder / "state", 65534, 65534)
    return path


def decided(ruleset: Any, **attributes: str) -> tuple[str, str | None]:
    try:
        next(decide(ruleset, "rcpt", attributes))
    except StopIteration as end:
        return end.value.action, end.value.rule
    raise AssertionError("these rules ask nothing")


def asked(path: Path) -> Callable[[], Any]:
    """(kind of the stage's rules, a decision that is a hit, one that is none, how many rules were made of bytes)."""

    def work() -> Any:
        ruleset = load(str(path)).rules
        hit, none = decided(ruleset, recipient="U77+a@x.example"), decided(ruleset, recipient="a@x.example")
        stage = ruleset["stages"]["rcpt"]
        made = [rule.__class__ is tuple for rule in getattr(stage, "_rules", stage)]
        return stage.__class__.__name__, hit, none, sum(made)

    return work


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "SETTLED", -1.0)


def test_of_many_rules_that_are_kept_only_those_are_made_that_may_match(
    place: Path, nobody: Nobody, settled: None
) -> None:
    path = written(place, rules(MANY))
    decisions = (("550 5.7.1 r77", "r77"), ("DUNNO", None))
    assert nobody(asked(path)) == ("tuple", *decisions, MANY)
    assert nobody(asked(path)) == ("Rules", *decisions, 1)


def test_few_rules_are_kept_as_they_are(place: Path, nobody: Nobody, settled: None) -> None:
    path = written(place, rules(packed.LEAST - 1))
    first = nobody(asked(path))
    assert first == nobody(asked(path))
    assert first[0] == "tuple"


def test_what_was_packed_is_the_same_again(place: Path) -> None:
    ruleset = load(str(written(place, rules(300)))).rules
    back = packed.unpack(marshal.loads(marshal.dumps(packed.pack(dict(ruleset)))))
    assert tuple(back["stages"]["rcpt"]) == ruleset["stages"]["rcpt"]
    assert len(back["stages"]["rcpt"]) == 300
    assert back["stages"]["rcpt"][299] is back["stages"]["rcpt"][299]
    assert {stage: back["index"].get(stage) for stage in back["stages"]} == ruleset["index"]
    assert back["index"].get("none") is None


def test_rules_without_an_index_are_not_packed(place: Path) -> None:
    text = rules(300).replace("match =", "unless =")
    ruleset = dict(load(str(written(place, text))).rules)
    assert packed.pack(ruleset) is ruleset


# What is no file of rules, and what is too much of one: refused in one line, at once, by the program and by check.


@pytest.fixture(params=["a directory", "binary", "100 MB", "100,000 rules", "a FIFO", "/dev/zero", "deep"])
def unusable(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, str]]:
    path = tmp_path / "postroom.toml"
    words = "is not a regular file"
    if request.param == "a directory":
        path.mkdir()
    elif request.param == "a FIFO":
        os.mkfifo(path)
    elif request.param == "/dev/zero":
        path.symlink_to("/dev/zero")
    elif request.param == "binary":
        path.write_bytes(bytes(range(256)) * 4096)
        words = "is not text in UTF-8"
    elif request.param == "deep":
        path.write_text("a = " + "[" * 100_000)
        words = "postroom.toml"
    else:
        path.write_text(rules(100_000) if "rules" in request.param else "")
        os.truncate(path, max(path.stat().st_size, 100 * 1024 * 1024 if "MB" in request.param else 0))
        words = f"expected at most {config.FILE_LIMIT}"
    yield path, words


def test_what_cannot_be_rules_is_refused_in_one_line(unusable: tuple[Path, str]) -> None:
    path, words = unusable
    start = time.process_time()
    with pytest.raises(ConfigurationFault) as fault:
        load(str(path))
    assert words in str(fault.value)
    assert str(fault.value).isprintable()
    assert len(str(fault.value)) < 300
    assert time.process_time() - start < 2.0  # to read 100 MB of TOML takes minutes


def test_check_says_so_too(unusable: tuple[Path, str]) -> None:
    path, words = unusable
    result = CliRunner().invoke(main, ["check", str(path)])
    assert result.exit_code == 78
    assert words in result.output
    assert len(result.output.splitlines()) <= 2
