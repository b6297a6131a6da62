"""`postroom status`: ask the resident how it is.

With --json the object of its /status, whose fields are in postroom(1).
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException
from typing import Any

import click

from postroom import config
from postroom.cli.check import DEFAULT_CONFIG
from postroom.cli.state import ago
from postroom.status import ConfigurationFault, clean

# Seconds to connect, and between two parts of the answer: it comes from memory.
PATIENCE = 5.0

# A thousand times what it comes to.
ANSWER_LIMIT = 4 * 1024 * 1024

# How a configuration without the listener is mended.
MISSING = """\
no [listen.health] table: there is nobody to ask. Add, and restart postroom serve:
[listen.health]
at = "unix:/run/postroom/health\""""


class Unreachable(Exception):
    """Nobody answers there, or somebody else."""


@click.command()
@click.option(
    "--config", "config_path", metavar="FILE", default=DEFAULT_CONFIG, show_default=True, help="The configuration."
)
@click.option("--address", metavar="unix:PATH|HOST:PORT", help="Ask there, in place of [listen.health].")
@click.option("--json", "as_json", is_flag=True, help="One JSON object; the fields are in postroom(1).")
@click.pass_context
def command(context: click.Context, config_path: str, address: str | None, as_json: bool) -> None:
    """Ask `postroom serve` how it is: first what is wrong, then what there is.

    Exit status: 0 all is well, 1 something is not, 64 wrong usage, 69 nobody answers, 78 wrong configuration, or none
    of a health listener.
    """
    try:
        where = address or configured(config_path)
        told = ask(where)
    except ConfigurationFault as fault:
        _fail(context, str(fault), os.EX_CONFIG)
    except Unreachable as error:
        _fail(context, f"{where}: {error}", os.EX_UNAVAILABLE)
    for line in [json.dumps(told)] if as_json else page(told):
        click.echo(line)
    context.exit(1 if told["problems"] else 0)


def _fail(context: click.Context, text: str, status: int) -> None:
    first, *more = text.split("\n")
    click.echo("\n".join([f"postroom: {clean(first)}", *more]), err=True)
    context.exit(status)


def configured(config_path: str) -> str:
    """The address of the health listener. Raises ConfigurationFault where there is none."""
    try:
        found = [listen.at for listen in config.load(config_path).listen if listen.protocol == "health"]
    except ConfigurationFault as fault:
        # The service goes on by the one before, and can tell; which is when it is asked.
        found = _looked_for(config_path)
        if not found:
            raise ConfigurationFault(f"{fault}; where to ask cannot be read from it: --address") from None
    if not found:
        raise ConfigurationFault(f"{config_path}: {MISSING}")
    return found[0]


def _looked_for(config_path: str) -> list[str]:
    """The address in a file that is wrong in some other place, or not even TOML."""
    try:
        with open(config_path, encoding="utf-8", errors="replace") as file:
            text = file.read(config.FILE_LIMIT)
    except OSError:
        return []
    tables = re.split(r"(?m)^[ \t]*(?=\[)", text)
    health = [table for table in tables if re.match(r"\[listen\.health\]|(?s:.*)^protocol *= *\"health\"", table, re.M)]
    return [
        found[1] for table in health if (found := re.search(r'(?m)^[ \t]*at[ \t]*=[ \t]*"(unix:/[^"]+|[^"/]+)"', table))
    ]


class _Connection(HTTPConnection):
    """HTTP to "unix:PATH" or "HOST:PORT"."""

    def __init__(self, address: str) -> None:
        super().__init__("localhost", timeout=PATIENCE)
        self._address = address

    def connect(self) -> None:
        if self._address.startswith("unix:"):
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.settimeout(PATIENCE)
            self.sock.connect(self._address.removeprefix("unix:"))
        else:
            host, _, port = self._address.rpartition(":")
            self.sock = socket.create_connection((host.strip("[]"), int(port)), PATIENCE)


def ask(address: str) -> dict[str, Any]:
    """What /status says there. Raises Unreachable, with what to do."""
    host, _, port = address.rpartition(":")
    if not address.startswith("unix:") and not (host and port.isascii() and port.isdigit() and int(port) < 65536):
        raise click.BadParameter(f"{address!r}, expected unix:/PATH or HOST:PORT", param_hint="--address")
    connection = _Connection(address)
    try:
        connection.request("GET", "/status")
        response = connection.getresponse()
        data = response.read(ANSWER_LIMIT)
        told = json.loads(data)
        if response.status != 200 or not isinstance(told, dict) or "problems" not in told:
            raise ValueError
    except PermissionError as error:
        raise Unreachable(f"{error.strerror}: try as root, or as a user whom mode and group of it allow") from None
    except OSError as error:
        why = "it does not answer" if isinstance(error, TimeoutError) else error.strerror or str(error)
        raise Unreachable(f"{why}: is postroom serve running? (systemctl status postroom, the mail log)") from None
    except (ValueError, HTTPException, RecursionError):
        raise Unreachable("something else answers there: is this the address of [listen.health]?") from None
    finally:
        connection.close()
    return told


def page(told: dict[str, Any]) -> Iterator[str]:
    """For a person, in the order of what they want to know."""
    problems, workers = told["problems"], told["workers"]
    if problems:
        yield click.style(
            f"NOT WELL, {len(problems)} {'thing is' if len(problems) == 1 else 'things are'} wrong:", bold=True
        )
        yield from (f"  * {clean(problem)}" for problem in problems)
    else:
        yield click.style("All is well.", bold=True)
    yield ""
    yield f"serve          {told['version']}, pid {told['pid']}, up {ago(int(told['uptime']))}"
    yield f"configuration  {_configuration(told['configuration'])}"
    yield f"requests       {_requests(told)}"
    yield f"faults         {_faults(told['lately'])}"
    yield f"workers        {len(workers)}; {told['restarts']} restarts"
    yield from _table(
        ("slot", "pid", "up", "connections", "requests", "waiting", "stuck", "memory"),
        [_worker(worker) for worker in workers],
    )
    yield f"listeners      {len(told['listeners'])}"
    yield from _table(
        ("name", "protocol", "connections", "address"),
        [(one["name"], one["protocol"], one["connections"], one["address"]) for one in told["listeners"]],
    )
    for name in ("dns", "store"):
        if told[name]:
            yield f"{name:14} " + ", ".join(f"{key} {_number(value)}" for key, value in told[name].items())
    if told["programs"]:
        yield f"programs       {', '.join(map(clean, told['programs']))}"


def _configuration(told: dict[str, Any]) -> str:
    age = "" if told["age"] is None else f", read {ago(int(told['age']))} ago"
    return clean(told["path"]) + age + (", its newest version refused" if told["refused"] else "")


def _requests(told: dict[str, Any]) -> str:
    lately = told["lately"]
    rate = lately["requests"] / lately["seconds"] if lately["seconds"] else 0.0
    return f"{_number(told['requests'])}; {rate:,.1f} a second in the last minute; {told['queue']} wait for a thread"


def _faults(lately: dict[str, Any]) -> str:
    counted = ", ".join(f"{kind} {number}" for kind, number in sorted(lately["faults"].items()))
    return f"{counted or 'none'} in the last minute"


def _worker(told: dict[str, Any]) -> tuple[object, ...]:
    return (
        f"{told['slot']}{' (ends)' if told['draining'] else ''}",
        told["pid"],
        ago(int(told["uptime"])),
        sum(told["connections"].values()),
        _number(told["requests"]),
        told["queue"],
        told["stuck"],
        f"{told['memory'] / 1048576:.0f} MB",
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,.3f}"


def _table(head: tuple[str, ...], rows: list[tuple[object, ...]]) -> Iterator[str]:
    """The columns under each other, indented; nothing where there are no rows."""
    if not rows:
        return
    lines = [head, *([clean(str(cell)) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    for line in lines:
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
