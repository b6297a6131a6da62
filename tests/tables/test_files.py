"""Lists from files: what they hold, when they are read again, and that what cannot be read is no empty list."""

import os
import random
import re
import resource
import time
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from config.conftest import as_nobody
from hypothesis import given, settings
from hypothesis import strategies as st

from postroom import config
from postroom.config import Configuration, load
from postroom.rules import Question, Unknown
from postroom.rules import settings as rule_settings
from postroom.sources import Sources
from postroom.status import ConfigurationFault
from postroom.tables import entries, files, index, table
from postroom.tables.keys import table_keys

Settle = Callable[[Path], None]


@pytest.fixture
def configuration(tmp_path: Path) -> Configuration:
    (tmp_path / "postroom.toml").write_text(
        '[list.file]\nfile = "list"\n[list.table]\ntable = "texthash:table"\n[list.values]\n'
        'values = ["a@x.example", ".sub.example", "x@", "10.0.0.0/8", "192.0.2.1", "2001:DB8:0::1", "Bob"]\n'
        '[[rule]]\nid = "r"\nat = "rcpt"\nmatch = { recipient = "list:file" }\naction = "HANGUP"\n'
    )
    return load(str(tmp_path / "postroom.toml"))


def ask(configuration: Configuration, name: str, value: str, kind: str = "address") -> Any:
    return Sources(configuration, None, None).answer(Question("list", (name, value, kind)))


@pytest.mark.parametrize(
    ("value", "kind", "found"),
    [
        ("a@x.example", "address", True),
        ("a+news@x.example", "address", True),
        ("b@x.example", "address", False),
        ("b@y.sub.example", "address", True),
        ("b@sub.example", "address", False),
        ("x@anywhere", "address", True),
        ("y.sub.example", "domain", True),
        ("10.1.2.3", "ip", True),
        ("11.1.2.3", "ip", False),
        ("192.0.2.1", "ip", True),
        ("::ffff:10.0.0.1", "ip", True),
        ("2001:db8::1", "ip", True),
        ("Bob", "text", True),
    ],
)
def test_values_are_found_as_in_an_access_table(
    configuration: Configuration, value: str, kind: str, found: bool
) -> None:
    assert ask(configuration, "values", value, kind) is found


def test_a_file_of_one_value_a_line(configuration: Configuration, tmp_path: Path) -> None:
    (tmp_path / "list").write_text(
        '\ufeff# people\n\nA@X.example  # why\n  b@x.example\r\n#c@x.example\nd#e@x.example\n"f g"@x.example\t#x\n'
    )
    for value, found in (
        ("a@x.example", True), ("b@x.example", True), ("c@x.example", False), ("d#e@x.example", True),
        ("f g@x.example", True), ("# people", False),
    ):  # fmt: skip
        assert ask(configuration, "file", value) is found, value


@pytest.mark.parametrize("name", ["file", "table"])
def test_a_mark_of_utf8_at_the_start_is_no_part_of_the_first_entry(
    configuration: Configuration, tmp_path: Path, name: str
) -> None:
    (tmp_path / ("list" if name == "file" else name)).write_text(
        f"\ufeffa@x.example{' y' if name == 'table' else ''}\n"
    )
    assert ask(configuration, name, "a@x.example")


def test_a_table_says_what_stands_beside_the_entry(configuration: Configuration, tmp_path: Path) -> None:
    (tmp_path / "table").write_text("a@x.example  REJECT no\n  more of it\n# c\n\nx.example OK\nx.example second\n")
    assert ask(configuration, "table", "a@x.example") == "REJECT no  more of it"
    assert ask(configuration, "table", "z@x.example") == "OK"
    assert ask(configuration, "table", "z@y.example") is False


BROKEN: dict[str, Callable[[Path], object]] = {
    "vanished": lambda path: path.unlink(),
    "directory": lambda path: path.unlink() or path.mkdir(),  # type: ignore[func-returns-value]  # one after the other
    "fifo": lambda path: path.unlink() or os.mkfifo(path),  # type: ignore[func-returns-value]  # the same
    "NUL": lambda path: path.write_bytes(b"a@x.example ok\nb\0 ok\n"),
    "key only": lambda path: path.write_text("a@x.example ok\nkey\n"),
    "open quote": lambda path: path.write_text('"a b@x ok\n'),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_list_that_broke_is_unknown_and_comes_back(
    configuration: Configuration, tmp_path: Path, how: str, settle: Settle
) -> None:
    path = tmp_path / "table"
    path.write_text("a@x.example ok\n")
    assert ask(configuration, "table", "a@x.example") == "ok"
    BROKEN[how](path)
    if path.is_file():
        settle(path)
    answer = ask(configuration, "table", "b@x.example")
    assert isinstance(answer, Unknown)
    assert answer.reason.startswith(f"list table: {path}")
    if path.is_dir():
        path.rmdir()
    path.unlink(missing_ok=True)
    path.write_text("b@x.example back\n")
    assert ask(configuration, "table", "b@x.example") == "back"


def test_a_list_too_big_to_read_is_unknown(configuration: Configuration, tmp_path: Path) -> None:
    with (tmp_path / "list").open("wb") as file:
        file.truncate(files.LIST_LIMIT + 1)
    assert "expected at most" in ask(configuration, "file", "a@x.example").reason


@pytest.mark.parametrize("line", ["b@x.example REJECT", '"a b"@x.example y'])
def test_two_values_in_a_line_are_a_mistake(configuration: Configuration, tmp_path: Path, line: str) -> None:
    (tmp_path / "list").write_text(f"a@x.example\n{line} # z\n")
    assert "line 2: expected one value, found 2" in ask(configuration, "file", "a@x.example").reason


@pytest.mark.parametrize("line", ["192.0.2.0/240", "192.0.2.0/\u00b2", "2001:db8::/129", "192.0.2.0/", "192.0.2.0/24/"])
def test_a_network_that_is_none_is_a_mistake(configuration: Configuration, tmp_path: Path, line: str) -> None:
    """Passed over, it would let everybody through whom it was meant for."""
    (tmp_path / "list").write_text(f"CORP/ann\nhttp://x/y\n{line}\n")
    assert "line 3: expected a network" in ask(configuration, "file", "192.0.2.1", "ip").reason
    (tmp_path / "list").write_text("CORP/ann\nhttp://x/y\n192.0.2.0/24\n")
    assert ask(configuration, "file", "192.0.2.1", "ip") is True
    assert ask(configuration, "file", "CORP/Ann", "text") is True


def test_entries_that_are_not_utf8_are_found(configuration: Configuration, tmp_path: Path) -> None:
    (tmp_path / "list").write_bytes(b"\xff@x.example\n")
    assert ask(configuration, "file", "\udcff@x.example") is True


def test_a_decision_of_a_broken_list_defers(configuration: Configuration) -> None:
    decision = Sources(configuration, None, None).decide("rcpt", {"recipient": "a@x.example"})
    assert decision.on_error
    assert "list file: " in decision.reason
    assert decision.action.startswith("DEFER_IF_PERMIT 4.3.0")


# When a file is read again


def test_a_file_is_read_once_and_again_when_it_has_changed(tmp_path: Path, settle: Settle) -> None:
    path = tmp_path / "list"
    path.write_text("a@x.example\n")
    first = table("file", str(path))
    assert table("file", str(path)) is first
    path.write_text("b@x.example\n")
    settle(path)
    assert table("file", str(path)).find("address", "b@x.example", "+") is True
    assert table("file", str(path)).find("address", "a@x.example", "+") is False


@pytest.mark.parametrize("content", ["", "a@x.example\n", "half an entr", "two values\n"])
def test_a_file_that_is_being_rewritten_is_not_believed(
    configuration: Configuration, tmp_path: Path, content: str, settle: Settle, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "list"
    path.write_text("a@x.example\nz@x.example\n")
    assert ask(configuration, "file", "z@x.example") is True
    path.write_text(content)
    assert ask(configuration, "file", "z@x.example") is True
    path.write_text("a@x.example\nnew@x.example\n")
    assert ask(configuration, "file", "new@x.example") is False
    settle(path)
    assert ask(configuration, "file", "new@x.example") is True
    assert ask(configuration, "file", "z@x.example") is False


def test_a_file_that_never_comes_to_rest_is_read_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "list"
    path.write_text("a@x\n")
    table("file", str(path))
    path.write_text("b@x\n")
    assert table("file", str(path)).find("address", "b@x", "+") is False
    monkeypatch.setattr(files, "RESTLESS", 0.0)
    assert table("file", str(path)).find("address", "b@x", "+") is True


def test_a_file_that_is_gone_is_unknown_at_once(tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_text("a@x\n")
    table("file", str(path))
    path.unlink()
    with pytest.raises(ConfigurationFault, match="No such file"):
        table("file", str(path))


def test_an_empty_list_is_empty_when_it_has_come_to_rest(
    configuration: Configuration, tmp_path: Path, settle: Settle
) -> None:
    (tmp_path / "list").write_text("")
    assert isinstance(ask(configuration, "file", "a@x.example"), Unknown)
    settle(tmp_path / "list")
    assert ask(configuration, "file", "a@x.example") is False


# Hostile keys


HOSTILE = st.text(max_size=40) | st.sampled_from(
    ["a" * 1_000_000 + "@x", "@" * 1000, "a@" + "x." * 100_000, "\ud800@x",
    "\udcff\0\n@\x80", '"', '"a b@x', "xn--@xn--",
     "a@xn--\udcff", "bücher." * 1000, ".", "..", "a@.", "xn--" * 60, "a@" + "ü" * 300]
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(HOSTILE, st.sampled_from(["address", "domain", "ip", "text", "fold"]))
def test_any_value_is_looked_up_in_bounded_time(value: str, kind: str) -> None:
    start = time.process_time()
    made = entries.Entries({"x": True, '"a b"@y': True, "10.0.0.0/8": True})
    assert made.find(kind, value, "+") in (True, False)
    assert len(list(table_keys(kind, value, "+", quoted=True))) < 600
    assert time.process_time() - start < 1


# A large list


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies are kept of files that have changed just now, too: the time of an inode cannot be set back."""
    monkeypatch.setattr(config, "SETTLED", -1.0)


def large(path: Path, count: int) -> None:
    with path.open("w") as file:
        file.writelines(f"user{number}@example{number % 1000}.com\n" for number in range(count))


def test_many_entries_are_not_scanned(tmp_path: Path) -> None:
    large(tmp_path / "list", 100_000)
    found = table("file", str(tmp_path / "list"))
    assert timeit.timeit(lambda: found.find("address", "nobody@y.example", "+"), number=1000) < 0.5


@pytest.mark.usefixtures("at_once")
def test_a_large_list_is_kept_sorted_and_answers_the_same(place: Path, settle: Settle) -> None:
    source = random.Random(1)
    path, state = place / "table", place / "state"
    lines = [f"user{n}@example{n % 50}.com text {n}" for n in range(5000)]
    lines += [
        "example7.com dom",
        ".example8.com sub",
        "10.0.0.0/8 net",
        '"a b"@x.de quoted',
        "bücher.example umlaut",
        "<> null",
    ]
    path.write_text("\n".join(lines) + "\n")
    path.chmod(0o644)
    settle(path)
    state.mkdir()
    os.chown(state, 65534, 65534)

    def work() -> tuple[list[str], list[tuple[object, object]]]:
        whole = table("texthash", str(path))
        files._files.clear()
        kept = files.table("texthash", str(path), str(state))
        files._files.clear()
        copy = files.table("texthash", str(path), str(state))
        values = [("address", f"user{source.randrange(9000)}@example{source.randrange(60)}.com") for _ in range(500)]
        values += [("address", f"user{n}+x@example{n % 50}.com") for n in range(200)]
        values += [
            ("ip", "10.1.2.3"),
            ("ip", "11.1.2.3"),
            ("address", ""),
            ("address", "a b@x.de"),
            ("address", "z@sub.example8.com"),
        ]
        values += [("domain", "xn--bcher-kva.example"), ("address", "\ud800@x"), ("text", ""), ("domain", "a" * 100000)]
        return [type(each).__name__ for each in (whole, kept, copy)], [
            (whole.find(kind, value, "+"), copy.find(kind, value, "+")) for kind, value in values
        ]

    os.chown(place, 65534, 65534)
    kinds, pairs = as_nobody(work)
    assert kinds == ["Entries", "Entries", "Index"]
    assert [mine for mine, _ in pairs] == [copy for _, copy in pairs]
    assert sum(mine is not False for mine, _ in pairs) > 50


DAMAGE: dict[str, Callable[[Path], object]] = {
    "torn": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "head": lambda path: path.write_bytes(path.read_bytes()[:60] + b"\xff" + path.read_bytes()[61:]),
    "empty": lambda path: path.write_bytes(b""),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "readable by others": lambda path: path.chmod(0o644),
    "link": lambda path: (path.rename(str(path) + "x"), path.symlink_to(str(path) + "x")),
}


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("how", DAMAGE)
def test_a_copy_that_is_not_whole_or_not_ours_is_not_used(place: Path, settle: Settle, how: str) -> None:
    large(place / "list", 10_000)
    settle(place / "list")
    (place / "list").chmod(0o644)
    os.chown(place, 65534, 65534)

    def work() -> list[str]:
        names = []
        for _ in range(2):
            files._files.clear()
            names.append(type(files.table("file", str(place / "list"), str(place))).__name__)
        (copy,) = (place / "cache").iterdir()
        DAMAGE[how](copy)
        files._files.clear()
        names.append(type(files.table("file", str(place / "list"), str(place))).__name__)
        return names

    assert as_nobody(work) == ["Entries", "Index", "Entries"]


@pytest.mark.usefixtures("at_once")
def test_a_copy_goes_on_being_used_while_the_list_is_rewritten(place: Path, settle: Settle) -> None:
    large(place / "list", 10_000)
    settle(place / "list")
    os.chown(place, 65534, 65534)
    os.chown(place / "list", 65534, 65534)

    def fresh(value: str) -> bool | str:
        files._files.clear()
        return files.table("file", str(place / "list"), str(place)).find("address", value, "+")

    def work() -> list[bool | str]:
        found = [fresh("user9999@example999.com")]
        large(place / "list", 8_000)  # half-way
        found.append(fresh("user9999@example999.com"))
        settle(place / "list")
        found.append(fresh("user9999@example999.com"))
        return found

    assert as_nobody(work) == [True, True, False]


@pytest.mark.usefixtures("at_once")
def test_the_cost_of_a_large_list_is_bounded(place: Path, settle: Settle) -> None:
    """postroom.toml(5) states the figures for a million lines; here a tenth of them, with room for a slow machine."""
    large(place / "list", 100_000)
    settle(place / "list")
    (place / "list").chmod(0o644)
    os.chown(place, 65534, 65534)

    def work() -> tuple[float, float, int]:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.process_time()
        files.table("file", str(place / "list"), str(place))
        first = time.process_time() - start
        files._files.clear()
        start = time.process_time()
        copy = files.table("file", str(place / "list"), str(place))
        copy.find("address", "user500@example500.com", "+")
        assert isinstance(copy, index.Index)
        return first, time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before

    first, later, kilobytes = as_nobody(work)
    assert first < 5
    assert later < 0.01
    assert kilobytes < 150_000


# How the configuration file names tables


def lists_of(folder: Path, text: str) -> Any:
    (folder / "postroom.toml").write_text(text)
    return load(str(folder / "postroom.toml")).lists


def test_tables_are_named_as_postfix_names_them(tmp_path: Path) -> None:
    found = lists_of(
        tmp_path,
        '[list.a]\ntable = "cidr:nets"\n[list.b]\ntable = "lmdb:/x/y"\n[list.c]\ntable = "inline:{ {a=b c}, d=e }"\n'
        '[list.d]\ntable = "socketmap:unix:s:n"\n[list.e]\ntable = "socketmap:inet:[::1]:12:n"\n'
        "[list.f]\ntable = 'regexp: { {/a/ b} }'\n",
    )
    assert found == {
        "a": ("cidr", f"{tmp_path}/nets"),
        "b": ("lmdb", "/x/y"),
        "c": ("inline", "{ {a=b c}, d=e }"),
        "d": ("socketmap", f"unix:{tmp_path}/s:n"),
        "e": ("socketmap", "inet:[::1]:12:n"),
        "f": ("regexp", "{ {/a/ b} }"),
    }


@pytest.mark.parametrize(
    ("table_", "words"),
    [
        ("pcr:x", 'did you mean "pcre"'), ("cidr:", "TYPE:PATH"), ("cidr", "TYPE:PATH"), ("inline:x", "inline:{ ... }"),
        ("texthash:{a b}", "no inline form"), ("socketmap:unix:x", "socketmap:unix:PATH:NAME"),
        ("socketmap:inet:h:99999:n", "socketmap:unix:PATH:NAME"), ("ldap:x", "unknown table type"),
    ],
)  # fmt: skip
def test_a_table_that_cannot_be_one_is_refused_when_the_file_is_read(tmp_path: Path, table_: str, words: str) -> None:
    with pytest.raises(ConfigurationFault) as caught:
        lists_of(tmp_path, f'[list.a]\ntable = "{table_}"\n')
    assert "line 2: list.a.table: " in str(caught.value)
    assert words in str(caught.value)


def test_the_manual_names_every_type(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "man" / "postroom.toml.5").read_text()
    told = page.partition(".Ss Types of tables")[2].partition(".Ss ")[0]
    assert set(re.findall(r"^\.It Cm (\w+)", told, re.MULTILINE)) == set(rule_settings._TABLES)


def test_a_decision_asks_each_type_of_table(tmp_path: Path) -> None:
    """From the file to the action, with the text beside the entry in it."""
    (tmp_path / "postroom.toml").write_text(
        '[list.nets]\ntable = "cidr:{ {192.0.2.0/24 ours} }"\n'
        "[list.names]\ntable = 'regexp:{ {/^dyn-(.+)$/ number $1} }'\n"
        '[[rule]]\nid = "r"\nat = "rcpt"\nmatch = { client_address = "list:nets", client_name = "list:names" }\n'
        'action = "REJECT {list.nets} {list.names}"\n'
    )
    sources = Sources(load(str(tmp_path / "postroom.toml")), None, None)
    request = {"client_address": "192.0.2.9", "client_name": "dyn-7.example", "recipient": "a@b"}
    assert sources.decide("rcpt", request).action == "REJECT ours number 7.example"
    assert sources.decide("rcpt", {**request, "client_address": "198.51.100.1"}).action == "DUNNO"
