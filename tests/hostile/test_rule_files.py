"""`postroom check` over files that are no rules, or too many: one line that says what is wrong, and soon."""

import os
from pathlib import Path

import pytest
from hostile.command import postroom

RULE = '[[rule]]\nid = "r{0}"\nat = "rcpt"\nmatch = {{ sender = "a{0}@b.example" }}\naction = "550 no"\n'
HEAD = '[[rule]]\nid = "r"\nat = "rcpt"\naction = "550 no"\n'

# A name, what is in the file, and the words of the one error.
CONTENTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "blank": (b" \n\r\n\t", "is empty"),
    "binary": (bytes(range(256)) * 1000, "is not text in UTF-8"),
    "not UTF-8": (b"# \xe4\nstate = '/x'\n", "is not text in UTF-8"),
    "NUL": (b"state = '/x\0y'\n", "is not TOML"),
    "written NUL": (b'state = "/x\\u0000y"\n', "expected a text of one line"),
    "a lone surrogate": (b'state = "/\\ud800"\n', "is not TOML"),
    "nested lists": (b"x = " + b"[" * 10000 + b"]" * 10000, "is nested too deeply"),
    "nested tables": (b"x = " + b"{a = " * 10000 + b"1" + b"}" * 10000, "is nested too deeply"),
    "lists just short of that": (b"state = " + b"[" * 300 + b"]" * 300, "expected a text in quotes, found a list"),
    "a key of 3000 parts": (b"x." * 3000 + b"y = 1", 'unknown key "x"'),
    "a table of 3000 parts": (b"[" + b"x." * 3000 + b"y]\n", 'unknown key "x"'),
    "a key twice": (b"state = '/a'\nstate = '/b'\n", "is not TOML: Cannot overwrite a value"),
    "a table twice": (b"[dns]\nport = 53\n[dns]\nport = 54\n", "is not TOML"),
    "a rule as a table": (b'[rule]\nid = "r"\n', "expected [[rule]] with two brackets"),
    "a number of 100,000 digits": (b"deadline = " + b"9" * 100_000, "has a value that cannot be read"),
    "an infinite number": (b"deadline = 1e999999\n", "found inf"),
    "an id of 100,000 letters": (HEAD.replace('"r"', f'"{"x" * 100_000}"').encode(), "expected up to 64 letters"),
    "an unknown key of 100,000 letters": (b"x" * 100_000 + b" = 1\n", "unknown key"),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_a_file_that_is_wrong_is_one_line(tmp_path: Path, name: str) -> None:
    content, words = CONTENTS[name]
    file = tmp_path / "postroom.toml"
    file.write_bytes(content)
    ran = postroom(tmp_path, "check", str(file))
    assert (ran.status, len(ran.lines), ran.errors) == (os.EX_CONFIG, 2, ""), ran.lines[:3]
    assert ran.lines[0].startswith(f"{file}:") and words in ran.lines[0]
    assert ran.lines[1] == f"{file}: 1 error, 0 warnings; programs refuse this file"
    assert ran.cpu < 5


@pytest.mark.parametrize("kind", ["directory", "fifo", "/dev/zero", "/dev/null", "100 MB", "gone", "a loop"])
def test_what_is_no_file_of_rules_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    file = Path(kind) if kind.startswith("/") else tmp_path / "postroom.toml"
    if kind == "directory":
        file.mkdir()
    elif kind == "fifo":
        os.mkfifo(file)
    elif kind == "100 MB":
        with file.open("wb") as stream:
            stream.truncate(100 << 20)
    elif kind == "a loop":
        file.symlink_to(file)
    ran = postroom(tmp_path, "check", str(file))
    assert (ran.status, len(ran.lines), ran.errors) == (os.EX_CONFIG, 2, "")
    assert ran.cpu < 2 and ran.memory < 60


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["no mark", "UTF-8 mark"])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["LF", "CRLF"])
def test_what_editors_do_to_a_file(tmp_path: Path, mark: bytes, end: str) -> None:
    file = tmp_path / "postroom.toml"
    file.write_bytes(mark + (HEAD + 'match = { sendr = "x@y" }\n').replace("\n", end).encode())
    ran = postroom(tmp_path, "check", str(file))
    assert ran.status == os.EX_CONFIG
    assert ran.lines[0].startswith(f'{file}:5: error: rule "r": match.sendr: unknown key')


def test_a_hundred_thousand_rules_are_refused_at_once(tmp_path: Path) -> None:
    file = tmp_path / "postroom.toml"
    file.write_text("".join(RULE.format(number) for number in range(100_000)))
    ran = postroom(tmp_path, "check", str(file))
    assert (ran.status, ran.errors) == (os.EX_CONFIG, "")
    assert "bytes long, expected at most 4194304" in ran.lines[0]
    assert ran.cpu < 2 and ran.memory < 60


def test_ten_thousand_rules_are_checked_in_seconds(tmp_path: Path) -> None:
    file = tmp_path / "postroom.toml"
    file.write_text("".join(RULE.format(number) for number in range(10_000)))
    ran = postroom(tmp_path, "check", str(file))
    assert ran.lines == [f"{file}: 10000 rules, no tests, 0 errors, 0 warnings"]
    assert ran.status == 0 and ran.cpu < 20 and ran.memory < 200


CROWDS = {
    "values": HEAD + "match = {{ sender = [{}] }}".format(", ".join(f'"a{n}@b.example"' for n in range(30_000))),
    "globs": HEAD + "match = {{ sender = [{}] }}".format(", ".join(f'"*a{n}@b.example"' for n in range(30_000))),
    "numbers": HEAD.replace("rcpt", "data") + f"match = {{ recipient_count = {list(range(1, 60_000, 2))} }}",
    "networks": HEAD
    + "match = {{ client_address = [{}] }}".format(", ".join(f'"10.{n // 250}.{n % 250}.0/24"' for n in range(30_000))),
    "tables": HEAD + "any = [{}]".format(", ".join(f'{{ sender = "a{n}@b.example" }}' for n in range(15_000))),
    "errors": "".join(RULE.format(n).replace("550 no", "550") for n in range(5_000)),
    "unlike each other": HEAD
    + "match = {{ recipient = [{}], recipient_domain = [{}] }}".format(
        ", ".join(f'"a@a{n}.example"' for n in range(5_000)), ", ".join(f'"b{n}.example"' for n in range(5_000))
    ),
}


@pytest.mark.parametrize("name", CROWDS)
def test_a_crowd_takes_time_by_its_number_alone(tmp_path: Path, name: str) -> None:
    """Each with each would be a billion comparisons."""
    file = tmp_path / "postroom.toml"
    file.write_text(CROWDS[name] + "\n")
    ran = postroom(tmp_path, "check", str(file))
    assert ran.errors == "" and ran.status == (os.EX_CONFIG if name == "errors" else 0)
    assert ran.cpu < 20 and ran.memory < 300


def test_includes_do_not_go_round_in_circles(tmp_path: Path) -> None:
    main, other = tmp_path / "postroom.toml", tmp_path / "other.toml"
    main.write_text('include = ["other.toml"]\n')
    other.write_text('include = ["postroom.toml"]\n')
    ran = postroom(tmp_path, "check", str(main))
    assert ran.status == os.EX_CONFIG and "an included file includes nothing" in ran.lines[0]
    for itself in ("postroom.toml", "../" + tmp_path.name + "/postroom.toml", "."):
        main.write_text(f'include = ["{itself}"]\n')
        ran = postroom(tmp_path, "check", str(main))
        assert (ran.status, ran.errors) == (os.EX_CONFIG, "") and "names the file itself" in ran.lines[0], itself


@pytest.mark.parametrize("kind", ["directory", "fifo", "binary", "big", "gone", "crowd"])
def test_an_included_file_that_is_none(tmp_path: Path, kind: str) -> None:
    main, folder = tmp_path / "postroom.toml", tmp_path / "rules.d"
    main.write_text('include = ["rules.d"]\n')
    folder.mkdir()
    part = folder / "part.toml"
    if kind == "directory":
        part.mkdir()
    elif kind == "fifo":
        os.mkfifo(part)
    elif kind == "binary":
        part.write_bytes(os.urandom(1000) + b"\xff\xfe")
    elif kind == "big":
        part.write_bytes(b"#" * (5 << 20))
    elif kind == "gone":
        part.symlink_to(folder / "nothing")
    else:
        for number in range(50):
            (folder / f"{number}.toml").write_bytes(b"#" * 100_000)
    ran = postroom(tmp_path, "check", str(main))
    assert (ran.status, len(ran.lines), ran.errors) == (os.EX_CONFIG, 2, ""), ran.lines
    assert ran.cpu < 2 and ran.memory < 60
