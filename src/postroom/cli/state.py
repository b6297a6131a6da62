"""`postroom state`: what rules remember of strangers, and how to let one through now.

And what all verbs over the state share: the configuration, the open store, how a fault ends, how times read.

With --json one object a line, with the fields of store.rows.Rate, Greylisted, Pool and Met; times are seconds.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from postroom import config, store
from postroom.cli.check import DEFAULT_CONFIG
from postroom.config import Configuration
from postroom.deadline import Deadline
from postroom.status import ConfigurationFault, Fault, clean

if TYPE_CHECKING:
    from postroom.store import Store
    from postroom.store.rows import Greylisted, Met, Pool, Rate

# Programs hold the state for milliseconds; one that cannot be had in this time is stuck, and the person should know.
PATIENCE = 10.0

config_option = click.option(
    "--config", "config_path", metavar="FILE", default=DEFAULT_CONFIG, show_default=True, help="The configuration."
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="One JSON object a line; the fields are in postroom(1)."
)


class Group(click.Group):
    """Verbs over the state, with the exit statuses of a fault."""

    def invoke(self, ctx: click.Context) -> Any:
        """A fault is one line on standard error, and its status: 78 for the configuration, 75 for the rest."""
        try:
            return super().invoke(ctx)
        except Fault as fault:
            cause = f": {fault.__cause__}" if fault.__cause__ else ""
            click.echo(f"postroom: {clean(str(fault) + cause)}", err=True)
            ctx.exit(os.EX_CONFIG if isinstance(fault, ConfigurationFault) else os.EX_TEMPFAIL)


def load(config_path: str) -> Configuration:
    return config.load(config_path)


@contextmanager
def opened(config_path: str) -> Iterator[Store]:
    """The store of that configuration."""
    one = store.open(load(config_path).state, Deadline(PATIENCE))
    try:
        yield one
    finally:
        one.close()


def iso(moment: int | None) -> str | None:
    """A time for scripts: 2026-11-22T15:37:52Z."""
    return None if moment is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))


def local(moment: int) -> str:
    """A time for a person at this host."""
    return time.strftime("%Y-%m-%d %H:%M %Z", time.localtime(moment))


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def duration(example: str) -> Callable[[click.Context, click.Parameter, str | None], int | None]:
    """A callback for options that take a span of time, such as 90m or 7d: seconds."""

    def read(_context: click.Context, _option: click.Parameter, value: str | None) -> int | None:
        if value is None:
            return None
        number, unit = value[:-1], value[-1:]
        if not (number.isascii() and number.isdigit() and unit in _UNITS and int(number) > 0):
            raise click.BadParameter(f"{value!r}, expected a number and s, m, h, d or w, such as {example}")
        return int(number) * _UNITS[unit]

    return read


def shown(text: str) -> str:
    """Text from the store for a terminal: strangers wrote it."""
    return clean(text)


def ago(seconds: float) -> str:
    """A span of time for a person, in its largest unit: 90s, 45m, 12h, 35d."""
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f}{unit}"
    return f"{seconds:g}s"


@click.group(cls=Group, invoke_without_command=True)
@click.pass_context
def command(context: click.Context) -> None:
    """Show what rates, greylists and `seen` remember, and make them forget.

    Exit status: 0 done, 1 there is nothing of this id, 64 wrong usage, 75 the state cannot be used, 78 wrong
    configuration.
    """
    if context.invoked_subcommand is None:
        context.invoke(show, config_path=DEFAULT_CONFIG, as_json=False)


_COUNTED = {
    "rates": "counters of rates",
    "verdicts": "messages that were counted once",
    "greylist": "keys of greylists",
    "pools": "pools of clients that pass them",
    "seen": "keys of seen",
}


@command.command()
@config_option
@json_option
def show(config_path: str, as_json: bool) -> None:
    """Count what is remembered."""
    with opened(config_path) as store:
        counts = store.counts()
    if as_json:
        click.echo(json.dumps(counts))
    else:
        for name, meaning in _COUNTED.items():
            click.echo(f"{counts[name]:>9}  {meaning}")


text_argument = click.argument("text", default="")


@command.command()
@text_argument
@click.option("--over", is_flag=True, help="Only where nothing more fits, or where something was just refused.")
@config_option
@json_option
def rates(text: str, over: bool, config_path: str, as_json: bool) -> None:
    """List what is used of limits, where the key or the rate's name holds TEXT."""
    with opened(config_path) as store:
        found = (one for one in store.rates() if not over or one.wait or one.refused is not None)
        _list((one for one in found if _holds(text, one.name, one.key)), _rate, as_json)


@command.command()
@text_argument
@click.option("--waiting", is_flag=True, help="Only keys that have not passed.")
@click.option("--pools", is_flag=True, help="The pools of clients that pass whole, in place of the keys.")
@config_option
@json_option
def greylist(text: str, waiting: bool, pools: bool, config_path: str, as_json: bool) -> None:
    """List the keys of greylists, where the key or its client holds TEXT."""
    with opened(config_path) as store:
        if pools:
            _list((one for one in store.pools() if _holds(text, one.client)), _pool, as_json)
        else:
            found = (one for one in store.greylisted() if not waiting or one.state != "passed")
            _list((one for one in found if _holds(text, one.client, one.key)), _greylisted, as_json)


@command.command()
@text_argument
@config_option
@json_option
def seen(text: str, config_path: str, as_json: bool) -> None:
    """List the keys of `seen`, where the key or its name holds TEXT."""
    with opened(config_path) as store:
        _list((one for one in store.met() if _holds(text, one.name, one.key)), _met, as_json)


@command.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@config_option
@click.pass_context
def forget(context: click.Context, ids: tuple[str, ...], config_path: str) -> None:
    """Forget what the lists show under each ID: a rate begins anew, a key of a greylist waits anew."""
    with opened(config_path) as store:
        gone = {one: _of(one, store.forget) for one in ids}
    for one, rows in gone.items():
        click.echo(f"{one}: {'forgotten' if rows else 'there is nothing of this id'}")
    context.exit(0 if all(gone.values()) else 1)


@command.command("pass")
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@click.option("--pool", is_flag=True, help="All mail of its client's pool, and not only this key.")
@config_option
@click.pass_context
def pass_(context: click.Context, ids: tuple[str, ...], pool: bool, config_path: str) -> None:
    """Let the key of a greylist with each ID pass from now on."""
    with opened(config_path) as store:
        clients = {one: _of(one, lambda id: store.let_pass(id, pool)) for one in ids}
    for one, client in clients.items():
        what = "all mail of" if pool else "this key of"
        click.echo(f"{one}: " + ("there is no such key" if client is None else f"{what} {shown(client)} passes"))
    context.exit(1 if None in clients.values() else 0)


def _of(id: str, act: Callable[[str], Any]) -> Any:
    try:
        return act(id)
    except ValueError:
        raise click.BadParameter(f"{id!r}, expected an id as the lists show it: 12 hexadecimal digits") from None


def _holds(text: str, *fields: str) -> bool:
    return any(text.lower() in field.lower() for field in fields)


def _list(entries: Iterable[Any], line: Callable[[Any], str], as_json: bool) -> None:
    for entry in entries:
        click.echo(json.dumps({n: getattr(entry, n) for n in sorted(entry.__slots__)}) if as_json else line(entry))


def _rate(one: Rate) -> str:
    full = f", room in {ago(one.wait)}" if one.wait else ""
    refused = "" if one.refused is None else f", refused {ago(one.refused)} ago"
    used = f"{one.used} of {one.limit} in {ago(one.window)}"
    return f"{one.id}  {shown(one.name)}  {shown(one.key)}  {used}{full}{refused}"


def _greylisted(one: Greylisted) -> str:
    state = f"waits {ago(one.wait)} more" if one.wait else "may pass, has not come back" if one.state == "due" else ""
    state = state or f"passed, last {ago(one.last)} ago"
    return f"{one.id}  {shown(one.client)}  {shown(one.key)}  first seen {ago(one.first)} ago, {state}"


def _pool(one: Pool) -> str:
    why = "by hand" if one.passes is None else "after 1 key" if one.passes == 1 else f"after {one.passes} keys"
    return f"{one.id}  {shown(one.client)}  passes {why}, used {ago(one.last)} ago, for {ago(one.ends)} more"


def _met(one: Met) -> str:
    return f"{one.id}  {shown(one.name)}  {shown(one.key)}  {ago(one.last)} ago, for {ago(one.ends)} more"
