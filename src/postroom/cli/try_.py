"""`postroom try`: run a program as pipe(8) would, and say what Postfix would then do with the mail.

With --json one object: `status` (sent, deferred, bounced), `dsn`, `text` (as Postfix logs them), `wired_status` and
`wired_dsn` (the same with the status filter that `postroom wire` sets), `arguments`, `user`, `directory`, `exit` (null
when it was not run or died by a signal), `signal`, `timed_out`, `seconds`, `output` (at most 4096 bytes), `warnings`.
"""

from __future__ import annotations

import json
import os
import pwd
import shlex
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from postroom.postfix import entry
from postroom.postfix.emulator import COMMAND_TIME_LIMIT, Surroundings, attempt, not_run
from postroom.postfix.fragment import NoFragment, read
from postroom.postfix.pipe_request import FLAGS, NULL_SENDER, Recipient, Refused, Request, split
from postroom.postfix.pipe_verdict import Verdict, filtered, printable
from postroom.postfix.postconf import Postconf, PostconfError

EXIT = {"sent": os.EX_OK, "deferred": os.EX_TEMPFAIL, "bounced": os.EX_UNAVAILABLE}
USERS = ("postroom", "nobody")
# What the other macros say where no option does: a mail from an SMTP client on this host.
ATTRIBUTES = {
    "client_address": "127.0.0.1",
    "client_hostname": "localhost",
    "client_helo": "localhost",
    "client_protocol": "ESMTP",
    "client_port": "25000",
    "sasl_method": "",
    "sasl_sender": "",
    "sasl_username": "",
}


def macro_options(function: Callable[..., None]) -> Callable[..., None]:
    """An option for each macro of pipe(8) that describes the client."""
    for name, value in reversed(ATTRIBUTES.items()):
        function = click.option(f"--{name.replace('_', '-')}", name, default=value, show_default=bool(value))(function)
    return function


def known_flags(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """pipe(8) itself ends at a flag that it does not know, and the mail waits."""
    unknown = set(value or "") - FLAGS
    if unknown:
        raise click.BadParameter(f"unknown flag {''.join(sorted(unknown))}: pipe(8) knows {''.join(sorted(FLAGS))}")
    return value


@click.command(short_help="Run a program as pipe(8) would, and say what Postfix would do.")
@click.argument("program")
@click.argument("words", nargs=-1)
@click.option("--user", metavar="USER[:GROUP]", help="Who runs it: postroom or nobody; without root yourself.")
@click.option("--time-limit", type=click.FloatRange(min=0), default=COMMAND_TIME_LIMIT, show_default=True)
@click.option("--flags", metavar="DFORXBhqu.>", callback=known_flags, help="flags= of master.cf.")
@click.option("--stdin", "message", type=click.File("rb"), help="The message; a small one is made without this.")
@click.option("--sender", default="sender@example.com", show_default=True, help='"" for the null sender.')
@click.option("--recipient", "recipients", multiple=True, help="May be given more than once.")
@click.option("--original-recipient", "originals", multiple=True, help="As often as --recipient, in the same order.")
@click.option("--null-sender", help="null_sender= of master.cf: ${sender} for the null sender.")
@click.option("--recipient-delimiter", default="", help="Splits ${user} from ${extension}.")
@click.option("--nexthop", help="The recipient's domain without this.")
@click.option("--queue-id", help="A new one each time without this.")
@macro_options
@click.option("--config", default="/etc/postroom/postroom.toml", show_default=True, help="For a program of Postroom's.")
@click.option("--postfix", "directory", metavar="DIR", type=click.Path(file_okay=False), help="Whose queue directory.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object; the fields are in postroom(1).")
@click.pass_context
def command(context: click.Context, /, program: str, words: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Run PROGRAM with WORDS as its arguments as pipe(8) would, and show what Postfix would do with the mail.

    WORDS may hold pipe(8)'s macros, such as ${sender}; put them behind "--". A program of Postroom's gets the words
    of its master.cf entry when none are given.

    This is no dry run: what the program does is done. To see only what rules decide: postroom explain --at deliver;
    what a report says: postroom bounces parse.

    Exit status: 0 sent, 75 deferred, 69 bounced, 64 wrong usage.
    """
    path = located(program)
    template, request = described(path, words, options)
    message = options["message"].read() if options["message"] else sample(request)
    request.attributes["size"] = str(len(message))
    try:
        given = surroundings(options["user"], configured(options["directory"]))
        verdict = attempt(template, request, message, given, options["time_limit"], Path(path).name)
    except Refused as refused:
        given = None
        verdict = not_run(refused)
    facts = told(verdict, given, arguments(template, request))
    click.echo(json.dumps(facts) if as_json else "\n".join(lines(facts)))
    context.exit(EXIT[verdict.status])


# What to run


def located(program: str) -> str:
    """The program as argv= names it: as it was written, or one of Postroom's by its bare name."""
    installed = Path(sysconfig.get_path("scripts")) / program
    return str(installed) if "/" not in program and installed.is_file() else program


def described(path: str, words: tuple[str, ...], options: dict[str, Any]) -> tuple[list[str], Request]:
    """The command line template and the request, from the options and, where they say nothing, from the fragment."""
    attributes: dict[str, str] = {}
    if not words:
        words, attributes = from_fragment(path, os.path.abspath(options["config"]))
    recipients = options["recipients"] or ("recipient@example.com",)
    originals = options["originals"] or recipients
    if len(originals) != len(recipients):
        raise click.UsageError("give --original-recipient as often as --recipient, or not at all")
    null_sender = options["null_sender"]
    request = Request(
        sender=options["sender"],
        recipients=tuple(Recipient(*pair) for pair in zip(recipients, originals, strict=True)),
        flags=frozenset(options["flags"] if options["flags"] is not None else attributes.get("flags", "")),
        null_sender=null_sender if null_sender is not None else attributes.get("null_sender", NULL_SENDER),
        recipient_delimiter=options["recipient_delimiter"],
        attributes={
            "nexthop": options["nexthop"] or split(recipients[0])[2],
            # New each time: a program that delivers once for a queue id would do nothing the second time.
            "queue_id": options["queue_id"] or f"TRY{time.time_ns():X}",
            **{name: options[name] for name in ATTRIBUTES},
        },
    )
    return [path, *words], request


def from_fragment(path: str, config: str) -> tuple[tuple[str, ...], dict[str, str]]:
    """Words and attributes of the program's own master.cf entry; none for a program that is not Postroom's."""
    try:
        fragment = read(Path(path).name)
    except NoFragment:
        return (), {}
    if fragment.service.command != "pipe":
        raise click.UsageError(f"{fragment.program} is run by {fragment.service.command}(8), not by pipe(8)")
    known = entry.command(fragment.service)
    return tuple(config if word == known.config else word for word in known.words), known.attributes


def sample(request: Request) -> bytes:
    """A message for when none is given."""
    to = ", ".join(recipient.address for recipient in request.recipients)
    head = f"From: {request.sender or NULL_SENDER}\nTo: {to}\nSubject: postroom try\n"
    return f"{head}\nA message to try a program with.\n".encode("utf-8", "surrogateescape")


def configured(directory: str | None) -> Postconf | None:
    """The Postfix whose queue directory and environment to use; None where none is set up."""
    try:
        postconf = Postconf(directory)
    except PostconfError:
        if directory is None:
            return None
        raise click.UsageError(f"--postfix {directory}: no Postfix is installed") from None
    if (postconf.directory / "main.cf").is_file():
        return postconf
    if directory is not None:
        raise click.UsageError(f"{postconf.directory}/main.cf does not exist")
    return None


def surroundings(user: str | None, postconf: Postconf | None) -> Surroundings:
    """The identity, folder and environment to run in."""
    if os.geteuid() == 0:
        return Surroundings.of_pipe(user or default_user(), postconf)
    own = pwd.getpwuid(os.geteuid()).pw_name
    if user not in (None, own):
        raise click.UsageError(f"only root can run a program as {user}")
    return Surroundings.of_pipe(own, postconf)


def default_user() -> str:
    """The account that the programs are meant for, where it exists."""
    names = {account.pw_name for account in pwd.getpwall()}
    return next(user for user in USERS if user in names)


def arguments(template: list[str], request: Request) -> list[str]:
    """The command line that was run; the template where no command line came of it."""
    try:
        return request.arguments(template)
    except Refused:
        return template


# What happened


def told(verdict: Verdict, given: Surroundings | None, command_line: list[str]) -> dict[str, Any]:
    """The facts, named as --json prints them."""
    run, wired = verdict.run, filtered(verdict)
    given = given if run else None
    return {
        "status": verdict.status,
        "dsn": verdict.dsn,
        "text": verdict.text,
        "wired_status": wired.status,
        "wired_dsn": wired.dsn,
        "arguments": command_line,
        "user": pwd.getpwuid(given.uid).pw_name if given else None,
        "directory": given.directory if given else None,
        "exit": run.exit if run and run.exit >= 0 and not run.timed_out else None,
        "signal": -run.exit if run and run.exit < 0 else None,
        "timed_out": run.timed_out if run else False,
        "seconds": round(run.seconds, 3) if run else 0.0,
        "output": printable(run.output) if run else "",
        "warnings": list(verdict.warnings),
    }


def lines(facts: dict[str, Any]) -> list[str]:
    """The facts as a person reads them; the last word is Postfix's, in the form of its log."""
    shown = []
    if facts["user"]:
        shown.append(f"ran      {shlex.join(facts['arguments'])}")
        shown.append(f"as       {facts['user']}, in {facts['directory']}, for {facts['seconds']:g} s")
        shown.append(f"ended    {ending(facts)}")
        shown.append(f"output   {facts['output'] or '(none)'}")
    shown += [f"warning  {warning}" for warning in facts["warnings"]]
    shown.append(f"Postfix  dsn={facts['dsn']}, status={facts['status']} ({facts['text']})")
    if facts["wired_dsn"] != facts["dsn"]:
        shown.append(f"wired    dsn={facts['wired_dsn']}, status={facts['wired_status']} (with the filter of `wire`)")
    return shown


def ending(facts: dict[str, Any]) -> str:
    """How the program ended."""
    if facts["timed_out"]:
        return "by SIGKILL, at the time limit"
    return f"by signal {facts['signal']}" if facts["signal"] else f"with exit status {facts['exit']}"
