"""The handler API of policy programs: the request as a mapping, and the actions that Postfix would misread."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroom.policy import PolicyRequest, check_action

REQUEST = PolicyRequest.of(
    {"request": "smtpd_access_policy", "sender": "a@example.com", "recipient": "B=c@example.org", "sasl_username": ""}
)


def test_a_request_is_a_mapping() -> None:
    assert REQUEST["sender"] == "a@example.com"
    assert REQUEST.get("recipient") == "B=c@example.org"
    assert REQUEST.get("sasl_username") == ""
    assert REQUEST.get("tls_sni") is None
    assert REQUEST.get("tls_sni", "none") == "none"
    assert "sender" in REQUEST
    assert "tls_sni" not in REQUEST
    assert 1 not in REQUEST
    assert list(REQUEST) == ["request", "sender", "recipient", "sasl_username"]
    assert len(REQUEST) == 4
    assert dict(REQUEST) == REQUEST.attributes()
    with pytest.raises(KeyError, match="tls_sni"):
        REQUEST["tls_sni"]


@pytest.mark.parametrize("name", ["", "=", "recipient=B", "x\nsender", "\n", "send", "ender", "\udcff"])
def test_names_that_no_attribute_has(name: str) -> None:
    assert name not in REQUEST
    assert REQUEST.get(name) is None


@given(st.binary(max_size=50).filter(lambda b: b"\n" not in b))
def test_any_bytes_survive_as_text(value: bytes) -> None:
    text = value.decode("utf-8", "surrogateescape")
    request = PolicyRequest.of({"request": "smtpd_access_policy", "sender": text})
    assert request["sender"] == text == request.attributes()["sender"]
    assert request["sender"].encode("utf-8", "surrogateescape") == value


def test_many_made_up_names_cost_no_memory() -> None:
    from postroom import policy

    for number in range(5000):
        assert REQUEST.get(f"name{number}") is None
    assert len(policy._needles) <= policy._NEEDLES_KEPT
    assert REQUEST["sender"] == "a@example.com"


def test_the_deadline_starts_with_the_request() -> None:
    from time import monotonic

    late = PolicyRequest(REQUEST.wire, None, monotonic() - 1.0)
    assert late.deadline.expired
    assert REQUEST.deadline is REQUEST.deadline
    assert 0 < REQUEST.deadline.remaining() <= 30


def test_what_the_handler_adds_to_the_log_is_kept() -> None:
    request = PolicyRequest.of({"request": "smtpd_access_policy"})
    assert not request.logged
    request.log["rule"] = "one"
    assert request.logged
    assert request.log == {"rule": "one"}


# What Postfix 3.7.11 did with each of these was observed; accepting instead of refusing is the worst of it.
MISREAD = [
    ("", "accepts"),
    ("  \t ", "accepts"),
    ("550", "accepts"),
    ("421 ", "accepts"),
    ("1234567", "accepts"),
    ("5505 text", "4NN or 5NN"),
    ("55 text", "4NN or 5NN"),
    ("299 text", "4NN or 5NN"),
    ("600 text", "4NN or 5NN"),
    ("550-5.7.1 text", "4NN or 5NN"),
    ("550text", "4NN or 5NN"),
    ("5xx text", "4NN or 5NN"),
    ("\u0665\u0665\u0660 text", "4NN or 5NN"),
    ("1 x", "4NN or 5NN"),
    ("DUNNO\r", "control"),
    ("DUNNO\r\n", "control"),
    ("REJECT a\nb", "control"),
    ("DUNNO\n\naction=OK", "control"),
    ("REJECT a\0b", "control"),
    ("REJECT \x1b[31m", "control"),
    ("REJECT \x85x", "control"),
    ("REJECT \udcff", "not UTF-8"),
    ("PREPEND", "as after DUNNO"),
    ("PREPEND x", "as after DUNNO"),
    ("PREPEND : b", "as after DUNNO"),
    ("PREPEND X Foo: b", "as after DUNNO"),
    ("PREPEND X-\u00e9: b", "as after DUNNO"),
    ("REDIRECT", "as after DUNNO"),
    ("REDIRECT foo", "as after DUNNO"),
    ("BCC foo", "as after DUNNO"),
    ("FILTER", "as after DUNNO"),
    ("FILTER foo", "as after DUNNO"),
    ("REJCT a", "unknown action"),
    ("REJECTED", "unknown action"),
    ("DUNNO, REJECT foo", "unknown action"),
    ("OK, REJECT", "unknown action"),
    ("DELAY 10", "unknown action"),
    ('"550 x"', "unknown action"),
    ("{ reject }", "unknown action"),
    ("\u00e9 x", "unknown action"),
    ("\u2003REJECT x", "unknown action"),
    ("check_policy_service inet:127.0.0.1:1", "lookup table"),
    ("warn: hi", "lookup table"),
    ("PREPEND X-Long: " + "x" * 3000, "more than 2048"),
]
AS_MEANT = [
    "DUNNO", "dunno", "OK", "RELAY", "REJECT", "Reject  not today", "DEFER", "DEFER_IF_PERMIT 4.3.0 later",
    "DEFER_IF_REJECT", "550 5.7.1 no", "550\tno", "421 4.7.0 bye", "521 bye", "400 a", "599 a", "550 5.7.1",
    "550 : look", "REJECT a\tb", "REJECT za\u017c\u00f3\u0142\u0107", "HANGUP", "HANGUP bye", "HOLD", "DISCARD quietly",
    "WARN look", "INFO look", "FILTER smtp:[127.0.0.1]:10025", "REDIRECT a@example.com", "BCC a@example.com",
    "PREPEND X-Foo: bar", "PREPEND X-Foo:", "reject", "permit_mynetworks", "reject_unauth_destination, reject",
    "sleep 2", "my_class", "reject_rbl_client zen.example.org", "DUNNO ; text", "REJECT " + "x" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize(("action", "why"), MISREAD, ids=lambda value: repr(value[:30]))
def test_an_action_that_postfix_would_misread_is_refused_with_what_it_would_do(action: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        check_action(action)


@pytest.mark.parametrize("action", AS_MEANT, ids=lambda value: value[:30])
def test_an_action_that_postfix_reads_as_meant_passes(action: str) -> None:
    assert check_action(action) == action
    assert check_action(f" {action}\t") == action


@given(st.text(max_size=20))
def test_what_passes_is_one_line_with_a_word_and_no_bare_number(text: str) -> None:
    try:
        action = check_action(text)
    except ValueError:
        return
    action.encode()
    assert action == action.strip(" \t") != ""
    assert not action.isdigit()
    assert "\n" not in action
    assert "\r" not in action
    assert "\0" not in action
