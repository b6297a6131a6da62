"""`postroom unwire`: take programs out of a Postfix again, and with them exactly what `postroom wire` added."""

from __future__ import annotations

from pathlib import Path

import click

from postroom.cli.wire import carry_out, postfix_option, refusals
from postroom.postfix.commit import Refusal
from postroom.postfix.fragment import read
from postroom.postfix.postconf import Postconf
from postroom.postfix.wiring import Files, Unwiring


@click.command(short_help="Take programs out of Postfix again.")
@click.argument("programs", metavar="PROGRAM...", nargs=-1, required=True)
@postfix_option
@click.option("--dry-run", is_flag=True, help="Print the change and stop.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def command(programs: tuple[str, ...], directory: Path | None, dry_run: bool, yes: bool) -> None:
    """Remove what `postroom wire` added for each PROGRAM; lines that it did not add stay.

    Mail that is still routed to a program waits in the queue then: take it out of transport_maps first.

    Exit status: 0 done, or nothing to do; 78 refused, nothing changed; 64 wrong usage.
    """
    with refusals():
        postconf = Postconf(directory)
        files = Files.read(postconf)
        unwiring = Unwiring(files)
        fragments = [read(program) for program in dict.fromkeys(programs)]
        for fragment in fragments:
            unwiring.remove(fragment)
        if unwiring.reasons:
            raise Refusal(unwiring.reasons)
        # Backwards: main.cf names nothing any more when it goes.
        done = carry_out(postconf, files.changes()[::-1], [], dry_run, yes)
    if done:
        click.echo("left to do:")
        for fragment in fragments:
            if fragment.service.command == "pipe":
                click.echo(f"  {fragment.program}: take it out of transport_maps: mail that is sent to it now waits")
        click.echo(f"  postfix -c {postconf.directory} reload")
