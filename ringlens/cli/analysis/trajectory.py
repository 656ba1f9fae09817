"""``ringlens trajectory``: the path of thoughts, from step to step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import click

from ringlens.cli.analysis.frames import note, print_frame
from ringlens.cli.sql.output import chosen_form, output_options
from ringlens.display import plural

if TYPE_CHECKING:
    import pandas as pd

    from ringlens.store import Store

LEVEL = 0.05


class Asked(NamedTuple):
    """What was asked.

    Attributes:
        where: Predicate over tokens, of the traces too.
        traces: Ids of traces.
        point: Recorded point, or "routing".
        window: Tokens of a window.
        seed: Seed.
    """

    where: str | None
    traces: Sequence[int]
    point: str
    window: int
    seed: int


@click.command()
@click.argument("store")
@click.option(
    "--show",
    type=click.Choice(
        [
            "paths",
            "steps",
            "reflections",
            "forks",
            "confidence",
            "loops",
            "backtracks",
            "outcomes",
            "alignment",
        ]
    ),
    default="paths",
    show_default=True,
    help="What of it: see below.",
)
@click.option(
    "--trace", "traces", type=int, multiple=True, metavar="N", help="A trace; repeatable."
)
@click.option("--where", metavar="SQL", help="Which tokens; thoughts if it names no phase.")
@click.option(
    "--point", default="routing", show_default=True, help="A recorded point for paths, or routing."
)
@click.option("--window", default=2048, show_default=True, help="Tokens of a confidence window.")
@click.option("--seed", default=0, show_default=True, help="Seed of permutations and draws.")
@output_options
def trajectory(
    store: str,
    show: str,
    traces: Sequence[int],
    where: str | None,
    point: str,
    window: int,
    seed: int,
    form: str | None,
    output: str | None,
) -> None:
    r"""Measure the paths of the thoughts in STORE, from step to step.

    \b
    --show paths        length, straightness, speed and turns, a row a trace
           steps        speed and turn of each step
           reflections  the answers that a thought states, and what each changed
           forks        the words where thoughts could have gone on otherwise
           confidence   the least confident windows
           loops        steps that come again
           backtracks   runs of steps that go back
           outcomes     what right traces do otherwise than wrong ones
           alignment    two traces of one problem, step beside step

    --where is a predicate over the view token_context, in DuckDB's SQL; --trace narrows it. The
    store is cut into steps first (`ringlens steps`). What chance gives stands beside the numbers.

    \b
    Examples:
      ringlens trajectory runs/first
      ringlens trajectory runs/first --show loops --trace 3
      ringlens trajectory runs/first --show alignment --trace 1 --trace 2 -o pairs.csv
      ringlens trajectory runs/first --show outcomes --where "task = 'countdown'"
    """
    from ringlens.store import Store

    chosen_form(form, output)
    if show == "alignment" and len(traces) != 2:
        raise click.UsageError("--show alignment takes two traces: --trace 1 --trace 2")
    chosen = where if show == "alignment" or not traces else _within(traces, where)
    with Store(store) as opened:
        frame, said = TABLES[show](opened, Asked(chosen, traces, point, window, seed))
    note(said)
    print_frame(frame, form, output)


def _within(traces: Sequence[int], where: str | None) -> str:
    """A predicate for some traces, and within these."""
    only = f"trace_id in ({', '.join(map(str, traces))})"
    return only if where is None else f"{only} and ({where}\n)"


def _paths(store: Store, asked: Asked) -> tuple[pd.DataFrame, str]:
    from ringlens.analysis.trajectory import path_geometry

    frame = path_geometry(store, asked.where, point=asked.point, seed=asked.seed)
    attrs = frame.attrs
    return frame, (
        f"{plural(attrs['traces'], 'trace')}, by {attrs['kind']}; relative_speed and "
        f"relative_net are 1 by chance; p = {attrs['p']:.2g} that steps are as far "
        "apart in random order"
    )


def _steps(store: Store, asked: Asked) -> tuple[pd.DataFrame, str]:
    from ringlens.analysis.trajectory import step_geometry

    frame = step_geometry(store, asked.where, point=asked.point)
    return frame, f"{len(frame):,} steps of {plural(frame.attrs['traces'], 'trace')}"


def _reflections(store: Store, asked: Asked) -> tuple[pd.DataFrame, str]:
    from ringlens.analysis.trajectory import reflections

    frame = reflections(store, asked.where, seed=asked.seed)
    changes = ", ".join(f"{n:,} {name}" for name, n in frame.attrs["changes"].items())
    return frame, f"{plural(frame.attrs['traces'], 'trace')} with graded answers; {changes}"


def _forks(store: Store, asked: Asked) -> tuple[pd.DataFrame, str]:
    from ringlens.analysis.trajectory import fork_tokens
    from ringlens.analysis.trajectory.chosen_steps import of_thoughts

    where = of_thoughts(store, asked.where).where
    frame = fork_tokens(store, where, seed=asked.seed)
    found = int((frame["q"] <= LEVEL).sum())
    return frame, f"{found:,} of {len(frame):,} words are forks otherwise than by chance, q ≤ 0.05"


def _confidence(store: Store, asked: Asked) -> tuple[pd.DataFrame, str]:
    from ringlens.analysis.trajectory import confidence_windows

    frame = confidence_windows(store, asked.where, window=asked.window, seed=asked.seed)
    found = int((frame["p"] <= LEVEL).sum())
    return frame, (
        f"{plural(len(frame), 'trace')}; −entropy stands in for confidence; {found:,} have a "
        "window lower than their tokens give in random order, p ≤ 0.05"
    )


def _loops(store: Store, asked: Asked) -> tuple[pd.DataFrame, str]:
    from ringlens.analysis.trajectory import loops

    frame = loops(store, asked.where, seed=asked.seed)
    attrs = frame.attrs
    return frame, (
        f"{plural(len(frame), 'loop')} in {plural(attrs['traces'], 'trace')}, "
        f"{attrs['looped']:,} steps; {attrs['null']:.3g} in random order, p = {attrs['p']:.2g}"
    )


def _backtracks(store: Store, asked: Asked) -> tuple[pd.DataFrame, str]:
    from ringlens.analysis.trajectory import backtrack_bursts

    frame = backtrack_bursts(store, asked.where, seed=asked.seed)
    attrs = frame.attrs
    return frame, (
        f"{attrs['backtracks']:,} backtracks in {plural(attrs['traces'], 'trace')}, "
        f"{attrs['followed']:,} soon followed by another; {attrs['null']:.3g} by chance, "
        f"p = {attrs['p']:.2g}"
    )


def _outcomes(store: Store, asked: Asked) -> tuple[pd.DataFrame, str]:
    from ringlens.analysis.trajectory import correct_against_wrong, trace_measures

    measures = trace_measures(store, asked.where)
    frame = correct_against_wrong(measures, seed=asked.seed)
    attrs = frame.attrs
    within = "within problems" if attrs["within"] == "problem" else "over all problems"
    return frame, (
        f"{attrs['right']:,} right and {attrs['wrong']:,} wrong traces of "
        f"{attrs['problems']:,} problems, compared {within}; effects are Hedges' g"
    )


def _alignment(store: Store, asked: Asked) -> tuple[pd.DataFrame, str]:
    from ringlens.analysis.trajectory import alignment

    first, second = asked.traces
    frame = alignment(store, first, second, asked.where, point=asked.point, seed=asked.seed)
    attrs = frame.attrs
    return frame, (
        f"{attrs['paired']:.0%} of the steps have a partner; score {attrs['score']:.3g}, "
        f"{attrs['null']:.3g} in random order, p = {attrs['p']:.2g}"
    )


Shown = Callable[["Store", Asked], "tuple[pd.DataFrame, str]"]

TABLES: dict[str, Shown] = {
    "paths": _paths,
    "steps": _steps,
    "reflections": _reflections,
    "forks": _forks,
    "confidence": _confidence,
    "loops": _loops,
    "backtracks": _backtracks,
    "outcomes": _outcomes,
    "alignment": _alignment,
}
"""What is shown: a table, and a sentence about it."""
