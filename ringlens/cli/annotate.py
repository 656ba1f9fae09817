"""``ringlens annotate``: what people say of traces, steps and experts."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

from ringlens.cli.sql.output import chosen_form, output_options, write_rows

C = TypeVar("C", bound=Callable[..., Any])

COLUMNS = "annotation_id, kind, trace_id, step, layer, expert, label, note, author, created"


def target_options(command: C) -> C:
    """Add the options that say what an annotation is about."""
    for option in (
        click.option("--run", "run_id", help="The run whose expert it is."),
        click.option("--expert", metavar="LAYER/EXPERT", help="An expert, such as 5/3."),
        click.option("--step", type=int, help="A step of the trace."),
        click.option("--trace", "trace_id", type=int, help="The trace."),
    ):
        command = option(command)
    return command


author_option = click.option("--author", help="Who says it; you, as the system knows you.")


@click.group()
def annotate() -> None:
    r"""Labels and notes that people give traces, steps and experts of a store.

    Nothing that was said is ever replaced: a correction or a retraction is one more row, and any
    number of people may annotate at once, here, in Python and in the dashboard.

    \b
    Examples:
      ringlens annotate add runs/first --trace 3 --step 2 --label aha --note "checks the sum"
      ringlens annotate add runs/first --expert 3/5 --label "commas in lists"
      ringlens annotate list runs/first
      ringlens annotate export runs/first -o notes.jsonl
      ringlens annotate import runs/copy notes.jsonl
    """


@annotate.command()
@click.argument("store")
@target_options
@click.option("--label", help="A short name.")
@click.option("--note", help="Free text.")
@click.option("--supersedes", metavar="ID", help="The annotation that this one corrects.")
@author_option
def add(
    store: str,
    trace_id: int | None,
    step: int | None,
    expert: str | None,
    run_id: str | None,
    label: str | None,
    note: str | None,
    supersedes: str | None,
    author: str | None,
) -> None:
    r"""Give a trace, a step or an expert of STORE a label, a note, or both; print the new id.

    \b
    Examples:
      ringlens annotate add runs/first --trace 3 --label "guessed right"
      ringlens annotate add runs/first --supersedes 616286a5ca56dad9 --label "worked it out"
    """
    from ringlens.store import Store

    with Store(store) as opened:
        click.echo(
            opened.annotate(
                trace_id,
                step=step,
                expert=None if expert is None else _place(expert),
                run_id=run_id,
                label=label,
                note=note,
                author=author,
                supersedes=supersedes,
            )
        )


@annotate.command("list")
@click.argument("store")
@target_options
@click.option("--label", help="This label alone.")
@click.option("--history", is_flag=True, help="Also what was corrected or retracted.")
@output_options
def list_(
    store: str,
    trace_id: int | None,
    step: int | None,
    expert: str | None,
    run_id: str | None,
    label: str | None,
    history: bool,
    form: str | None,
    output: str | None,
) -> None:
    r"""List the annotations of STORE, oldest first.

    \b
    Examples:
      ringlens annotate list runs/first --trace 3
      ringlens annotate list runs/first --label aha --format jsonl
    """
    from ringlens.store import Store

    layer, number = (None, None) if expert is None else _place(expert)
    asked = {
        "trace_id": trace_id,
        "step": step,
        "layer": layer,
        "expert": number,
        "run_id": run_id,
        "label": label,
    }
    given = {name: value for name, value in asked.items() if value is not None}
    where = " and ".join(f"{name} = ${name}" for name in given) or "true"
    table, columns = ("annotations", "*") if history else ("current_annotations", COLUMNS)
    query = f"select {columns} from {table} where {where} order by created, annotation_id"
    with Store(store) as opened:
        write_rows(opened.sql(query, given or None), chosen_form(form, output), output)


@annotate.command()
@click.argument("store")
@click.argument("ids", nargs=-1, required=True)
@author_option
def retract(store: str, ids: tuple[str, ...], author: str | None) -> None:
    r"""Retract annotations of STORE by their IDS; they stay in the history.

    \b
    Example:
      ringlens annotate retract runs/first 616286a5ca56dad9
    """
    from ringlens.store import Store

    with Store(store) as opened:
        for each in ids:
            opened.retract(each, author=author)
            click.echo(f"{store}: {each} retracted")


@annotate.command()
@click.argument("store")
@click.option("-o", "--output", metavar="FILE", help="Write to a file; its name ends in .jsonl.")
def export(store: str, output: str | None) -> None:
    r"""Write all annotations of STORE, with their history, as JSON lines.

    \b
    Example:
      ringlens annotate export runs/first -o notes.jsonl
    """
    from ringlens.store import Store

    with Store(store) as opened:
        write_rows(opened.annotations(history=True), "jsonl", output)


@annotate.command("import")
@click.argument("store")
@click.argument("file")
def import_(store: str, file: str) -> None:
    r"""Add the annotations of FILE, made by `export` from a copy of STORE, each once.

    \b
    Example:
      ringlens annotate import runs/first notes.jsonl
    """
    from ringlens.store import Store
    from ringlens.store.annotations.exchange import import_annotations

    with Store(store) as opened:
        new, known = import_annotations(opened, file)
    click.echo(f"{store}: {new:,} annotations added, {known:,} there already")


def _place(text: str) -> tuple[int, int]:
    """Read a layer and an expert."""
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if found is None:
        raise click.UsageError(f"--expert {text!r:.60}; give a layer and an expert, such as 5/3")
    return int(found[1]), int(found[2])
