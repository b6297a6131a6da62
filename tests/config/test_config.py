"""Loading: what comes out, what is refused, and that the cache is only ever a shortcut."""

import marshal
import os
import subprocess
import sys
import time
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest

import postroom
from postroom import config
from postroom.config import load
from postroom.rules import check, compile, read
from postroom.status import ConfigurationFault

Nobody = Callable[[Callable[[], Any]], Any]

TEXT = """
state = "state"
log = "logs/postroom.log"
deadline = "2m"
[dns]
servers = ["127.0.0.1:5353"]
timeout = 1
[bounces]
key = "bounce.key"
domain = "bounces.example"
lifetime = "1d"
[list.blocked]
file = "blocked"
[list.fixed]
values = ["a@b"]
[[rule]]
id = "r"
at = "rcpt"
match = { recipient = ["list:blocked", "list:fixed"] }
action = "HANGUP"
"""


def written(folder: Path, text: str = TEXT, name: str = "postroom.toml") -> Path:
    path = folder / name
    path.write_text(text)
    path.chmod(0o644)
    (folder / "state").mkdir(exist_ok=True)
    if os.geteuid() == 0:
        os.chown(folder / "state", 65534, 65534)
    return path


def test_what_a_configuration_holds(tmp_path: Path) -> None:
    loaded = load(str(written(tmp_path)))
    assert loaded.path == str(tmp_path / "postroom.toml")
    assert loaded.state == str(tmp_path / "state")
    assert loaded.log == str(tmp_path / "logs" / "postroom.log")
    assert loaded.deadline == 120.0
    assert (loaded.dns.servers, loaded.dns.port, loaded.dns.timeout) == (("127.0.0.1:5353",), 53, 1.0)
    assert loaded.bounces is not None
    assert (loaded.bounces.key, loaded.bounces.domain) == (str(tmp_path / "bounce.key"), "bounces.example")
    assert loaded.bounces.lifetime == 86400.0
    assert loaded.lists == {"blocked": ("file", str(tmp_path / "blocked")), "fixed": ("values", ("a@b",))}
    assert [rule[0] for rule in loaded.rules["stages"]["rcpt"]] == ["r"]


def test_a_file_that_says_nothing_has_defaults(tmp_path: Path) -> None:
    loaded = load(str(written(tmp_path, "# nothing yet\n")))
    assert (loaded.state, loaded.log, loaded.deadline, loaded.bounces) == ("/var/lib/postroom", "syslog", 250.0, None)
    assert loaded.dns.servers == ()


@pytest.mark.parametrize("content", ["", "\n", "  \n\n"])
def test_an_empty_file_is_one_that_is_being_written(tmp_path: Path, content: str) -> None:
    (tmp_path / "postroom.toml").write_text(content)
    with pytest.raises(ConfigurationFault, match=r"postroom\.toml: is empty"):
        load(str(tmp_path / "postroom.toml"))


def test_the_command_line_may_name_another_state(tmp_path: Path) -> None:
    assert load(str(written(tmp_path)), "/elsewhere").state == "/elsewhere"


def test_a_relative_path_is_taken_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert load("postroom.toml").state == str(tmp_path / "state")


def test_a_mistake_is_told_in_full_and_the_others_are_counted(tmp_path: Path) -> None:
    path = written(tmp_path, '[[rule]]\nid = "r"\nat = "rcpt"\naction = "DUNNO"\nmatch = { recipent = "x" }\nmod = 1\n')
    with pytest.raises(ConfigurationFault) as caught:
        load(str(path))
    assert str(caught.value) == (
        'postroom.toml: line 6: rule "r": mod: unknown key "mod"; did you mean "mode"? (and 1 more: postroom check)'
    )
    assert caught.value.status == "4.3.5"


@pytest.mark.parametrize("content", [b"\x7fELF\0\0", b"a = ", b"\xff", b"[" * 10000])
def test_what_is_no_toml_is_our_fault(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "postroom.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigurationFault, match=r"postroom\.toml: "):
        load(str(path))


def test_files_that_cannot_be_one(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    big = tmp_path / "big"
    big.write_bytes(b"#" * (10 * 1024 * 1024))
    for path, words in (
        (tmp_path, "is not a regular file"),
        (fifo, "is not a regular file"),
        (big, "expected at most"),
        (tmp_path / "none", "No such file"),
        (Path("/dev/zero"), "is not a regular file"),
    ):
        start = time.perf_counter()
        with pytest.raises(ConfigurationFault, match=words):
            load(str(path))
        assert time.perf_counter() - start < 1
    with pytest.raises(ConfigurationFault, match="null"):
        load("a\0b")


def test_a_file_that_must_not_be_read(place: Path, nobody: Nobody) -> None:
    path = written(place)
    path.chmod(0)
    if os.geteuid() == 0:
        os.chown(path, 0, 0)
    with pytest.raises(ConfigurationFault, match="Permission denied"):
        nobody(lambda: load(str(path)).path)


def test_changes_are_noticed(tmp_path: Path) -> None:
    path = written(tmp_path)
    loaded = load(str(path))
    assert not loaded.changed()
    path.write_text(TEXT + "\n")
    assert loaded.changed()
    loaded = load(str(path))
    other = written(tmp_path, TEXT + "\n", "other")
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    other.rename(path)
    assert loaded.changed(), "replaced by one of the same size and time"
    loaded = load(str(path))
    path.unlink()
    assert loaded.changed()


# The cache.


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if no file had been written a moment ago."""
    monkeypatch.setattr(config, "SETTLED", -10.0)


def kept(folder: Path) -> list[Path]:
    cache = folder / "state" / "cache"
    return sorted(cache.iterdir()) if cache.is_dir() else []


def compiling(path: Path) -> Callable[[], tuple[bool, Any]]:
    """Load, and tell whether the file was compiled."""

    def work() -> tuple[bool, Any]:
        done: list[str] = []
        original = config._compiled

        def compiled(path: str, content: bytes) -> dict[str, Any]:
            done.append(path)
            return original(path, content)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(config, "_compiled", compiled)
            rules = load(str(path)).rules
        return bool(done), rules

    return work


def test_the_second_start_compiles_nothing(place: Path, nobody: Nobody, settled: None) -> None:
    path = written(place)
    first = nobody(compiling(path))
    second = nobody(compiling(path))
    assert (first[0], second[0]) == (True, False)
    assert first[1] == second[1]
    (file,) = kept(place)
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700


def test_two_files_have_two_caches(place: Path, nobody: Nobody, settled: None) -> None:
    paths = [written(place), written(place, 'state = "state"\n', "other.toml")]
    for path in paths:
        nobody(compiling(path))
    assert [nobody(compiling(path))[0] for path in paths] == [False, False]


def test_a_changed_file_is_compiled_again(place: Path, nobody: Nobody, settled: None) -> None:
    path = written(place)
    nobody(compiling(path))
    path.write_text(TEXT.replace("HANGUP", "REJECT"))
    compiled, rules = nobody(compiling(path))
    assert compiled
    assert rules["stages"]["rcpt"][0][2] == ("REJECT",)


def test_a_file_written_a_moment_ago_is_not_kept(place: Path, nobody: Nobody) -> None:
    nobody(compiling(written(place)))
    assert kept(place) == []


def test_another_version_compiles_again(
    place: Path, nobody: Nobody, settled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(place)
    nobody(compiling(path))
    monkeypatch.setattr(config, "__version__", "other")
    assert nobody(compiling(path))[0]


def test_no_broken_cache_is_believed(place: Path, nobody: Nobody, settled: None) -> None:
    path = written(place)
    expected = nobody(compiling(path))[1]
    (file,) = kept(place)
    good = file.read_bytes()
    for broken in (
        b"",
        good[:1],
        good[:20],
        good[:-1],
        good + b"x",
        good[:40] + b"\xff" + good[41:],
        b"\0" * len(good),
    ):
        file.write_bytes(broken)
        assert nobody(compiling(path)) == (True, expected)
        assert file.read_bytes() == good, "and it is made anew"


def test_what_others_could_have_written_is_not_believed(place: Path, nobody: Nobody, settled: None) -> None:
    path = written(place)
    nobody(compiling(path))
    (file,) = kept(place)
    if os.geteuid() == 0:
        assert compiling(path)()[0], "root believes nobody"
    file.chmod(0o620)
    assert nobody(compiling(path))[0]
    file.parent.chmod(0o770)
    assert nobody(compiling(path))[0]
    assert file.parent.stat().st_mode & 0o777 == 0o700
    assert not nobody(compiling(path))[0], "and it is right again"
    target = place / "target"
    file.rename(target)
    file.symlink_to(target)
    assert nobody(compiling(path))[0]


def test_a_cache_for_another_file_is_not_believed(place: Path, nobody: Nobody, settled: None) -> None:
    one = written(place)
    two = written(place, 'state = "state"\ndeadline = 1\n', "two.toml")
    nobody(compiling(one))
    (first,) = kept(place)
    nobody(compiling(two))
    (second,) = set(kept(place)) - {first}
    second.write_bytes(first.read_bytes())
    assert nobody(compiling(two))[0]


@pytest.mark.parametrize("state", ["missing", "read-only", "a file"])
def test_where_nothing_can_be_kept_nothing_is_lost(place: Path, nobody: Nobody, settled: None, state: str) -> None:
    path = written(place)
    (place / "state").rmdir()
    if state == "read-only":
        (place / "state").mkdir(0o555)
    elif state == "a file":
        (place / "state").write_text("")
    if state != "missing" and os.geteuid() == 0:
        os.chown(place / "state", 0, 0)
    assert nobody(compiling(path))[0]
    assert nobody(compiling(path))[0]


def test_many_start_at_once(place: Path, nobody: Nobody, settled: None) -> None:
    path = written(place)
    children = []
    for _ in range(8):
        child = os.fork()
        if not child:
            try:
                os._exit(0 if nobody(compiling(path))[1] else 1)
            except BaseException:
                os._exit(2)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 8
    assert len(kept(place)) == 1
    assert not nobody(compiling(path))[0]


def test_root_keeps_nothing(tmp_path: Path, settled: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    load(str(written(tmp_path)))
    assert kept(tmp_path) == []


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ('state = "/a/b"\n', "/a/b"),
        ("# c\n\n  state='rel'   # why\n", "/f/rel"),
        ("", "/var/lib/postroom"),
        ('[dns]\nstate = "/a"\n', "/var/lib/postroom"),
        ('state = "a\\u0062"\n', "/var/lib/postroom"),
        ("state = 1\n", "/var/lib/postroom"),
        ('state = ""\n', "/var/lib/postroom"),
        ('stat = "/x"\nstate="/y"', "/y"),
    ],
)
def test_the_state_directory_is_seen_without_reading_toml(text: str, state: str) -> None:
    assert config._peeked(text.encode(), "/f") == state


EXPENSIVE = {
    "typing", "dataclasses", "enum", "re", "argparse", "logging", "email", "subprocess", "tempfile", "signal", "socket",
    "json", "pathlib", "collections", "functools", "contextlib", "datetime", "urllib", "asyncio", "tomllib", "difflib",
    "hashlib", "importlib", "sqlite3",
}  # fmt: skip


def test_a_start_from_the_cache_imports_nothing_that_takes_time(place: Path) -> None:
    """The cache is made by hand, so that it fits whoever runs this."""
    path = written(place)
    seen = config.identity(path.stat())
    model, _ = check.check(read.parse(TEXT.encode(), "postroom.toml"), str(place))
    assert model
    stamp = (config.FORMAT, postroom.__version__, sys.hexversion, marshal.version, str(path), seen)
    payload = marshal.dumps((stamp, compile.compile_model(model)))
    file = Path(config._cache_path(str(path), str(place / "state")))
    file.parent.mkdir(mode=0o700)
    file.write_bytes(blake2b(payload, digest_size=16).digest() + payload)
    file.chmod(0o600)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from postroom import config, sources\n"
        "loaded = config.load(sys.argv[2])\n"
        "found = sources.Sources(loaded, None, None).decide('rcpt', {'recipient': 'a@b'})\n"
        "assert found.action == 'HANGUP', found\n"
        "print(*sys.modules)"
    )
    source = Path(config.__file__).parents[1]
    command = [sys.executable, "-I", "-S", "-c", code, str(source), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not EXPENSIVE & set(done.stdout.split())


def test_a_file_that_has_just_become_shorter_is_being_written(tmp_path: Path) -> None:
    file = tmp_path / "postroom.toml"
    file.write_text(f'state = "{tmp_path}"\n' + "# a long file\n" * 9)
    configuration = load(str(file))
    assert not configuration.being_written()
    file.write_text(f'state = "{tmp_path}"\n')
    assert configuration.changed() and configuration.being_written()
    os.utime(file, (time.time() - 3, time.time() - 3))
    assert configuration.changed() and not configuration.being_written()
    file.write_text(f'state = "{tmp_path}"\n' + "# a longer file\n" * 9)
    assert configuration.changed() and not configuration.being_written()
    (tmp_path / "new").write_text("")
    (tmp_path / "new").rename(file)
    assert configuration.changed() and not configuration.being_written(), "moved there, and so it is whole"
    file.unlink()
    assert configuration.changed() and not configuration.being_written()
