"""The actions of at = "bounce": what becomes of a report, for each recipient that it tells of.

The event is recorded in any case, before anything else is done. Words of several actions are parted by rules.SEPARATOR.
"""

from __future__ import annotations

from postroom.rules import deliveries
from postroom.rules.deliveries import Delivery, Words
from postroom.rules.problems import Refused

# Where the mail system of this machine takes mail.
LOCAL = "smtp:[127.0.0.1]:25"


def _nothing(rest: str) -> Words:
    if rest:
        raise Refused("takes no text")
    return []


def _forward(rest: str) -> Words:
    """`ADDRESS [TARGET [ca=PATH] [login=PATH]]`."""
    address, _, target = rest.partition(" ")
    if "{" in address:
        raise Refused("takes no templates: where reports go must not be for strangers to say")
    local, at, domain = address.rpartition("@")
    if not (at and local and domain) or "@" in local or not address.isascii() or not address.isprintable():
        raise Refused('expected one address, "forward user@domain" or "forward user@domain smtp:[host]:port"')
    return [("literal", (address,)), *deliveries.relay(target.strip() or LOCAL)]


def _webhook(rest: str) -> Words:
    return deliveries.webhook(rest, "bounce")


BOUNCE: dict[str, Delivery] = {
    "suppress": Delivery(
        "suppress", "suppresses the recipient where the report is verified and says that the address is gone", _nothing
    ),
    "record": Delivery("record", "", _nothing),
    "forward": Delivery("forward ADDRESS", "hands the report on to this address", _forward),
    "webhook": Delivery("webhook URL", "posts what the report says to this HTTP server, as JSON", _webhook),
}


def effect(action: str) -> str:
    """The end of a sentence that begins with "Postfix"."""
    start = "hands the report to bounce-record, which records it"
    if not action:
        return f"{start}, and {BOUNCE['suppress'].effect}"
    verbs = [part.partition(" ")[0] for part in action.split(", ")]
    if verbs[0] not in BOUNCE:
        return "hands the report to bounce-record, which puts it off"
    return ", and ".join([start, *(BOUNCE[verb].effect for verb in verbs if BOUNCE[verb].effect)])
