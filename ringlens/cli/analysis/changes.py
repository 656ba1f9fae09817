"""``ringlens changes``: what a further training changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ringlens.cli.analysis.frames import note, print_frame
from ringlens.cli.options import engine_named, engine_option
from ringlens.cli.sql.output import chosen_form, output_options
from ringlens.errors import RinglensError

if TYPE_CHECKING:
    import pandas as pd

_TOLD = ("correct", "tokens", "steps", "checks", "backtracks")

_SHOWN = (
    "layer", "expert", "before", "after", "difference", "q", "difference_words",
    "difference_texts", "q_texts",
)  # fmt: skip


@click.command()
@click.argument("before", metavar="BEFORE")
@click.argument("after", metavar="AFTER")
@click.option(
    "--replay", metavar="STORE", help="BEFORE's texts, replayed with the checkpoint after."
)
@click.option("--where", metavar="SQL", help="Which tokens; the thoughts, where none is given.")
@click.option(
    "--of", type=click.Choice(["experts", "thoughts"]), default="experts", show_default=True,
    help="What the rows are: experts, or measures of thoughts.",
)  # fmt: skip
@click.option("--draws", default=1000, show_default=True, help="Resamples of problems.")
@click.option("--seed", default=0, show_default=True, help="Seed of permutations and resamples.")
@click.option("--top", default=10, show_default=True, help="Rows; 0 for all.")
@engine_option
@output_options
def changes(
    before: str,
    after: str,
    replay: str | None,
    where: str | None,
    of: str,
    draws: int,
    seed: int,
    top: int,
    engine: str,
    form: str | None,
    output: str | None,
) -> None:
    r"""Compare two checkpoints, in stores BEFORE and AFTER, on the problems that both answered.

    Rows are the experts whose use changed most: in all, at equal tokens (columns ending in _words),
    and, with --replay, on the same texts (_texts). Intervals and p-values resample and exchange
    whole problems; q is the false discovery rate over all rows.

    \b
    Examples:
      ringlens changes runs/base runs/after
      ringlens changes runs/base runs/after --replay runs/replayed --where "correct"
      ringlens changes runs/base runs/after --of thoughts
    """
    from contextlib import ExitStack

    from ringlens.analysis import Checkpoint, changed_experts
    from ringlens.analysis.trajectory import changed_measures, trace_measures
    from ringlens.store import Store

    chosen_form(form, output)
    if of == "thoughts" and replay:
        raise RinglensError("--replay is about experts: the thoughts of a replay are the same.")
    with ExitStack() as stack:
        stores = [stack.enter_context(Store(path)) for path in (before, after)]
        if of == "thoughts":
            measures = [trace_measures(store, where) for store in stores]
            frame = changed_measures(*measures, draws=draws, seed=seed)
            note(_thoughts(frame))
        else:
            again = None
            if replay:
                again = Checkpoint(replay, stack.enter_context(Store(replay)))
            frame = changed_experts(
                Checkpoint(before, stores[0]), Checkpoint(after, stores[1]), where,
                replay=again, draws=draws, seed=seed, engine=engine_named(engine),
            )  # fmt: skip
            note(_experts(frame))
            if chosen_form(form, output) == "table":  # for the eye, what fits a line
                frame = frame[[name for name in _SHOWN if name in frame.columns]]
    print_frame(frame.head(top) if top else frame, form, output)


def _experts(frame: pd.DataFrame) -> str:
    attrs, names = frame.attrs, {"words": "at equal tokens", "texts": "on the same texts"}
    kept = "".join(
        f"; {names[name]} {attrs['found'][name]:,}, and {share:.0%} of the change is left"
        for name, share in attrs["kept"].items()
    )
    return (
        f"{attrs['problems']:,} problems ({attrs['left_out']:,} left out); the use of "
        f"{attrs['found']['all']:,} of {len(frame):,} experts differs at q ≤ 0.05{kept}"
    )


def _thoughts(frame: pd.DataFrame) -> str:
    means = frame.set_index("measure")
    told = ", ".join(
        f"{name} {means.loc[name, 'before']:.3g} → {means.loc[name, 'after']:.3g}"
        for name in _TOLD
        if name in means.index
    )
    attrs = frame.attrs
    return f"{attrs['problems']:,} problems ({attrs['left_out']:,} left out); {told}"
