"""``ringlens compact``: few large files in place of many small ones."""

from __future__ import annotations

import click

from ringlens.cli.console import progress_bar
from ringlens.cli.options import engine_named, engine_option
from ringlens.cli.upkeep.rewriting import rewriting


@click.command()
@click.argument("store")
@click.option("--target", default=400, show_default=True, help="MiB of a new file, roughly.")
@click.option("--run", "run_id", help="The run to compact; all if left out.")
@click.option(
    "--running", is_flag=True, help="Include unfinished runs, except their running traces."
)
@engine_option
def compact(store: str, target: int, run_id: str | None, running: bool, engine: str) -> None:
    r"""Rewrite the many small files of STORE as few large ones.

    Each group of files is one commit. Readers and writers may run meanwhile. After an interrupt
    the same command does the rest. The old files stay for ten minutes, for queries that are
    running, so as much space again is needed meanwhile.

    \b
    Examples:
      ringlens compact runs/first
      ringlens compact runs/first --target 100
      ringlens compact s3://bucket/runs --engine ray
    """
    from ringlens.store import Store
    from ringlens.store.maintain import compact as compaction
    from ringlens.store.maintain import distributed

    with Store(store) as opened, rewriting(store) as rewriter:
        groups = compaction.plan(opened, target * 2**20, run_id=run_id, running=running)
        before = sum(len(group.files) for group in groups)
        with progress_bar("compacting") as bar:
            if engine == "here":
                compaction.compact(rewriter, groups, bar.rows)
            else:
                distributed.compact_on(engine_named(engine), opened.address, groups, bar.rows)
        after = sum(len(group.cuts) for group in groups)
    click.echo(f"{store}: {before} small files are now {after}")
