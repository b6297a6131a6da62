"""Tables of fixed keys - texthash, inline, lmdb, sqlite - against postmap(1), in the order of access(5)."""

import os
import random
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tables.conftest import Postmap

from postroom import tables
from postroom.deadline import Deadline
from postroom.rules.lookup import keys_of
from postroom.status import ConfigurationFault, Fault
from postroom.tables import entries, files, table
from postroom.tables.lmdb import KEY_LIMIT
from postroom.tables.sqlite import Sqlite

LOCALS = ["bob", "bob+x", "ann", "Bob+Y+z", "a b", "o'x", "a@b", "postmaster", "é", "%s", "", "a\\b", 'q"q', "?"]
DOMAINS = [
    "example.com",
    "sub.example.com",
    "Deep.Sub.Example.COM",
    "x.de",
    "bücher.example",
    "xn--bcher-kva.example",
    "[192.0.2.1]",
]
VALUES = [f"{local}@{domain}" for local in LOCALS for domain in DOMAINS] + ["", "bob", "@", "bob@", "@x.de", "a" * 5000]
HOSTS = ["mail.example.com", "example.com", "com", "a.b.c.x.de", "BÜCHER.example", "", "unknown", "."]

# As postmap(1) takes them: an address whose local part needs quotes has them.
ENTRIES = [
    "bob@example.com", "bob+x@example.com", "example.com", ".example.com", "bob@", "bob+x@", ".sub.example.com", "x.de",
    '"a b"@example.com', '"a b"@', "o'x@x.de", "<>", "ann@sub.example.com", "é@x.de", "bücher.example", "com", ".com",
    "postmaster", "%s@x.de", '"a@b"@example.com', '"q\\"q"@x.de', "?@x.de", "straße.example", "[192.0.2.1]",
]  # fmt: skip


def content(source: random.Random) -> dict[str, str]:
    chosen = source.sample(ENTRIES, source.randint(4, 14))
    return {entry: f"text {number} of {entry}" for number, entry in enumerate(chosen)}


def spec(kind: str, folder: Path, entries: dict[str, str]) -> tuple[str, str]:
    """Makes the table: where it is to us, and what it is called by Postfix."""
    path = folder / "table"
    path.write_text("".join(f"{key}\t{text}\n" for key, text in entries.items()))
    os.utime(path, (1, 1))  # Postfix waits until a table is older than a second
    if kind == "lmdb":
        subprocess.run(["/usr/sbin/postmap", "-c", str(folder.parent), f"lmdb:{path}"], check=True)
        os.utime(folder / "table.lmdb", (1, 1))
    if kind == "sqlite":
        with sqlite3.connect(folder / "db") as database:
            database.execute("DROP TABLE IF EXISTS t")
            database.execute("CREATE TABLE t (k, v)")
            database.executemany("INSERT INTO t VALUES (?, ?)", entries.items())
        database.close()
        path.write_text(f"dbpath = {folder}/db\nquery = SELECT v FROM t\n  WHERE k = '%s'\n")
    if kind == "inline":
        where = "{ " + ", ".join(f"{{{key} = {text}}}" for key, text in entries.items()) + " }"
        return where, f"inline:{where}"
    os.utime(path, (1, 1))
    return str(path), f"{kind}:{path}"


@pytest.fixture
def place(postfix: Path, tmp_path: Path) -> Path:
    (tmp_path / "main.cf").write_text((postfix / "main.cf").read_text())
    os.utime(tmp_path / "main.cf", (1, 1))
    (tmp_path / "t").mkdir()
    return tmp_path / "t"


def candidates(kind: str, value: str) -> list[str]:
    """The keys in the order of access(5), written as postmap(1) has them."""
    value = value.lower()
    found = []
    for key in keys_of(kind, value, "+"):
        local, at, domain = key.rpartition("@")
        if kind == "address" and at and set(local) & set(' "\\@'):
            escaped = local.replace("\\", "\\\\").replace('"', '\\"')
            found.append(f'"{escaped}"@{domain}')
        found.append(key)
    return found


@pytest.mark.parametrize("kind", ["texthash", "inline", "lmdb", "sqlite"])
@pytest.mark.parametrize("seed", range(6))
def test_postfix_finds_the_same_in_the_order_of_access_5(kind: str, seed: int, place: Path, postmap: Postmap) -> None:
    chosen = content(random.Random(seed))
    where, name = spec(kind, place, chosen)
    asked = [("address", value) for value in VALUES] + [("domain", host) for host in HOSTS]
    theirs = postmap(name, {key for kind_, value in asked for key in candidates(kind_, value) if key})
    hits = 0
    for kind_, value in asked:
        ours = table(kind, where).find(kind_, value, "+")
        expected = next((theirs[key] for key in candidates(kind_, value) if key in theirs), False)
        if ours != expected:
            # Only what Postfix does not look up: a domain in the other of its two spellings.
            assert ours, (value, expected)
            assert "b\u00fccher" in value.lower() or "xn--" in value, (value, ours)
        hits += expected is not False
    assert hits > 5


@pytest.mark.parametrize("kind", ["values", "texthash", "inline", "lmdb", "sqlite"])
def test_a_domain_is_found_in_either_spelling(kind: str, place: Path) -> None:
    for entry in ("bücher.example", "xn--bcher-kva.example", "ann@bücher.example", "ann@xn--bcher-kva.example"):
        where = (entry,) if kind == "values" else spec(kind, place, {entry: "x"})[0]
        tables._open.clear()
        files._files.clear()
        for value in ("ann@bücher.example", "ann@xn--bcher-kva.example", "Ann@BÜCHER.example"):
            assert table(kind, where).find("address", value, "+"), (entry, value)
        assert table(kind, where).find("address", "ann@bucher.example", "+") is False


@pytest.mark.parametrize("kind", ["values", "file", "texthash", "inline", "lmdb", "sqlite"])
def test_a_quoted_local_part_is_found_as_postfix_holds_it(kind: str, place: Path) -> None:
    entries = {'"a b"@example.com': "x", '"c\\"d"@': "y"}
    if kind == "file":
        (place / "table").write_text('"a b"@example.com # why\n"c\\"d"@\n')
    where = tuple(entries) if kind == "values" else spec(kind, place, entries)[0] if kind != "file" else place / "table"
    found = table(kind, where if isinstance(where, tuple) else str(where))
    assert found.find("address", "a b@example.com", "+")
    assert found.find("address", "A B+ext@example.com", "+")
    assert found.find("address", 'c"d@anywhere', "+")
    assert found.find("address", "a@example.com", "+") is False


KEYS = ["a@x", "b", "c", '"d e"@x', "f\\ g", "h", "j:", "x.example", "<>", "leading", "none", "\u00a0k", "STRASSE"]
LINE = st.sampled_from(
    [
        "a@x ok", "A@X upper", "b  two  blanks ", "\tcontinued", "  # comment inside", "# comment", "", "   ", "c\ttab",
        '"d e"@x quoted', "f\\ g escaped", "h  i # no comment", "j: colon", "x.example 1", " leading", "a@x again",
        "<> null", "\u00a0k no-break space", "straße sharp s", "\x0bb vertical tab",
    ]
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(LINE, max_size=6))
def test_postfix_reads_lines_alike(postfix: Path, postmap: Postmap, lines: list[str]) -> None:
    path = postfix / "lines"
    text = "\n".join(lines) + "\n"
    path.write_text(text)
    os.utime(path, (1, 1))
    try:
        ours = entries.texthash(text, "table")
    except ConfigurationFault:
        return
    found = {key: ours[key.casefold()] for key in KEYS if key.casefold() in ours}
    assert found == postmap(f"texthash:{path}", KEYS)


def test_inside_braces(postmap: Postmap) -> None:
    for where in ("{ {a=b}, c=d }", "{a=b c=d}", "{ { a = b w }, a=z c=d}", '{{"a b"@x=y, z}}', "{ {A = upper} }"):
        found = {key: table("inline", where).find("text", key, "+") for key in ("a", "c", '"a b"@x', "b")}
        theirs = postmap(f"inline:{where}", list(found))
        assert {key: text for key, text in found.items() if text is not False} == theirs, where
    for where in ("{a = b}", "{}", "{ {A=b}{c=d} }", "a=b", "{a=b,{c}}", "{a=b", "{{a=b}", "{c=}", "{=x}"):
        with pytest.raises(ConfigurationFault, match="inline"):
            table("inline", where)


# lmdb


def lmdb(place: Path, content: str) -> Path:
    (place / "table").write_text(content)
    os.utime(place / "table", (1, 1))
    subprocess.run(["/usr/sbin/postmap", "-c", str(place.parent), f"lmdb:{place}/table"], check=True)
    return place / "table"


@pytest.mark.parametrize("new_file", [False, True])
def test_postmap_may_rewrite_an_lmdb_table_under_us(place: Path, new_file: bool) -> None:
    path = lmdb(place, "a ok\n")
    assert table("lmdb", str(path)).find("text", "a", "+") == "ok"
    if new_file:
        path.with_suffix(".lmdb").unlink()
    for number in range(3):
        lmdb(place, f"a ok {number}\n" + "".join(f"{n}{number} {'x' * 1000}\n" for n in range(200)))
        assert table("lmdb", str(path)).find("text", "a", "+") == f"ok {number}"
        assert table("lmdb", str(path)).find("text", f"199{number}", "+") == "x" * 1000
        assert table("lmdb", str(path)).find("text", f"199{number - 1}", "+") is False


def test_a_key_without_a_nul_and_one_with(place: Path) -> None:
    import lmdb as library

    environment = library.open(str(place / "own.lmdb"), subdir=False, lock=False, map_size=1 << 20)
    with environment, environment.begin(write=True) as transaction:
        transaction.put(b"bare", b"one")
        transaction.put(b"nul\0", b"two\0")
    own = table("lmdb", str(place / "own"))
    assert own.find("text", "bare", "+") == "one"
    assert own.find("text", "nul", "+") == "two"
    assert own.find("text", "x" * (KEY_LIMIT + 10), "+") is False
    assert own.find("address", "x" * 1_000_000 + "@y", "+") is False
    assert own.find("address", "\udcff\0@\n", "+") is False


@pytest.mark.parametrize("how", ["gone", "torn", "garbage", "empty", "directory", "no package"])
def test_a_broken_lmdb_table_is_unknown_and_comes_back(place: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = lmdb(place, "".join(f"{n} {'x' * 100}\n" for n in range(1000)))
    database = path.with_suffix(".lmdb")
    assert table("lmdb", str(path)).find("text", "7", "+")
    whole = database.read_bytes()
    database.unlink()
    if how == "directory":
        database.mkdir()
    elif how == "no package":
        database.write_bytes(whole)
        monkeypatch.setitem(sys.modules, "lmdb", None)
    elif how != "gone":
        database.write_bytes({"torn": whole[:20480], "garbage": b"x" * 40960, "empty": b""}[how])
    with pytest.raises(ConfigurationFault, match=r"table\.lmdb: "):
        table("lmdb", str(path)).find("text", "7", "+")
    monkeypatch.undo()
    if database.is_dir():
        database.rmdir()
    database.unlink(missing_ok=True)
    lmdb(place, "7 back\n")
    assert tables.table("lmdb", str(path)).find("text", "7", "+") == "back"


def test_a_locked_lmdb_table_is_waited_for_until_the_deadline(place: Path) -> None:
    path = lmdb(place, "a ok\n")
    holder = (
        "import fcntl, sys, time\nf = open(sys.argv[1], 'r+b')\nfcntl.lockf(f, fcntl.LOCK_EX)\n"
        "print('held', flush=True)\ntime.sleep(float(sys.argv[2]))\n"
    )
    for seconds, patience, found in (("0.3", 5.0, True), ("3", 0.2, False)):
        command = [sys.executable, "-c", holder, str(path.with_suffix(".lmdb")), seconds]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            child.stdout.readline()
            start = time.monotonic()
            if found:
                assert table("lmdb", str(path)).find("text", "a", "+", Deadline(patience)) == "ok"
            else:
                with pytest.raises(Fault, match="locked"):
                    table("lmdb", str(path)).find("text", "a", "+", Deadline(patience))
            assert time.monotonic() - start < 2
            child.kill()


# sqlite


def sqlite(place: Path, settings: str, rows: list[tuple[object, object]] | None = None) -> Path:
    with sqlite3.connect(place / "db") as database:
        database.execute("CREATE TABLE IF NOT EXISTS t (k, v)")
        database.executemany("INSERT INTO t VALUES (?, ?)", rows or [])
    database.close()
    (place / "cf").write_text(f"dbpath = {place}/db\n{settings}")
    os.utime(place / "cf", (1, 1))
    return place / "cf"


TEMPLATES = [
    "query = SELECT '%s|%u|%d|%S|%U|%D'", "query = SELECT '%1.%2'", "query = SELECT '%%|%s'", "query = SELECT '%d'",
    "query = SELECT '%s' || 'it''s'\nresult_format = <%s:%u:%d:%S:%U:%D>",
    "query = SELECT '%u@x.de'\nresult_format = %d %U",
    "query = SELECT '%s'\ndomain = example.com x.de,\n  sub.example.com", "query = SELECT '%s'\nresult_format = %%%1",
    "table = t\nselect_field = v\nwhere_field = k\nadditional_conditions = and v <> 2",
    "query = SELECT 3 WHERE '%s' LIKE '%%@%%'",
    "query = SELECT NULL UNION ALL SELECT 'a' UNION ALL SELECT '%s'", "query = SELECT 1.5",
    "query = SELECT x'6100' || '%s'",
]  # fmt: skip


@pytest.mark.parametrize("template", TEMPLATES)
def test_postfix_fills_queries_alike(template: str, place: Path, postmap: Postmap) -> None:
    path = sqlite(
        place, template + "\n", [("bob", "one"), ("bob", "two"), ("bob", 2), ("ann@x.de", None), ("o'x@x.de", 1)]
    )
    keys = [key for value in VALUES for key in candidates("address", value) if key and "é" not in key]
    asked = Sqlite(str(path))
    found = {key: asked.lookup(key) for key in keys}
    assert {key: text for key, text in found.items() if text is not False} == postmap(f"sqlite:{path}", keys)


def test_a_key_is_never_a_part_of_the_query(place: Path) -> None:
    path = sqlite(place, "query = SELECT v FROM t WHERE k = '%s'\n", [("a", "one"), ("b", "two")])
    for key in (
        "' OR ''='",
        "a'; DROP TABLE t; --",
        "\\' OR 1=1",
        "%s",
        "a\0b",
        "?",
        "\ud800",
        "\udcff",
        "x" * 1_000_000,
    ):
        assert table("sqlite", str(path)).find("text", key, "+") is False
    assert table("sqlite", str(path)).find("text", "a", "+") == "one"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("query = SELECT v FROM t WHERE k = %s\n", "in single quotes"),
        ('query = SELECT v FROM t WHERE k = "%s"\n', "in single quotes"),
        ("query = SELECT v FROM t WHERE k = '%s\n", "not closed"),
        ("query = SELECT v FROM t WHERE k = '%x'\n", "not known"),
        ("query = SELECT v FROM t WHERE k = '%'\n", "not known"),
        ("result_format = x\n", "query is missing"),
        ("query = SELECT 1\nexpansion_limit = x\n", "expected a number"),
        ("query = SELECT 1\ndomain = cdb:/x\n", "names of domains"),
        ("nonsense\n", "name = value"),
    ],
)
def test_a_configuration_that_is_none_is_refused(place: Path, settings: str, words: str) -> None:
    with pytest.raises(ConfigurationFault, match=words):
        table("sqlite", str(sqlite(place, settings)))


def test_a_database_in_trouble_is_unknown(place: Path) -> None:
    path = sqlite(place, "query = SELECT v FROM t WHERE k = '%s'\n", [("a", "one")])
    assert table("sqlite", str(path)).find("text", "a", "+") == "one"
    (place / "db").rename(place / "away")
    with pytest.raises(ConfigurationFault, match="db: No such file"):
        table("sqlite", str(path))
    (place / "db").write_bytes(b"no database, but long enough to be looked at" * 100)
    with pytest.raises(Fault, match="not a database"):
        table("sqlite", str(path)).find("text", "a", "+")
    (place / "away").rename(place / "db")
    assert table("sqlite", str(path)).find("text", "a", "+") == "one"
    path.write_text(path.read_text().replace("FROM t", "FROM gone"))
    with pytest.raises(Fault, match="no such table"):
        table("sqlite", str(path)).find("text", "a", "+")


def test_nothing_is_written_to_the_database(place: Path) -> None:
    path = sqlite(place, "query = DELETE FROM t WHERE k = '%s'\n", [("a", "one")])
    with pytest.raises(Fault, match="readonly"):
        table("sqlite", str(path)).find("text", "a", "+")


def test_too_many_results_and_too_long_a_query_are_unknown(place: Path) -> None:
    rows: list[tuple[object, object]] = [("a", n) for n in range(5)]
    path = sqlite(place, "query = SELECT v FROM t WHERE k = '%s'\nexpansion_limit = 3\n", rows)
    with pytest.raises(Fault, match="expansion_limit = 3"):
        table("sqlite", str(path)).find("text", "a", "+")
    endless = "query = WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n)\n"
    endless += "  SELECT max(x) FROM n WHERE '%s' <> ''\n"
    path.write_text(f"dbpath = {place}/db\n{endless}")
    start = time.monotonic()
    with pytest.raises(Fault, match="interrupted"):
        table("sqlite", str(path)).find("text", "a", "+", Deadline(0.3))
    assert time.monotonic() - start < 2
