"""README.md and docs/ against the code: the rule that started it, tables, bounds, links."""

from __future__ import annotations

import ast
import re
from importlib import import_module
from pathlib import Path

import pytest
from click.testing import CliRunner
from docs.mdoc import PAGES, ROOT, fenced, indented

from postroom.cli import VERBS, main
from postroom.config import Configuration
from postroom.delivery import Mail
from postroom.message import Message
from postroom.rules.check import check
from postroom.rules.compile import compile_model
from postroom.rules.read import parse
from postroom.sources import Given, Sources
from postroom.status import bounced, deferred, sent

README = ROOT / "README.md"
INTERNALS = ROOT / "docs" / "internals.md"
HANDLER = ROOT / "docs" / "writing-a-handler.md"
MARKDOWN = [README, *sorted((ROOT / "docs").glob("*.md"))]


def table(path: Path, header: str) -> list[list[str]]:
    """The rows of the table that begins with this header."""
    lines = path.read_text().splitlines()
    start = lines.index(header) + 2
    end = next((n for n in range(start, len(lines)) if not lines[n].startswith("|")), len(lines))
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[start:end]]


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda path: path.name)
def test_links_lead_to_files(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text()):
        assert (path.parent / target).exists() or target.startswith("https://"), target


# README


def rule() -> str:
    (block,) = [block for block in indented(README) if block.startswith("[[rule]]")]
    return block


def decision(mx: list[tuple[int, str]], recipient: str) -> str:
    model, report = check(parse(rule().encode(), "postroom.toml"), "/etc/postroom")
    assert model is not None, report.problems
    base = Sources(Configuration("/etc/postroom/postroom.toml", compile_model(model), ()), None, None)
    attributes = {"recipient": recipient, "sender": "b@example.net"}
    return Given(base, attributes, tuple(mx)).decide("rcpt", attributes).action


def test_the_rule_is_five_lines_and_right(tmp_path: Path) -> None:
    assert len(rule().splitlines()) == 5
    file = tmp_path / "postroom.toml"
    file.write_text(rule())
    done = CliRunner().invoke(main, ["check", str(file)])
    assert done.exit_code == 0, done.output
    assert "0 errors, 0 warnings" in done.output


def test_the_rule_hangs_up_in_its_case_and_in_no_other() -> None:
    shady, good = "mx1.shadysmtpd.example", "mx.good.example"
    assert decision([(10, shady)], "ann@victim.example") == "HANGUP"
    assert decision([(10, shady), (20, good)], "Ann@Victim.example") == "HANGUP"
    assert decision([(10, good), (20, shady)], "ann@victim.example") == "DUNNO"
    assert decision([(10, good)], "ann@victim.example") == "DUNNO"
    assert decision([(10, shady)], "carol@victim.example") == "DUNNO"


def test_the_other_form_of_the_action_is_right(tmp_path: Path) -> None:
    found = re.search(r'or "(521 [^"]+)"', rule())
    assert found is not None
    file = tmp_path / "postroom.toml"
    file.write_text(rule().replace("HANGUP", found[1], 1))
    assert CliRunner().invoke(main, ["check", str(file)]).exit_code == 0


def test_a_longer_list(tmp_path: Path) -> None:
    found = re.search(r"`(list\.\S+ = \"blocked\")` at the top, and `(recipient = \"[^`]+\")`", README.read_text())
    assert found is not None
    (tmp_path / "blocked").write_text("ann@victim.example\n")
    file = tmp_path / "postroom.toml"
    file.write_text(f"{found[1]}\n" + re.sub(r"recipient = \[.*?\]", found[2], rule()))
    done = CliRunner().invoke(main, ["check", str(file)])
    assert "0 errors, 0 warnings" in done.output


def test_readme_is_short_and_names_every_program_and_verb() -> None:
    text = README.read_text()
    assert len(text.splitlines()) < 150
    programs = [row[0] for row in table(README, "| program | run by | what it does |")]
    assert sorted(programs) == [page.stem for page in PAGES if page.suffix == ".8"]
    verbs = {word for row in table(README, "| verb | what for |") for word in re.findall(r"[a-z]+", row[0])}
    assert verbs - {"postroom"} == set(VERBS)


# Internals


def test_the_layers_are_those_that_are_tested() -> None:
    source = (ROOT / "tests" / "contract" / "test_layers.py").read_text()
    (layers,) = [
        ast.literal_eval(node.value)
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "LAYERS"
    ]
    shown = [re.findall(r"`(\w+)`", row[1]) for row in table(INTERNALS, "| layer | modules | may do I/O |")]
    assert shown == layers


UNITS = {"": 1, "bytes": 1, "KB": 1024, "MB": 1024**2, "s": 1, "h": 3600, "d": 86400}
BOUNDS = table(INTERNALS, "| what | bound | constant |")


@pytest.mark.parametrize("row", BOUNDS, ids=lambda row: row[2].strip("`"))
def test_bounds_are_the_constants(row: list[str]) -> None:
    _, bound, constant = row
    module, _, name = constant.strip("`").rpartition(".")
    number, _, unit = bound.partition(" ")
    assert getattr(import_module(module), name) == float(number) * UNITS[unit]


def test_every_limit_is_in_the_table() -> None:
    """Public constants of the library by the names that limits have; a new one belongs into docs/internals.md."""
    shown = {row[2].strip("`") for row in BOUNDS}
    library = ROOT / "src" / "postroom"
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library).with_suffix("").parts
        if parts[0] in ("postfix", "lab", "cli"):
            continue  # run by people, on their own files
        for name in re.findall(r"^((?:MAX_[A-Z_]+|[A-Z][A-Z_]*_LIMIT))(?:: \w+)? = ", path.read_text(), re.MULTILINE):
            assert ".".join(("postroom", *parts, name)).replace(".__init__", "") in shown


def test_tests_that_are_named_are_there() -> None:
    for name in re.findall(r"`(tests/[\w/.]+)`", INTERNALS.read_text()):
        assert (ROOT / name).exists(), name


# The tables of the handler API


@pytest.mark.parametrize(("header", "kind"), [("| `mail.` | |", Mail), ("| `mail.message.` | |", Message)])
def test_attributes_are_all_there_is(header: str, kind: type) -> None:
    shown = {name for row in table(HANDLER, header) for name in re.findall(r"`(\w+)(?:\(\w*\))?`", row[0])}
    made = {"of", "read"}  # classmethods, for the runner and for tests
    public = {name for name in dir(kind) if not name.startswith("_")} - made
    assert shown == public


def test_outcomes() -> None:
    rows = table(HANDLER, "| | Postfix | exit |")
    assert [row[0].partition("(")[0].strip("`") for row in rows] == [sent.__name__, deferred.__name__, bounced.__name__]
    assert "Without a code it is 2.0.0, 4.3.0, 5.0.0." in HANDLER.read_text()
    assert [outcome("x").status for outcome in (sent, deferred, bounced)] == ["2.0.0", "4.3.0", "5.0.0"]


def test_toml_in_the_docs_passes_the_check(tmp_path: Path) -> None:
    blocks = [text for path in MARKDOWN for text in fenced(path, "toml")]
    for path in MARKDOWN:
        for script in fenced(path, "sh"):
            blocks += re.findall(r"<<'END'\n(\[\[rule\]\]\n(?s:.*?))^END$", script, re.MULTILINE)
    assert blocks
    for text in blocks:
        file = tmp_path / "postroom.toml"
        file.write_text(text)
        done = CliRunner().invoke(main, ["check", str(file)])
        assert "0 errors, 0 warnings" in done.output
