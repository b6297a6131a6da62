"""The contract over all programs: same stem everywhere, same first line, cheap start, and 75 whatever is missing."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("agents", "spawn", "bounce")
PROGRAMS = sorted(path for folder in FOLDERS for path in (ROOT / folder).iterdir() if path.is_file())
PIPE = [path for path in PROGRAMS if path.parent.name != "spawn"]
EXPENSIVE = {
    "typing", "dataclasses", "enum", "re", "argparse", "logging", "email", "subprocess", "tempfile", "signal", "socket",
    "json", "pathlib", "collections", "functools", "contextlib", "datetime", "urllib", "asyncio", "tomllib", "sqlite3",
    "traceback", "click", "dns", "smtplib", "ssl", "hashlib", "threading",
}  # fmt: skip

each = pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
each_pipe = pytest.mark.parametrize("program", PIPE, ids=lambda path: path.stem)


def docstring(program: Path) -> str:
    return ast.get_docstring(ast.parse(program.read_text())) or ""


def run(program: Path, *arguments: str, library: Path, data: bytes = b"") -> tuple[int, bytes, bytes]:
    done = subprocess.run(
        # -S: an installed postroom must not stand in for what is missing from `library`.
        [sys.executable, "-S", str(program), *arguments],
        input=data,
        capture_output=True,
        timeout=60,
        env={"PATH": "/usr/bin:/bin", "LANG": "C", "PYTHONPATH": str(library), "PYTHONDONTWRITEBYTECODE": "1"},
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_the_folders_hold_programs_and_nothing_else() -> None:
    assert {path.name for path in PROGRAMS} >= {
        "rule-deliver.py",
        "rule-policy.py",
        "bounce-record.py",
        "notify-record.py",
    }
    for path in PROGRAMS:
        assert re.fullmatch(r"[a-z]+(-[a-z]+)+\.py", path.name), f"{path.name}: not verb-noun with hyphens"
    for folder in FOLDERS:
        assert [path.name for path in (ROOT / folder).iterdir() if path.is_dir() and path.name != "__pycache__"] == []


@each
def test_a_program_is_executable_short_and_starts_like_the_others(program: Path) -> None:
    assert program.stat().st_mode & 0o777 == 0o755
    lines = program.read_text().splitlines()
    assert lines[0] == "#!python", "pip writes the interpreter's path in place of this word"
    assert len(lines) <= 150


@each
def test_fragment_page_test_and_manifest_bear_the_same_name(program: Path) -> None:
    stem = program.stem
    assert (ROOT / "master.cf.d" / f"{stem}.cf").is_file()
    assert (ROOT / "man" / f"{stem}.8").is_file()
    assert (ROOT / "tests" / program.parent.name / f"test_{stem.replace('-', '_')}.py").is_file()
    manifest = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert manifest["shared-scripts"][f"{program.parent.name}/{program.name}"] == stem


def test_nothing_is_left_over_from_a_program_that_is_gone() -> None:
    stems = {path.stem for path in PROGRAMS}
    assert {path.stem for path in (ROOT / "master.cf.d").glob("*")} == stems
    assert {path.stem for path in (ROOT / "man").glob("*.8")} == stems
    manifest = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert set(manifest["shared-scripts"].values()) == stems


@each
def test_one_sentence_says_what_it_does_everywhere(program: Path) -> None:
    first = docstring(program).splitlines()[0]
    name, dash, sentence = first.partition(" - ")
    assert (name, dash) == (program.stem, " - ")
    fragment = (ROOT / "master.cf.d" / f"{program.stem}.cf").read_text().splitlines()[0]
    assert fragment == f"# {first}"
    page = (ROOT / "man" / f"{program.stem}.8").read_text().splitlines()
    assert f".Nm {name}" in page
    assert f".Nd {sentence}" in page


@each
def test_help_is_the_header(program: Path) -> None:
    status, output, error = run(program, "--help", library=ROOT / "src")
    assert (status, error) == (0, b"")
    assert output.decode().strip() == docstring(program).strip()


@each
def test_help_and_page_show_the_same_options(program: Path) -> None:
    page = (ROOT / "man" / f"{program.stem}.8").read_text()
    for option in ("config", "log", "state", "deadline"):
        assert f"--{option}" in docstring(program)
        assert f"Fl -{option}" in page


@each_pipe
def test_arguments_missing_from_master_cf_defer_and_are_named(program: Path, tmp_path: Path) -> None:
    logfile = tmp_path / "log"
    status, output, error = run(program, "--log", str(logfile), "--", "sender=", library=ROOT / "src")
    assert (status, error) == (75, b"")
    assert output.startswith(b"4.3.5 master.cf: missing after --: queue_id=${queue_id} recipient=${recipient}")
    assert output.count(b"\n") == 1
    assert "missing after --" in logfile.read_text()


@each
def test_a_library_that_is_not_there_defers(program: Path, tmp_path: Path) -> None:
    status, output, error = run(program, "--", "sender=", library=tmp_path)
    assert status == 75
    assert error == b""
    if program.parent.name != "spawn":
        assert output.startswith(b"4.3.5 ")
        assert output.count(b"\n") == 1
        assert len(output) <= 500
    else:
        assert output == b"", "a spawn(8) program's output is the client's conversation"


def modules_of(program: Path) -> list[Path]:
    """Files of the library that the program's start needs, found by asking Python itself."""
    code = f"import sys, runpy\nsys.argv = [{str(program)!r}]\n" + (
        "import os\nos._exit = lambda status: (print(*[m.__file__ for n, m in sys.modules.items()"
        " if n.startswith('postroom')], sep='\\n', file=sys.__stderr__, flush=True), os.kill(os.getpid(), 9))\n"
        f"os.dup2 = lambda *a, **k: 0\nrunpy.run_path({str(program)!r}, run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        env={"PYTHONPATH": str(ROOT / "src"), "PATH": "/usr/bin:/bin"},
        check=False,
    )
    return [Path(line) for line in done.stderr.decode().splitlines() if line.startswith(str(ROOT / "src"))]


@each
def test_each_module_of_the_library_missing_or_broken_defers(program: Path, tmp_path: Path) -> None:
    modules = [path for path in modules_of(program) if path.name != "__init__.py" or path.parent.name != "postroom"]
    assert len(modules) > 3
    for number, path in enumerate(modules):
        library = tmp_path / str(number)
        shutil.copytree(ROOT / "src", library, ignore=shutil.ignore_patterns("__pycache__"))
        broken = library / path.relative_to(ROOT / "src")
        if number % 2 and path.name != "__init__.py":  # without that a folder is a package all the same
            broken.unlink()
        else:
            broken.write_text("def :\n")
        status, output, error = run(program, "--", "sender=", library=library)
        assert status == 75, path
        assert error == b"", path
        if program.parent.name != "spawn":
            assert output.startswith(b"4.3.5 "), path
            assert output.count(b"\n") == 1, path


@each
def test_the_start_imports_nothing_expensive(program: Path) -> None:
    code = (
        f"import sys, os, runpy\nsys.argv = [{str(program)!r}, '--help']\nbefore = set(sys.modules)\n"
        "os._exit = lambda status: (sys.__stderr__.write(' '.join(new())), sys.__stderr__.flush(), die())\n"
        "def die(): os.kill(os.getpid(), 9)\n"
        "def new(): return [n.split('.')[0] for n in set(sys.modules) - before]\n"
        "import importlib.machinery\n"
        f"loader = importlib.machinery.SourceFileLoader('__main__', {str(program)!r})\n"
        f"exec(loader.get_code('__main__'), sys.modules['__main__'].__dict__)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r})\n{code}"],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        check=False,
        env={"PATH": os.defpath},
    )
    names = set(done.stderr.decode().split())
    assert "postroom" in names, done.stderr.decode()
    assert not names & EXPENSIVE
