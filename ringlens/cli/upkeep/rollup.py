"""``ringlens rollup``: the usage tables, computed again from the routing."""

from __future__ import annotations

import click

from ringlens.cli.console import progress_bar
from ringlens.cli.options import engine_named, engine_option
from ringlens.cli.upkeep.rewriting import rewriting


@click.command()
@click.argument("store")
@click.option("--all", "everything", is_flag=True, help="Recompute every run, complete ones too.")
@engine_option
def rollup(store: str, everything: bool, engine: str) -> None:
    r"""Recompute the usage tables of STORE where they do not match what they sum up.

    Captures, and labels of steps, write these tables themselves; stores of older versions lack
    them. Readers and writers may run meanwhile. If it is interrupted, the runs that are not done
    stay as they were.

    \b
    Examples:
      ringlens rollup runs/first
      ringlens rollup runs/first --all
      ringlens rollup s3://bucket/runs --engine ray
    """
    from ringlens.store import Store
    from ringlens.store.maintain import rollup as rollups

    with Store(store) as opened:
        wrong = rollups.incomplete(opened)
        runs = (
            [row[0] for row in opened.runs().project("run_id").fetchall()] if everything else wrong
        )
    if not runs:
        click.echo(f"{store}: the usage tables match the routing")
        return
    with rewriting(store) as rewriter:
        for run_id in runs:
            with progress_bar(f"counting {run_id}") as bar:
                rollups.rebuild(rewriter, run_id, bar.rows, engine_named(engine))
    click.echo(f"{store}: usage of {len(runs)} runs recomputed")
