"""Commands that keep a store in shape: rollup, compact, delete, merge.

Imports stand inside the commands, so that ``ringlens --help`` answers at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from ringlens.errors import NotInStoreError

if TYPE_CHECKING:
    from ringlens.store.maintain.engine import Engine
    from ringlens.store.write.rewriter import Rewriter

engine_option = click.option(
    "--engine",
    type=click.Choice(["here", "ray"]),
    default="here",
    show_default=True,
    help="Where it runs: in this process, or on a Ray cluster (RAY_ADDRESS; else these cores).",
)


@click.command()
@click.argument("store")
@click.option("--all", "everything", is_flag=True, help="Count every run anew, also complete ones.")
@engine_option
def rollup(store: str, everything: bool, engine: str) -> None:
    r"""Make the usage tables of STORE anew where they do not sum up all of the routing.

    A capture keeps them itself. Stores of older versions have none, and this adds them. Readers and
    writers may go on meanwhile; when it is stopped, runs that are not done stay as they were.

    \b
    Examples:
      ringlens rollup runs/first
      ringlens rollup runs/first --all
      ringlens rollup s3://bucket/runs --engine ray
    """
    from ringlens.store import Store
    from ringlens.store.maintain import rollup as rollups

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
                rollups.rebuild(rewriter, run_id, on_progress, engine_named(engine))
    click.echo(f"{store}: usage of {len(runs)} runs counted anew")


@click.command()
@click.argument("store")
@click.option("--target", default=400, show_default=True, help="Megabytes of a new file, about.")
@click.option("--run", "run_id", help="The run to compact; all if left out.")
@click.option(
    "--running", is_flag=True, help="Unfinished runs too; their running traces are left alone."
)
@engine_option
def compact(store: str, target: int, run_id: str | None, running: bool, engine: str) -> None:
    r"""Put the many small files of STORE together into few large ones.

    Each group of files is one commit. Readers and writers may go on meanwhile; what is stopped
    goes on with the rest when it is started again. The old files stay for ten minutes, for queries
    that are running, so as much space is needed meanwhile.

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
        with progress("compacting") as on_progress:
            if engine == "here":
                compaction.compact(rewriter, groups, on_progress)
            else:
                distributed.compact_on(engine_named(engine), opened.address, groups, on_progress)
        after = sum(len(group.cuts) for group in groups)
    click.echo(f"{store}: {before} small files are now {after}")


@click.command()
@click.argument("store")
@click.option("--run", "run_ids", multiple=True, help="A run to delete; may be given again.")
@click.option("--trace", "trace_ids", multiple=True, type=int, help="A trace; may be given again.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete(store: str, run_ids: tuple[str, ...], trace_ids: tuple[int, ...], yes: bool) -> None:
    r"""Take runs or traces out of STORE.

    What is deleted of one run goes in one commit. Readers may go on meanwhile; a run that is being
    captured is refused. The files leave the disk ten minutes later, when the store is next written.

    \b
    Examples:
      ringlens delete runs/first --trace 3 --trace 5
      ringlens delete runs/first --run 20260801-120000-a1b2c3 --yes
    """
    from ringlens.store import Store
    from ringlens.store.maintain import delete as deletion

    if not run_ids and not trace_ids:
        raise click.UsageError("say what to delete: --run RUN or --trace TRACE")
    with Store(store) as opened:
        by_run = deletion.runs_of(opened, trace_ids)
        known = {run_id for (run_id,) in opened.sql("select run_id from runs").fetchall()}
        for run_id in set(run_ids) - known:
            raise NotInStoreError(
                f"there is no run {run_id} in {store}: `ringlens info` names them"
            )
        tables = opened.tables()
    what = [*(f"run {run_id}" for run_id in run_ids), *(f"trace {i}" for i in trace_ids)]
    if not yes:
        click.confirm(f"Delete {', '.join(what)} from {store}?", abort=True)
    with rewriting(store) as rewriter:
        for run_id in run_ids:
            deletion.delete_run(rewriter, run_id)
        for run_id in by_run.keys() - set(run_ids):
            deletion.delete_traces(rewriter, run_id, by_run[run_id], tables)
    click.echo(f"{store}: {', '.join(what)} deleted")


@click.command()
@click.argument("target")
@click.argument("sources", nargs=-1, required=True)
def merge(target: str, sources: tuple[str, ...]) -> None:
    r"""Copy the runs of other stores into TARGET, which is made if it is missing.

    Traces get new ids; runs keep theirs. Runs that are already there are skipped, so a merge that
    was stopped goes on when it is started again. The sources stay as they are.

    \b
    Example:
      ringlens merge runs/all runs/first runs/second
    """
    from ringlens.store import Store, StoreWriter
    from ringlens.store.maintain.merge import merge as merge_stores

    for source in sources:  # all can be read, or nothing is done
        Store(source).close()
    with StoreWriter(target) as writer:
        for source in sources:
            with Store(source) as opened:
                for sentence in merge_stores(opened, writer.rewriter()):
                    click.echo(f"{source}: {sentence}")


def engine_named(name: str) -> Engine:
    """The engine that an option names."""
    from ringlens.store.maintain.engine import HERE
    from ringlens.store.maintain.engine_ray import RayEngine

    return HERE if name == "here" else RayEngine()


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
