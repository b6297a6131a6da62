"""`postroom demo`: real mail through a private Postfix, one line for each thing that happened."""

from __future__ import annotations

import shutil
import signal
import sys
import time
from types import FrameType

import click

from postroom.lab.cases import CASES, Line, load
from postroom.lab.lab import Lab
from postroom.lab.nameserver import NameserverError
from postroom.lab.place import PlaceError
from postroom.postfix.instance import InstanceError


@click.command()
@click.option("--keep", is_flag=True, help="Leave the lab running and say how to look around.")
@click.option(
    "--case", "only", type=click.IntRange(1, len(CASES)), multiple=True, help="Only this case (may be repeated)."
)
def command(keep: bool, only: tuple[int, ...]) -> None:
    """Send real mail through a private Postfix and show what happens.

    Needs root and Debian's postfix and nsd. Everything runs on loopback, in one temporary folder, and is stopped and
    removed at the end. Exit status 0 when each case came out as stated, 1 when one did not.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)
    began = time.monotonic()
    try:
        with Lab(_note, keep) as lab:
            lines = [
                line for number, _ in enumerate(CASES, 1) if not only or number in only for line in _tell(lab, number)
            ]
            if keep:
                lab.settle()
                _look_around(lab)
    except (InstanceError, NameserverError, PlaceError) as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        click.echo("stopped; nothing is left running", err=True)
        sys.exit(130)
    wrong = sum(not line.ok for line in lines)
    result = f"{wrong} not as stated" if wrong else "all as stated"
    click.echo(f"\n{len(lines)} lines, {result}, {time.monotonic() - began:.0f} s")
    sys.exit(1 if wrong else 0)


def _tell(lab: Lab, number: int) -> list[Line]:
    title, name = CASES[number - 1]
    click.echo()
    click.secho(f"{number}. {title}", bold=True)
    told: list[Line] = []
    case = iter(load(name)(lab))
    while True:
        _progress("...")
        line = next(case, None)
        _progress("")
        if line is None:
            return told
        told.append(line)
        _show(line)


def _show(line: Line) -> None:
    mark = click.style("ok   ", fg="green") if line.ok else click.style("WRONG", fg="red", bold=True)
    if not sys.stdout.isatty():
        click.echo(f"   {mark} {line.sent}  ->  {line.did}" + (f"  [{line.why}]" if line.why else ""))
        return
    click.echo(f"   {mark} {line.sent}")
    click.echo(_wrapped(f"-> {line.did}"))
    if line.why:
        click.secho(_wrapped(line.why), dim=True)


def _wrapped(text: str) -> str:
    width = shutil.get_terminal_size().columns - 1
    return click.wrap_text(text, max(width, 40), initial_indent=" " * 12, subsequent_indent=" " * 15)


def _progress(text: str) -> None:
    """A sign of life, on a terminal only; the next line takes its place."""
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns - 1
        sys.stdout.write("\r" + (f"         {text}" if text else " " * width + "\r"))
        sys.stdout.flush()


def _note(text: str) -> None:
    click.secho(f"   {text}", dim=True)


def _interrupt(number: int, frame: FrameType | None) -> None:
    click.echo("\nstopping ...", err=True)
    raise KeyboardInterrupt


def _look_around(lab: Lab) -> None:
    config = lab.postfix.config_directory
    click.echo(f"\nThe lab keeps running in {lab.folder}. Look around:")
    for what, how in (
        ("what Postfix logged", f"less {lab.postfix.log.path}"),
        ("what Postroom logged", f"less {lab.log.path}"),
        ("the rules", f"less {lab.config}"),
        (
            "why a recipient is refused",
            f"{lab.place.programs}/postroom explain --config {lab.config} recipient=listed@victim.test",
        ),
        ("send a mail", f"/usr/sbin/smtp-source -c -f you@client.test -t box@home.test 127.0.0.1:{lab.postfix.port}"),
        ("what was wired", f"postconf -c {config} -M rule-deliver/unix; postconf -c {config} -n"),
        ("stop it, and remove all of it", str(lab.stop_script())),
    ):
        click.echo(f"  {what + ':':30} {how}")
