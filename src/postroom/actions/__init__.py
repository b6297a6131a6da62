"""What a delivery rule can do with a mail: one word, one file.

    outcome = perform(("maildir", "/var/mail/bob/"), mail)

Each file has one function, `deliver(words, mail) -> Outcome`, and is imported when a rule asks for it. `words` come
from the rule, split before strangers' text was put into them. What is wrong on our side raises a Fault, or is returned
as deferred where the status says more; a bounce is only ever somebody's stated answer about this mail.
"""

from __future__ import annotations

import sys

from postroom.status import DEFERRED, ConfigurationFault, Outcome, is_status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from postroom.delivery import Mail

# The first word of an action -> its module here. A status code as the first word is `say`'s, too.
ACTIONS = {
    "maildir": "maildir",
    "relay": "relay",
    "webhook": "webhook",
    "command": "command",
    "discard": "say",
}

# What `say` does happens in Postfix, after we have answered: there is nothing that could happen twice.
WITHOUT_EFFECT = frozenset(("say",))


class Failed(Outcome):
    """A deferral because what was to take the mail broke down over it, not because it said so (quarantine.py)."""

    __slots__ = ()


def failed(text: str) -> Outcome:
    return Failed(DEFERRED, "4.3.0", text)


def perform(words: tuple[str, ...], mail: Mail) -> Outcome:
    """Do what the words say. Raises a Fault where it cannot be tried."""
    name = f"postroom.actions.{module(words)}"
    __import__(name)  # what importlib.import_module does, without importlib's own import
    outcome: Outcome = sys.modules[name].deliver(words, mail)
    return outcome


def module(words: tuple[str, ...]) -> str:
    """The module that serves these words. Raises ConfigurationFault."""
    word = words[0] if words else ""
    if is_status(word):
        return "say"
    if word not in ACTIONS:
        raise ConfigurationFault(f"unknown action {word[:60]!r}, expected {', '.join(ACTIONS)} or a status code")
    return ACTIONS[word]
