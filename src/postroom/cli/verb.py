"""What every verb has in common."""

from __future__ import annotations

import os

import click


class Verb(click.Command):
    """A command whose usage errors exit with 64 (EX_USAGE), as everywhere in mail; click's own is 2."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: object
    ) -> click.Context:
        try:
            return super().make_context(info_name, args, parent, **extra)
        except click.UsageError as error:
            error.exit_code = os.EX_USAGE  # type: ignore[misc]  # declared on the class, read from the instance
            raise
