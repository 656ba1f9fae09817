"""Reads the table of an analysis for a figure: its columns, its groups, what it is about."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ringlens.display import clean, plural
from ringlens.errors import ConfigError
from ringlens.store.schema.captured import PHASES
from ringlens.store.schema.views_context import TOKEN_CONTEXT_COLUMNS

MOST = 6
"""Most groups that a figure tells apart."""

_NUMBERS = ("entropy", "logprob", "token_id", "text", "pos", "rel_pos", "trace_id")
"""Columns that a table may have of its own, or that make too many groups."""

Groups = list[tuple[str, pd.DataFrame]]


def check(frame: pd.DataFrame, analysis: str, *columns: str) -> None:
    """Refuse what is no table of an analysis.

    Raises:
        ConfigError: A column is missing, or there is no row.
    """
    if not isinstance(frame, pd.DataFrame):
        raise ConfigError(f"{type(frame).__name__} is no table; give what `{analysis}` returns.")
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise ConfigError(
            f"the table has no column {missing[0]!r}; give what `{analysis}` returns."
        )
    if frame.empty:
        raise ConfigError(f"the table of `{analysis}` has no rows: there is nothing to draw.")


def groups(frame: pd.DataFrame, *more: str) -> Groups:
    """Split a table by the columns that its analysis grouped by, and by further ones.

    Returns:
        Names and rows, in order; phases in that of a trace.

    Raises:
        ConfigError: There are more than `MOST`.
    """
    known = [c for c in TOKEN_CONTEXT_COLUMNS if c not in _NUMBERS]
    by = frame.attrs.get("by", known)
    keys = list(dict.fromkeys((*more, *(name for name in by if name in frame.columns))))
    if not keys:
        return [("", frame)]
    found = [
        (values, rows)
        for values, rows in frame.groupby(keys, dropna=False, sort=True, observed=True)
    ]
    if len(found) > MOST:
        raise ConfigError(
            f"the table has {plural(len(found), 'group')} ({', '.join(keys)}), and a figure tells "
            f"{MOST} apart; give it some of the rows, such as frame[frame.{keys[0]} == …]."
        )
    found.sort(key=lambda group: [_place(value) for value in group[0]])
    return [(named(keys, values), rows) for values, rows in found]


def _place(value: object) -> tuple[int, str]:
    """Phases come in their order, and all else in that of texts."""
    return (PHASES.index(value), "") if value in PHASES else (len(PHASES), "")


def named(keys: Sequence[str], values: Sequence[object]) -> str:
    """Name a group by its values; those that do not speak for themselves with their column."""
    plain = ("phase", "role", "task", "model", "mode", "event")
    return ", ".join(
        clean(value, 40) if key in plain else f"{key} {clean(value, 40)}"
        for key, value in zip(keys, values, strict=True)
    )


def scope(frame: pd.DataFrame, *more: str) -> str:
    """What a table is about, in words."""
    attrs = frame.attrs
    where = attrs.get("where", "true")
    traces = [plural(attrs["traces"], "trace")] if "traces" in attrs else []
    chosen = [] if where == "true" else [f"where {where}"]
    return " · ".join([*more, *traces, *chosen])


def grid(
    frame: pd.DataFrame, row: str, column: str, value: str, rows: Sequence[int], columns: int
) -> NDArray[np.float64]:
    """Place values in a matrix; NaN where there is none.

    Args:
        frame: The table; a row for each pair at most.
        row: Column whose values are rows.
        column: Column whose values are columns, from 0.
        value: Column of the values.
        rows: Values of the rows, ascending.
        columns: Number of columns.

    Raises:
        ConfigError: Two rows of the table are in one place.
    """
    twice = frame.duplicated([row, column])
    if twice.any():
        at, place = (frame.loc[twice, name].iloc[0] for name in (row, column))
        raise ConfigError(
            f"the table has two rows for {row} {at}, {column} {place}; give the rows of one group."
        )
    values = np.full((len(rows), columns), np.nan)
    place = np.searchsorted(np.asarray(rows), frame[row].to_numpy())
    values[place, frame[column].to_numpy()] = frame[value].to_numpy(np.float64)
    return values


def one_layer(frame: pd.DataFrame, layer: int | None) -> tuple[int, pd.DataFrame]:
    """Rows of one layer; without a choice, of that with the most counted.

    Raises:
        ConfigError: The table has no such layer.
    """
    chosen = int(frame.groupby("layer")["n"].sum().idxmax()) if layer is None else layer
    rows = frame[frame["layer"] == chosen]
    if rows.empty:
        known = ", ".join(map(str, sorted(frame["layer"].unique())[:80]))
        raise ConfigError(f"layer {layer!r:.60} is not in the table; layers {known} are.")
    return chosen, rows
