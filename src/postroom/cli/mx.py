"""`postroom mx`: where mail for a domain goes, and what smtp(8) would do with it.

With --json one object a line: `asked` (as typed), `domain` (lower case, A-labels), `state` (mx, implicit, null, none,
literal, error), `hosts` (each `preference`, `name`, `primary`, `provider`, `addresses`, `trouble`), `primary` and
`every` (names), `providers` (of the primary hosts), `ttl` (seconds), `reason`, `notes`, `outcome` ("deliver",
"bounce 5.x.x text", "defer 4.x.x text"). A provider is one of the shipped catalogue; empty where it knows none.
"""

from __future__ import annotations

import json
import os
from itertools import groupby

import click

from postroom import mx
from postroom.deadline import Deadline
from postroom.dns import Resolver
from postroom.dnsquery import parse_server
from postroom.rules.providers import CATALOGUE, provider_of
from postroom.status import clean

STATES = {
    "mx": "MX records",
    "implicit": "no MX record: the domain is its own mail host",
    "null": "null MX: the domain takes no mail (RFC 7505)",
    "none": "no mail host",
    "literal": "address literal",
    "error": "DNS did not tell",
}


@click.command()
@click.argument("domains", metavar="DOMAIN...", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line; the fields are in postroom(1).")
@click.option(
    "--server",
    "servers",
    metavar="ADDRESS[:PORT]",
    multiple=True,
    callback=lambda _context, _option, value: _checked(value),
    help="Ask this name server instead of resolv.conf's. May be given more than once.",
)
@click.option(
    "--deadline", type=click.FloatRange(min=0.1), default=10.0, show_default=True, help="Seconds for each domain."
)
@click.pass_context
def command(
    context: click.Context, domains: tuple[str, ...], as_json: bool, servers: tuple[str, ...], deadline: float
) -> None:
    """Show each DOMAIN's mail hosts by preference, and what smtp(8) would do with mail for it.

    This is what DNS says. What this host adds (transport_maps, relayhost, its own name among the MX) is not looked at.

    Exit status: 0 DNS answered (whatever it said), 75 DNS failed for one of the domains, 64 wrong usage.
    """
    for asked in domains:
        if "@" in asked:
            domain = clean(asked.rpartition("@")[2])
            raise click.UsageError("expected a domain" + (f"; did you mean {domain}?" if domain else ""))
    resolver = Resolver(servers)
    failed = False
    for asked in domains:
        limit = Deadline(deadline)
        plan = resolver.plan(asked, limit)
        hosts, outcome = resolver.reach(plan, limit)
        failed = failed or plan.state == "error" or outcome.startswith(("defer", "bounce 5.4.3"))
        lines = [_json(asked, plan, hosts, outcome)] if as_json else _text(plan, hosts, outcome)
        click.echo("\n".join(lines))
    context.exit(os.EX_TEMPFAIL if failed else 0)


def _checked(servers: tuple[str, ...]) -> tuple[str, ...]:
    for server in servers:
        try:
            parse_server(server)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None
    return servers


def _json(asked: str, plan: mx.Plan, hosts: tuple[mx.Host, ...], outcome: str) -> str:
    fields = {
        "asked": asked,
        "domain": plan.domain,
        "state": plan.state,
        "hosts": [
            {
                "preference": host.preference,
                "name": host.name,
                "primary": host.preference == hosts[0].preference,
                "provider": provider_of(host.name),
                "addresses": host.addresses,
                "trouble": host.trouble,
            }
            for host in hosts
        ],
        "primary": plan.primary,
        "every": plan.every,
        "providers": _providers(plan.primary),
        "ttl": plan.ttl,
        "reason": plan.reason,
        "notes": plan.notes,
        "outcome": outcome,
    }
    return json.dumps(fields)


def _text(plan: mx.Plan, hosts: tuple[mx.Host, ...], outcome: str) -> list[str]:
    """The plan as a person reads it: domain and state, the hosts in columns, what smtp(8) would do."""
    age = f" (for {plan.ttl} s)" if plan.ttl else ""
    lines = [f"{clean(plan.domain)}: {STATES[plan.state]}{age}"]
    width = max((len(host.name) for host in hosts), default=0)
    for host in hosts:
        mark = "primary" if host.preference == hosts[0].preference else "backup"
        found = ", ".join(host.addresses) or host.trouble
        lines.append(f"  {host.preference:>5}  {host.name:<{width}}  {mark:<7}  {found}")
    lines += _whose(plan)
    lines += [f"  note: {note}" for note in plan.notes]
    if plan.state in ("none", "error"):
        lines.append(f"  because: {clean(plan.reason)}")
    return [*lines, f"  smtp(8): {_order(hosts) if outcome == 'deliver' else outcome}"]


def _providers(hosts: tuple[str, ...]) -> list[str]:
    return [name for name in dict.fromkeys(map(provider_of, hosts)) if name]


def _whose(plan: mx.Plan) -> list[str]:
    """Who runs the hosts, by the names that rules use. Of backup hosts only a provider that is no primary one's."""
    primary = _providers(plan.primary)
    backup = [name for name in _providers(plan.every) if name not in primary]
    named = [(name, "") for name in primary] + [(name, ", backup only") for name in backup]
    return [f"  provider:{name} ({CATALOGUE[name][0]}){where}" for name, where in named]


def _order(hosts: tuple[mx.Host, ...]) -> str:
    """The order in which smtp(8) tries the hosts that have an address; those of one preference in random order."""
    usable = [host for host in hosts if host.addresses]
    turns = [[host.name for host in group] for _, group in groupby(usable, key=lambda host: host.preference)]
    return "deliver to " + ", then ".join(" or ".join(names) for names in turns)
