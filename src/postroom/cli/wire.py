"""`postroom wire`: add programs to a Postfix, its own files shown as a diff first and changed all or not at all."""

from __future__ import annotations

import contextlib
import os
import shlex
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import click

from postroom.cli.listening import answered
from postroom.config import load
from postroom.postfix import access, control
from postroom.postfix.commit import Change, Refusal, commit, rehearse, unwritable
from postroom.postfix.fragment import Fragment, NoFragment, read, thin_start
from postroom.postfix.logical import SyntaxFault
from postroom.postfix.postconf import Postconf, PostconfError
from postroom.postfix.wiring import Files, Wiring, unasked
from postroom.status import Fault

DEFAULT_USER = "postroom"
DEFAULT_CONFIG = "/etc/postroom/postroom.toml"
# New daemon processes read main.cf when they start, master(8) its master.cf only when it is told to: until then
# smtpd(8) asks for services that are not there, and answers every recipient with 451.
RELOAD = "new processes already go by main.cf, and ask for services that master(8) has not yet read of"


@dataclass(frozen=True)
class Manner:
    """How to make a change."""

    dry_run: bool
    yes: bool
    no_reload: bool


def manner_options(function: click.decorators.FC) -> click.decorators.FC:
    """--dry-run, --yes and --no-reload, for wire and unwire."""
    for option in (
        click.option(
            "--no-reload", is_flag=True, help="Leave `postfix reload`, which a running Postfix needs, to you."
        ),
        click.option("--yes", is_flag=True, help="Do not ask."),
        click.option("--dry-run", is_flag=True, help="Print the change and stop."),
    ):
        function = option(function)
    return function


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
@click.option("--thin", is_flag=True, help="Start them by the least that hands off to `postroom serve`.")
@manner_options
def command(
    programs: tuple[str, ...],
    directory: Path | None,
    user: str,
    config: Path,
    folder: Path | None,
    thin: bool,
    **manner: bool,
) -> None:
    """Add each PROGRAM's entry to master.cf, and to main.cf the lines that it needs.

    First it checks that USER can run the programs, read the configuration and write the state, by doing it; then it
    tries the change on a copy of the configuration. Programs that are wired already are left as they are. A Postfix
    that runs is reloaded after the change.

    Exit status: 0 done, or nothing to do; 78 refused, nothing changed; 75 changed, not reloaded; 64 wrong usage.
    """
    folder = (folder or Path(sysconfig.get_path("scripts"))).absolute()
    start = thin_start() if thin else ()
    with refusals():
        postconf = Postconf(directory)
        fragments = [read(program) for program in dict.fromkeys(programs)]
        files = Files.read(postconf)
        deadline = allowed(fragments, folder, user, config.absolute(), postconf, start)
        show_answered(config.absolute(), fragments, postconf)
        wiring = Wiring(postconf, files, start)
        for fragment in fragments:
            wiring.add(fragment, str(folder / fragment.program), user, str(config.absolute()), deadline)
        if wiring.reasons:
            raise Refusal(wiring.reasons)
        left = [f"{fragment.program}: {line}" for fragment in fragments for line in fragment.todo]
        left += [line for fragment in fragments for line in unasked(files, fragment)]
        services = [fragment.service.key for fragment in fragments]
        carry_out(postconf, files.changes(), services, left, Manner(**manner))


def show_answered(config: Path, fragments: list[Fragment], postconf: Postconf) -> None:
    """Where `postroom serve` would do what is about to be started for each connection or mail."""
    try:
        configuration = load(str(config))
    except Fault:
        return  # said by now, or of no use to who is not root
    queue = postconf.expanded("queue_directory")
    for fragment in fragments:
        for name in answered(configuration, fragment.program, queue):
            click.echo(f"{fragment.program}: `postroom serve` answers without a process for it: {name}")


def allowed(
    fragments: list[Fragment], folder: Path, user: str, config: Path, postconf: Postconf, start: tuple[str, ...]
) -> float | None:
    """Try everything that the programs' user has to be able to do; the deadline in the configuration."""
    reasons = access.account_reasons(user, postconf)
    if reasons:
        raise Refusal(reasons)
    if os.geteuid() != 0:
        click.echo(f"not root: whether {user} can run the programs is not checked", err=True)
        return None
    given = access.surroundings(user, postconf)
    for fragment in fragments:
        reasons += access.program_reasons(folder / fragment.program, given, user, start)
    finding = access.configuration(config, given, user)
    if reasons or finding.reasons:
        # Several programs, one shut folder: once is enough.
        raise Refusal(list(dict.fromkeys(reasons + finding.reasons)))
    return finding.deadline


def carry_out(postconf: Postconf, changes: list[Change], services: list[str], left: list[str], how: Manner) -> None:
    """Show the changes, try them on a copy, ask, write them, reload; `services` must be there after.

    `left` is what the change leaves to the administrator.
    """
    if not changes:
        click.echo("nothing to change")
        return
    reasons = [] if how.dry_run else unwritable(changes)
    if reasons:
        raise Refusal(reasons)
    rehearse(postconf, changes, services)
    for change in changes:
        click.echo(change.diff(), nl=False)
    by_hand = f"{shlex.join(control.reload_command(postconf))}, now: {RELOAD}"
    if how.no_reload or not control.allowed():
        left = [*left, by_hand]
    if how.dry_run:
        show_left(left)
        click.echo("nothing was changed")
        return
    running = not how.no_reload and control.allowed() and control.running(postconf)
    if not how.yes:
        click.confirm("Write this and reload Postfix?" if running else "Write this?", abort=True, err=True)
    commit(postconf, changes, services)
    trouble = reloaded(postconf) if running else ""
    if not (running or how.no_reload) and control.allowed():
        click.echo("Postfix is not running: nothing to reload")
    show_left([*left, by_hand] if trouble else left)
    if trouble:
        click.echo(f"postroom: changed, but Postfix was not reloaded: {trouble}", err=True)
        raise SystemExit(os.EX_TEMPFAIL)


def reloaded(postconf: Postconf) -> str:
    """Reload Postfix, and say so; why that failed, or ""."""
    click.echo(f"running {shlex.join(control.reload_command(postconf))}")
    try:
        control.reload(postconf)
    except (PostconfError, OSError) as error:
        return str(error)
    return ""


def show_left(left: list[str]) -> None:
    """What wiring leaves to the administrator."""
    if left:
        click.echo("left to do:")
    for line in left:
        click.echo(f"  {line}")


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Every reason to refuse as a line on standard error, and exit status 78."""
    try:
        yield
    except OSError as error:
        # The file and the words, without the number.
        refuse(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error))
    except (Refusal, NoFragment, SyntaxFault, PostconfError) as error:
        refuse(str(error))


def refuse(reasons: str) -> NoReturn:
    """Say it, and end."""
    for reason in reasons.splitlines():
        click.echo(f"postroom: {reason}", err=True)
    raise SystemExit(os.EX_CONFIG)
