"""What every table of an analysis says of itself."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ringlens.analysis.selections.selection import Selection


def described(
    frame: pd.DataFrame, selection: Selection, traces: int, sql: str | None, **more: Any
) -> pd.DataFrame:
    """Attach to a table what it is about.

    Args:
        frame: The table.
        selection: What it is about.
        traces: Number of traces in it, the unit of its intervals and p-values.
        sql: SQL that gives the same numbers; None where SQL cannot.
        **more: Further facts.

    Returns:
        The table, with ``attrs``: ``where``, ``by``, ``source`` ("sums" or "scan"), ``traces``,
        ``sql``, and the further facts.
    """
    frame.attrs |= {
        "where": selection.where,
        "by": list(selection.by),
        "source": selection.source,
        "traces": traces,
        "sql": sql,
        **more,
    }
    return frame
