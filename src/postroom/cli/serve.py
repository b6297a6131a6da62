"""`postroom serve`: the resident service. It binds, leaves root behind, and hands over to the supervisor."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Callable

import click

from postroom import config, dns, log
from postroom.cli.state import config_option
from postroom.config import Configuration
from postroom.resident import account, listeners, passed
from postroom.resident.account import Account
from postroom.resident.detach import UMASK, PidFile, detach
from postroom.resident.generation import Programs, workers
from postroom.resident.launch import Launch
from postroom.resident.listeners import Listener
from postroom.resident.notify import Notify
from postroom.resident.passed import Passed
from postroom.runners.options import Options
from postroom.status import ConfigurationFault, Fault, clean

DEFAULT_PID_FILE = "/run/postroom.pid"

# Connections of a hundred smtpd(8) are nothing beside it; what a hostile local user opens is bounded by it.
FILES_LIMIT = 65536


@click.command(short_help="Answer Postfix as a resident service.")
@config_option
@click.option("--state", metavar="DIR", help="The state directory, in place of the configuration's.")
@click.option("--log", "destination", metavar="DEST", help="syslog, or a file, in place of the configuration's.")
@click.option("--user", default="", metavar="NAME", help="Whom to run as when root starts it.")
@click.option("--group", default="", metavar="NAME", help="The same for the group.")
@click.option("--detach", "detached", is_flag=True, help="Leave the terminal; return when the service is ready.")
@click.option("--pid-file", metavar="FILE", help=f"Default with --detach: {DEFAULT_PID_FILE}")
@click.option("--check", "only_check", is_flag=True, help="Say where it would listen, and stop.")
def command(
    config_path: str,
    state: str | None,
    destination: str | None,
    user: str,
    group: str,
    detached: bool,
    pid_file: str | None,
    only_check: bool,
) -> None:
    """Listen where the [listen] tables of the configuration say, and answer as the programs would.

    SIGHUP loads the configuration anew; SIGTERM and SIGINT end the service when it has finished what it has in hand.

    Exit status: 0 ended as it was told to, 75 it cannot start now (an address is taken, it runs already, the state
    cannot be written), 78 wrong
    configuration, 64 wrong usage.
    """
    options = _options(config_path, state, destination)
    try:
        configuration = config.load(options.config, options.state)
        if not configuration.listen:
            raise ConfigurationFault(f"{options.config}: no [listen.NAME] table: nothing to listen on")
        serve = configuration.serve
        who = account.choose(user or serve.user, group or serve.group)
        given = _passed(configuration)
        if only_check:
            return _show(configuration, who, given)
        path = pid_file or (DEFAULT_PID_FILE if detached else "")
        status = _serve(options, configuration, who, given, os.path.abspath(path) if path else "", detached)
    except Fault as fault:
        click.echo(f"postroom: {clean(str(fault))}", err=True)
        status = os.EX_CONFIG if isinstance(fault, ConfigurationFault) else os.EX_TEMPFAIL
    sys.exit(status)


def _options(config_path: str, state: str | None, destination: str | None) -> Options:
    """As the programs have them; paths that hold when the working directory is another."""
    options = Options()
    options.config = os.path.abspath(config_path)
    options.state = os.path.abspath(state) if state else None
    options.log = os.path.abspath(destination) if destination and destination != "syslog" else destination
    return options


def _passed(configuration: Configuration) -> Passed:
    given = passed.passed()
    for address in given.unclaimed(configuration.listen):
        raise ConfigurationFault(f"systemd passed a socket at {address}, which no [listen.NAME] is for")
    return given


def _show(configuration: Configuration, who: Account, given: Passed) -> None:
    """What it would do; raises the faults that can be told without doing it."""
    for listen in configuration.listen:
        if not given.take(listen):
            listeners.check(listen, who)
        words = [f"{listen.name}: {listen.protocol} at {listen.at}"]
        if listen.at.startswith("unix:"):
            words.append(f"mode {listen.mode:04o}, owner {listen.owner or who.name}")
            words += [f"group {listen.group}"] if listen.group else []
        words += [one for one in (listen.program, listen.table and f"table {listen.table}") if one]
        click.echo(clean(", ".join(words)))
    serve = configuration.serve
    count = workers(serve)
    click.echo(f"{count} worker{'s' * (count != 1)} of {serve.threads} threads, as {who.name}")


def _serve(
    options: Options, configuration: Configuration, who: Account, given: Passed, pid_path: str, detached: bool
) -> int:
    """Bind, leave root and the terminal, and serve; the exit status."""
    programs = _programs()
    # Before the daemon closes all that it does not know; and its variables are for us, not for what workers start.
    notify = Notify()
    pid_file = PidFile(pid_path) if pid_path else None
    if pid_file is not None:
        pid_file.take()
    try:
        bound = listeners.open_all(configuration.listen, who, given)
        announce, private = _leave(who, bound, given, pid_file, detached)
        log.open("serve", options.log or configuration.log, configuration.log_format)
        try:
            _usable(configuration.state, who)
            return _run(Launch(options, who, given, programs, notify, announce, private), configuration, bound)
        except Fault as fault:
            if detached:  # else who called says it
                announce(str(fault))
            raise
    finally:
        if pid_file is not None:
            pid_file.release()


def _usable(state: str, who: Account) -> None:
    """Raises Fault where nothing could be kept: every delivery would be put off, and that seen only in the log."""
    if not os.path.isdir(state):
        why, way = "is not there", f"install -d -m 700 -o {who.name} {state}"
    elif not os.access(state, os.W_OK | os.X_OK):
        why, way = f"cannot be written by {who.name}", f"chown {who.name} {state}"
    else:
        return
    raise Fault(f"the state directory {state} {why}: {way}")


def _programs() -> Programs:
    """Imported here, so that there is one copy of it for all that will be forked, and a fault of it is seen."""
    from postroom.resident import health, worker

    return Programs(worker.run, health.run)


def _leave(
    who: Account, bound: list[Listener], given: Passed, pid_file: PidFile | None, detached: bool
) -> tuple[Callable[[str], None], tuple[int, ...]]:
    """Become that account, in the background where asked to.

    How to say what becomes of it; and which descriptors are not for children.
    """
    announce: Callable[[str], None] = _announce
    private: tuple[int, ...] = ()
    if pid_file is not None:
        private = (pid_file.fd,)
        if detached:
            sockets = [*(one.socket for one in bound), *(sock for _, sock in given.sockets)]
            writer, announce = detach(who, [sock.fileno() for sock in sockets], pid_file)
            private += (writer,)
        else:
            pid_file.__enter__()
    account.become(who)
    for one in bound:
        one.own()
    os.umask(UMASK)
    os.chdir("/")
    return announce, private


def _announce(said: str) -> None:
    """In the foreground: what is wrong, always; that it is well, where a person is looking."""
    if said or sys.stderr.isatty():
        click.echo(f"postroom: {clean(said) or 'serving'}", err=True)


def _run(launch: Launch, configuration: Configuration, bound: list[Listener]) -> int:
    from postroom.dnsshared import Shared
    from postroom.resident.supervisor import Supervisor

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = FILES_LIMIT if hard == resource.RLIM_INFINITY else min(hard, FILES_LIMIT)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
    dns.share(Shared())  # memory that all workers have in common has to be there before them
    return Supervisor(launch, configuration, bound).run()
