"""Where mail for a domain goes: MX resolution as smtp(8) does it, as a state machine without I/O.

    machine = resolution("example.com")
    question = next(machine)                     # ("example.com", "MX")
    while True:
        question = machine.send(answer)          # an Answer; StopIteration.value is the Plan

Rules for this file
* The verdicts are Postfix's (src/smtp/smtp_addr.c, src/dns/dns_lookup.c, src/util/valid_hostname.c), each compared
  with a running smtp(8) 3.7.11; RFC 5321 section 5.1 and RFC 7505 (null MX) are kinder or stricter in places.
* No I/O, and no import that a program run for each mail would notice. `idna` only for a name that is not ASCII.
* A decision costs one question; addresses are asked for only where there is no MX. `addresses()` is for people.
"""

from __future__ import annotations

from _socket import AF_INET6, inet_ntop, inet_pton

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator

# Question: name and record type. Record: owner, type, TTL, preference (0 where the type has none), name or address.
# Names of either come in lower case, without the trailing dot; the root is ".".
Question = tuple[str, str]
Record = tuple[str, str, int, int, str]

# What the servers said. A driver answers with one of these; LOOP and BAD_NAME are found here.
RECORDS = "records"
NODATA = "nodata"
NXDOMAIN = "nxdomain"
SERVFAIL = "servfail"
REFUSED = "refused"  # NOTIMP and lame referrals too
TIMEOUT = "timeout"
MALFORMED = "malformed"  # not a DNS message, or one for another question
FAILED = "failed"  # FORMERR and every other code: "non-recoverable" to the C library
LOOP = "loop"
BAD_NAME = "bad name"

# dns_lookup() asks ten times at most, however many CNAMEs a single reply holds; then it is a "name server loop".
MAX_QUESTIONS = 10

# A reply of 64 KiB holds thousands of MX records, and all would go into the cache. smtp(8) tries five addresses
# (smtp_mx_address_limit), smtpd(8) looks at 100 since 3.7.11: no mail goes to the hundred and first.
MAX_HOSTS = 100

# No U-label form of a name that fits into 253 octets is longer; conversion takes time by length.
MAX_DOMAIN = 1024

NOT_FOUND = "5.4.4 Host or domain name not found"

# kind: (state of the plan, what smtp(8) does, rank). Of the failures of one name's A and AAAA the highest rank counts:
# an error that may pass says nothing about whether the host exists.
VERDICTS: dict[str, tuple[str, str, int]] = {
    NODATA: ("none", "bounce " + NOT_FOUND, 0),
    NXDOMAIN: ("none", "bounce " + NOT_FOUND, 0),
    LOOP: ("none", "bounce 5.4.4 Name server loop", 0),
    BAD_NAME: ("none", "bounce 5.4.4 Malformed or unexpected name server reply", 1),
    FAILED: ("error", "bounce 5.4.3 Non-recoverable error", 2),
}
for _kind in (SERVFAIL, REFUSED, TIMEOUT, MALFORMED):
    VERDICTS[_kind] = ("error", "defer 4.4.3 Host or domain name not found, try again", 3)
BAD_SYNTAX = "bounce 5.1.3 Bad recipient address syntax"


class Answer:
    """What came back for one question: the `records` of the answer section, or a `kind` of failure and a `text` on it.

    `ttl` is how long a negative answer holds (RFC 2308 section 5), 0 where nothing says.
    """

    __slots__ = ("kind", "records", "text", "ttl")

    def __init__(self, kind: str, records: tuple[Record, ...] = (), ttl: int = 0, text: str = "") -> None:
        self.kind = kind if kind == RECORDS or kind in VERDICTS else MALFORMED
        self.records = records
        self.ttl = ttl
        self.text = text


class Plan:
    """Where mail for `domain` goes, as far as MX records tell.

    `state`: mx, implicit (no MX; the domain is its own host), null (RFC 7505), none (no such host), literal, error
    (DNS did not say). `hosts`: (preference, name), sorted; `primary` the names of the lowest preference, `every` all.
    `outcome`: "deliver", "bounce 5.x.x text" or "defer 4.x.x text" as smtp(8) would, where "deliver" stands under the
    condition that a host has an address. `notes`: what a person should know besides. `stale`: an expired one.
    """

    __slots__ = ("domain", "every", "hosts", "notes", "outcome", "primary", "reason", "stale", "state", "ttl")

    def __init__(
        self,
        domain: str,
        state: str,
        hosts: tuple[tuple[int, str], ...] = (),
        ttl: int = 0,
        reason: str = "",
        outcome: str = "deliver",
        notes: tuple[str, ...] = (),
    ) -> None:
        self.domain = domain
        self.state = state
        self.hosts = tuple(sorted(hosts))
        self.every = tuple(dict.fromkeys(name for _, name in self.hosts))
        self.primary = tuple(name for preference, name in self.hosts if preference == self.hosts[0][0])
        self.ttl = ttl
        self.reason = reason
        self.outcome = outcome
        self.notes = notes
        self.stale = False

    def __repr__(self) -> str:
        return f"Plan({self.domain!r}, {self.state!r}, {self.hosts!r}, {self.reason!r}, {self.outcome!r})"


class Host:
    """One host of a plan with its addresses, or in `trouble` why it has none. Other hosts of the plan may do."""

    __slots__ = ("addresses", "name", "preference", "trouble")

    def __init__(self, preference: int, name: str, addresses: tuple[str, ...], trouble: str) -> None:
        self.preference = preference
        self.name = name
        self.addresses = addresses
        self.trouble = trouble


def resolution(domain: str) -> Generator[Question, Answer, Plan]:
    """Ask for the MX records of `domain`, for its addresses where there are none; end with the Plan."""
    plan = _literal(domain) or _syntax(domain)
    if plan is not None:
        return plan
    name = to_ascii(domain)
    found = yield from chase(name, "MX")
    if found.kind == RECORDS:
        return _by_records(name, found)
    if found.kind in (NODATA, NXDOMAIN, LOOP):  # all the same to smtp(8): DNS_NOTFOUND, and it asks for addresses
        return (yield from _by_address(name, found))
    return _failure(name, found)


def addresses(plan: Plan) -> Generator[Question, Answer, tuple[tuple[Host, ...], str]]:
    """Ask for the addresses of every host of the plan; end with the hosts, and the outcome now that these are known."""
    hosts, troubles = [], []
    for preference, name in plan.hosts:
        found = yield from _addresses(name, every=True)
        trouble = "" if found.kind == RECORDS else _reason(found, "address")
        hosts.append(Host(preference, name, tuple(record[4] for record in found.records), trouble))
        if trouble:
            troubles.append(found.kind)
    reachable = len(troubles) < len(hosts) or not hosts
    return tuple(hosts), plan.outcome if reachable else _unreachable(troubles)


def to_ascii(domain: str) -> str:
    """`domain` in lower case, without a trailing dot, U-labels as A-labels; UnicodeError where it has no such form.

    Postfix converts by UTS #46, non-transitional (src/util/midna_domain.c), which Python's own "idna" codec does not
    know: that one turns a name with an eszett into another registrant's.
    """
    name = domain[:-1] if domain.endswith(".") else domain
    if name.isascii():
        return name.lower()
    if len(name) > MAX_DOMAIN:
        raise UnicodeError("domain too long")
    from idna import uts46_remap

    mapped = uts46_remap(name, std3_rules=False, transitional=False)
    return ".".join(
        label if label.isascii() else "xn--" + label.encode("punycode").decode("ascii") for label in mapped.split(".")
    )


def valid_hostname(name: str) -> bool:
    """valid_hostname(): letters, digits, `_`, hyphens inside a label, not all digits; 253 octets fit into DNS."""
    if not 0 < len(name) <= 253 or not name.isascii():
        return False
    labels = name.split(".")
    return all(map(_is_label, labels)) and not all(label.isdigit() for label in labels)


def is_address(name: str) -> bool:
    """valid_hostaddr(): an IPv4 or IPv6 address as text. Leading zeros pass there, a first octet of 0 does not."""
    return _is_ipv4(name) or _ipv6(name) is not None


def _literal(domain: str) -> Plan | None:
    """The plan of `[192.0.2.1]` or `[IPv6:2001:db8::1]`; a name in brackets is none (RFC 5321 section 4.1.3)."""
    if not (domain.startswith("[") and domain.endswith("]")):
        return None
    text = domain[1:-1]
    address = _ipv6(text[5:]) if text[:5].lower() == "ipv6:" else text if _is_ipv4(text) else None
    if address is None:
        return _invalid(domain, "not an address literal")
    return Plan(domain.lower(), "literal", ((0, address),))


def _syntax(domain: str) -> Plan | None:
    """The plan of a domain that Postfix refuses unasked, None where DNS has to tell."""
    if not domain:
        return _invalid(domain, "no domain")
    try:
        name = to_ascii(domain)
    except UnicodeError:
        return _invalid(domain, "no such internationalized domain name")
    except ImportError:  # an installation without its dependencies: our fault, never the domain's
        return Plan(domain, "error", (), 0, "the Python package idna is missing", "defer 4.3.5 Configuration error")
    if _is_ipv4(name):
        return _invalid(domain, "an address without brackets")
    return None if valid_hostname(name) else _invalid(domain, "not a domain name")


def _invalid(domain: str, reason: str) -> Plan:
    return Plan(domain[:MAX_DOMAIN].lower(), "none", (), 0, f"{reason}: {domain[:100]!a}", BAD_SYNTAX)


def chase(name: str, kind: str) -> Generator[Question, Answer, Answer]:
    """Ask for `kind` at `name` and on along CNAMEs; the Answer at the end holds records of that kind only."""
    ttl, seen = 1 << 31, {name}
    for _ in range(MAX_QUESTIONS):
        answer = yield (name, kind)
        if answer.kind != RECORDS:
            return Answer(answer.kind, (), min(ttl, answer.ttl), answer.text)
        target, ttl, trouble = _follow(name, answer.records, ttl, seen, kind)
        if trouble:
            return Answer(trouble, (), ttl, f"{trouble} at the end of the CNAMEs of {name}")
        found = tuple(record for record in answer.records if record[:2] == (target, kind))
        if found:
            return Answer(RECORDS, found, min(ttl, *(record[2] for record in found)))
        if target == name:
            return Answer(NODATA, (), min(ttl, answer.ttl))
        name = target
    return Answer(LOOP, (), 0, f"more than {MAX_QUESTIONS} CNAMEs to follow, the last at {name}")


def _follow(name: str, records: tuple[Record, ...], ttl: int, seen: set[str], kind: str) -> tuple[str, int, str]:
    """The name at the end of the CNAMEs among `records`, the shortest TTL on the way, and the trouble that ended it.

    Records of names that are not on the way do not count, whoever put them into the reply.
    """
    aliases = {record[0]: record for record in records if record[1] == "CNAME"}
    while name in aliases:
        _, _, hold, _, name = aliases[name]
        ttl = min(ttl, hold)
        if kind != "PTR" and not valid_hostname(name):  # RFC 2317 has slashes in reverse names
            return name, ttl, BAD_NAME
        if name in seen:
            return name, ttl, LOOP
        seen.add(name)
    return name, ttl, ""


def _addresses(name: str, every: bool) -> Generator[Question, Answer, Answer]:
    """Ask for A, then AAAA (only where A gave nothing, unless `every`); the worse Answer where neither has any."""
    if is_address(name):  # RFC 5321 forbids it as an MX target, and it works: no question
        return Answer(RECORDS, ((name, "A", 0, 0, name),))
    found = yield from chase(name, "A")
    if found.kind == RECORDS and not every:
        return found
    second = yield from chase(name, "AAAA")
    if found.kind == RECORDS == second.kind:
        return Answer(RECORDS, found.records + second.records, min(found.ttl, second.ttl))
    if RECORDS in (found.kind, second.kind):
        return found if found.kind == RECORDS else second
    worse = second if VERDICTS[second.kind][2] > VERDICTS[found.kind][2] else found
    return Answer(worse.kind, (), min(found.ttl, second.ttl), worse.text)


def _by_records(domain: str, found: Answer) -> Plan:
    """The plan of a domain with MX records, in the words of the record set."""
    targets = {(preference, name) for _, _, _, preference, name in found.records}
    if any(name == "." for _, name in targets):  # beside other records too: dns_get_answer() stops at it
        outcome = f"bounce 5.1.0 Domain {domain} does not accept mail (nullMX)"
        return Plan(domain, "null", (), found.ttl, "null MX", outcome)
    hosts = sorted(target for target in targets if _is_target(target[1]))
    if not hosts:
        return _failure(domain, Answer(BAD_NAME, (), found.ttl, "malformed names in all MX records"))
    notes = _alias(domain, found) + _oddities(targets, hosts)
    return Plan(domain, "mx", tuple(hosts[:MAX_HOSTS]), found.ttl, "", "deliver", notes)


def _by_address(domain: str, missing: Answer) -> Generator[Question, Answer, Plan]:
    """The plan of a domain without MX: itself, if it has an address (RFC 5321 section 5.1)."""
    found = yield from _addresses(domain, every=False)
    ttl = min(missing.ttl, found.ttl)
    if found.kind == RECORDS:
        return Plan(domain, "implicit", ((0, domain),), ttl, "no MX record", "deliver", _alias(domain, found))
    return _failure(domain, Answer(found.kind, (), ttl, found.text))


def _is_target(name: str) -> bool:
    """What dns_get_rr() lets pass as an MX target: a host name, an address, a `*` as first label."""
    return is_address(name) or name == "*" or valid_hostname(name[2:] if name.startswith("*.") else name)


def _failure(domain: str, found: Answer) -> Plan:
    state, outcome, _ = VERDICTS[found.kind]
    return Plan(domain, state, (), found.ttl, _reason(found, "MX or address records"), outcome)


def _reason(found: Answer, wanted: str) -> str:
    if found.kind == NXDOMAIN:
        return "no such name (NXDOMAIN)"
    return f"no {wanted}" if found.kind == NODATA else found.text or found.kind


def _unreachable(troubles: list[str]) -> str:
    """When no MX host has an address: the last host's verdict, made soft by any failure that may pass."""
    outcome = VERDICTS[troubles[-1]][1]
    if outcome.startswith("bounce") and any(VERDICTS[kind][1].startswith("defer") for kind in troubles):
        return "defer 4" + outcome.removeprefix("bounce 5")
    return outcome


def _alias(domain: str, found: Answer) -> tuple[str, ...]:
    owner = found.records[0][0]
    return () if owner == domain else (f"alias of {owner}",)


def _oddities(targets: set[tuple[int, str]], hosts: list[tuple[int, str]]) -> tuple[str, ...]:
    notes = []
    if len(hosts) < len(targets):
        notes.append(f"malformed MX records ignored: {len(targets) - len(hosts)}")
    if any(is_address(name) for _, name in hosts):
        notes.append("an address as MX target (RFC 5321 section 5.1 wants a name)")
    if len(hosts) > MAX_HOSTS:
        notes.append(f"{MAX_HOSTS} of {len(hosts)} MX records kept, lowest preference first")
    return tuple(notes)


def _is_label(label: str) -> bool:
    word = label.replace("-", "a").replace("_", "a")
    return 0 < len(label) <= 63 and "-" not in (label[0], label[-1]) and word.isalnum()


def _is_ipv4(name: str) -> bool:
    parts = name.split(".")
    if len(name) > 253 or len(parts) != 4 or not all(part.isascii() and part.isdigit() for part in parts):
        return False
    return int(parts[0]) > 0 and all(int(part) <= 255 for part in parts)


def _ipv6(text: str) -> str | None:
    """The usual form of an IPv6 address, None where it is none."""
    try:
        return inet_ntop(AF_INET6, inet_pton(AF_INET6, text))
    except (OSError, ValueError):
        return None
