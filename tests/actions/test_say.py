"""The rule's own words as the outcome; and the table of all actions."""

import pytest

from postroom.actions import ACTIONS, module, perform
from postroom.delivery import Mail
from postroom.rules.deliveries import DELIVER
from postroom.status import ConfigurationFault


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("discard",), "2.0.0 discarded by rule"),
        (("discard", ""), "2.0.0 discarded by rule"),
        (("discard", "spam of theirs"), "2.0.0 spam of theirs"),
        (("5.7.1", "not here"), "5.7.1 not here"),
        (("4.2.0", "later,", "please"), "4.2.0 later, please"),
    ],
)
def test_the_words_are_the_outcome(mail: Mail, words: tuple[str, ...], said: str) -> None:
    assert str(perform(words, mail)) == said


@pytest.mark.parametrize("words", [("5.7.1",), ("5.7.1", ""), ("5.7.1", " "), ("2.0.0", "sent")])
def test_words_that_say_nothing_are_our_fault(mail: Mail, words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigurationFault, match=r"expected 4\.x\.x or 5\.x\.x and a text"):
        perform(words, mail)


@pytest.mark.parametrize("words", [(), ("",), ("bounce",), ("550", "no"), ("6.1.1", "no"), ("../say",), ("os",)])
def test_an_unknown_action_is_our_fault(mail: Mail, words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigurationFault, match="unknown action"):
        perform(words, mail)


def test_what_a_rule_may_say_is_what_can_be_done() -> None:
    assert set(ACTIONS) == set(DELIVER)
    for word in ACTIONS:
        assert __import__(f"postroom.actions.{module((word,))}")
