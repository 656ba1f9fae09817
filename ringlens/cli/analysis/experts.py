"""``ringlens experts``: which experts some tokens chose."""

from __future__ import annotations

import re
from collections.abc import Sequence

import click

from ringlens.cli.analysis.frames import note, print_frame
from ringlens.cli.console import harmless
from ringlens.cli.options import engine_named, engine_option
from ringlens.cli.sql.output import chosen_form, output_options


@click.command()
@click.argument("store")
@click.option("--where", metavar="SQL", help="The tokens; all if left out.")
@click.option("--by", multiple=True, metavar="COLUMN", help="A row for each value; repeatable.")
@click.option("--baseline", metavar="SQL", help="Tokens to compare with; even load if left out.")
@click.option("--draws", default=0, show_default=True, help="Resamples of traces for intervals.")
@click.option("--top", default=20, show_default=True, help="Rows; 0 for all.")
@click.option("--card", metavar="LAYER/EXPERT", help="Everything about one expert, such as 5/3.")
@engine_option
@output_options
def experts(
    store: str,
    where: str | None,
    by: Sequence[str],
    baseline: str | None,
    draws: int,
    top: int,
    card: str | None,
    engine: str,
    form: str | None,
    output: str | None,
) -> None:
    r"""List the experts of STORE that some tokens chose most, against a baseline.

    --where is a predicate over the view token_context, in DuckDB's SQL. Phases are told apart where
    nothing names one. --card tells of one expert: its load, why it is chosen, its words, roles and
    heaviest contexts, and a label with its score in traces that it was not made from; in other
    forms than a table it is one row per number.

    \b
    Examples:
      ringlens experts runs/first --where "phase = 'think'" --baseline "phase = 'answer'"
      ringlens experts runs/first --where "text = ' Wait'" --top 5
      ringlens experts runs/first --by task --top 0 -o load.parquet
      ringlens experts runs/first --card 5/3
    """
    from ringlens.analysis import expert_load
    from ringlens.store import Store

    chosen_form(form, output)
    if card is not None:
        if by or draws or engine != "here":
            raise click.UsageError(
                "--card tells phases apart and runs here; it takes no --by, --draws or --engine"
            )
        _print_card(store, card, where, baseline, form, output)
        return
    with Store(store) as opened:
        frame = expert_load(
            opened, where, by, baseline=baseline, draws=draws, engine=engine_named(engine)
        )
    attrs = frame.attrs
    ranked = frame.sort_values(["lift", "n"], ascending=False, kind="stable")
    note(f"{len(frame):,} rows of {attrs['traces']:,} traces, answered by {attrs['source']}")
    print_frame(ranked.head(top) if top else frame, form, output)


def _print_card(
    store: str,
    cell: str,
    where: str | None,
    baseline: str | None,
    form: str | None,
    output: str | None,
) -> None:
    """Print what is known of one expert; as rows unless it is a table for the eye."""
    from ringlens.analysis import expert_card
    from ringlens.store import Store

    place = re.fullmatch(r"(\d{1,6})/(\d{1,6})", cell)
    if place is None:
        raise click.UsageError(f"--card {cell!r:.60}; give a layer and an expert, such as 5/3")
    with Store(store) as opened:
        card = expert_card(opened, int(place[1]), int(place[2]), where, baseline=baseline)
    if chosen_form(form, output) == "table" and not output:
        click.echo(harmless(str(card)))
    else:
        print_frame(card.frame, form, output)
