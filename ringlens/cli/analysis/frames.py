"""Prints the tables of analyses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ringlens.cli.sql.output import chosen_form, write_rows

if TYPE_CHECKING:
    import pandas as pd


DIGITS = 4
"""Significant digits in a table."""


def print_frame(frame: pd.DataFrame, form: str | None, output: str | None) -> None:
    """Write a frame's rows as ``ringlens sql`` writes those of a query.

    A table is for the eye: its numbers are rounded. Other forms hold all digits.
    """
    chosen = chosen_form(form, output)
    shown = frame.apply(_rounded) if chosen == "table" else frame
    write_rows(relation_of(shown), chosen, output)


def _rounded(column: pd.Series) -> pd.Series:
    """Round to significant digits, so that a small p-value does not become 0."""
    if column.dtype.kind != "f":
        return column
    return column.map(lambda value: float(f"{value:.{DIGITS}g}"))


def relation_of(frame: pd.DataFrame) -> Any:
    """Make a relation of a frame."""
    import duckdb
    import pyarrow as pa

    return duckdb.connect().from_arrow(pa.Table.from_pandas(frame, preserve_index=False))


def note(text: str) -> None:
    """Say what a table is about, beside its rows."""
    click.echo(text, err=True)
