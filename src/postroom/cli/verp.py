"""`postroom verp`: envelope senders that prove, when a bounce comes back to one, which recipient it is about.

`make --json`: `sender`, `recipient`. `check --json`: `authentic` (verified, unverified, forged), `why`, `recipient`
(the one that is proven, or null), `sent` (the day, UTC, or null).
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import click

from postroom.bounces import keys
from postroom.bounces import verp as signed
from postroom.bounces.address import unquote
from postroom.cli.state import Group, config_option, iso, json_option, load
from postroom.config import Bounces
from postroom.envelope import quote, split_address
from postroom.status import ConfigurationFault, Fault


@click.group(cls=Group)
def command() -> None:
    """Make and check signed envelope senders.

    Exit status: 0 done, 1 the address proves nothing, 64 wrong usage, 75 a file cannot be written, 78 wrong
    configuration or key file.
    """


@command.command()
@click.argument("file", metavar="[FILE]", required=False, type=click.Path())
@config_option
def key(file: str | None, config_path: str) -> None:
    """Add a fresh key to FILE (default: the key file of the configuration), which is made where it is missing.

    The new key signs from now on; the old ones still verify. Remove them when the mail signed with them can no longer
    bounce, after the lifetime in [bounces].
    """
    path = Path(file or _settings(config_path).key)
    old = path.read_text() if path.exists() else ""
    new = keys.fresh(keys.load(str(path)) if old.strip() else [])
    owner = _owner(path, config_path)
    _replace(path, keys.line(new) + old, owner)
    click.echo(f"{path}: key {new.id} added, it signs from now on")
    if owner is None and os.geteuid() == 0:
        click.echo(f"give it to the user that bounce-record runs as: chown postroom {path}")


@command.command()
@click.argument("recipient")
@config_option
@json_option
def make(recipient: str, config_path: str, as_json: bool) -> None:
    """Print the envelope sender for mail to RECIPIENT."""
    address = unquote(recipient)
    if not address:
        raise click.BadParameter(f"{recipient!r} is no address", param_hint="RECIPIENT")
    settings = _settings(config_path)
    local_part = signed.make(_ring(settings)[0], settings.prefix, address, time.time())
    sender = f"{local_part}@{settings.domain}"
    click.echo(json.dumps({"sender": sender, "recipient": address}) if as_json else sender)


@command.command()
@click.argument("sender", metavar="ADDRESS")
@click.option("--recipient", "recipients", metavar="ADDRESS", multiple=True, help="Whom a report on it names.")
@config_option
@json_option
@click.pass_context
def check(context: click.Context, sender: str, recipients: tuple[str, ...], config_path: str, as_json: bool) -> None:
    """Say what the signed envelope sender ADDRESS proves."""
    settings = _settings(config_path)
    ring = _ring(settings)
    local_part, _ = split_address(unquote(sender) or sender)
    names = [unquote(recipient) or recipient for recipient in recipients]
    verdict = signed.check(local_part, names, ring, settings.prefix, time.time(), settings.lifetime)
    if as_json:
        sent = iso(verdict.sent)
        fields = {
            "authentic": verdict.authentic,
            "why": verdict.why,
            "recipient": verdict.recipient or None,
            "sent": sent,
        }
        click.echo(json.dumps(fields))
    else:
        proven = f" <{quote(verdict.recipient)}>" if verdict.recipient else ""
        click.echo(f"{verdict.authentic}{proven}: {verdict.why}")
    context.exit(0 if verdict.authentic == signed.VERIFIED else 1)


def _settings(config_path: str) -> Bounces:
    settings = load(config_path).bounces
    if settings is None:
        raise ConfigurationFault(f"{config_path}: no [bounces], which names key, prefix and domain")
    return settings


def _ring(settings: Bounces) -> list[keys.Key]:
    if not os.path.lexists(settings.key):
        raise ConfigurationFault(f"{settings.key} does not exist: make it with: postroom verp key")
    return keys.load(settings.key)


def _owner(path: Path, config_path: str) -> tuple[int, int] | None:
    """Who is to own the file: as before, or for a new one, made by root, who owns the state; None: who makes it."""
    if path.exists():
        return path.stat().st_uid, path.stat().st_gid
    if os.geteuid() != 0:
        return None
    try:
        state = os.stat(load(config_path).state)
    except (OSError, Fault):
        return None
    return state.st_uid, state.st_gid


def _replace(path: Path, text: str, owner: tuple[int, int] | None) -> None:
    """All of it or nothing, and at no moment readable by others."""
    new = path.with_name(f"{path.name}.new")
    try:
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(fd, "w") as file:
            if owner is not None and owner != (os.geteuid(), os.getegid()):
                os.fchown(fd, *owner)
            file.write(text)
            file.flush()
            os.fsync(fd)
        new.rename(path)
    except OSError as error:
        raise Fault(f"{path}: {os.strerror(error.errno or 0)}") from error
