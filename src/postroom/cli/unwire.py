"""`postroom unwire`: take programs out of a Postfix again, and with them exactly what `postroom wire` added."""

from __future__ import annotations

from pathlib import Path

import click

from postroom.cli.wire import Manner, carry_out, manner_options, postfix_option, refusals
from postroom.postfix.commit import Refusal
from postroom.postfix.fragment import read
from postroom.postfix.postconf import Postconf
from postroom.postfix.wiring import Files, Unwiring


@click.command(short_help="Take programs out of Postfix again.")
@click.argument("programs", metavar="PROGRAM...", nargs=-1, required=True)
@postfix_option
@manner_options
def command(programs: tuple[str, ...], directory: Path | None, **manner: bool) -> None:
    """Remove what `postroom wire` added for each PROGRAM; lines that it did not add stay.

    Mail that is still routed to a program waits in the queue then: take it out of transport_maps first. A
    Postfix that runs is reloaded after the change.

    Exit status: 0 done, or nothing to do; 78 refused, nothing changed; 75 changed, not reloaded; 64 wrong usage.
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
        piped = [fragment.program for fragment in fragments if fragment.service.command == "pipe"]
        left = [f"{program}: take it out of transport_maps: mail that is sent to it now waits" for program in piped]
        # Backwards: main.cf names nothing any more when it goes.
        carry_out(postconf, files.changes()[::-1], [], left, Manner(**manner))
