"""Where rules get their answers: list files, the message, the store and the DNS. All the I/O of a decision is here.

    sources = Sources(configuration, resolver, open_store, message, deadline)
    decision = sources.decide("deliver", delivery_attributes(mail))

Whatever cannot be answered is answered Unknown, with the reason: a list file that has vanished is not an empty list.
"""

from __future__ import annotations

import os

from postroom.config import SETTLED, contents, identity
from postroom.rules import Unknown
from postroom.rules.evaluate import decide
from postroom.rules.lookup import fold, in_nets, keys_of, parse_ip, part_of
from postroom.status import ConfigurationFault, Fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any, Protocol

    from postroom.config import Configuration
    from postroom.deadline import Deadline
    from postroom.delivery import Mail
    from postroom.message import Message
    from postroom.mx import Plan
    from postroom.rules import Decision, Question
    from postroom.rules.evaluate import Trace
    from postroom.store import Store

    class Resolver(Protocol):
        def plan(self, domain: str, deadline: Deadline) -> Plan: ...


# A list of a million addresses has some 25 MB. What is larger belongs into a database, which answers unread.
LIST_LIMIT = 64 * 1024 * 1024

Nets = tuple[tuple[int, int, frozenset[int]], ...]


class Sources:
    """Answers questions for one configuration.

    Keep it for the life of a connection: the store stays open, and lists are read again only when they have changed.
    `message` and `deadline` may be replaced from one decision to the next.
    """

    def __init__(
        self,
        configuration: Configuration,
        resolver: Resolver | None,
        open_store: Callable[[], Store] | None,
        message: Message | None = None,
        deadline: Deadline | None = None,
    ) -> None:
        self.configuration = configuration
        self.message = message
        self.deadline = deadline
        self._resolver = resolver
        self._open_store = open_store
        self._store: Store | None = None
        self._answers: dict[str, Callable[[Any], Any]] = {
            "list": self._list,
            "header": self._header,
            "suppressed": self._suppressed,
            "mx": self._mx,
        }

    def decide(self, stage: str, attributes: Mapping[str, str], trace: Trace | None = None) -> Decision:
        """Run the rules of a stage to their decision."""
        steps = decide(self.configuration.rules, stage, attributes, trace)
        try:
            question = next(steps)
            while True:
                question = steps.send(self.answer(question))
        except StopIteration as end:
            decision: Decision = end.value
            return decision

    def answer(self, question: Question) -> Any:
        """The answer in the form that Question says, or Unknown."""
        try:
            return self._answers[question.kind](question.argument)
        except Fault as fault:
            return Unknown(str(fault))
        except OSError as error:
            return Unknown(f"{error.filename or question.kind}: {os.strerror(error.errno or 0)}")

    def _list(self, argument: tuple[str, str, str]) -> bool | str | Unknown:
        name, value, kind = argument
        definition = self.configuration.lists.get(name)
        if definition is None:
            return Unknown(f"list {name}: not in the configuration")
        try:
            return table(*definition).find(kind, value, self.configuration.rules["delimiter"])
        except ConfigurationFault as fault:
            return Unknown(f"list {name}: {fault}")

    def _header(self, name: str) -> list[str] | Unknown:
        return Unknown("there is no message") if self.message is None else self.message.headers(name)

    def _suppressed(self, address: str) -> Any:
        if self._store is None:
            if self._open_store is None:
                return Unknown("there is no store")
            self._store = self._open_store()
        if self.deadline is not None:
            self._store.deadline = self.deadline
        return self._store.suppression(address)

    def _mx(self, domain: str) -> Plan | Unknown:
        if self._resolver is None:
            return Unknown("there is no resolver")
        return self._resolver.plan(domain, self._patience())

    def _patience(self) -> Deadline:
        if self.deadline is not None:
            return self.deadline
        from postroom.deadline import Deadline

        return Deadline(self.configuration.deadline)


class Given(Sources):
    """Answers that a person gives: a [[test]] of the file, words on the command line. The rest as without them.

    `mx` and `sender_mx`: (preference, host) pairs, or the state null, none or error.
    """

    def __init__(
        self,
        base: Sources,
        attributes: Mapping[str, str],
        mx: tuple[tuple[int, str], ...] | str | None = None,
        sender_mx: tuple[tuple[int, str], ...] | str | None = None,
        suppressed: bool | None = None,
        headers: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:
        super().__init__(base.configuration, base._resolver, base._open_store, base.message, base.deadline)
        self._plans: dict[str, tuple[tuple[int, str], ...] | str] = {}
        for name, given in (("sender", sender_mx), ("recipient", mx)):
            if given is not None:
                self._plans[fold("domain", part_of(attributes.get(name, ""), "domain", ""))] = given
        self._recipient_domain = fold("domain", part_of(attributes.get("recipient", ""), "domain", ""))
        self._suppression = suppressed
        self._headers = headers

    def _mx(self, domain: str) -> Plan | Unknown:
        given = self._plans.get(domain)
        if given is None and self._resolver is None:
            return Unknown(f"the test does not say {'mx' if domain == self._recipient_domain else 'sender_mx'}")
        if given is None:
            return super()._mx(domain)
        from postroom.mx import Plan

        if isinstance(given, str):
            return Plan(domain, given, reason="as given")
        return Plan(domain, "mx", given)

    def _suppressed(self, address: str) -> Any:
        if self._suppression is None:
            return super()._suppressed(address)
        from postroom.store import Suppression

        return Suppression(address, 0, why="as given") if self._suppression else None

    def _header(self, name: str) -> list[str] | Unknown:
        return super()._header(name) if self._headers is None else list(self._headers.get(name, ()))


def delivery_attributes(mail: Mail) -> dict[str, str]:
    """The attributes of a delivery, by the names that the rules of every stage use."""
    envelope = mail.envelope
    return {
        "sender": envelope.sender,
        "recipient": mail.recipient,
        "original_recipient": mail.original_recipient,
        "nexthop": envelope.nexthop,
        "queue_id": envelope.queue_id,
        "size": str(envelope.size or mail.message.size),
        "client_address": envelope.client_address,
        "client_name": envelope.client_hostname,
        "client_port": envelope.client_port,
        "helo_name": envelope.client_helo,
        "protocol_name": envelope.client_protocol,
        "sasl_method": envelope.sasl_method,
        "sasl_username": envelope.sasl_username,
        "sasl_sender": envelope.sasl_sender,
    }


class Table:
    """The entries of a list, folded, with the text that stands beside each (True where there is none)."""

    __slots__ = ("_entries", "_nets", "identity")

    def __init__(self, entries: dict[str, bool | str], identity: tuple[int, ...] = ()) -> None:
        self._entries = entries
        self._nets: Nets | None = None
        self.identity = identity

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, kind: str, value: str, delimiter: str) -> bool | str:
        """access(5)'s order: the value, then ever less of it. A host's address is also looked up in networks."""
        for key in keys_of(kind, value.lower(), delimiter):
            if key in self._entries:
                return self._entries[key]
        address = parse_ip(value) if kind == "ip" else None
        return address is not None and in_nets(address, self._networks())

    def _networks(self) -> Nets:
        if self._nets is None:
            self._nets = _nets(self._entries)
        return self._nets


def _nets(entries: dict[str, bool | str]) -> Nets:
    """The entries that are networks, or addresses in another spelling than Postfix's, by the length of the prefix."""
    found: dict[tuple[int, int], set[int]] = {}
    for entry in entries:
        host, slash, length = entry.partition("/")
        parsed = parse_ip(host) if slash or ":" in host else None
        if parsed is None or not (length.isdigit() or not slash):
            continue
        version, number = parsed
        host_bits = (32 if version == 4 else 128) - int(length[:4]) if slash else 0
        if host_bits >= 0:
            found.setdefault((version, host_bits), set()).add(number >> host_bits)
    return tuple((version, host_bits, frozenset(numbers)) for (version, host_bits), numbers in found.items())


# Tables that have been read, for as long as the process lives: one for each list of the configuration, by what it is.
_read: dict[tuple[str, object], Table] = {}


def table(kind: str, where: Any) -> Table:
    """The table, read again where its file is another one than before. Raises ConfigurationFault."""
    known = _read.get((kind, where))
    if kind == "values":
        if known is None:
            known = _read[kind, where] = Table(dict.fromkeys(where, True))
        return known
    try:
        if known is not None and known.identity == identity(os.stat(where)):
            return known
    except OSError:
        del _read[kind, where]  # gone; contents() says how
    data, seen = contents(where, LIST_LIMIT)
    if b"\0" in data:
        raise ConfigurationFault(f"{where}: is not a text file")
    if not data and _just_written(where):
        raise ConfigurationFault(f"{where}: is empty, and has only just been written to")
    text = data.decode("utf-8", "surrogateescape")
    known = _read[kind, where] = Table((_texthash if kind == "texthash" else _plain)(text, where), seen)
    return known


def _just_written(path: str) -> bool:
    """`sort > list` empties the file first and fills it later; in between nobody is on the list."""
    import time

    try:
        return abs(time.time() - os.stat(path).st_mtime) < SETTLED
    except OSError:
        return True


def _plain(content: str, path: str) -> dict[str, bool | str]:
    """One value a line. Empty lines do not count, nor does what follows a `#` at the start or behind a blank."""
    entries: dict[str, bool | str] = {}
    for number, line in enumerate(content.split("\n"), 1):
        words = line.split()
        comment = next((index for index, word in enumerate(words) if word[0] == "#"), len(words))
        if comment > 1:
            raise ConfigurationFault(f"{path}, line {number}: expected one value, found {comment}")
        if comment:
            entries[words[0].lower().removesuffix(".")] = True
    return entries


def _texthash(content: str, path: str) -> dict[str, bool | str]:
    """postmap(1), INPUT FILE FORMAT: the key, white space, the text. The first of several equal keys counts.

    A line that Postfix passes over with a warning makes the list unusable here: it was meant to say something.
    """
    entries: dict[str, bool | str] = {}
    for number, line in _logical_lines(content):
        key, text = _split(line)
        if not key or not text:
            raise ConfigurationFault(f"{path}, line {number}: expected a key, white space and a text")
        entries.setdefault(key.lower(), text)
    return entries


def _logical_lines(content: str) -> Iterator[tuple[int, str]]:
    """Lines joined with those that start with white space; comments and empty lines in between do not part them."""
    start, parts = 0, ""
    for number, line in enumerate(content.split("\n"), 1):
        stripped = line.strip()
        if not stripped or stripped[0] == "#":
            continue
        if line[0].isspace() and parts:
            parts += line
            continue
        if parts:
            yield start, parts
        start, parts = number, line
    if parts:
        yield start, parts


def _split(line: str) -> tuple[str, str]:
    """At the first white space outside quotes; a backslash takes the next character (src/util/dict_thash.c)."""
    quoted = False
    position = 0
    while position < len(line):
        character = line[position]
        if character == "\\":
            position += 1
        elif character == '"':
            quoted = not quoted
        elif character.isspace() and not quoted:
            break
        position += 1
    return ("", "") if quoted else (line[:position].strip(), line[position:].strip())
