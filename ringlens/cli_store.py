"""Commands that keep a store in shape: rollup, compact.

Imports stand inside the commands, so that ``ringlens --help`` answers at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ringlens.store.rewriter import Rewriter


@click.command()
@click.argument("store")
@click.option("--all", "everything", is_flag=True, help="Count every run anew, also complete ones.")
def rollup(store: str, everything: bool) -> None:
    r"""Make the usage tables of STORE anew where they do not sum up all of the routing.

    A capture keeps them itself. Stores of older versions have none, and this adds them. Readers and
    writers may go on meanwhile; when it is stopped, runs that are not done stay as they were.

    \b
    Examples:
      ringlens rollup runs/first
      ringlens rollup runs/first --all
    """
    from ringlens.store import Store
    from ringlens.store import rollup as rollups

    with Store(store) as opened:
        wrong = rollups.missing(opened)
        runs = (
            [row[0] for row in opened.runs().project("run_id").fetchall()] if everything else wrong
        )
    if not runs:
        click.echo(f"{store}: the usage tables sum up all routing")
        return
    with rewriting(store) as rewriter:
        for run_id in runs:
            with progress(f"counting {run_id}") as on_progress:
                rollups.rebuild(rewriter, run_id, on_progress)
    click.echo(f"{store}: usage of {len(runs)} runs counted anew")


@click.command()
@click.argument("store")
@click.option("--target", default=400, show_default=True, help="Megabytes of a new file, about.")
@click.option("--run", "run_id", help="The run to compact; all if left out.")
@click.option(
    "--running", is_flag=True, help="Unfinished runs too; their running traces are left alone."
)
def compact(store: str, target: int, run_id: str | None, running: bool) -> None:
    r"""Put the many small files of STORE together into few large ones.

    Each group of files is one commit. Readers and writers may go on meanwhile; what is stopped
    goes on with the rest when it is started again. The old files stay for ten minutes, for queries
    that are running, so as much space is needed meanwhile.

    
    Examples:
      ringlens compact runs/first
      ringlens compact runs/first --target 100
    """
    from ringlens.store import Store
    from ringlens.store import compact as compaction

    with Store(store) as opened, rewriting(store) as rewriter:
        groups = compaction.plan(opened, target * 2**20, run_id=run_id, running=running)
        before = sum(len(group.files) for group in groups)
        with progress("compacting") as on_progress:
            compaction.compact(rewriter, groups, on_progress)
        after = sum(len(group.cuts) for group in groups)
    click.echo(f"{store}: {before} small files are now {after}")


@contextmanager
def rewriting(store: str) -> Iterator[Rewriter]:
    """What replaces files of an existing store."""
    from ringlens.store import Store, StoreWriter

    Store(store).close()  # says what is wrong with the path, and makes nothing
    with StoreWriter(store) as writer:
        yield writer.rewriter()


@contextmanager
def progress(label: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar of rows, on a terminal only."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
