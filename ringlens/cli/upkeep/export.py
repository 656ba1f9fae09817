"""``ringlens export``: traces of a store for other tools."""

from __future__ import annotations

from pathlib import Path

import click

from ringlens.cli.console import progress_bar
from ringlens.cli.options import names_in, run_option, trace_option
from ringlens.cli.upkeep.bundle import Wanted, write_bundle


@click.command()
@click.argument("store")
@click.option("--out", required=True, help="Folder or file to write; must not be there yet.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["parquet", "jsonl", "safetensors", "bundle", "math-rollouts"]),
    default="parquet",
    show_default=True,
    help="A store of its own, a line a trace, a file of arrays a trace, pages for a web server, or "
    "a folder of texts and labelled steps a problem.",
)
@click.option("--where", default="true", help="SQL condition on the table traces.")
@run_option
@trace_option
@click.option("--tables", help="Tables, comma-separated; all that the format has if left out.")
@click.option(
    "--single-file",
    is_flag=True,
    help="With --format bundle: one HTML file, which opens from disk and fits in a mail.",
)
@click.option(
    "--aggregate-only",
    is_flag=True,
    help="With --format bundle: sums of usage only, without texts, tokens and their routes.",
)
@click.option("--traces", "most", type=click.IntRange(1), help="At most so many of the traces.")
@click.option(
    "--max-size",
    type=click.FloatRange(0, min_open=True),
    metavar="MB",
    help="With --format bundle: largest size; a single file has 25 if left out, a folder no limit.",
)
def export(
    store: str,
    out: str,
    form: str,
    where: str,
    run_ids: tuple[str, ...],
    trace_ids: tuple[int, ...],
    tables: str | None,
    single_file: bool,
    aggregate_only: bool,
    most: int | None,
    max_size: float | None,
) -> None:
    r"""Write traces of STORE for other tools.

    All traces are written, or those that meet every condition given.

    \b
    Examples:
      ringlens export runs/first --out shared --where "correct and task = 'countdown'"
      ringlens export runs/first --out first.jsonl --format jsonl --tables tokens
      ringlens export runs/first --out arrays --format safetensors --trace 3
      ringlens export runs/first --out site --format bundle --where correct
      ringlens export runs/first --out first.html --format bundle --single-file --traces 4
      ringlens export runs/first --out usage.html --format bundle --single-file --aggregate-only
      ringlens export runs/first --out rollouts --format math-rollouts --where "sample = 0"
    """
    from ringlens.store import Store
    from ringlens.store.maintain import export as exports

    writers = {
        "parquet": exports.to_store,
        "jsonl": exports.to_lines,
        "safetensors": exports.to_safetensors,
    }
    names = None if tables is None else names_in(tables)
    if names is not None and form in ("bundle", "math-rollouts"):
        raise click.UsageError(f"--tables cannot be combined with --format {form}: leave it out")
    of_bundle = single_file or aggregate_only or max_size is not None
    if of_bundle and form != "bundle":
        raise click.UsageError(
            "--single-file, --aggregate-only and --max-size are for --format bundle"
        )
    with Store(store) as opened, progress_bar("exporting") as bar:
        chosen = exports.select(opened, where, run_ids, trace_ids)[:most]
        if form == "bundle":
            wanted = Wanted(single_file, aggregate_only, max_size)
            said = f", {write_bundle(opened, chosen, Path(out), wanted, bar.rows)}"
        elif form == "math-rollouts":
            from ringlens.rollouts.exporting import to_rollouts

            to_rollouts(opened, chosen, Path(out), bar.rows)
            said = ""
        else:
            writers[form](opened, chosen, Path(out), names, bar.rows)
            said = ""
    click.echo(f"{out}: {len(chosen)} traces{said}")
