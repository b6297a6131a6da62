"""The log line: one event, greppable by queue id, not to be forged by what it quotes."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from postroom import log


@given(st.text(), st.dictionaries(st.sampled_from(["to", "rule", "text", "status"]), st.text() | st.none()))
def test_one_event_is_one_printable_line(queue_id: str, fields: dict[str, object]) -> None:
    assert log.line(queue_id, fields).isprintable()


def test_a_value_cannot_pass_for_the_next_field() -> None:
    line = log.line("4Xy", {"to": "<a, status=sent@x>", "status": "bounced"})
    assert line == "4Xy: to=<a,status=sent@x>, status=bounced"


def test_lines_look_like_postfix_own(tmp_path: Path) -> None:
    log.open("rule-deliver", str(tmp_path / "log"))
    log.info("4XyzAb", to="<a@b>", orig_to=None, status="sent", text="delivered\nto maildir")
    log.error("", fault="runner", text="x" * 5000)
    first, second = (tmp_path / "log").read_text().splitlines()
    assert " postroom/rule-deliver[" in first
    assert first.endswith("]: 4XyzAb: to=<a@b>, status=sent (delivered to maildir)")
    assert "error: NOQUEUE: fault=runner (xxx" in second
    assert len(second) <= log.MAX_LINE


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    log.open("rule-deliver", str(tmp_path / "no" / "such" / "folder"))
    log.info("4Xy", text="lost, and nothing raised")
