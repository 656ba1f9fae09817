"""``ringlens delete``: runs and traces leave a store."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

import click

from ringlens.cli.options import run_option, trace_option
from ringlens.cli.upkeep.rewriting import rewriting
from ringlens.display import plural
from ringlens.errors import NotInStoreError

if TYPE_CHECKING:
    from ringlens.store import Store


@click.command()
@click.argument("store")
@run_option
@trace_option
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete(store: str, run_ids: tuple[str, ...], trace_ids: tuple[int, ...], yes: bool) -> None:
    r"""Delete runs or traces from STORE.

    Each run's deletions are one commit. Readers may run meanwhile; a run that is being captured is
    refused. The files leave the disk ten minutes later, when the store is next written. What people
    said of a trace goes with it. What they said of an expert is about the model: it stays, at
    another run of this model, if there is one.

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
        sentences = list(_said_of(opened, run_ids, trace_ids))
    doomed = [*(f"run {run_id}" for run_id in run_ids), *(f"trace {i}" for i in trace_ids)]
    for sentence in sentences:
        click.echo(sentence, err=True)
    if not yes:
        click.confirm(f"Delete {', '.join(doomed)} from {store}?", abort=True)
    with rewriting(store) as rewriter:
        for run_id in run_ids:
            deletion.delete_run(rewriter, run_id, run_ids)
        for run_id in by_run.keys() - set(run_ids):
            deletion.delete_traces(rewriter, run_id, by_run[run_id], tables)
    click.echo(f"{store}: {', '.join(doomed)} deleted")


def _said_of(store: Store, run_ids: Collection[str], trace_ids: Collection[int]) -> Iterator[str]:
    """Say what becomes of what people said of runs and traces that are to be deleted."""
    from ringlens.store.annotations.heirs import inheritance

    query = """
select count(*) from current_annotations where kind <> 'expert'
    and (run_id in (select unnest($runs)) or trace_id in (select unnest($traces)))"""
    params = {"runs": list(run_ids), "traces": list(trace_ids)}
    ((count,),) = store.sql(query, params).fetchall()
    if count:
        yield f"deleted with them: {plural(count, 'annotation')} of traces"
    for run_id in run_ids:
        found = inheritance(store, run_id, run_ids)
        if found.current and found.heir:
            yield f"kept, at run {found.heir}: {plural(found.current, 'annotation')} of experts"
        elif found.current:
            yield (
                f"deleted with run {run_id}, as no other run of its model is left: "
                f"{plural(found.current, 'annotation')} of experts; "
                f"`ringlens annotate export` keeps them in a file"
            )
