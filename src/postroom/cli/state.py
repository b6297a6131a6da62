"""What the verbs over the state share: the configuration, the open store, how a fault ends, how times read."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
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
