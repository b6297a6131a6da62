"""Templates in actions: `{primary_mx}`, `{recipient_domain}`, `{suppressed.since}`; `{{` and `}}` are braces.

Read at load, when a name that is not known is refused; filled in by render.py. A template is a tuple of parts: text, or
a tuple that says where the value comes from:
    ("attribute", name, part)     an attribute, or a part of the address in it
    ("mx", name, which)           of the MX plan of that address's domain
    ("suppressed", name, field)   of the suppression of that address
    ("listed", "", name)          the text beside the entry of a list that held a value; "reason": of the first of them
    ("country", name, "")         the country of the IP address in that attribute
    ("waits", kind, "")           the seconds that the rule's greylist or rate says to wait
"""

from __future__ import annotations

from postroom.rules import keys
from postroom.rules.problems import Refused, unknown

Part = str | tuple[str, str, str]
Template = tuple[Part, ...]

SUPPRESSED = ("suppressed.since", "suppressed.why")


def parse(text: str, stage: str) -> Template:
    """Raises Refused for a name that cannot be filled in at this stage, or a brace that is not closed."""
    known = names(stage)
    parts: list[Part] = []
    literal = ""
    position = 0
    while position < len(text):
        character = text[position]
        if character not in "{}":
            literal, position = literal + character, position + 1
        elif text[position + 1 : position + 2] == character:
            literal, position = literal + character, position + 2
        else:
            end = text.find("}", position) if character == "{" else -1
            if end < 0:
                raise Refused(f'has a brace without its other half; write "{character * 2}" for a brace itself')
            name = text[position + 1 : end]
            part = known.get(name) or _listed(name)
            if part is None:
                raise Refused(
                    unknown(
                        name, known, "template name", "an attribute of this stage; see Templates in postroom.toml(5)"
                    )
                )
            parts += [literal, part] if literal else [part]
            literal, position = "", end + 1
    return (*parts, literal) if literal else tuple(parts)


def _listed(name: str) -> Part | None:
    prefix, dot, of = name.partition(".")
    return ("listed", "", of) if prefix == "list" and dot and of else None


def names(stage: str) -> dict[str, Part]:
    """What can be filled in at a stage."""
    known: dict[str, Part] = {}
    for key in keys.KEYS.values():
        if stage not in key.stages:
            continue
        if key.kind == "flag":
            known |= {name: ("suppressed", key.source, name.partition(".")[2]) for name in SUPPRESSED}
            known["list.reason"] = ("listed", "", "reason")
        elif key.kind in ("mx", "mx_state"):
            known[key.name] = ("mx", key.source, key.part)
        elif key.kind == "country":
            known[key.name] = ("country", key.source, "")
        elif key.kind in ("greylist", "rate"):
            known[f"{key.kind}.wait"] = ("waits", key.kind, "")
        elif key.cost == keys.ATTRIBUTE and key.kind in (*keys.TEXTS, "number", "yes"):
            known[key.name] = ("attribute", key.source, key.part)
    return known


def literal_text(template: Template) -> str:
    """What of it is fixed."""
    return "".join(part for part in template if isinstance(part, str))


def is_literal(template: Template) -> bool:
    return all(isinstance(part, str) for part in template)


def uses(template: Template, what: str) -> list[tuple[str, str, str]]:
    """The parts of this origin."""
    return [part for part in template if not isinstance(part, str) and part[0] == what]
