"""Imports go down only; what programs import on their way stays cheap; protocols and rules do no I/O."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "postroom"

# From the bottom up. A module may import its own layer and those before it.
LAYERS = [
    ["status", "deadline", "cpus", "handoff", "thin"],
    ["wire", "log"],
    ["envelope", "message"],
    ["dnsname", "mx", "rules", "bounces", "store"],
    ["config", "tables"],
    [
        "attachments",
        "convert",
        "country",
        "dns",
        "dnsasker",
        "dnscache",
        "dnsquery",
        "dnsservers",
        "dnsshared",
        "plans",
        "record",
        "sources",
    ],
    ["delivery", "lookup", "policy"],
    ["actions", "answers"],
    ["runners"],
    ["resident"],
    ["postfix"],
    ["lab"],
    ["cli"],
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}

# Protocols, the MX machine and the evaluation of rules take bytes and answers; others fetch them.
PURE = ["wire", "dnsname.py", "mx.py", "rules/dnsbl.py", "rules/evaluate.py"]
IO = {"os", "io", "socket", "_socket", "select", "subprocess", "pathlib", "sqlite3", "dns", "syslog"}


def imports(path: Path) -> Iterator[str]:
    """Dotted names imported anywhere in the file, also inside functions, not under TYPE_CHECKING."""
    for node in walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write the whole name, so that layers show"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def walk(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)):
            yield child
            yield from walk(child)


def files() -> list[Path]:
    return sorted(path for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py")


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def test_every_file_belongs_to_a_layer() -> None:
    assert {room(path) for path in files()} <= set(LEVEL)


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_down(path: Path) -> None:
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "postroom" and len(parts) > 1 and parts[1] in LEVEL:
            assert LEVEL[parts[1]] <= LEVEL[room(path)], f"{name} stands above {room(path)}"


@pytest.mark.parametrize("place", PURE)
def test_what_decides_does_no_io(place: str) -> None:
    target = SOURCE / place
    for path in [target] if target.is_file() else sorted(target.glob("*.py")):
        assert not {name.split(".")[0] for name in imports(path)} & (IO - {"_socket"}), path


def test_nothing_imports_the_programs() -> None:
    for path in files():
        assert not {name.split(".")[0] for name in imports(path)} & {"agents", "spawn", "bounce", "tests"}, path
