"""postroom.toml(5) against the code, in both directions: every key, kind, stage, action and example."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from docs.mdoc import displays, items, page, prose, section, words

from postroom.actions.webhook import NEVER, NOT_ABOUT_THE_MAIL
from postroom.bounces.events import RECORDED_LIMIT
from postroom.cli.check import examine, run_tests
from postroom.envelope import NAMES
from postroom.rules import actions, check, keys, patterns, templates, testcase, values
from postroom.rules.bounceactions import BOUNCE, LOCAL
from postroom.rules.deliveries import ATTEMPTS_LIMIT, DELIVER
from postroom.rules.lookup import keys_of
from postroom.rules.problems import Refused
from postroom.rules.settings import TOP

PAGE = page("postroom.toml.5")
TABLES = {"dns", "route", "country", "bounces", "serve", "listen", "list", "provider", "rule", "test"}
STAGES = set(keys.STAGES)
SMTP = set(keys.POLICY_STAGES)
GROUPS = {
    "smtp": SMTP,
    "mail+": {"mail", "rcpt", "data", "end-of-message"},
    "rcpt+": {"rcpt", "data", "end-of-message"},
    "data+": {"data", "end-of-message"},
}


def stages(text: str) -> frozenset[str]:
    """`mail+, deliver` as the stages that this stands for."""
    found: set[str] = set()
    for word in text.split(", "):
        assert word in GROUPS or word in STAGES, word
        found |= GROUPS.get(word, {word})
    return frozenset(found)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the files that the examples name are."""
    (tmp_path / "blocked").write_text("# a comment\na@victim.example\n")
    (tmp_path / "staff").write_text("ann@example.com\n")
    (tmp_path / "access").write_text("a@victim.example\tREJECT no\n")
    (tmp_path / "rules.d").mkdir()
    (tmp_path / "bounce.key").write_text(f"a {'ab' * 32}\n")
    return tmp_path


def checked(text: str, folder: Path) -> tuple[object, list[str]]:
    file = folder / "postroom.toml"
    file.write_text(text.replace("/etc/postfix/access", f"{folder}/access"))
    model, problems = examine(str(file))
    return model, [f"{problem.level}: {problem}" for problem in problems]


# Keys of the file


def expected_in(text: str, folder: Path) -> set[str]:
    """The names that an unknown key in this table is answered with."""
    _, problems = checked(text, folder)
    (said,) = [problem for problem in problems if 'unknown key "qqqqq"' in problem]
    return set(said.partition("expected one of ")[2].split(", "))


def test_settings(folder: Path) -> None:
    own = section(PAGE, "SETTINGS").partition(".Ss ")[0]
    assert set(items(own, "Ic")) == set(TOP) - TABLES


@pytest.mark.parametrize(
    ("title", "table"),
    [
        ("Route", "[route]"),
        ("Country", "[country]"),
        ("DNS", "[dns]"),
        ("Bounces", "[bounces]"),
        ("Serve", "[serve]"),
        ("Listen", "[listen.policy]"),
        ("Lists", "[list.x]"),
        ("Providers", "[provider.x]"),
    ],
)
def test_tables(title: str, table: str, folder: Path) -> None:
    documented = set(items(section(PAGE, title, "Ss"), "Ic"))
    if len(documented) == 1:  # one known name, and no list of them in the message
        documented |= expected_in(f"{table}\nqqqqq = 1\n", folder)
    assert documented == expected_in(f"{table}\nqqqqq = 1\n", folder)


def test_keys_of_a_rule_and_of_a_test() -> None:
    assert tuple(items(section(PAGE, "RULES").partition(".Ss ")[0], "Ic")) == check.RULE_KEYS
    given = set(testcase.known_names()) - set(keys.attributes()) | {"bounce.NAME"}
    assert set(items(section(PAGE, "TESTS"), "Ic")) == set(testcase.KEYS) | given


def test_defaults(folder: Path) -> None:
    model, problems = checked("# nothing\n", folder)
    assert problems == []
    defaults = model.settings  # type: ignore[attr-defined]
    text = prose(section(PAGE, "SETTINGS"))
    assert f"Default: {defaults.state} ." in text
    assert f"Default: {defaults.deadline:g}." in text
    assert f"Default: {defaults.recipient_delimiter} ." in text
    assert f"Default: {defaults.port}." in text
    assert f"Default: {defaults.timeout:g} seconds." in text
    assert defaults.log == "syslog"
    model, problems = checked('[bounces]\nkey = "bounce.key"\ndomain = "b.example.com"\n', folder)
    bounces = model.settings.bounces  # type: ignore[attr-defined]
    assert f"Default: {bounces.prefix} ." in text
    assert f"Default: {bounces.lifetime / 86400:g} days." in text


# Stages and conditions


def test_stages() -> None:
    assert tuple(items(section(PAGE, "Stages", "Ss"), "Ic")) == keys.STAGES


def test_every_condition_with_its_kind_and_stages() -> None:
    found = re.findall(r"^\.It Ic (\S+) Pq (\w+); (.*)$", section(PAGE, "CONDITIONS"), re.MULTILINE)
    documented = {name: (kind, stages(where)) for name, kind, where in found}
    header, attribute = documented.pop("header.NAME"), documented.pop("attribute.NAME")
    assert documented == {key.name: (shown_kind(key.kind), key.stages) for key in keys.KEYS.values()}
    assert attribute == ("text", SMTP)
    example = keys.find("header.subject")
    assert example is not None
    assert header == (example.kind, example.stages)


# Kinds that take the values of another one.
SAME = {
    **dict.fromkeys(values.FLAGS, "flag"),
    "ns": "domain",
    "mx_address": "ip",
    "attachment": "header",
}


def shown_kind(kind: str) -> str:
    return SAME.get(kind, kind)


def test_every_condition_has_an_example() -> None:
    together = "".join(EXAMPLES)
    for name in (*keys.KEYS, "header.subject"):
        assert re.search(rf"(^|[ {{]){re.escape(name)} *= |rule\.\w+\.{re.escape(name)}\]", together, re.MULTILINE), (
            name
        )


def test_where_empty_is_knowledge() -> None:
    text = section(PAGE, "Missing attributes", "Ss").partition(".Bl ")[2]
    documented: dict[str, frozenset[str]] = {}
    for block in text.split("\n.It ")[1:]:
        where, _, rest = block.partition("\n")
        for name in words(rest.partition("\n.El")[0], "Ic"):
            assert name not in documented
            documented[name] = stages(where)
    # Those of the derived keys follow from their attribute; a report's status is told with the key.
    whole = (key for key in keys.KEYS.values() if not key.part and key.source == key.name and "bounce." not in key.name)
    assert documented == {key.name: key.known for key in whole if key.known}


def test_groups_of_stages_are_explained() -> None:
    assert "stands for all seven stages of a policy request" in prose(section(PAGE, "CONDITIONS"))
    assert len(SMTP) == 7


def test_kinds_and_what_they_take() -> None:
    text = section(PAGE, "Kinds of values", "Ss")
    rows = re.findall(r"^\.It (\w+) Ta (.) Ta (.) Ta (.) Ta (.)$", text, re.MULTILINE)
    documented = {kind: tuple(mark == "x" for mark in marks) for kind, *marks in rows}
    tables = {"seen", "greylist", "rate"}
    every = {key.kind for key in keys.KEYS.values()} | {"header"}
    for kind in every - tables:
        assert documented[shown_kind(kind)] == tuple(takes(kind, value) for value in FORMS), kind
    assert set(documented) == {shown_kind(kind) for kind in every - tables}
    assert set(items(text, "Em")) - {"kind"} == {shown_kind(kind) for kind in every}


FORMS = ("a*b", "re:a", "list:some", "provider:some")


def takes(kind: str, value: str) -> bool:
    names = values.Names(frozenset({"some"}), {"some": values.Match(("x",))})
    try:
        found = values.parse(kind, value, names)
    except Refused:
        return False
    return not found.entries


def test_states_of_mx() -> None:
    text = section(PAGE, "Kinds of values", "Ss").partition(".It Em mx_state")[2].partition(".It Em")[0]
    assert tuple(words(text, "Qq")) == keys.MX_STATES


def test_limits_of_patterns() -> None:
    text = prose(section(PAGE, "Kinds of values", "Ss"))
    assert f"more than {patterns.MOST_TEXT} characters" in text
    assert f"down to {patterns.LEAST_TEXT}" in text


def test_the_order_of_a_lookup() -> None:
    """What the page says about lists is what is done."""
    assert keys_of("address", "user+ext@a.domain", "+") == (
        "user+ext@a.domain", "user@a.domain", "a.domain", ".domain", "user+ext@", "user@",
    )  # fmt: skip
    text = prose(section(PAGE, "Lists", "Ss"))
    assert "user+ext@domain , user@domain , domain , .parent (all domains below it), user+ext@ , user@ ; " in text
    assert keys_of("ip", "192.0.2.1", "+") == ("192.0.2.1", "192.0.2", "192.0", "192")
    assert "192.0.2.1 , 192.0.2 , 192.0 , 192 ;" in text


# Actions


def test_actions_at_the_smtp_stages() -> None:
    text = section(PAGE, "Actions at the SMTP stages", "Ss")
    assert set(items(text, "Ic")) == set(actions.POLICY) | {"4NN", "5NN", "restrict"}
    whole = prose(text)
    without_message = [verb for verb, row in actions.POLICY.items() if "connect" not in row.stages]
    assert f"{' , '.join(without_message[:-1])} and {without_message[-1]} change the fate of the whole message" in whole
    assert {frozenset(SMTP - actions.POLICY[verb].stages) for verb in without_message} == {
        frozenset({"connect", "helo", "etrn"})
    }
    assert SMTP - actions.POLICY["PREPEND"].stages == {"end-of-message"}
    others = set(actions.POLICY) - set(without_message) - {"PREPEND"}
    assert {frozenset(actions.POLICY[verb].stages) for verb in others} == {frozenset(SMTP)}


@pytest.mark.parametrize("verb", actions.POLICY)
def test_arguments_of_smtp_actions(verb: str) -> None:
    line = re.search(rf"^\.It Ic {verb}\b(.*)$", PAGE, re.MULTILINE)
    assert line is not None
    forms = {"text?": "Op Ar text", "none": "", "transport": "Ar transport", "address": "Ar user", "header": "Ar Name"}
    shown = line[1].strip()
    wanted = forms[actions.POLICY[verb].argument]
    assert shown.startswith(wanted) and bool(shown) == bool(wanted)


def test_actions_at_deliver() -> None:
    text = section(PAGE, "Actions at deliver", "Ss")
    assert set(items(text, "Ic")) == set(DELIVER) | {"quarantine", "4.N.N", "5.N.N"}
    assert f"({1} to {ATTEMPTS_LIMIT})" in prose(text)


def test_webhooks() -> None:
    text = prose(section(PAGE, "Webhooks", "Ss"))
    assert f"not for {told(NOT_ABOUT_THE_MAIL)}." in text
    assert f"{', '.join(map(str, NEVER))} Bounced: {', '.join(NEVER.values())}." in text
    fields = {"Postroom-" + name.replace("_", "-").title() for name in (*NAMES, "recipient", "original_recipient")}
    assert set(re.findall(r"Postroom-[A-Z][\w-]*", text)) == fields


def told(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers[:-1])) + f" and {numbers[-1]}"


def test_actions_at_bounce() -> None:
    text = section(PAGE, "Actions at bounce", "Ss")
    assert set(items(text, "Ic")) == set(BOUNCE)
    assert f"default {LOCAL} ." in prose(text)
    assert f"the first {RECORDED_LIMIT} of them" in prose(section(PAGE, "Stages", "Ss"))


def test_limits_of_actions() -> None:
    assert f"A text may have {actions.TEXT_LIMIT} bytes" in prose(PAGE)


def test_names_of_templates() -> None:
    """The page says: those of the attributes and of their parts, of the MX, and what conditions have found."""
    found = {*templates.SUPPRESSED, "list.reason", "greylist.wait", "rate.wait"}
    assert set(items(section(PAGE, "Templates", "Ss"), "Ic")) == found
    for stage in STAGES:
        here = [key for key in keys.KEYS.values() if stage in key.stages]
        plain = {key.name for key in here if key.kind in (*keys.TEXTS, "number", "mx", "mx_state", "yes", "country")}
        assert set(templates.names(stage)) - found == plain
        assert "rate.wait" in templates.names(stage) or stage == "route"


# Examples


EXAMPLES = displays(PAGE)


def test_every_part_of_the_file_has_an_example() -> None:
    together = "".join(EXAMPLES)
    for table in ("[dns]", "[bounces]", "[list.", "[provider.", "[[rule]]", "[[test]]"):
        assert table in together
    for name in {*TOP, *check.RULE_KEYS, *testcase.KEYS} - TABLES - {"allow_ok"}:  # which nobody should copy
        assert re.search(rf"^{name} +=|\[rule\.{name}\]", together, re.MULTILINE), name


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_examples_pass_the_check(number: int, folder: Path) -> None:
    model, problems = checked(EXAMPLES[number], folder)
    assert model is not None, problems
    assert [problem for problem in problems if problem.startswith("error")] == []


def test_the_complete_example(folder: Path) -> None:
    """It is the last one; it passes without so much as a warning, and so do the tests in it."""
    text = displays(section(PAGE, "EXAMPLES"))[-1]
    model, problems = checked(text, folder)
    assert problems == []
    results = run_tests(model, str(folder / "postroom.toml"))  # type: ignore[arg-type]
    assert len(results) > 3
    assert [result for result in results if not result.passed] == []


def test_a_wrong_example_would_be_noticed(folder: Path) -> None:
    text = displays(section(PAGE, "EXAMPLES"))[-1]
    assert checked(text.replace("primary_mx", "primary_mix", 1), folder)[0] is None
    model, _ = checked(text.replace('action   = "HANGUP"', 'action   = "DUNNO"'), folder)
    assert not all(result.passed for result in run_tests(model, str(folder / "postroom.toml")))  # type: ignore[arg-type]


def test_the_diagnostic_is_told_as_the_page_says(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
    text = '\n\n\n[[rule]]\nid = "tickets"\nat = "deliver"\nmatch = { recipent = "a@b.example" }\naction = "discard"\n'
    _, problems = checked(text, folder)
    (shown,) = [line for line in section(PAGE, "DIAGNOSTICS").split("\n") if "recipent" in line]
    assert problems[0].removeprefix("error: ") == shown.removeprefix(".It ").replace(r"\(dq", '"')
