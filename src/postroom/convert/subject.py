"""What an access table speaks of, and the attributes of a rule that this is."""

from __future__ import annotations

from dataclasses import dataclass

SUBJECTS = {
    "recipient": ("recipient",),
    "sender": ("sender",),
    "helo": ("helo_name",),
    "client": ("client_name", "client_address"),
}


@dataclass(frozen=True)
class Subject:
    """`delimiter` is Postfix's recipient_delimiter. `dotted`: parent_domain_matches_subdomains leaves out
    smtpd_access_maps, so that .example.com stands for subdomains and example.com does not."""

    what: str
    stage: str = "rcpt"
    delimiter: str = ""
    dotted: bool = False

    @property
    def keys(self) -> tuple[str, ...]:
        return SUBJECTS[self.what]

    @property
    def addresses(self) -> bool:
        """Whether these are mail addresses."""
        return self.what in ("recipient", "sender")

    @property
    def fields(self) -> list[tuple[tuple[str, ...], str]]:
        """(kinds of entries, the attribute that they are compared with), in the order in which smtpd(8) asks."""
        if self.what == "client":
            return [(("name",), "client_name"), (("network",), "client_address")]
        return [(("address", "name", "user"), self.keys[0])]
