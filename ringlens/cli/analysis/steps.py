"""``ringlens steps``: what a model wrote, cut into steps with roles."""

from __future__ import annotations

import click

from ringlens.cli.console import progress_bar


@click.command()
@click.argument("store")
@click.option("--again", is_flag=True, help="Label again what rules have labelled before.")
@click.option("--classifier", help="Label by a classifier of `ringlens roles train`, not by rules.")
def steps(store: str, again: bool, classifier: str | None) -> None:
    r"""Cut the thoughts and answers in STORE into steps, and label each with its role.

    Traces that have ended and have no steps yet are labelled, by rules. If it is interrupted, the
    same command goes on. The sums by role are written along.

    \b
    Examples:
      ringlens steps runs/first
      ringlens sql runs/first "select role, count(*) as steps from steps group by role"
    """
    from ringlens.analysis.roles import rules
    from ringlens.analysis.roles.classifier import load
    from ringlens.analysis.roles.labelling import label_store
    from ringlens.store import Store, StoreWriter

    learned = None if classifier is None else load(classifier)
    labeller = rules.label if learned is None else learned.label
    source = rules.SOURCE if learned is None else learned.source
    Store(store).close()  # a writer alone would make one
    with StoreWriter(store) as writer, progress_bar("labelling") as bar:
        done = label_store(
            writer, again=again, labeller=labeller, source=source, on_progress=bar.rows
        )
    if done.left:
        click.echo(
            f"{store}: {done.left:,} traces are of runs that are being written, and were left"
        )
    if not done.traces and not done.left:
        click.echo(f"{store}: all traces that have ended have steps")
    if done.traces:
        click.echo(f"{store}: {done.steps:,} steps of {done.traces:,} traces labelled")
