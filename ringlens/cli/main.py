"""The group of all commands; the commands are the rows of `ringlens.cli.registry`.

Exit codes: 0 done, 1 it could not be done (the message says why), 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

from typing import Any

import click

from ringlens import __version__
from ringlens.cli.console import warnings_shown
from ringlens.cli.registry import Commands
from ringlens.errors import RinglensError

INTERRUPTED = 130


class Ringlens(Commands):
    """Turns our errors and Ctrl-C into messages and exit codes."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            with warnings_shown():
                return super().invoke(ctx)
        except RinglensError as error:
            click.secho(f"error: {error}", fg="red", err=True)
            ctx.exit(1)
        except KeyboardInterrupt:
            click.secho("interrupted; every trace committed before is intact", err=True)
            ctx.exit(INTERRUPTED)


@click.group(cls=Ringlens, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ringlens")
def main() -> None:
    r"""See which experts a Ring model chose, why, and what its heads looked at.

    \b
    Examples:
      ringlens demo
      ringlens capture ring-nano --problems countdown --n 8 --store runs/first
      ringlens app runs/first
      ringlens sql runs/first "select * from traces limit 3"
    """
