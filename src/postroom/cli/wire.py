"""`postroom wire`: add programs to a Postfix, its own files shown as a diff first and changed all or not at all."""

from __future__ import annotations

import contextlib
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import click

from postroom.postfix import access
from postroom.postfix.commit import Change, Refusal, commit, rehearse
from postroom.postfix.fragment import Fragment, NoFragment, read
from postroom.postfix.logical import SyntaxFault
from postroom.postfix.postconf import Postconf, PostconfError
from postroom.postfix.wiring import Files, Wiring

DEFAULT_USER = "postroom"
DEFAULT_CONFIG = "/etc/postroom/postroom.toml"
# New daemon processes read main.cf when they start, master(8) its master.cf only when it is told to.
RELOAD = "new processes already go by main.cf, and ask for services that master(8) has not yet read of"


def postfix_option(function: click.decorators.FC) -> click.decorators.FC:
    """--postfix, for wire and unwire."""
    return click.option(
        "--postfix",
        "directory",
        metavar="DIR",
        type=click.Path(file_okay=False, path_type=Path),
        help="Postfix's configuration directory (postconf -d config_directory).",
    )(function)


@click.command(short_help="Add programs to Postfix's master.cf and main.cf.")
@click.argument("programs", metavar="PROGRAM...", nargs=-1, required=True)
@postfix_option
@click.option("--user", default=DEFAULT_USER, metavar="USER[:GROUP]", show_default=True, help="Who runs the programs.")
@click.option(
    "--config",
    default=DEFAULT_CONFIG,
    type=click.Path(path_type=Path),
    show_default=True,
    help="The programs' configuration file.",
)
@click.option(
    "--programs",
    "folder",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Where the programs are installed; by default beside the Python that runs this.",
)
@click.option("--dry-run", is_flag=True, help="Print the change and stop.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def command(
    programs: tuple[str, ...],
    directory: Path | None,
    user: str,
    config: Path,
    folder: Path | None,
    dry_run: bool,
    yes: bool,
) -> None:
    """Add each PROGRAM's entry to master.cf, and to main.cf the lines that it needs.

    First it checks that USER can run the programs, read the configuration and write the state, by doing it; then it
    tries the change on a copy of the configuration. Programs that are wired already are left as they are.

    Exit status: 0 done, or nothing to do; 78 refused, nothing changed; 64 wrong usage.
    """
    folder = (folder or Path(sysconfig.get_path("scripts"))).absolute()
    with refusals():
        postconf = Postconf(directory)
        fragments = [read(program) for program in dict.fromkeys(programs)]
        files = Files.read(postconf)
        deadline = allowed(fragments, folder, user, config.absolute(), postconf)
        wiring = Wiring(postconf, files)
        for fragment in fragments:
            wiring.add(fragment, str(folder / fragment.program), user, str(config.absolute()), deadline)
        if wiring.reasons:
            raise Refusal(wiring.reasons)
        done = carry_out(postconf, files.changes(), [fragment.service.key for fragment in fragments], dry_run, yes)
    if done:
        show_left(fragments, postconf)


def allowed(fragments: list[Fragment], folder: Path, user: str, config: Path, postconf: Postconf) -> float | None:
    """Try everything that the programs' user has to be able to do; the deadline in the configuration."""
    reasons = access.account_reasons(user, postconf)
    if reasons:
        raise Refusal(reasons)
    if os.geteuid() != 0:
        click.echo(f"not root: whether {user} can run the programs is not checked", err=True)
        return None
    given = access.surroundings(user, postconf)
    for fragment in fragments:
        reasons += access.program_reasons(folder / fragment.program, given, user)
    finding = access.configuration(config, given, user)
    if reasons or finding.reasons:
        # Several programs, one shut folder: once is enough.
        raise Refusal(list(dict.fromkeys(reasons + finding.reasons)))
    return finding.deadline


def carry_out(postconf: Postconf, changes: list[Change], services: list[str], dry_run: bool, yes: bool) -> bool:
    """Show the changes, try them on a copy, ask, write them; whether that was done. `services` must be there after."""
    if not changes:
        click.echo("nothing to change")
        return False
    rehearse(postconf, changes, services)
    for change in changes:
        click.echo(change.diff(), nl=False)
    if dry_run:
        return False
    if not yes:
        click.confirm("Write this?", abort=True, err=True)
    commit(postconf, changes, services)
    return True


def show_left(fragments: list[Fragment], postconf: Postconf) -> None:
    """What wiring leaves to the administrator."""
    click.echo("left to do:")
    for fragment in fragments:
        for line in fragment.todo:
            click.echo(f"  {fragment.program}: {line}")
    click.echo(f"  postfix -c {postconf.directory} reload, now: {RELOAD}")


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Every reason to refuse as a line on standard error, and exit status 78."""
    try:
        yield
    except (Refusal, NoFragment, SyntaxFault, PostconfError, OSError) as error:
        for reason in str(error).splitlines():
            click.echo(f"postroom: {reason}", err=True)
        raise SystemExit(os.EX_CONFIG) from error
