"""main.cf as text: settings, and lists that take an item and give it back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroom.postfix.logical import SyntaxFault
from postroom.postfix.maincf import MainFile

ITEM = "check_policy_service unix:private/rule-policy"
TEXT = """\
# mine
myhostname = a.test
smtpd_recipient_restrictions =
    permit_mynetworks,
    # why
    reject_unauth_destination

# end
relayhost = one
relayhost=two"""


def test_the_last_setting_counts() -> None:
    assert MainFile(TEXT).get("relayhost") == "two"
    assert MainFile(TEXT).get("nothing") is None


def test_comments_inside_a_value_are_no_part_of_it() -> None:
    value = MainFile(TEXT).get("smtpd_recipient_restrictions")
    assert value is not None and value.split() == ["permit_mynetworks,", "reject_unauth_destination"]


def test_an_item_at_the_end() -> None:
    longer = MainFile(TEXT).with_item("smtpd_recipient_restrictions", ITEM)
    assert f"    # why\n    reject_unauth_destination\n    {ITEM}\n\n# end\n" in longer.text
    assert longer.last_word("smtpd_recipient_restrictions") == "unix:private/rule-policy"


def test_an_item_before_the_last_word() -> None:
    file = MainFile("r = a, permit\nx = y\n").with_item_before_last("r", ITEM)
    assert file.text == f"r = a, {ITEM},\n    permit\nx = y\n"
    assert file.last_word("r") == "permit"


PARTS = ["permit", "reject_x", ", ", " ", "\n\t", "\n    ", "\n  # c\n  z", ",", "{ a, b }"]
VALUES = st.lists(st.sampled_from(PARTS), max_size=8)


@given(VALUES, st.sampled_from(["\n", "", " \n", "\n# after\n"]), st.booleans())
def test_an_item_goes_again_without_a_trace(parts: list[str], end: str, last: bool) -> None:
    text = "a = b\nr = " + "".join(parts) + end
    file = MainFile(text)
    try:
        longer = file.with_item_before_last("r", ITEM) if last else file.with_item("r", ITEM)
    except SyntaxFault:
        assert not file.last_word("r")
        return
    assert longer.text != text
    value = longer.get("r")
    assert value is not None and ITEM in value
    assert longer.without_item("r", ITEM).text == text


LAYOUT = """\
smtpd_recipient_restrictions =
    permit_mynetworks,
    reject_unauth_destination,
    permit
"""


@given(
    st.lists(st.sampled_from(["permit_mynetworks", "reject_unauth_destination", "reject_unknown_client"]), max_size=4),
    st.sampled_from(["\n    ", "\n  ", "\n\t", " ", "\n    # why\n    "]),
    st.sampled_from(["", ",", " ,"]),
    st.sampled_from(["", "permit", "permit,", "reject_unlisted_sender"]),
    st.sampled_from(["", "\n", "\n# end\n", "\n\nx = y"]),
)
def test_every_layout_is_restored(words: list[str], indent: str, comma: str, closing: str, end: str) -> None:
    listed = [*words, closing] if closing else words
    text = "smtpd_recipient_restrictions =" + comma.join(indent + word for word in listed) + end
    restored(text)


def test_one_a_line_with_commas_and_a_closing_permit_is_restored() -> None:
    restored(LAYOUT)


def restored(text: str) -> None:
    """Put in as `wire` does, and taken out again."""
    name, file = "smtpd_recipient_restrictions", MainFile(text)
    longer = file.with_item_before_last(name, ITEM) if file.last_word(name) == "permit" else file.with_item(name, ITEM)
    assert longer.text != text
    assert longer.without_item(name, ITEM).text == text


def test_an_item_that_was_put_in_by_hand_is_not_taken_out() -> None:
    text = f"r = a, {ITEM}\n"
    assert MainFile(text).without_item("r", ITEM).text == text


def test_settings_come_and_go() -> None:
    file = MainFile(TEXT).added("# mark\nnew = 1\n")
    assert file.text == TEXT + "\n# mark\nnew = 1"
    assert file.line_above("new") == "# mark"
    assert file.removed("new", comments=1).text == TEXT
    assert file.replaced("new", "new = 2\n").text == TEXT + "\n# mark\nnew = 2"


def test_a_line_that_is_no_setting_is_refused() -> None:
    with pytest.raises(SyntaxFault, match="no '='"):
        MainFile("a = b\nnonsense\n").get("a")
