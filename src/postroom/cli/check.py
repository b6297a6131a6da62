"""`postroom check`: everything that is wrong with a configuration file, and the tests in it.

With --json one object a line: for a finding `level` (error, warning), `file`, `line`, `rule`, `key`, `message`; for a
[[test]] `test` (its number), `line`, `passed`, `expected`, `action`, `expected_rule`, `rule`, and where it failed
`rules` (as in `postroom explain`); at the end `summary`: `rules`, `tests`, `failed`, `errors`, `warnings`.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, replace

import click

from postroom.cli.listening import listening
from postroom.cli.trace import Style, not_given, rule_lines
from postroom.config import FILE_LIMIT, Configuration, contents, whole
from postroom.country import country
from postroom.rules import Decision, Unknown
from postroom.rules.check import check
from postroom.rules.compile import compile_model
from postroom.rules.explain import Recorder, RuleView
from postroom.rules.lint import lint
from postroom.rules.model import Model, Test
from postroom.rules.problems import Problem, Report
from postroom.rules.read import Unreadable
from postroom.sources import Given, Sources
from postroom.status import ConfigurationFault, clean
from postroom.tables import table

DEFAULT_CONFIG = "/etc/postroom/postroom.toml"


@dataclass(frozen=True)
class Result:
    """What became of one [[test]]."""

    case: Test
    decision: Decision
    rules: list[RuleView]

    @property
    def passed(self) -> bool:
        action, expect = self.decision.action, self.case.expect
        said = action == expect or action.partition(" ")[0].lower() == expect.lower()
        return said and self.case.expect_rule in (None, self.decision.rule)


@click.command()
@click.argument("file", metavar="[FILE]", default=DEFAULT_CONFIG, type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line; the fields are in postroom(1).")
@click.pass_context
def command(context: click.Context, file: str, as_json: bool) -> None:
    """Check the configuration FILE (/etc/postroom/postroom.toml) and run the [[test]] entries in it.

    Nothing is asked of the DNS or the store: a test says itself what they answer. Lists are read from their files.

    Exit status: 0 no errors (there may be warnings), 78 errors or failed tests, 64 wrong usage.
    """
    model, found = examine(file)
    problems = [replace(problem, file=clean(_shown(problem, file))) for problem in found]
    results = run_tests(model, file) if model else []
    failed = [result for result in results if not result.passed]
    errors = [problem for problem in problems if problem.level == "error"]
    lines = _json(model, problems, results) if as_json else _text(file, model, problems, results, Style.for_stdout())
    click.echo("\n".join(lines))
    context.exit(os.EX_CONFIG if errors or failed else 0)


def _shown(problem: Problem, file: str) -> str:
    """The file of a problem, by the path that was typed."""
    return file if problem.file == os.path.basename(file) else os.path.join(os.path.dirname(file), problem.file)


def examine(file: str) -> tuple[Model | None, list[Problem]]:
    """The checked model, None where it has errors that would keep programs from using it; and all that was found."""
    path = os.path.abspath(file)
    name = os.path.basename(path)
    try:
        content, _ = contents(path, FILE_LIMIT)
        if not content.strip():
            return None, [Problem(name, 0, "is empty")]  # as config.load() has it
        model, report = check(whole(path, content)[0], os.path.dirname(path))
    except ConfigurationFault as fault:
        return None, [Problem(name, 0, str(fault).removeprefix(f"{path}: "))]
    except Unreadable as unreadable:
        return None, [unreadable.problem]
    if model:
        lint(model, report)
        _sources(model, report)
        listening(model, report)
    return model, sorted(report.problems, key=lambda problem: problem.line)


def _sources(model: Model, report: Report) -> None:
    """Programs only find out when a rule asks, and then put the mail off; here a person is looking."""
    for source in model.lists:
        try:
            table(source.kind, source.values or source.path)
        except ConfigurationFault as fault:
            report.error(("list", source.name), str(fault))
    if model.settings.country:
        try:
            said = country(model.settings.country, "192.0.2.1")
        except ConfigurationFault as fault:
            said = Unknown(str(fault))
        if isinstance(said, Unknown):  # a warning: where rules are written, there need not be a database
            report.warning(("country", "database"), f"conditions on country are unknown: {said.reason}")


def run_tests(model: Model, file: str) -> list[Result]:
    configuration = Configuration(os.path.abspath(file), compile_model(model), ())
    return [_run(case, Sources(configuration, None, None)) for case in model.tests]


def _run(case: Test, base: Sources) -> Result:
    given = Given(base, case.attributes, case.mx, case.sender_mx, case.suppressed, case.headers, case.answers)
    recorder = Recorder()
    decision = given.decide(case.stage, case.attributes, recorder)
    return Result(case, decision, recorder.rules(base.configuration.rules, case.stage))


def _summary(model: Model | None, problems: list[Problem], results: list[Result]) -> dict[str, int]:
    return {
        "rules": len(model.rules) if model else 0,
        "tests": len(results),
        "failed": sum(not result.passed for result in results),
        "errors": sum(problem.level == "error" for problem in problems),
        "warnings": sum(problem.level == "warning" for problem in problems),
    }


def _json(model: Model | None, problems: list[Problem], results: list[Result]) -> list[str]:
    lines: list[dict[str, object]] = [
        {"level": one.level, "file": one.file, "line": one.line, "rule": one.rule, "key": one.key, "message": one.text}
        for one in problems
    ]
    lines += [_result(result) for result in results]
    return [json.dumps(line) for line in [*lines, {"summary": _summary(model, problems, results)}]]


def _result(result: Result) -> dict[str, object]:
    fields: dict[str, object] = {
        "test": result.case.number + 1,
        "line": result.case.line,
        "passed": result.passed,
        "expected": result.case.expect,
        "action": result.decision.action,
        "expected_rule": result.case.expect_rule,
        "rule": result.decision.rule,
    }
    return fields if result.passed else fields | {"rules": [asdict(rule) for rule in result.rules]}


def _text(file: str, model: Model | None, problems: list[Problem], results: list[Result], style: Style) -> list[str]:
    lines = [_finding(problem, style) for problem in problems]
    for result in results:
        if not result.passed:
            lines += _failure(file, result, style)
    count = _summary(model, problems, results)
    passed = count["tests"] - count["failed"]
    found = f"{_some(count['errors'], 'error')}, {_some(count['warnings'], 'warning')}"
    if not model:
        return [*lines, f"{clean(file)}: {found}; programs refuse this file"]
    tests = f"{passed} of {_some(count['tests'], 'test')} passed" if count["tests"] else "no tests"
    return [*lines, f"{clean(file)}: {_some(count['rules'], 'rule')}, {tests}, {found}"]


def _some(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def _finding(problem: Problem, style: Style) -> str:
    """FILE:LINE: level: ..., as compilers write it and editors understand it."""
    place = f"{problem.file}:{problem.line}: " if problem.line else f"{problem.file}: "
    where = "".join(f"{part}: " for part in (problem.rule and f'rule "{problem.rule}"', problem.key) if part)
    return place + style.level(problem.level) + ": " + where + problem.text


def _failure(file: str, result: Result, style: Style) -> list[str]:
    case, decision = result.case, result.decision
    by = f"by rule {decision.rule}" if decision.rule else "since no rule matched"
    expected = case.expect + (f" by rule {case.expect_rule}" if case.expect_rule else "")
    head = f"{clean(file)}:{case.line}: {style.paint('FAILED', 'error')} test {case.number + 1} (at {case.stage}): "
    lines = [f"{head}expected {clean(expected)}, got {decision.action or 'nothing'} {by}"]
    for rule in result.rules:
        lines += ["    " + line for line in rule_lines(rule, style, case.attributes)]
    missing = not_given(result.rules, case.attributes, case.stage)
    return [*lines, "    " + missing] if missing else lines
