"""`postroom bounces`: what bounces and notices said.

`list --json`, one object an event: `id`, `at` (UTC), `kind`, `authentic`, `queue_id`, `recipients`, each with
`address`, `original`, `outcome`, `status`, `hard`, `category`, `reason`, `diagnostic`, `remote_mta`; and by name what
else is known, such as `class`, `peer`, `peer_address`, `command`, `reply` of a notice; `to`, `why`, `proven` of a
bounce; `subject`, `message_id`.

`parse --json`, one object a message: `id` (the file's name without suffix), `kind`, `authentic`, `reader`, `recipients`
as above, with `smtp`, `permanent`, `evidence`; `reporting_mta`, `queue_id`, `envelope_id`, `sender`, `arrival_date`,
`will_retry_until`, `subject`, `message_id`; `original_message_id`, `original_from`, `original_to`, `original_subject`,
`original_list_id` of the returned message; and a notice's own fields. What the message does not say is null.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from postroom.bounces import events, keys, report, values, verp
from postroom.cli.state import Group, config_option, duration, iso, json_option, load, local, opened, shown
from postroom.envelope import localpart
from postroom.message import Message

if TYPE_CHECKING:
    from postroom.store import Event

KINDS = (
    values.FAILED, values.DELAYED, values.DELIVERED, values.NOTICE, values.NOT_A_BOUNCE, values.UNREADABLE,
)  # fmt: skip
_RECIPIENT = ("address", "original", "outcome", "status", "hard", "category", "reason", "diagnostic", "remote_mta")
_MESSAGE = (
    "reporting_mta", "queue_id", "envelope_id", "sender", "arrival_date", "will_retry_until", "subject", "message_id",
)  # fmt: skip


@click.group(cls=Group)
def command() -> None:
    """List recorded bounces and notices; read one from a file.

    Exit status: 0 done, 64 wrong usage, 66 a file cannot be read, 75 the state cannot be used, 78 wrong configuration.
    """


@command.command("list")
@click.option("--kind", type=click.Choice(KINDS), help="Only events of this kind.")
@click.option(
    "--since", "span", metavar="SPAN", callback=duration("7d"), help="Only those of the last SPAN, such as 7d."
)
@config_option
@json_option
def list_(kind: str | None, span: int | None, config_path: str, as_json: bool) -> None:
    """List what was recorded, oldest first."""
    since = 0 if span is None else int(time.time()) - span
    with opened(config_path) as store:
        for event in store.events(kind, since):
            click.echo(json.dumps(_event(event)) if as_json else "\n".join(_event_lines(event)))


@command.command()
@click.argument("files", metavar="FILE|-...", nargs=-1, required=True)
@click.option("--recipient", metavar="ADDRESS", help="The signed address that the message came to, to check its tag.")
@config_option
@json_option
@click.pass_context
def parse(
    context: click.Context, files: tuple[str, ...], recipient: str | None, config_path: str, as_json: bool
) -> None:
    """Show what the bounce or notice in each FILE says (- is standard input). Nothing is recorded."""
    unread = False
    for file in files:
        try:
            data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        except OSError as error:
            click.echo(f"postroom: {shown(file)}: {os.strerror(error.errno or 0)}", err=True)
            unread = True
            continue
        found = report.read(Message.of(data))
        verdict = _verdict(found, recipient, config_path) if recipient else None
        name = "-" if file == "-" else Path(file).stem
        click.echo(json.dumps(_report(name, found, verdict)) if as_json else "\n".join(_lines(name, found, verdict)))
    context.exit(os.EX_NOINPUT if unread else 0)


def _verdict(found: report.Report, recipient: str, config_path: str) -> verp.Verdict:
    settings = load(config_path).bounces
    if settings is None:
        return verp.Verdict(verp.UNVERIFIED, "no [bounces] in the configuration")
    ring = keys.load(settings.key)
    names = events.candidates(found)
    return verp.check(localpart(recipient), names, ring, settings.prefix, time.time(), settings.lifetime)


def _event(event: Event) -> dict[str, Any]:
    return {
        **event.fields,
        "id": event.id,
        "at": iso(event.at),
        "kind": event.kind,
        "authentic": event.authentic,
        "queue_id": event.queue_id or None,
        "recipients": [{name: getattr(one, name) for name in _RECIPIENT} for one in event.recipients],
    }


def _event_lines(event: Event) -> list[str]:
    fields = event.fields
    kind = f"{event.kind} ({fields['class']})" if "class" in fields else f"{event.kind}, {event.authentic}"
    said = fields.get("reply") or ("" if event.recipients else fields.get("subject", ""))
    peer = f"{fields['peer']}[{fields.get('peer_address', '')}]: " if "peer" in fields else ""
    first = f"{local(event.at)}  {event.queue_id or '-'}  {kind}"
    lines = [f"{first}  {shown(peer + said)}".rstrip()]
    return [*lines, *(f"    {_recipient_line(one)}" for one in event.recipients)]


def _recipient_line(one: Any) -> str:
    """For the store's recipients and the reader's alike."""
    origin = f" (sent to {shown(one.original)})" if one.original not in ("", one.address) else ""
    code = f" {one.status}" if one.status else ""
    why = f", {one.reason}" if one.reason != "undetermined" else ""
    said = f": {shown(one.diagnostic)}" if one.diagnostic else ""
    return f"<{shown(one.address)}>{origin} {one.outcome}{code}{why}{', hard' if one.hard else ''}{said}"


def _report(name: str, found: report.Report, verdict: verp.Verdict | None) -> dict[str, Any]:
    return {
        **found.fields,
        "id": name,
        "kind": found.kind,
        "authentic": verdict.authentic if verdict else verp.UNVERIFIED,
        "reader": found.reader or None,
        "recipients": [
            {
                slot: value if isinstance(value := getattr(one, slot), bool) else value or None
                for slot in (*_RECIPIENT, "smtp", "permanent", "evidence")
            }
            for one in found.recipients
        ],
        **{slot: getattr(found, slot) or None for slot in _MESSAGE},
    }


def _lines(name: str, found: report.Report, verdict: verp.Verdict | None) -> list[str]:
    """As a person reads it."""
    kind = f"{found.kind} ({found.fields['class']})" if "class" in found.fields else found.kind
    lines = [f"{shown(name)}: {kind}{', read as ' + found.reader if found.reader else ''}"]
    lines += [f"  {_recipient_line(one)}" for one in found.recipients]
    texts = {slot: getattr(found, slot) for slot in _MESSAGE} | found.fields
    lines += [f"  {slot}: {shown(text)}" for slot, text in texts.items() if text and slot != "class"]
    if verdict:
        lines.append(f"  {verdict.authentic}: {verdict.why}")
    return lines
