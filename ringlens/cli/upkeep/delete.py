"""``ringlens delete``: runs and traces leave a store."""

from __future__ import annotations

import click

from ringlens.cli.options import run_option, trace_option
from ringlens.cli.upkeep.rewriting import rewriting
from ringlens.errors import NotInStoreError


@click.command()
@click.argument("store")
@run_option
@trace_option
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete(store: str, run_ids: tuple[str, ...], trace_ids: tuple[int, ...], yes: bool) -> None:
    r"""Delete runs or traces from STORE.

    Each run's deletions are one commit. Readers may run meanwhile; a run that is being captured is
    refused. The files leave the disk ten minutes later, when the store is next written.

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
    doomed = [*(f"run {run_id}" for run_id in run_ids), *(f"trace {i}" for i in trace_ids)]
    if not yes:
        click.confirm(f"Delete {', '.join(doomed)} from {store}?", abort=True)
    with rewriting(store) as rewriter:
        for run_id in run_ids:
            deletion.delete_run(rewriter, run_id)
        for run_id in by_run.keys() - set(run_ids):
            deletion.delete_traces(rewriter, run_id, by_run[run_id], tables)
    click.echo(f"{store}: {', '.join(doomed)} deleted")
