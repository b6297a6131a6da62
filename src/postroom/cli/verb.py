"""What every verb has in common."""

from __future__ import annotations

import os
from typing import Any

import click


class Verb(click.Command):
    """A command whose usage errors exit with 64 (EX_USAGE), as everywhere in mail; click's own is 2."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: object
    ) -> click.Context:
        try:
            return super().make_context(info_name, args, parent, **extra)
        except click.UsageError as error:
            raise _usage(error) from None

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            raise _usage(error) from None


def _usage(error: click.UsageError) -> click.UsageError:
    error.exit_code = os.EX_USAGE  # type: ignore[misc]  # declared on the class, read from the instance
    return error
