"""docs/cookbook.md: every recipe passes the check without a warning, and so do the tests in it."""

from pathlib import Path

import pytest
from docs.mdoc import ROOT, fenced

from postroom.cli.check import examine, run_tests

COOKBOOK = ROOT / "docs" / "cookbook.md"
RECIPES = fenced(COOKBOOK, "toml")


def test_a_recipe_for_each_heading() -> None:
    headings = [line for line in COOKBOOK.read_text().splitlines() if line.startswith("## ")]
    assert len(headings) == len(RECIPES) >= 7


@pytest.mark.parametrize("number", range(len(RECIPES)))
def test_a_recipe_passes_its_check(number: int, tmp_path: Path) -> None:
    file = tmp_path / "postroom.toml"
    file.write_text(RECIPES[number])
    model, problems = examine(str(file))
    assert model is not None and problems == []
    results = run_tests(model, str(file))
    assert results
    assert [(result.case.number + 1, result.decision) for result in results if not result.passed] == []
