"""The answers of the last second: the same bytes, the same answer, and never one that is older or another file's."""

from __future__ import annotations

from typing import Any

import pytest
from resident.talking import Talk

from postroom.resident import conversation, recent
from postroom.resident.recent import Recent

LOOKUP = """
from postroom.lookup import Table, found, notfound, temporary

calls = []


def lookup(table, key):
    calls.append(key)
    if key == "boom":
        raise KeyError(key)
    if key == "wait":
        from postroom.deadline import WouldWait

        raise WouldWait
    return found(f"{len(calls)}:") if key == "a@x" else notfound()
"""


def netstring(text: str) -> bytes:
    return b"%d:%b," % (len(text), text.encode())


ASKED = netstring("route a@x")


@pytest.fixture
def talk(monkeypatch: pytest.MonkeyPatch) -> Talk:
    made = Talk("socketmap", LOOKUP)
    made.clock = 1000.0  # type: ignore[attr-defined]  # the test's
    monkeypatch.setattr(conversation, "monotonic", lambda: made.clock)  # type: ignore[attr-defined]  # the test's
    return made


def answer(talk: Talk, data: bytes) -> bytes:
    talk.transport.sent = b""
    talk.hear(data)
    return talk.transport.sent


def test_the_same_bytes_have_the_same_answer_for_a_second(talk: Any) -> None:
    assert answer(talk, ASKED) == b"5:OK 1:,"
    talk.clock += 0.9
    assert answer(talk, ASKED) == b"5:OK 1:,"
    talk.clock += 0.2
    assert answer(talk, ASKED) == b"5:OK 2:,"


def test_each_is_counted(talk: Any) -> None:
    for _ in range(5):
        answer(talk, ASKED)
    assert sum(talk.worker.metrics._requests.values()) == 5


def test_another_configuration_has_other_answers(talk: Any) -> None:
    assert answer(talk, ASKED) == b"5:OK 1:,"
    talk.worker.service._configuration = object()
    assert answer(talk, ASKED) == b"5:OK 2:,"


@pytest.mark.parametrize("cut", range(1, len(ASKED)))
def test_pieces_are_answered_too(talk: Any, cut: int) -> None:
    assert answer(talk, ASKED) == b"5:OK 1:,"
    assert answer(talk, ASKED[:cut]) == b""
    assert answer(talk, ASKED[cut:]) == b"5:OK 2:,"
    assert answer(talk, ASKED) == b"5:OK 1:,"


def test_what_is_not_one_question_is_not_kept(talk: Any) -> None:
    assert answer(talk, ASKED * 2) == b"5:OK 1:,5:OK 2:,"
    assert answer(talk, ASKED * 2) == b"5:OK 3:,5:OK 4:,"
    assert answer(talk, ASKED + ASKED[:3]) == b"5:OK 5:,"
    assert answer(talk, ASKED[3:]) == b"5:OK 6:,"
    assert answer(talk, ASKED + ASKED[:3]) == b"5:OK 7:,"


def test_an_answer_to_the_first_of_two_is_not_kept(talk: Any) -> None:
    both = ASKED + netstring("route wait")
    assert answer(talk, both) == b"5:OK 1:,"
    talk.worker.pool.jobs.clear()
    talk.begin()
    assert answer(talk, both) == b"5:OK 3:,", "and not that of both from memory"
    assert len(talk.worker.pool.jobs) == 1


def test_a_fault_is_not_kept(talk: Any) -> None:
    for count in (1, 2):
        assert answer(talk, netstring("route boom")).startswith(b"46:TEMP") or b"TEMP" in talk.transport.sent
        assert talk.worker.metrics._faults["socketmap", "handler"] == count


def test_what_takes_a_thread_is_asked_each_time(talk: Any) -> None:
    answer(talk, netstring("route wait"))
    assert len(talk.worker.pool.jobs) == 1
    assert talk.line.recent._entries == {}


def test_it_is_bounded() -> None:
    kept = Recent()
    for number in range(recent.ANSWERS_LIMIT + 10):
        kept.put(b"%d" % number, 0.0, None, b"x", "")
    assert len(kept._entries) == 10
    kept.put(b"k" * recent.LENGTH_LIMIT, 0.0, None, b"x", "")
    assert len(kept._entries) == 10


def test_policy_requests_are_not_kept() -> None:
    assert Talk("policy", "def decide(request):\n    return 'DUNNO'").line.recent is None
