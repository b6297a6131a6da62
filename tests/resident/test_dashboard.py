"""docs/grafana.json and docs/metrics.md against what /metrics really says."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from postroom.resident import exposition
from postroom.resident.board import Board
from postroom.resident.metrics import Metrics
from postroom.resident.report import FAULTS
from postroom.resident.totals import Totals

DOCS = Path(__file__).parents[2] / "docs"

# Words of PromQL, and what Grafana puts in.
FUNCTIONS = {
    "sum", "by", "rate", "increase", "topk", "min", "time", "vector", "or", "changes", "histogram_quantile",
}  # fmt: skip
VARIABLES = {"$__rate_interval", "$__interval", "$job", "$instance", "$datasource"}


@pytest.fixture(scope="module")
def samples() -> dict[str, set[str]]:
    """Name -> its labels, of a service of which everything is known."""
    board = Board(1)
    metrics = Metrics()
    metrics.request("policy", "rule-policy", "no-mx", "REJECT", 0.001)
    metrics.opened("policy")
    for kind in (*FAULTS, "protocol"):
        metrics.fault("policy", kind)
    metrics.facts["loaded"] = time.time()
    board.write(0, metrics.snapshot())
    totals = Totals(board)
    totals.look()
    about = {"since": time.time(), "workers": 2, "reloads": [1, 0]}
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(exposition.page(about, totals).decode()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((DOCS / "grafana.json").read_text())
    return loaded


def expressions(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for one in value:
            yield from expressions(one)
    elif isinstance(value, dict):
        for key, one in value.items():
            if key == "expr":
                yield one
            else:
                yield from expressions(one)


def named(expression: str) -> tuple[set[str], set[str]]:
    """The metrics and the labels in an expression, but those that every target has."""
    bare = re.sub(r'"[^"]*"', '""', expression)
    labels = {
        word
        for inner in re.findall(r"\{([^}]*)\}|by \(([^)]*)\)", bare)
        for word in re.findall(r"\w+", " ".join(inner))
    }
    names = set(re.findall(r"(?<![\w$])[a-z_]{2,}(?=[\s({\[)]|$)", re.sub(r"\{[^}]*\}|by \([^)]*\)", "", bare)))
    return names - FUNCTIONS, labels - {"job", "instance"}


EXPRESSIONS = sorted(set(expressions(dashboard())))
ALERTS = re.findall(r"^ +expr: (.+)$", (DOCS / "metrics.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize("expression", [*EXPRESSIONS, *ALERTS])
def test_expressions_ask_for_what_there_is(expression: str, samples: dict[str, set[str]]) -> None:
    metrics, labels = named(expression)
    metrics -= {"up"}
    assert metrics, "none that was found"
    assert metrics <= set(samples)
    assert labels <= set().union(*(samples[metric] for metric in metrics))
    assert set(re.findall(r"\$\w+", expression)) <= VARIABLES


def test_a_name_that_there_is_not_would_be_found() -> None:
    assert named('sum by (kindd) (rate(postroom_fault_total{job=~"$job", rulle="x"}[5m])) or postroom_x') == (
        {"postroom_fault_total", "postroom_x"},
        {"kindd", "rulle"},
    )


def test_every_metric_is_on_the_dashboard_or_tells_who_it_is(samples: dict[str, set[str]]) -> None:
    shown = set().union(*(named(expression)[0] for expression in EXPRESSIONS))
    assert set(samples) - shown == {"postroom_build_info"}


def test_the_dashboard_can_be_imported_anywhere() -> None:
    made = dashboard()
    variables = {one["name"]: one for one in made["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    ids = [panel["id"] for panel in made["panels"]]
    assert len(ids) == len(set(ids)) > 10
    for panel in made["panels"]:
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert all(target["datasource"] == panel["datasource"] for target in panel["targets"])
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in made["panels"]]
    assert len(places) == len(set(places))


def test_the_page_has_every_metric_with_its_labels(samples: dict[str, set[str]]) -> None:
    rows = re.findall(r"^\| `(postroom_\w+)` \| (\w+) \|([^|]*)\|", (DOCS / "metrics.md").read_text(), re.MULTILINE)
    told = {name: set(re.findall(r"`(\w+)`", labels)) for name, _, labels in rows}
    real = {
        re.sub(r"_seconds_(bucket|count|sum)$", "_seconds", name): labels - {"le"} for name, labels in samples.items()
    }
    assert told == real
    kinds = {"total": "counter", "bucket": "histogram"}
    assert all(kind == kinds.get(name.rpartition("_")[2], kind) for name, kind, _ in rows)
