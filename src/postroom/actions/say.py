"""`discard [TEXT]`, `5.x.x TEXT`, `4.x.x TEXT`: the rule's own words are the outcome, and nothing else happens."""

from __future__ import annotations

from postroom.status import ConfigurationFault, parse, sent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from postroom.delivery import Mail
    from postroom.status import Outcome


def deliver(words: tuple[str, ...], mail: Mail) -> Outcome:
    text = " ".join(words[1:])
    if words[0] == "discard":
        return sent(text.strip() or "discarded by rule")
    outcome = parse(f"{words[0]} {text}")
    if outcome is None or outcome.kind == "sent":
        # "2.0.0 text" would lose the mail while it looks like a delivery; who wants that writes discard.
        raise ConfigurationFault(f"action {words[0]!r}: expected 4.x.x or 5.x.x and a text after it")
    return outcome
