"""Wiring as an edit of texts: what is added, what is refused, and that unwiring leaves no trace."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postroom.postfix.fragment import folder, read
from postroom.postfix.maincf import MainFile
from postroom.postfix.mastercf import MasterFile
from postroom.postfix.postconf import Postconf, settle
from postroom.postfix.wiring import FILTER_FILE, Files, Unwiring, Wiring, marked

PROGRAMS = sorted(path.stem for path in folder().glob("*.cf"))
KEYS = {read(program).service.key for program in PROGRAMS}
MASTER = """\
# stock
smtp inet n - n - - smtpd
  -o smtpd_client_restrictions=permit
# mine
odd unix - n n - - pipe user=x argv=/p {} {a b}
"""
MAIN = "# mine\nmyhostname = a.test\nmydestination =\n"


def files(main: str = MAIN, master: str = MASTER, version: tuple[int, ...] = (3, 7, 11)) -> Files:
    return Files(Path("/etc/postfix"), version, MasterFile(master), MainFile(main), None)


def postconf(tmp_path: Path, main: str) -> Postconf:
    (tmp_path / "main.cf").write_text(main)
    (tmp_path / "master.cf").write_text(MASTER)
    settle(tmp_path / "main.cf")
    return Postconf(tmp_path)


def wire(into: Files, *programs: str, deadline: float = 100.0, given: Postconf | None = None) -> list[str]:
    """Wire programs into the files; the reasons against it."""
    wiring = Wiring(given or Postconf("/nonexistent"), into)
    for program in programs:
        wiring.add(read(program), f"/opt/bin/{program}", "nobody", "/opt/p.toml", deadline)
    return wiring.reasons


def unwire(out_of: Files, *programs: str) -> list[str]:
    unwiring = Unwiring(out_of)
    for program in programs:
        unwiring.remove(read(program))
    return unwiring.reasons


def test_everything_that_is_added_stands_under_a_mark() -> None:
    into = files()
    assert wire(into, *PROGRAMS) == []
    for name in into.main.names():
        assert marked(into.main.line_above(name)) == (name not in MAIN)
    for service in into.master.services():
        assert marked(into.master.line_above(service.key)) == (service.key in KEYS)
    assert into.master.text.startswith(MASTER) and into.main.text.startswith(MAIN)


def test_wiring_twice_changes_nothing() -> None:
    into = files()
    wire(into, *PROGRAMS)
    again = files(into.main.text, into.master.text)
    assert wire(again, *PROGRAMS) == []
    assert again.changes() == []


ENDS = st.sampled_from(["", "\n", "\n\n# end\n", "\n# end", "\n  \n"])
VALUES = ["", " a, b", "\n  a\n  # c\n  b,", " a, permit", " a,\n   permit"]
LISTS = ["", *(f"{name} ={value}" for name in ("smtpd_recipient_restrictions", "transport_maps") for value in VALUES)]


@settings(deadline=None)
@given(st.sampled_from(LISTS), ENDS, ENDS, st.permutations(PROGRAMS), st.permutations(PROGRAMS), st.booleans())
def test_unwiring_leaves_no_trace(
    restrictions: str, main_end: str, master_end: str, order: list[str], back: list[str], old: bool
) -> None:
    main, master = MAIN + restrictions + main_end, MASTER.rstrip("\n") + master_end
    version = (3, 4, 0) if old else (3, 9, 0)
    into = files(main, master, version)
    assert wire(into, *order) == []
    assert (into.table is not None) == old
    out_of = Files(into.directory, version, into.master, into.main, into.table)
    assert unwire(out_of, *back) == []
    assert (out_of.main.text, out_of.master.text, out_of.table) == (main, master, None)


def test_the_shared_filter_goes_with_the_last_program() -> None:
    into = files()
    wire(into, "rule-deliver", "bounce-record")
    assert unwire(into, "rule-deliver") == []
    assert into.main.get("postroom_status_filter") is not None
    assert "rule-deliver" not in into.main.text
    assert unwire(into, "bounce-record") == []
    assert into.main.text == MAIN


# Time limits


def test_the_time_limit_is_above_the_deadline() -> None:
    into = files()
    assert wire(into, "rule-deliver", deadline=5000) == []
    assert into.main.get("rule-deliver_time_limit") == "5060s"


def test_a_deadline_in_master_cf_counts() -> None:
    into = files()
    wire(into, "rule-deliver")
    text = into.master.text.replace("--config /opt/p.toml --", "--config /opt/p.toml --deadline 4000 --")
    again = files(into.main.text, text)
    assert wire(again, "rule-deliver") == []
    assert again.main.get("rule-deliver_time_limit") == "4060s", "the marked line follows"


@pytest.mark.parametrize(
    ("limit", "fits"), [("101s", True), ("100s", False), ("1m", False), ("2m", True), ("soon", False)]
)
def test_a_limit_that_was_there_is_respected_or_refused(limit: str, fits: bool, tmp_path: Path) -> None:
    main = f"{MAIN}rule-deliver_time_limit = {limit}\n"
    into = files(main)
    reasons = wire(into, "rule-deliver", given=postconf(tmp_path, main))
    assert bool(reasons) != fits
    assert into.main.get("rule-deliver_time_limit") == limit
    if not fits:
        assert "rule-deliver_time_limit" in reasons[0]


def test_a_limit_through_another_parameter(tmp_path: Path) -> None:
    main = f"{MAIN}command_time_limit = 50s\nrule-deliver_time_limit = $command_time_limit\n"
    (tmp_path / "x").mkdir()
    given = postconf(tmp_path / "x", main)
    (tmp_path / "x" / "master.cf").write_text(f"{MASTER}rule-deliver unix - n n - - pipe user=nobody argv=/p\n")
    (reason,) = wire(files(main), "rule-deliver", given=given)
    assert "not above the deadline of rule-deliver (100 s)" in reason


# What an administrator wrote


def test_a_setting_of_his_own_that_does_not_fit_is_refused() -> None:
    into = files(f"{MAIN}rule-deliver_destination_recipient_limit = 50\n")
    assert wire(into, "rule-deliver") == [
        "main.cf sets rule-deliver_destination_recipient_limit = 50, rule-deliver needs 1: remove that line"
    ]


def test_a_setting_of_his_own_that_fits_stays_when_unwired() -> None:
    main = f"{MAIN}rule-deliver_destination_recipient_limit = 1\n"
    into = files(main)
    assert wire(into, "rule-deliver") == []
    assert unwire(into, "rule-deliver") == []
    assert into.main.text == main


def test_an_entry_of_his_own_is_left_alone_where_it_fits_and_refused_where_not() -> None:
    into = files()
    wire(into, "rule-deliver")
    own = into.master.text.replace("# added by postroom wire: rule-deliver", "# my own: rule-deliver")
    fits = files(into.main.text, own)
    assert (wire(fits, "rule-deliver"), fits.changes()) == ([], [])
    (reason,) = wire(files(into.main.text, own.replace("null_sender=", "")), "rule-deliver")
    assert "an entry rule-deliver/unix that does not fit: without null_sender=" in reason
    (reason,) = unwire(files(into.main.text, own), "rule-deliver")
    assert "postroom wire did not make the entry rule-deliver/unix" in reason


def test_another_user_and_path_change_three_words_and_keep_what_was_added() -> None:
    into = files()
    wire(into, "rule-deliver")
    tuned = into.master.text.replace("  user=nobody", "  -o debug_peer_level=3\n  # mine\n  flags=R user=other")
    tuned = tuned.replace("/opt/bin/", "/old/bin/").replace("/opt/p.toml", "/old/p.toml {}")
    again = files(into.main.text, tuned)
    assert wire(again, "rule-deliver") == []
    expected = tuned.replace("user=other", "user=nobody").replace("/old/bin/", "/opt/bin/").replace("/old/p", "/opt/p")
    assert again.master.text == expected


# Restrictions


def restrictions(main: str, tmp_path: Path, master: str = MASTER) -> tuple[list[str], str | None]:
    into = files(MAIN + main, master)
    reasons = wire(into, "rule-policy", given=postconf(tmp_path, MAIN + main))
    return reasons, into.main.get("smtpd_recipient_restrictions")


ITEM = "check_policy_service unix:private/rule-policy"


@pytest.mark.parametrize(
    ("main", "words"),
    [
        ("", ITEM),
        ("smtpd_recipient_restrictions =\n", ITEM),
        ("smtpd_recipient_restrictions = a, b\n", f"a, b {ITEM}"),
        ("smtpd_recipient_restrictions = a, b, permit\n", f"a, b, {ITEM}, permit"),
        ("x = a\nsmtpd_recipient_restrictions = $x\n", f"$x {ITEM}"),
    ],
)
def test_the_policy_service_comes_last(main: str, words: str, tmp_path: Path) -> None:
    reasons, value = restrictions(main, tmp_path)
    assert reasons == []
    assert value is not None and " ".join(value.split()) == words


@pytest.mark.parametrize(
    "main", ["= a, reject", "= permit_mynetworks, defer", "= a, $x\nx = b permit", "= ${x}\nx = reject"]
)
def test_a_list_that_ends_before_its_end_is_refused(main: str, tmp_path: Path) -> None:
    reasons, _ = restrictions(f"smtpd_recipient_restrictions {main}\n", tmp_path)
    assert len(reasons) == 1 and "looks at nothing behind that" in reasons[0]


@pytest.mark.parametrize(
    "main",
    [
        f"smtpd_sender_restrictions = {ITEM}\n",
        "smtpd_data_restrictions = check_policy_service { unix:private/rule-policy, timeout=10s }\n",
        f"smtpd_restriction_classes = mine\nmine = {ITEM}\n",
    ],
)
def test_a_service_that_is_named_already_is_not_named_again(main: str, tmp_path: Path) -> None:
    reasons, value = restrictions(main, tmp_path)
    assert (reasons, value) == ([], None)


def test_a_service_that_master_cf_names_is_not_named_again(tmp_path: Path) -> None:
    master = f"{MASTER}587 inet n - n - - smtpd\n  -o {{ smtpd_recipient_restrictions = {ITEM}, permit }}\n"
    assert restrictions("", tmp_path, master) == ([], None)


def test_unwiring_a_service_that_is_still_named_is_refused() -> None:
    main = f"{MAIN}smtpd_sender_restrictions = {ITEM}\n"
    into = files(main)
    wire(into, "rule-policy")
    (reason,) = unwire(into, "rule-policy")
    assert reason == "main.cf: smtpd_sender_restrictions still names unix:private/rule-policy: take it out first"


# Older Postfix


def test_before_37_the_filter_is_a_file() -> None:
    into = files(version=(3, 4, 0))
    assert wire(into, "rule-deliver") == []
    assert into.main.get("postroom_status_filter") == f"regexp:$config_directory/{FILTER_FILE}"
    assert into.table is not None and into.table.splitlines()[1].endswith(" 4.3.0 $1")
    assert {change.path.name for change in into.changes()} == {"main.cf", "master.cf", FILTER_FILE}


def test_before_30_there_is_no_filter() -> None:
    assert "before 3.0" in wire(files(version=(2, 11, 0)), "rule-deliver")[0]


TABLE = "socketmap:unix:private/socketmap-lookup"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", f"{TABLE}:route"),
        ("transport_maps = hash:/etc/postfix/transport\n", f"hash:/etc/postfix/transport {TABLE}:route"),
        (f"transport_maps = proxy:{TABLE}:route, hash:/x\n", f"proxy:{TABLE}:route, hash:/x"),
    ],
)
def test_a_table_comes_behind_those_that_are_there(before: str, after: str) -> None:
    into = files(MAIN + before)
    assert wire(into, "socketmap-lookup") == []
    assert " ".join((into.main.get("transport_maps") or "").split()) == after


def test_a_table_that_is_named_elsewhere_is_taken_out_first() -> None:
    """Postfix puts off all mail while it is told to ask a service that is not there."""
    into = files(f"{MAIN}smtpd_sender_restrictions = check_sender_access {TABLE}:sender-verdict\n")
    assert wire(into, "socketmap-lookup") == []
    (reason,) = unwire(into, "socketmap-lookup")
    named = "unix:private/socketmap-lookup"
    assert reason == f"main.cf: smtpd_sender_restrictions still names {named}: take it out first"


def test_a_tcp_table_is_known_by_its_port() -> None:
    into = files(f"{MAIN}transport_maps = tcp:127.0.0.1:2527\n")
    assert wire(into, "tcp-lookup") == []
    assert into.main.get("127.0.0.1:2527_time_limit") == "3600s"
    (reason,) = unwire(into, "tcp-lookup")
    assert reason == "main.cf: transport_maps still names 127.0.0.1:2527: take it out first"
