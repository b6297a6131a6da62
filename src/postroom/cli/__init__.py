"""`postroom <verb>`: one file per verb, imported when it is asked for, so that each costs only itself."""

from __future__ import annotations

import os
from importlib import import_module

import click

from postroom import __version__

# Wrong usage of any verb ends with 64 (EX_USAGE), as everywhere in mail; click's own status is 2.
click.UsageError.exit_code = os.EX_USAGE

# verb -> (module:object, one line for --help). Written out: to know what there is, read one list.
VERBS: dict[str, tuple[str, str]] = {
    "check": ("postroom.cli.check:command", "Check the configuration and run the tests in it."),
    "explain": ("postroom.cli.explain:command", "Show, condition by condition, what the rules decide and why."),
    "replay": ("postroom.cli.replay:command", "Decide recorded requests again; show what comes out differently."),
    "import": ("postroom.cli.import_:command", "Turn rules of postfwd, apolicy or access(5) into a postroom.toml."),
    "mx": ("postroom.cli.mx:command", "Show a domain's MX plan and what smtp(8) would do with it."),
    "suppress": ("postroom.cli.suppress:command", "List, explain, add and remove suppressed recipients."),
    "state": ("postroom.cli.state:command", "Show what rates and greylists remember; let somebody through."),
    "serve": ("postroom.cli.serve:command", "Answer Postfix as a resident service."),
    "status": ("postroom.cli.status:command", "Ask `postroom serve` how it is."),
    "bounces": ("postroom.cli.bounces:command", "List recorded bounces and notices; read one from a file."),
    "verp": ("postroom.cli.verp:command", "Make and check signed envelope senders."),
    "wire": ("postroom.cli.wire:command", "Add programs to Postfix's master.cf and main.cf."),
    "unwire": ("postroom.cli.unwire:command", "Take programs out of Postfix again."),
    "try": ("postroom.cli.try_:command", "Run a program as pipe(8) would, and say what Postfix would do."),
    "demo": ("postroom.cli.demo:command", "Send real mail through a private Postfix and show what happens."),
}


class Verbs(click.Group):
    """The verbs, each imported only when it runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module, _, name = VERBS[cmd_name][0].partition(":")
        command = getattr(import_module(module), name)
        assert isinstance(command, click.Command)  # noqa: S101 - a slip in the list above, not a user's mistake
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs without importing any."""
        with formatter.section("Verbs"):
            formatter.write_dl([(verb, line) for verb, (_, line) in VERBS.items()])


@click.command(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="postroom")
def main() -> None:
    """Rules, delivery and bounce handling for Postfix. The manual is postroom(1)."""
