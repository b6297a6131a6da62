"""`postroom suppress`: the addresses that get no more mail.

With --json one object a line: `address`, `since`, `until` (UTC; null: for good), `reason`, `category`, `status`
(enhanced code or null), `why` (the words of the server or person), `source` (the message or person it came from).
"""

from __future__ import annotations

import getpass
import json
import time

import click

from postroom.bounces.address import unquote
from postroom.bounces.reasons import CATEGORIES
from postroom.cli.state import Group, config_option, duration, iso, json_option, local, opened, shown
from postroom.store import Suppression

MANUAL = "manual"


@click.group(cls=Group)
def command() -> None:
    """List, explain, add and remove suppressed recipients.

    Exit status: 0 done, 1 the address is not suppressed, 64 wrong usage, 75 the state cannot be used, 78 wrong
    configuration.
    """


@command.command("list")
@config_option
@json_option
def list_(config_path: str, as_json: bool) -> None:
    """List the suppressed addresses."""
    with opened(config_path) as store:
        for entry in store.suppressions():
            click.echo(_json(entry) if as_json else _line(entry))


@command.command()
@click.argument("address")
@config_option
@json_option
@click.pass_context
def why(context: click.Context, address: str, config_path: str, as_json: bool) -> None:
    """Say why ADDRESS is suppressed, since when, until when, and by which message."""
    with opened(config_path) as store:
        entry = store.suppression(_as_stored(address))
    if entry is None:
        if not as_json:
            click.echo(f"{shown(address)} is not suppressed")
        context.exit(1)
    click.echo(_json(entry) if as_json else _text(entry))


@command.command()
@click.argument("addresses", metavar="ADDRESS...", nargs=-1, required=True, callback=lambda c, o, v: _checked(v))
@click.option(
    "--reason", type=click.Choice([MANUAL, *CATEGORIES]), default=MANUAL, show_default=True, metavar="REASON",
    help=f"{MANUAL}, or a reason that bounces have, such as inactive-mailbox.",
)  # fmt: skip
@click.option("--why", "text", default="", help="What to answer who asks why.")
@click.option(
    "--for", "span", metavar="SPAN", callback=duration("30d"), help="How long, such as 30d; default for good."
)
@config_option
@json_option
def add(addresses: tuple[str, ...], reason: str, text: str, span: int | None, config_path: str, as_json: bool) -> None:
    """Suppress each ADDRESS."""
    now = int(time.time())
    # A rule may put it into the reply to the next sender: better a plain word than none.
    said = text or ("suppressed by hand" if reason == MANUAL else reason.replace("-", " "))
    source = f"added by {getpass.getuser()}"
    with opened(config_path) as store:
        for address in addresses:
            entry = Suppression(address, now, reason, "", said, source, None if span is None else now + span)
            new = store.suppress(entry)
            found = store.suppression(address) or entry
            if as_json:
                click.echo(_json(found))
            else:
                click.echo(f"{shown(address)}: suppressed" if new else f"{_line(found)}: was suppressed already")


@command.command()
@click.argument("addresses", metavar="ADDRESS...", nargs=-1, required=True)
@config_option
@click.pass_context
def remove(context: click.Context, addresses: tuple[str, ...], config_path: str) -> None:
    """Let mail to each ADDRESS through again."""
    missing = False
    with opened(config_path) as store:
        for address in addresses:
            removed = store.unsuppress(_as_stored(address))
            missing = missing or not removed
            click.echo(f"{shown(address)}: {'no longer suppressed' if removed else 'is not suppressed'}")
    context.exit(1 if missing else 0)


def _checked(addresses: tuple[str, ...]) -> tuple[str, ...]:
    """What a person types for the first time is checked: a slip here would suppress nobody, silently."""
    import email_validator

    # Hosts of one's own, under .local or .test, get mail and bounce it like any other.
    email_validator.SPECIAL_USE_DOMAIN_NAMES.clear()
    for address in addresses:
        try:
            # Whether the domain exists is not the question: it may be suppressed because it is gone.
            email_validator.validate_email(
                address, check_deliverability=False, allow_quoted_local=True, globally_deliverable=False
            )
        except email_validator.EmailNotValidError as error:
            raise click.BadParameter(f"{address}: {error}") from None
    return tuple(_as_stored(address) for address in addresses)


def _as_stored(address: str) -> str:
    """Unquoted, as Postfix has addresses inside. Found again as typed, should it be none."""
    return unquote(address) or address


def _line(entry: Suppression) -> str:
    until = f", until {local(entry.until)}" if entry.until else ""
    return f"{shown(entry.address)}  {entry.reason}{_code(entry)}, since {local(entry.since)}{until}"


def _text(entry: Suppression) -> str:
    lines = [
        f"{shown(entry.address)} is suppressed",
        f"  since   {local(entry.since)}",
        f"  until   {local(entry.until) if entry.until else 'somebody removes it'}",
        f"  reason  {entry.reason}{_code(entry)}",
    ]
    lines += [f"  why     {shown(entry.why)}"] if entry.why else []
    return "\n".join([*lines, f"  source  {shown(entry.source)}"])


def _code(entry: Suppression) -> str:
    return f" ({entry.status})" if entry.status else ""


def _json(entry: Suppression) -> str:
    return json.dumps(
        {
            "address": entry.address,
            "since": iso(entry.since),
            "until": iso(entry.until),
            "reason": entry.reason,
            "category": CATEGORIES.get(entry.reason),
            "status": entry.status or None,
            "why": entry.why,
            "source": entry.source,
        }
    )
