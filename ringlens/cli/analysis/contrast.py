"""``ringlens contrast``: is a difference between two selections real."""

from __future__ import annotations

from collections.abc import Sequence

import click

from ringlens.cli.analysis.frames import note, print_frame
from ringlens.cli.options import engine_named, engine_option
from ringlens.cli.sql.output import chosen_form, output_options

LEVEL = 0.05


@click.command()
@click.argument("store")
@click.option("--a", required=True, metavar="SQL", help="The first selection of tokens.")
@click.option("--b", required=True, metavar="SQL", help="The second one.")
@click.option("--by", multiple=True, metavar="COLUMN", help="A row for each value; repeatable.")
@click.option("--within", type=click.Choice(["token"]), help="Compare equal tokens only.")
@click.option("--draws", default=1000, show_default=True, help="Resamples of traces.")
@click.option("--seed", default=0, show_default=True, help="Seed of permutations and resamples.")
@click.option("--top", default=20, show_default=True, help="Rows; 0 for all.")
@engine_option
@output_options
def contrast(
    store: str,
    a: str,
    b: str,
    by: Sequence[str],
    within: str | None,
    draws: int,
    seed: int,
    top: int,
    engine: str,
    form: str | None,
    output: str | None,
) -> None:
    r"""Compare how often two selections of STORE's tokens choose each expert.

    --a and --b are predicates over the view token_context, in DuckDB's SQL. Intervals and p-values
    resample and permute whole traces; q is the false discovery rate over all rows.

    \b
    Examples:
      ringlens contrast runs/first --a "phase = 'think'" --b "phase = 'answer'"
      ringlens contrast runs/first --a "phase = 'think'" --b "phase = 'answer'" --within token
      ringlens contrast runs/first --a correct --b "not correct" --top 0 -o contrast.csv
    """
    from ringlens import analysis
    from ringlens.store import Store

    chosen_form(form, output)
    with Store(store) as opened:
        frame = analysis.contrast(
            opened, a, b, by, within=within, draws=draws, seed=seed, engine=engine_named(engine)
        )
    attrs, found = frame.attrs, int((frame["q"] <= LEVEL).sum())
    note(
        f"{found:,} of {len(frame):,} differ at q ≤ {LEVEL}; {attrs['traces']:,} traces "
        f"({attrs['left_out']:,} left out), smallest possible p {attrs['smallest_p']:.2g}"
    )
    order = frame["difference"].abs().rename("size")
    ranked = frame.assign(size=order).sort_values(
        ["p", "size"], ascending=[True, False], kind="stable"
    )
    print_frame(ranked.drop(columns="size").head(top) if top else frame, form, output)
