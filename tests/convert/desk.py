"""What the tests of this room share: the file that is made, checked as `postroom check` does it, and its decisions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from postroom.cli.check import examine
from postroom.config import Configuration
from postroom.convert import Conversion, write
from postroom.rules import Decision
from postroom.rules.compile import compile_model
from postroom.sources import Sources


def made(conversion: Conversion, folder: Path) -> Sources:
    """The file, written and checked; it must have no errors."""
    file = folder / "postroom.toml"
    file.write_text(write.text(conversion), encoding="utf-8")
    model, problems = examine(str(file))
    errors = [str(problem) for problem in problems if problem.level == "error"]
    assert model is not None and not errors, "\n".join([*errors, file.read_text()])
    return Sources(Configuration(str(file), compile_model(model), ()), None, None)


def decision(sources: Sources, attributes: Mapping[str, str]) -> Decision:
    from postroom.rules import STAGE_OF_STATE

    return sources.decide(STAGE_OF_STATE[attributes["protocol_state"]], attributes)
