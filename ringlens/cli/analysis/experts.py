"""``ringlens experts``: which experts some tokens chose."""

from __future__ import annotations

from collections.abc import Sequence

import click

from ringlens.cli.analysis.frames import note, print_frame
from ringlens.cli.sql.output import chosen_form, output_options


@click.command()
@click.argument("store")
@click.option("--where", metavar="SQL", help="The tokens; all if left out.")
@click.option("--by", multiple=True, metavar="COLUMN", help="A row for each value; repeatable.")
@click.option("--baseline", metavar="SQL", help="Tokens to compare with; even load if left out.")
@click.option("--draws", default=0, show_default=True, help="Resamples of traces for intervals.")
@click.option("--top", default=20, show_default=True, help="Rows; 0 for all.")
@output_options
def experts(
    store: str,
    where: str | None,
    by: Sequence[str],
    baseline: str | None,
    draws: int,
    top: int,
    form: str | None,
    output: str | None,
) -> None:
    r"""List the experts of STORE that some tokens chose most, against a baseline.

    --where is a predicate over the view token_context, in DuckDB's SQL. Phases are told apart where
    nothing names one.

    \b
    Examples:
      ringlens experts runs/first --where "phase = 'think'" --baseline "phase = 'answer'"
      ringlens experts runs/first --where "text = ' Wait'" --top 5
      ringlens experts runs/first --by task --top 0 -o load.parquet
    """
    from ringlens.analysis import expert_load
    from ringlens.store import Store

    chosen_form(form, output)
    with Store(store) as opened:
        frame = expert_load(opened, where, by, baseline=baseline, draws=draws)
    attrs = frame.attrs
    ranked = frame.sort_values(["lift", "n"], ascending=False, kind="stable")
    note(f"{len(frame):,} rows of {attrs['traces']:,} traces, answered by {attrs['source']}")
    print_frame(ranked.head(top) if top else frame, form, output)
