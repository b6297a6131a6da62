"""`postroom import`: rules of other programs as a postroom.toml, and what could not be carried over.

With --json one object a line: for a finding `file`, `line`, `level` (lost, changed, note), `message`, `source`; for a
rule that was made `id`, `at`, `line`; at the end `summary` (`rules`, `lost`, `changed`, `notes`) and `toml`, the text,
which is null where --output took it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from postroom.config import FILE_LIMIT
from postroom.convert import CHANGED, LOST, NOTE, Conversion, access, apolicy, postfwd, source, write
from postroom.rules.keys import POLICY_STAGES
from postroom.status import ConfigurationFault, clean

_file = click.argument("file", metavar="FILE", type=click.Path())
_output = click.option("--output", metavar="FILE", type=click.Path(), help="Write there; a file is not overwritten.")
_json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object a line; as in postroom(1).")


@click.group()
def command() -> None:
    """Turn rules of other programs into a postroom.toml.

    What cannot be carried over is listed, line by line, and stands as a comment at its place.

    Exit status: 0 everything was carried over, 1 not everything, 66 a file cannot be read, 73 none can be written, 64
    wrong usage.
    """


@command.command("postfwd")
@click.option("--at", "stages", multiple=True, type=click.Choice(POLICY_STAGES), help="A stage to make rules for.")
@_output
@_json_option
@_file
def of_postfwd(file: str, stages: tuple[str, ...], output: str | None, as_json: bool) -> None:
    """Rules of postfwd 1."""
    name = os.path.basename(file)
    _finish(file, postfwd.convert(_read(file), name, stages), output, as_json)


@command.command("apolicy")
@click.option("--at", "stage", default="rcpt", show_default=True, type=click.Choice(POLICY_STAGES), help="The stage.")
@_output
@_json_option
@_file
def of_apolicy(file: str, stage: str, output: str | None, as_json: bool) -> None:
    """Lines of the kinds object, action and access, as apolicy has them."""
    _finish(file, apolicy.convert(_read(file), os.path.basename(file), stage), output, as_json)


@command.command("access")
@click.option("--for", "what", default="recipient", show_default=True, type=click.Choice(tuple(access.SUBJECTS)))
@click.option("--type", "kind", default="texthash", show_default=True, type=click.Choice(access.TYPES))
@click.option("--at", "stage", default="rcpt", show_default=True, type=click.Choice(POLICY_STAGES), help="The stage.")
@click.option("--delimiter", default="", metavar="CHARACTERS", help="Postfix's recipient_delimiter.")
@click.option("--dotted", is_flag=True, help="Subdomains only by .example.com.")
@_output
@_json_option
@_file
def of_access(
    file: str, what: str, kind: str, stage: str, delimiter: str, dotted: bool, output: str | None, as_json: bool
) -> None:
    """A table of access(5)."""
    subject = access.Subject(what, stage, delimiter, dotted)
    _finish(file, access.convert(_read(file), os.path.basename(file), kind, subject), output, as_json)


def _read(file: str) -> str:
    try:
        return source.read(file)
    except ConfigurationFault as fault:
        click.echo(clean(str(fault)), err=True)
        raise SystemExit(os.EX_NOINPUT) from None


def _finish(file: str, conversion: Conversion, output: str | None, as_json: bool) -> None:
    text = write.text(conversion)
    size = len(text.encode())
    if size > FILE_LIMIT:
        words = (
            f"comes to {size} bytes, and a postroom.toml may have {FILE_LIMIT}; keep what is long in a file of a list"
        )
        conversion.found(0, LOST, words)
    if output is not None:
        _write(output, text)
    if as_json:
        click.echo("\n".join(_json(file, conversion, None if output is not None else text)))
    else:
        for finding in conversion.findings:
            click.echo(f"{clean(file)}:{finding.line}: {finding.level}: {clean(finding.text)}", err=True)
        if output is None:
            click.echo(text, nl=False)
        else:
            click.echo(f"{clean(output)}: {_counted(conversion)}; see: postroom check {clean(output)}")
    raise SystemExit(0 if conversion.complete else 1)


def _write(output: str, text: str) -> None:
    """A new file; one that is there may have been edited since it was made."""
    try:
        with Path(output).open("x", encoding="utf-8") as file:
            file.write(text)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) else str(error)
        click.echo(clean(f"{output}: {reason}"), err=True)
        raise SystemExit(os.EX_CANTCREAT) from None


def _summary(conversion: Conversion) -> dict[str, int]:
    levels = [finding.level for finding in conversion.findings]
    counts = {"lost": levels.count(LOST), "changed": levels.count(CHANGED), "notes": levels.count(NOTE)}
    return {"rules": len(conversion.rules), **counts}


def _counted(conversion: Conversion) -> str:
    count = _summary(conversion)
    return f"{count['rules']} rules, {count['lost']} lost, {count['changed']} changed, {count['notes']} notes"


def _json(file: str, conversion: Conversion, text: str | None) -> list[str]:
    lines: list[dict[str, object]] = [
        {"file": file, "line": one.line, "level": one.level, "message": one.text, "source": one.source}
        for one in conversion.findings
    ]
    lines += [{"id": rule.identity, "at": rule.stage, "line": rule.line} for rule in conversion.rules]
    return [json.dumps(line) for line in [*lines, {"summary": _summary(conversion), "toml": text}]]
